package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// asProgram makes the test binary be permafrost itself, so that tests run real
// processes of the code under test.
const asProgram = "PERMAFROST_TEST_AS_PROGRAM"

// childRoles are what the test binary may be as a child besides the program:
// the first argument says which.
var childRoles = map[string]func(args []string) int{
	killWriterArg:    killWriterMain,
	storerArg:        storerMain,
	exerciseChildArg: exerciseChildMain,
	sqliteLoadArg:    sqliteLoadMain,
	mountStorerArg:   mountStorerMain,
}

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		if len(os.Args) > 1 && childRoles[os.Args[1]] != nil {
			os.Exit(childRoles[os.Args[1]](os.Args[2:]))
		}
		os.Exit(runAs(os.Args[0], os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Setenv(asProgram, "1") // for the children
	code := m.Run()
	if workerDir != "" {
		os.RemoveAll(workerDir)
	}
	os.Exit(code)
}

// shm is a directory in memory that goes with the test.
func shm(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "permafrost-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// testServer is an appliance of a test, with its image in memory.
type testServer struct {
	*serverProcess
	dir, image, state, socket, attach string
	log                               *logBuffer
}

// logBuffer is a server's log, which may be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newServer starts one; the image is checked when the test ends.
func newServer(t testing.TB, exe string, args ...string) *testServer {
	t.Helper()
	dir := shm(t)
	s := &testServer{dir: dir, image: filepath.Join(dir, "fs.pmem"), state: filepath.Join(dir, "state"),
		socket: filepath.Join(dir, "p.sock"), attach: filepath.Join(dir, "attach.sock")}
	s.start(t, exe, append([]string{"--create", "48MiB"}, args...)...)
	t.Cleanup(func() {
		if s.serverProcess != nil {
			s.end()
		}
		if t.Failed() {
			t.Logf("server log:\n%s", s.log)
		}
		out, err := program(t, 60*time.Second, "check", s.image)
		if err != nil {
			t.Errorf("check of the image: %v\n%s", err, out)
		}
	})
	return s
}

// start (re)starts the server over the same image and state.
func (s *testServer) start(t testing.TB, exe string, args ...string) {
	t.Helper()
	if exe == "" {
		exe, _ = os.Executable()
	}
	s.log = &logBuffer{}
	p, err := startServerOf(exe, s.log, append([]string{"--pmem", s.image, "--state", s.state, "--socket", s.socket,
		"--attach-socket", s.attach, "--listen", "127.0.0.1:0"}, args...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	s.serverProcess = p
}

// status asks for /status.
func (s *testServer) status(t testing.TB) wireStatus {
	t.Helper()
	var st wireStatus
	if _, err := s.client.call(context.Background(), "GET", "/status", nil, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// program runs permafrost with arguments and returns what it printed.
func program(t testing.TB, limit time.Duration, args ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return programOf(t, exe, limit, args...)
}

func programOf(t testing.TB, exe string, limit time.Duration, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, args...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return string(out), fmt.Errorf("%s did not end within %s", strings.Join(args, " "), limit)
	}
	return string(out), err
}

// seedOf is the seed of a random test: PERMAFROST_SEED repeats a failed run.
func seedOf(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PERMAFROST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal("PERMAFROST_SEED:", err)
		}
	}
	t.Logf("repeat with PERMAFROST_SEED=%d go test ./cmd/permafrost -run '%s$'", seed, t.Name())
	return seed
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return -1
}

// decode is for answers of --json.
func decode[T any](t testing.TB, text string) T {
	t.Helper()
	var v T
	// The child may have logged before its one line of JSON.
	line := strings.TrimSpace(text)
	if i := strings.LastIndexByte(line, '\n'); i >= 0 {
		line = line[i+1:]
	}
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}

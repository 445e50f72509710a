package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Tests of the mount. The server, and whoever uses the mount, are other processes:
// a process that waits for its own server in the kernel could not even be
// killed. Nothing here looks at processes through ps, pgrep or
// /proc/PID/cmdline: of a program that is held in a mapped store they may wait
// for the thaw themselves.

// freezeTime is how long anything may take that must not wait for a thaw, on a
// machine that has other things to do.
const freezeTime = 10 * time.Second

// newMountServer starts an appliance with a mount at the directory returned.
func newMountServer(t *testing.T, options string, args ...string) (s *testServer, at string) {
	t.Helper()
	needMount(t)
	if os.Geteuid() != 0 {
		t.Skip("these tests of the mount are root's")
	}
	at = filepath.Join(shm(t), "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) }) // a dead mount of a failed test
	args = append([]string{"--mount", at, "-o", options}, args...)
	s = newServer(t, "", args...)
	t.Cleanup(func() { rescue(t, at) })
	return s, at
}

// rescue aborts a failed test's mount, so that nobody is left in the kernel.
func rescue(t *testing.T, at string) {
	if !t.Failed() {
		return
	}
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(text), "\n") {
		if f := strings.Fields(line); len(f) > 4 && f[4] == at {
			_, minor, _ := strings.Cut(f[2], ":")
			_ = os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0)
		}
	}
}

// freeze freezes for 5 minutes, and fails the test if that is not to be had in
// time.
func (s *testServer) freeze(t *testing.T) wireFreeze {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*freezeTime)
	defer cancel()
	var fr wireFreeze
	if _, err := s.client.call(ctx, "POST", "/freeze", params("holder", "test", "lease", "5m"), &fr); err != nil {
		t.Fatalf("freeze: %v", err)
	}
	return fr
}

func (s *testServer) thaw(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), freezeTime)
	defer cancel()
	if _, err := s.client.call(ctx, "POST", "/thaw", params("holder", "test"), nil); err != nil {
		t.Fatalf("thaw: %v", err)
	}
}

// awaitBlocked waits for so many callers to be held.
func (s *testServer) awaitBlocked(t *testing.T, n uint64) {
	t.Helper()
	until(t, fmt.Sprintf("%d held callers", n), func() bool { return s.status(t).BlockedTotal >= n })
}

// mountWorker is a running testdata/mountworker.c.
type mountWorker struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	lines    chan string // closed at its end
	ended    chan error  // its Wait; buffered
	progress string
	threads  int
}

var workerDir string // where workerBinary has put it; removed by TestMain

var workerBinary = sync.OnceValues(func() (string, error) { // immutable
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("/dev/shm", "permafrost-worker-")
	if err != nil {
		return "", err
	}
	workerDir = dir
	out, err := exec.Command(gcc, "-D_GNU_SOURCE", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", dir+"/worker", "testdata/mountworker.c", "-pthread").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build testdata/mountworker.c: %w\n%s", err, out)
	}
	return dir + "/worker", err
})

// startWorker runs threads that do op to FILE.0, FILE.1, ...; they are ready, and
// begin at start. The worker ends with the test.
func startWorker(t *testing.T, op, file string, threads int, more ...string) *mountWorker {
	t.Helper()
	exe, err := workerBinary()
	if exe == "" {
		t.Skip("the programs that use the mount are built with gcc: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
	w := &mountWorker{threads: threads, progress: filepath.Join(shm(t), "progress"), lines: make(chan string, 4), ended: make(chan error, 1)}
	w.cmd = exec.Command(exe, append([]string{op, file, strconv.Itoa(threads), w.progress}, more...)...)
	w.cmd.Stderr = os.Stderr
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		in := bufio.NewScanner(out)
		for in.Scan() {
			w.lines <- in.Text()
		}
		close(w.lines)
		w.ended <- w.cmd.Wait()
	}()
	t.Cleanup(func() { _ = w.cmd.Process.Kill() })
	w.expect(t, "ready")
	return w
}

// start has the threads begin.
func (w *mountWorker) start(t *testing.T) *mountWorker {
	t.Helper()
	if _, err := w.in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	return w
}

// expect reads a line that begins as given.
func (w *mountWorker) expect(t *testing.T, prefix string) string {
	t.Helper()
	select {
	case line := <-w.lines:
		if !strings.HasPrefix(line, prefix) {
			t.Fatalf("the program says %q where %q was due", line, prefix)
		}
		return line
	case <-time.After(3 * freezeTime):
		t.Fatalf("the program does not come to say %q", prefix)
		return ""
	}
}

// workerResult is how the threads' operations ended.
type workerResult struct{ ok, eintr, eagain, failed, errno int }

// result waits for all threads to have ended.
func (w *mountWorker) result(t *testing.T) (r workerResult) {
	t.Helper()
	line := w.expect(t, "done")
	if _, err := fmt.Sscanf(line, "done ok=%d eintr=%d eagain=%d failed=%d errno=%d", &r.ok, &r.eintr, &r.eagain, &r.failed, &r.errno); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return r
}

// stop has threads end that go on and on.
func (w *mountWorker) stop(t *testing.T) {
	t.Helper()
	w.in.Close()
	w.result(t)
}

// killed sends SIGKILL and says how long the process took to be gone.
func (w *mountWorker) killed(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.ended:
	case <-time.After(freezeTime):
		t.Fatalf("the program is not gone %v after SIGKILL", freezeTime)
	}
	return time.Since(began)
}

// counts is what each thread has finished.
func (w *mountWorker) counts(t *testing.T) []uint64 {
	t.Helper()
	b, err := os.ReadFile(w.progress)
	if err != nil || len(b) != 8*w.threads {
		t.Fatalf("the progress: %d bytes, %v", len(b), err)
	}
	out := make([]uint64, w.threads)
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return out
}

// goesOn waits for every thread to have finished more than it had.
func (w *mountWorker) goesOn(t *testing.T, what string) {
	t.Helper()
	at := w.counts(t)
	until(t, what, func() bool {
		for i, n := range w.counts(t) {
			if n <= at[i] {
				return false
			}
		}
		return true
	})
}

// letGo waits for the storers of a dead mount to go on, which they do in the page cache, or to
// have ended by SIGBUS, which a page brings that is not there. Then it ends them.
func (w *mountWorker) letGo(t *testing.T) {
	t.Helper()
	at := w.counts(t)
	until(t, "the storers of a dead mount let go", func() bool {
		if len(w.ended) > 0 {
			return true
		}
		for i, n := range w.counts(t) {
			if n <= at[i] {
				return false
			}
		}
		return true
	})
	w.in.Close()
	select {
	case <-w.ended:
		w.ended <- nil
	case <-time.After(freezeTime):
		t.Error("a storer of a dead mount does not end")
	}
}

// awaitStill waits until no thread of a storer gets anywhere: each is held.
func (w *mountWorker) awaitStill(t *testing.T) {
	t.Helper()
	until(t, "every storer held", func() bool {
		at := w.counts(t)
		time.Sleep(50 * time.Millisecond)
		for i, n := range w.counts(t) {
			if n != at[i] {
				return false
			}
		}
		return true
	})
}

// bounded runs a program that must end within freezeTime, whatever is frozen.
// One that does not is killed, and left in the kernel if that does not help.
func bounded(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	return boundedCmd(t, exec.Command(name, args...))
}

func boundedCmd(t *testing.T, cmd *exec.Cmd) (string, error) {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return out.String(), err
	case <-time.After(freezeTime):
		_ = cmd.Process.Signal(syscall.SIGKILL)
		t.Errorf("%s has not ended after %v", strings.Join(cmd.Args, " "), freezeTime)
		return "", context.DeadlineExceeded
	}
}

// mustBounded is bounded for what has to succeed.
func mustBounded(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := bounded(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// put makes a file by REST: the kernel has nothing of it cached.
func (s *testServer) put(t *testing.T, path string, data string) {
	t.Helper()
	if err := ask("PUT", "/files/"+path, nil, []byte(data))(context.Background(), s.client); err != nil {
		t.Fatal(err)
	}
}

// startRead reads the first page of a file in a process of its own.
func startRead(t *testing.T, file string) chan error {
	t.Helper()
	cmd := exec.Command("head", "-c", "4096", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended
}

package dax

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem"
)

var (
	workerOnce sync.Once
	workerPath string
	workerErr  error
	scratch    string // removed by TestMain
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serverArg {
		os.Exit(serverMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == goClientArg {
		os.Exit(goClientMain(os.Args[2]))
	}
	var err error
	if scratch, err = os.MkdirTemp("/dev/shm", "permafrost-dax-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

const imageBytes = 128 << 20

// needAttach skips where the kernel or our privileges do not allow the tests.
func needAttach(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the attach server follows forks, which needs CAP_SYS_PTRACE: run as root")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("the C client is built with gcc")
	}
}

// rig is an image, the file system on it and the attach server.
type rig struct {
	t      testing.TB
	dir    string
	region *pmem.Region
	fs     *core.FS
	srv    *Server
	hold   string // of the standing freeze
	bg     context.Context
}

func newRig(t testing.TB, tune ...func(*Options)) *rig {
	t.Helper()
	needAttach(t)
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	region, err := pmem.CreateMemfd("dax-test", imageBytes, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(scratch, "rig")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, region: region, bg: context.Background()}
	if err := core.Mkfs(region, core.MkfsOptions{Label: "dax"}); err != nil {
		t.Fatal(err)
	}
	if r.fs, err = core.Mount(region, core.Options{CommitInterval: time.Hour}); err != nil {
		t.Fatal(err)
	}
	o := Options{FS: r.fs, Image: region.DuplicateForClients, Socket: filepath.Join(dir, "sock"), RecordDir: filepath.Join(dir, "rec"),
		Log: slog.New(slog.NewTextHandler(logWriter{t}, nil))}
	for _, f := range tune {
		f(&o)
	}
	if r.srv, err = New(o); err != nil {
		t.Fatal(err)
	}
	if err := r.srv.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (r *rig) close() {
	ctx, cancel := context.WithTimeout(r.bg, 20*time.Second)
	defer cancel()
	if err := r.srv.Close(ctx); err != nil {
		r.t.Errorf("close attach: %v", err)
	}
	rep, err := r.fs.Check(ctx)
	if err != nil || !rep.OK() {
		r.t.Errorf("check: %v %+v", err, rep)
	}
	if err := r.fs.Unmount(ctx); err != nil {
		r.t.Errorf("unmount: %v", err)
	}
	if rep, err := core.Check(ctx, r.region, nil); err != nil || !rep.OK() {
		r.t.Errorf("check after unmount: %v %+v", err, rep)
	}
	if err := r.region.Close(); err != nil {
		r.t.Errorf("close region: %v", err)
	}
	os.RemoveAll(r.dir)
}

func (r *rig) freeze() freeze.Record {
	r.t.Helper()
	rec, err := r.tryFreeze(5 * time.Second)
	if err != nil {
		r.t.Fatalf("freeze: %v", err)
	}
	return rec
}

func (r *rig) tryFreeze(patience time.Duration) (freeze.Record, error) {
	rec, hold, err := r.fs.Freeze(r.bg, freeze.Request{Holder: "test", Lease: time.Minute, Patience: patience})
	if err == nil {
		r.hold = hold.ID
	}
	return rec, err
}

func (r *rig) thaw() {
	r.t.Helper()
	if _, err := r.fs.Thaw(r.bg, freeze.ThawRequest{Hold: r.hold}); err != nil {
		r.t.Fatalf("thaw: %v", err)
	}
}

// image is the bytes of a file as they stand in the image.
func (r *rig) file(path string, off, n int64) []byte {
	r.t.Helper()
	a, err := r.fs.Resolve(r.bg, path)
	if err != nil {
		r.t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := r.fs.ReadAt(r.bg, a.Ino, b, off); err != nil && !errors.Is(err, io.EOF) {
		r.t.Fatal(err)
	}
	return b
}

func (r *rig) word(path string, off int64) uint64 {
	return binary.LittleEndian.Uint64(r.file(path, off, 8))
}

func (r *rig) ino(path string) format.Ino {
	r.t.Helper()
	a, err := r.fs.Resolve(r.bg, path)
	if err != nil {
		r.t.Fatal(err)
	}
	return a.Ino
}

// still checks that a frozen file does not change for a while.
func (r *rig) still(path string, n int64, d time.Duration) {
	r.t.Helper()
	before := r.file(path, 0, n)
	time.Sleep(d) // time is what a wrong store needs
	if string(r.file(path, 0, n)) != string(before) {
		r.t.Error("the file changed while frozen")
	}
}

// eventually waits for something that another process does.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

func (r *rig) parked() int {
	n := 0
	for _, c := range r.srv.Clients() {
		n += c.Parked
	}
	return n
}

func (r *rig) waitParked(n int) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d stores held", n), func() bool { return r.parked() == n })
}

// worker is a client process (testdata/worker.c).
type worker struct {
	t        testing.TB
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *bufio.Reader
	progress []byte
}

func buildWorker() (string, error) {
	workerOnce.Do(func() {
		workerPath = filepath.Join(scratch, "worker")
		out, err := exec.Command("gcc", "-D_GNU_SOURCE", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-I", "c",
			"-o", workerPath, "testdata/worker.c", "-pthread").CombinedOutput()
		if err != nil {
			workerErr = fmt.Errorf("build the C client: %w\n%s", err, out)
		}
	})
	return workerPath, workerErr
}

func startWorker(t testing.TB, tune ...func(*exec.Cmd)) *worker {
	t.Helper()
	path, err := buildWorker()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(scratch, "progress")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(pageBytes); err != nil {
		t.Fatal(err)
	}
	w := &worker{t: t, cmd: exec.Command(path, f.Name())}
	if w.progress, err = unix.Mmap(int(f.Fd()), 0, pageBytes, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	w.cmd.Stderr = os.Stderr
	for _, f := range tune {
		f(w.cmd)
	}
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	pipe, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.out = bufio.NewReader(pipe)
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.kill()
		_ = unix.Munmap(w.progress)
		os.Remove(f.Name())
	})
	return w
}

func (w *worker) kill() {
	if w.cmd.ProcessState == nil {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
	}
}

// send gives a command without waiting for the answer.
func (w *worker) send(format string, args ...any) {
	w.t.Helper()
	if _, err := fmt.Fprintf(w.in, format+"\n", args...); err != nil {
		w.t.Fatal(err)
	}
}

// read waits for an answer.
func (w *worker) read() string {
	w.t.Helper()
	type answer struct {
		s   string
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		s, err := w.out.ReadString('\n')
		ch <- answer{strings.TrimSpace(s), err}
	}()
	select {
	case a := <-ch:
		if a.err != nil {
			w.t.Fatalf("worker: %v", a.err)
		}
		return a.s
	case <-time.After(10 * time.Second):
		w.t.Fatal("worker: no answer within 10 s")
	}
	return ""
}

// ask gives a command and returns its answer.
func (w *worker) ask(format string, args ...any) string {
	w.t.Helper()
	w.send(format, args...)
	return w.read()
}

// do is ask for what must succeed; it returns the number in the answer.
func (w *worker) do(format string, args ...any) uint64 {
	w.t.Helper()
	w.send(format, args...)
	return w.number()
}

// number reads an answer that must be of success, and its number.
func (w *worker) number() uint64 {
	w.t.Helper()
	s := w.read()
	if s != "ok" && !strings.HasPrefix(s, "ok ") {
		w.t.Fatalf("worker: %s", s)
	}
	var n uint64
	fmt.Sscanf(s, "ok %d", &n)
	return n
}

// slot is how far a storer has come.
func (w *worker) slot(n int) uint64 {
	return atomic.LoadUint64(wordAt(w.progress, n))
}

func (w *worker) moved(n int, past uint64) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("storer %d goes on past %d", n, past), func() bool { return w.slot(n) > past })
}

// held checks that a storer stands: what it has done does not grow, but for one
// store that had landed before and is only said now.
func (w *worker) held(n int, d time.Duration) {
	w.t.Helper()
	was := w.slot(n)
	time.Sleep(d) // time is what a wrong store needs
	if now := w.slot(n); now > was+1 {
		w.t.Errorf("storer %d went on from %d to %d while frozen", n, was, now)
	}
}

// attached starts a worker that has a file mapped as number 0.
func (r *rig) attached(path string, pages int) *worker {
	r.t.Helper()
	w := startWorker(r.t)
	w.do("attach %s", r.srv.Socket())
	w.do("map 0 %s 0 %d wcg", path, pages*pageBytes)
	return w
}

func asRefusal(err error, to **freeze.Refusal) bool { return errors.As(err, to) }

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/dax/client"
)

// proveWriterCmd is the separate process whose mapped stores prove watches. It
// speaks lines: it prints "ready", obeys "probe" and "stop" on standard input,
// and ends with the line "done". It does not collect garbage: a collection would
// stop the world and wait for ever for a thread held in a fault.
type proveWriterCmd struct {
	Attach  string // its socket: files are mapped through attach
	Dir     string // of the mount: files are mapped through it
	Path    string `required:""`
	Board   string `required:""`
	Raw     string
	Client  int
	Clients int `default:"1"`
	Threads int `default:"4"`
	Pages   int `default:"8"`
	Files   int `default:"1"`
	Forks   bool
}

// storeLogMax bounds a thread's log of stores (16 bytes each). Full, the
// thread goes on storing and the log says where it stopped.
const storeLogMax = 4 << 20

func (w *proveWriterCmd) Run(c *console) error {
	nameProcess("prove-writer")
	p := pattern{w.Clients, w.Threads, w.Pages, w.Files}
	if err := p.validate(); err != nil {
		return err
	}
	// Every thread may be held at once, with the two that steer still running.
	probes := w.Pages
	if w.Dir != "" {
		probes = 0
	}
	runtime.GOMAXPROCS(w.Threads + probes + 8)
	debug.SetGCPercent(-1)

	b, err := openBoard(w.Board, p, false)
	if err != nil {
		return err
	}
	run := &writerRun{p: p, b: b, client: w.Client}
	unmap, err := w.mapFiles(run)
	if err != nil {
		return err
	}
	for t := range w.Threads {
		var log *storeLog
		if w.Raw != "" {
			if log, err = newStoreLog(filepath.Join(w.Raw, fmt.Sprintf("stores-%d-%d.bin", w.Client, t))); err != nil {
				return err
			}
		}
		run.threads.Add(1)
		go run.store(w.Client*w.Threads+t, log)
	}
	if w.Forks {
		run.threads.Add(1)
		go run.fork()
	}
	c.printf("ready\n")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() && in.Text() != "stop" {
		if in.Text() == "probe" {
			for page := range w.Pages {
				run.threads.Add(1)
				go run.probe(page)
			}
			c.printf("probing\n")
		}
	}
	run.stop.Store(true)
	run.threads.Wait()
	// Mappings are let go before "done", so that all they stored is synced.
	if err := unmap(); err != nil {
		return err
	}
	c.printf("done\n")
	return nil
}

// mapFiles maps the files of the run by its way in.
func (w *proveWriterCmd) mapFiles(run *writerRun) (unmap func() error, err error) {
	if w.Dir != "" {
		return w.mapMounted(run)
	}
	m, err := attachFile(w.Attach, w.Path, run.p.fileSize())
	if err != nil {
		return nil, err
	}
	run.mem = [][]byte{m.Bytes()}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return m.Unmap(ctx)
	}, nil
}

// mapMounted maps the files as any program would, through the mount.
func (w *proveWriterCmd) mapMounted(run *writerRun) (unmap func() error, err error) {
	for i := range run.p.files() {
		f, err := os.OpenFile(filepath.Join(w.Dir, proveFile(w.Path, i)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := f.Truncate(run.p.fileSize()); err != nil {
			return nil, err
		}
		mem, err := unix.Mmap(int(f.Fd()), 0, int(run.p.fileSize()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		f.Close() // the mapping keeps it open
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", f.Name(), err)
		}
		run.mem = append(run.mem, mem)
	}
	return func() error {
		for _, mem := range run.mem {
			if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
				return fmt.Errorf("msync: %w", err)
			}
			if err := unix.Munmap(mem); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// proveFile is the path of one of the files of a run.
func proveFile(path string, i int) string {
	if i == 0 {
		return path
	}
	return fmt.Sprintf("%s-%d", path, i)
}

// attachFile maps a whole file of the appliance for writing, making it first.
func attachFile(socket, path string, length int64) (*client.Mapping, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := client.Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	return conn.Map(ctx, client.MapOptions{Path: path, Length: length, Write: true, Create: true, Grow: true})
}

// writerRun is what the threads of one writer process share. Immutable but for
// the atomics and the mapped memory.
type writerRun struct {
	p       pattern
	b       *board
	client  int
	mem     [][]byte // the mappings, one a file
	stop    atomic.Bool
	threads sync.WaitGroup
}

// word is a slot of a page.
func (r *writerRun) word(page, slot int) *uint64 {
	n := r.p.files()
	return client.Word(r.mem[page%n], r.p.cell(page/n, slot))
}

// store is one storing thread: store, then say so. Between the two a store may
// have landed that is not yet said; never the other way round.
func (r *writerRun) store(writer int, log *storeLog) {
	defer r.threads.Done()
	runtime.LockOSThread()
	started, done := r.b.started(writer), r.b.done(writer)
	cells := make([]*uint64, r.p.Pages)
	for page := range cells {
		cells[page] = r.word(page, writer)
	}
	for c := uint64(1); !r.stop.Load(); c++ {
		atomic.StoreUint64(started, c)
		atomic.StoreUint64(cells[c%uint64(r.p.Pages)], c)
		atomic.StoreUint64(done, c)
		if log != nil {
			log.add(c)
		}
	}
	log.close()
}

// probe tries one store to a page while frozen. done stays 0 until it lands.
func (r *writerRun) probe(page int) {
	defer r.threads.Done()
	runtime.LockOSThread()
	row := r.b.probeRow(r.client, page)
	atomic.StoreUint64(r.b.started(row), 1)
	atomic.StoreUint64(r.word(page, r.p.probeSlot(r.client)), uint64(time.Now().UnixNano()))
	atomic.StoreUint64(r.b.done(row), 1)
}

// fork makes short-lived children that store through the inherited mapping:
// a server that protects the parent only lets their stores through.
func (r *writerRun) fork() {
	defer r.threads.Done()
	runtime.LockOSThread()
	row := r.b.forkRow(r.client)
	n := uint64(r.p.Pages)
	cells := make([]*uint64, n)
	for page := range cells {
		cells[page] = r.word(page, r.p.forkSlot(r.client))
	}
	for i := uint64(1); !r.stop.Load(); i++ {
		atomic.StoreUint64(r.b.started(row), i)
		pid, err := forkStoring(cells, i<<32)
		if err != nil {
			fmt.Fprintln(os.Stderr, "prove: fork:", err)
			return
		}
		var ws unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &ws, 0, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		atomic.StoreUint64(r.b.done(row), i)
	}
}

// forkStores is how many stores a forked child makes: enough that it lives
// through a freeze's window (some 2 ms), few enough that it soon ends.
const forkStores = 400_000

// forkStoring forks without exec. The child has one thread and no runtime: it
// may only store and leave, which is all this does between the two calls.
//
//go:norace
//go:noinline
func forkStoring(cells []*uint64, base uint64) (pid int, err error) {
	r1, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	if r1 != 0 {
		return int(r1), nil
	}
	for c := uint64(0); c < forkStores; c++ {
		atomic.StoreUint64(cells[c%uint64(len(cells))], base+c)
	}
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// storeLog keeps (time, counter) of each store of a thread in a mapped file.
type storeLog struct {
	path string
	mem  []byte
	n    int
}

func newStoreLog(path string) (*storeLog, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(storeLogMax * 16); err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, storeLogMax*16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return &storeLog{path: path, mem: mem}, nil
}

// add logs a store. Logged threads store at most every 2 us or so, so that a
// run of seconds fits.
func (l *storeLog) add(c uint64) {
	if l.n >= storeLogMax {
		return
	}
	t := time.Now()
	binary.LittleEndian.PutUint64(l.mem[l.n*16:], uint64(t.UnixNano()))
	binary.LittleEndian.PutUint64(l.mem[l.n*16+8:], c)
	l.n++
	for time.Since(t) < 2*time.Microsecond {
	}
}

func (l *storeLog) close() {
	if l == nil {
		return
	}
	_ = unix.Munmap(l.mem)
	_ = os.Truncate(l.path, int64(l.n)*16)
}

// startWriter runs this binary again as the writer of a client.
func startWriter(o proveOptions, client int, board string) (*writerProcess, error) {
	args := []string{"--attach", o.attach, "--dir", o.dir, "--files", strconv.Itoa(o.files()), "--path", o.path, "--board", board, "--client", strconv.Itoa(client),
		"--clients", strconv.Itoa(o.Clients), "--threads", strconv.Itoa(o.Threads), "--pages", strconv.Itoa(o.Pages)}
	if o.forks {
		args = append(args, "--forks")
	}
	if o.raw != "" {
		args = append(args, "--raw", o.raw)
	}
	return startChild("prove-writer", args...)
}

// writeRaw keeps a piece of evidence as JSON.
func writeRaw(dir, name string, v any) error {
	if dir == "" {
		return nil
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), append(text, '\n'), 0o644)
}

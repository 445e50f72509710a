package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"permafrost/dax/client"
)

// killWriterArg makes the test binary a writer of the kill loop: a program that
// maps a file, stores counters into it from several threads, calls fsync, and
// maps further files all the while. It outlives its servers.
const killWriterArg = "kill-writer"

const (
	killThreads = 3
	killPages   = 24
)

var killPattern = pattern{Clients: 1, Threads: killThreads, Pages: killPages}

// synced is the counter up to which an fsync that was answered covers a row.
func (b *board) synced(row int) *uint64 { return client.Word(b.mem, row*proveSlot+16) }

// mtimeFloor is the time, in nanoseconds, that the file's mtime is not below
// once an fsync has answered: a store of after it marks a dirty period whose
// begin the fsync made durable.
func (b *board) mtimeFloor() *uint64 { return client.Word(b.mem, 24) }

// killWriterRun is the child's own state. Immutable but for the atomics.
type killWriterRun struct {
	b       *board
	conn    *client.Client
	m       *client.Mapping
	path    string
	stop    atomic.Bool
	threads sync.WaitGroup
}

// killWriterMain is the child: attach socket, path in the image, board, log of
// the further files.
func killWriterMain(args []string) int {
	if err := killWriter(args[0], args[1], args[2], args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "kill-writer:", err)
		return 1
	}
	return 0
}

func killWriter(attach, path, boardPath, logPath string) error {
	nameProcess("kill-writer")
	runtime.GOMAXPROCS(killThreads + 8) // a thread held in a store keeps its processor
	debug.SetGCPercent(-1)              // a collection would wait for a held thread
	b, err := openBoard(boardPath, killPattern, false)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	conn, err := client.Dial(ctx, attach)
	if err != nil {
		return err
	}
	m, err := conn.Map(ctx, client.MapOptions{Path: path, Length: killPages * provePageSize, Write: true, Create: true, Grow: true})
	if err != nil {
		return err
	}
	r := &killWriterRun{b: b, conn: conn, m: m, path: path}
	failed := make(chan error, killThreads+2)
	for w := range killThreads {
		r.threads.Go(func() { r.tell(failed, r.store(w)) })
	}
	r.threads.Go(func() { r.tell(failed, r.sync()) })
	r.threads.Go(func() { r.tell(failed, r.mapMore(log)) })
	fmt.Println("ready")
	told := make(chan bool, 1)
	go func() {
		in := bufio.NewScanner(os.Stdin)
		told <- in.Scan() && in.Text() == "stop"
	}()
	select {
	case err := <-failed:
		return err
	case stop := <-told:
		if !stop {
			return nil // whoever started us is gone
		}
	}
	r.stop.Store(true)
	r.threads.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	if err := untilServed(func(ctx context.Context) error { return m.Unmap(ctx) }); err != nil {
		return err
	}
	fmt.Println("done")
	return nil
}

func (r *killWriterRun) tell(failed chan<- error, err error) {
	if err != nil {
		failed <- err
	}
}

// store is one storing thread, at the pace of a busy program and not of a
// benchmark: the machine has more to do.
func (r *killWriterRun) store(w int) error {
	runtime.LockOSThread()
	cells := make([]*uint64, killPages)
	for page := range cells {
		cells[page] = client.Word(r.m.Bytes(), killPattern.cell(page, w))
	}
	for c := uint64(1); !r.stop.Load(); c++ {
		atomic.StoreUint64(r.b.started(w), c)
		atomic.StoreUint64(cells[c%killPages], c)
		atomic.StoreUint64(r.b.done(w), c)
		if c%32 == 0 {
			time.Sleep(500 * time.Microsecond)
		}
		if c%2048 != 0 {
			continue
		}
		// Its cells are its own: if they changed, its blocks were given away.
		if wrong, first := killPattern.wrongCells(r.m.Bytes(), w, c); wrong > 0 {
			return fmt.Errorf("%s is overwritten in memory: %s", r.path, first)
		}
	}
	return nil
}

// sync calls fsync again and again and notes what an answered one covers.
func (r *killWriterRun) sync() error {
	last := r.b.dones()
	var before [2]uint64 // when the two fsyncs of the whole before this one began, the older first
	for n := 0; !r.stop.Load(); n++ {
		covered, began := r.b.dones(), uint64(time.Now().UnixNano())
		stored := !slices.Equal(covered, last) // since the last one answered
		off, length := int64(0), int64(0)
		if n%3 == 2 { // msync of a part
			off, length, covered = int64(n%killPages)*provePageSize, provePageSize, nil
		}
		if err := untilServed(func(ctx context.Context) error { _, err := r.m.Sync(ctx, off, length); return err }); err != nil {
			return err
		}
		for w, c := range covered {
			atomic.StoreUint64(r.b.synced(w), c)
		}
		if covered != nil {
			// The older of the two: a fault that the newer one met on its way has
			// its stamp from before it.
			if stored {
				atomic.StoreUint64(r.b.mtimeFloor(), before[0])
			}
			last, before = r.b.dones(), [2]uint64{before[1], began}
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// mapMore makes, stores to, syncs and unmaps file after file, and logs each
// that the server has answered for.
func (r *killWriterRun) mapMore(log *os.File) error {
	for n := 1; !r.stop.Load(); n++ {
		path, pages := fmt.Sprintf("%s.%d", r.path, n), 1+n%7
		ctx, cancel := context.WithTimeout(context.Background(), killPatience)
		m, err := r.conn.Map(ctx, client.MapOptions{Path: path, Length: int64(pages) * provePageSize, Write: true, Create: true, Grow: true})
		cancel()
		if errors.Is(err, client.ErrLost) {
			return err
		}
		if err != nil { // the server ended: nobody was promised this one
			time.Sleep(5 * time.Millisecond)
			continue
		}
		// Answered, so it is there with its whole length, whatever is in it yet.
		if _, err := fmt.Fprintf(log, "mapped %s %d %d\n", path, n, pages); err != nil {
			return err
		}
		for page := range pages {
			atomic.StoreUint64(client.Word(m.Bytes(), page*provePageSize), moreValue(n, page))
		}
		if err := untilServed(func(ctx context.Context) error { _, err := m.Sync(ctx, 0, 0); return err }); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(log, "synced %s %d %d\n", path, n, pages); err != nil {
			return err
		}
		if err := untilServed(func(ctx context.Context) error { return m.Unmap(ctx) }); err != nil {
			return err
		}
		time.Sleep(25 * time.Millisecond) // each makes a commit, which would help a lost fsync of others
	}
	return nil
}

func moreValue(n, page int) uint64 { return uint64(n)<<32 | uint64(page+1) }

// untilServed repeats what fails while no server answers. That a new server
// does not know us is final.
func untilServed(do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	for {
		err := do(ctx)
		if err == nil || errors.Is(err, client.ErrLost) || ctx.Err() != nil {
			return err
		}
		time.Sleep(3 * time.Millisecond)
	}
}

// killWriterProcess is such a child as the loop sees it. Owned by the loop.
type killWriterProcess struct {
	*writerProcess
	path, log string // immutable
	b         *board // immutable
	dead      bool   // it was killed: its stores have an end
	unlinked  bool   // its file has no name any more
}

func startKillWriter(e *killEra) (*killWriterProcess, error) {
	e.started++
	name := "m" + strconv.Itoa(e.started)
	w := &killWriterProcess{path: "/" + name, log: filepath.Join(e.dir, name+".log")}
	var err error
	if w.b, err = openBoard(filepath.Join(e.dir, name+".board"), killPattern, true); err != nil {
		return nil, err
	}
	if w.writerProcess, err = startChild(killWriterArg, e.srv.attach, w.path, filepath.Join(e.dir, name+".board"), w.log); err != nil {
		return nil, err
	}
	if err := w.expect("ready", killPatience); err != nil {
		w.end()
		return nil, err
	}
	return w, nil
}

// kill ends the writer as a crash would.
func (w *killWriterProcess) kill() {
	w.end()
	w.dead = true
}

// judge holds the file's bytes against what the threads and fsync said before
// they were read. A living writer stores while they are read: each cell is then
// at least as new as what was completed before. A dead one's are exactly a
// prefix of its program order.
func (w *killWriterProcess) judge(before *boardState, data []byte) error {
	if want := killPages * provePageSize; len(data) != want {
		return fmt.Errorf("%s has %d bytes, %d were mapped", w.path, len(data), want)
	}
	after := w.b.state()
	for t := range killThreads {
		done, started := before.Writers[t].Done, after.Writers[t].Started
		if w.dead {
			n := killPattern.newest(data, t)
			if n < done || n > started {
				return fmt.Errorf("%s: thread %d had completed store %d and begun %d, and the file has %d", w.path, t, done, started, n)
			}
			if wrong, first := killPattern.wrongCells(data, t, n); wrong > 0 {
				return fmt.Errorf("%s is not a prefix of the program order: %s", w.path, first)
			}
			continue
		}
		for page := range killPages {
			v := binary.LittleEndian.Uint64(data[killPattern.cell(page, t):])
			if least := killPattern.expected(done, page); v < least || v > started || v != 0 && v%killPages != uint64(page) {
				return fmt.Errorf("%s: thread %d had completed store %d and begun %d; page %d holds %d, where at least %d was due", w.path, t, done, started, page, v, least)
			}
		}
	}
	return nil
}

// goesOn waits until every thread has stored and an fsync was answered since.
func (w *killWriterProcess) goesOn(ctx context.Context) error {
	var at [killThreads]uint64
	for t := range at {
		at[t] = max(atomic.LoadUint64(w.b.done(t)), atomic.LoadUint64(w.b.synced(t)))
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		late := -1
		for t := range at {
			if atomic.LoadUint64(w.b.synced(t)) <= at[t] {
				late = t
			}
		}
		if late < 0 {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s: thread %d stood at store %d when the server was back; 30 s later it is at %d, and fsync has answered for %d",
				w.path, late, at[late], atomic.LoadUint64(w.b.done(late)), atomic.LoadUint64(w.b.synced(late)))
		}
	}
}

// killMore is a further file as its writer was answered.
type killMore struct {
	data   []byte // its length was answered
	synced bool   // and its bytes
}

func (k killMore) differs(got []byte) string {
	switch {
	case len(got) != len(k.data):
		return fmt.Sprintf("has %d bytes where %d were mapped", len(got), len(k.data))
	case k.synced && !bytes.Equal(got, k.data):
		return "does not hold what was synced" + firstDifference(k.data, got)
	}
	return ""
}

// more are the further files that were answered for, by path.
func (w *killWriterProcess) more() (map[string]killMore, error) {
	text, err := os.ReadFile(w.log)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	files := map[string]killMore{}
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		var what, path string
		var n, pages int
		if _, err := fmt.Sscanf(line, "%s %s %d %d", &what, &path, &n, &pages); err != nil {
			continue // the writer was killed inside this line
		}
		data := make([]byte, pages*provePageSize)
		for page := range pages {
			binary.LittleEndian.PutUint64(data[page*provePageSize:], moreValue(n, page))
		}
		files[path] = killMore{data, what == "synced"}
	}
	return files, nil
}

package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// table is a mapping's page table in the test's own process: stores go through
// it, and a page that is not writable faults into Mkwrite first.
type table struct {
	mu       sync.Mutex
	writable map[format.Page]bool
	calls    [][]PageRun
	err      error         // what Protect answers
	stuck    chan struct{} // Protect waits for it, or for its context
}

func newTable() *table { return &table{writable: make(map[format.Page]bool)} }

func (p *table) Protect(ctx context.Context, runs []PageRun) error {
	if p.stuck != nil {
		select {
		case <-p.stuck:
		case <-ctx.Done():
			return fmt.Errorf("client 7 does not answer: %w", ctx.Err())
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	p.calls = append(p.calls, slices.Clone(runs))
	for _, r := range runs {
		for pg := r.First; pg < r.end(); pg++ {
			delete(p.writable, pg)
		}
	}
	return nil
}

func (p *table) grant(r PageRun) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pg := r.First; pg < r.end(); pg++ {
		p.writable[pg] = true
	}
	return nil
}

// mapped is a mapping with its page table and blocks.
type mapped struct {
	*table
	m    *Mapping
	exts []Extent
	w    *world
}

func (w *world) mapFile(ino format.Ino, pages int64) *mapped {
	w.t.Helper()
	p := newTable()
	m, exts, err := w.fs.Map(ctx, ino, MapRequest{Length: pages * format.PageSize, Writable: true, Grow: true, WayIn: "attach",
		Process: Process{PID: 7, Comm: "client"}, Protector: p})
	w.ok(err)
	return &mapped{table: p, m: m, exts: exts, w: w}
}

// store is a store instruction: it faults if the page is not writable. While a
// store lands, protection waits, as the hardware sees to it.
func (p *mapped) store(page format.Page, b byte) error {
	for {
		p.mu.Lock()
		if p.writable[page] {
			for _, e := range p.exts {
				if e.Page <= page && page < e.end() {
					p.w.m.Bytes(blockOff(e.at(page)), 1)[0] = b
				}
			}
			p.mu.Unlock()
			return nil
		}
		p.mu.Unlock()
		if err := p.m.Mkwrite(page, 1, p.grant); err != nil {
			return err
		}
	}
}

func TestMapTracksDirtyPages(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	p := w.mapFile(f, 16)
	if len(p.exts) == 0 || w.fs.Status().InodesDirty != 0 {
		t.Fatal("a new mapping is clean and has blocks")
	}
	before, _ := w.fs.GetAttr(ctx, f)
	w.ok(p.store(3, 'a'))
	after, _ := w.fs.GetAttr(ctx, f)
	if !after.Mtime.After(before.Mtime) {
		t.Fatal("the first store did not stamp mtime")
	}
	w.ok(p.store(4, 'b'))
	w.ok(p.store(4, 'c'))
	w.ok(p.store(9, 'd'))
	if again, _ := w.fs.GetAttr(ctx, f); again.Mtime != after.Mtime {
		t.Fatal("a later store of the dirty period stamped mtime")
	}
	if s := w.fs.Status(); s.InodesDirty != 1 || s.DirtyPages != 3 || s.Mappings != 1 {
		t.Fatalf("%d inodes, %d pages dirty", s.InodesDirty, s.DirtyPages)
	}
	i, exts, maps, err := w.fs.InodeDetail(ctx, f)
	w.ok(err)
	if !slices.Equal(i.DirtyRuns, []PageRun{{3, 2}, {9, 1}}) || len(exts) == 0 || len(maps) != 1 || maps[0].DirtyPages != 3 {
		t.Fatalf("%+v %+v", i, maps)
	}
	res, err := w.fs.Fsync(ctx, f, 4*4096, 4096)
	if err != nil || res.Pages != 1 {
		t.Fatalf("%+v %v", res, err)
	}
	res, err = w.fs.Fsync(ctx, f, 0, 0)
	if err != nil || res.Pages != 2 || !slices.EqualFunc(p.calls, [][]PageRun{{{4, 1}}, {{3, 1}, {9, 1}}}, slices.Equal) {
		t.Fatalf("%+v %v, protected %v", res, err, p.calls)
	}
	if s := w.fs.Status(); s.InodesDirty != 0 || s.DirtyPages != 0 {
		t.Fatal("still dirty")
	}
	res, err = w.fs.Fsync(ctx, f, 0, 0)
	if err != nil || res.Pages != 0 || len(p.calls) != 2 {
		t.Fatal("fsync of a clean inode did something")
	}
	w.ok(p.store(3, 'e')) // a new dirty period
	if again, _ := w.fs.GetAttr(ctx, f); !again.Mtime.After(after.Mtime) {
		t.Fatal("the first store of a new dirty period did not stamp mtime")
	}
	w.ok(p.m.Unmap(ctx))
	if s := w.fs.Status(); s.InodesDirty != 0 || s.Mappings != 0 {
		t.Fatal("dirty after unmap")
	}
	if got := w.read(f); got[3*4096] != 'e' || got[4*4096] != 'c' || got[9*4096] != 'd' {
		t.Fatal("stores are not in the file")
	}
}

func TestMappedBlocksStay(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	w.write(f, 0, pattern(1, 20*4096))
	p := w.mapFile(f, 10)
	w.fails(w.fs.Truncate(ctx, f, 4096), ErrMapped)
	w.fails(w.fs.Fallocate(ctx, f, FallocPunchHole, 8*4096, 4*4096), ErrMapped)
	w.ok(w.fs.Truncate(ctx, f, 12*4096))
	w.ok(w.fs.Fallocate(ctx, f, FallocPunchHole, 10*4096, 4096))
	w.ok(w.fs.Fallocate(ctx, f, FallocPunchHole, 100, 200)) // inside a page: zeroed in place
	w.ok(p.store(2, 'x'))
	w.write(f, 2*4096+1, []byte("server")) // the server's own write meets the mapping
	w.ok(w.fs.Unlink(ctx, root, "f"))
	w.ok(p.store(3, 'y')) // without a name its blocks are still its own
	if n := w.fs.Status().PendingOrphans; n != 1 {
		t.Fatal("orphans", n)
	}
	w.ok(p.m.Unmap(ctx))
	waitFor(t, func() bool { return w.fs.Status().PendingOrphans == 0 })
}

func TestMapRefusals(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	for _, r := range []MapRequest{
		{Offset: 1, Length: 4096}, {Length: 0}, {Length: -4096}, {Offset: -4096, Length: 4096},
		{Length: 100}, {Length: 4096}, {Length: 4096, Writable: true, Protector: newTable()}, {Length: 4096, Writable: true, Grow: true},
	} {
		_, _, err := w.fs.Map(ctx, f, r)
		w.fails(err, ErrInvalid)
	}
	_, _, err := w.fs.Map(ctx, f, MapRequest{Length: 1 << 50, Writable: true, Grow: true, Protector: newTable()})
	w.fails(err, ErrTooBig)
	_, _, err = w.fs.Map(ctx, f, MapRequest{Length: 1 << 30, Writable: true, Grow: true, Protector: newTable()})
	w.fails(err, ErrNoSpace)
	w.fails(w.fs.Fallocate(ctx, f, FallocAllocate, 0, 1<<30), ErrNoSpace)
	if a, _ := w.fs.GetAttr(ctx, f); a.Size != 0 || a.Blocks != 0 {
		t.Fatalf("refused, and yet %d bytes in %d blocks", a.Size, a.Blocks)
	}
	_, _, err = w.fs.Map(ctx, root, MapRequest{Length: 4096})
	w.fails(err, ErrIsDir)
	w.ok(w.fs.Truncate(ctx, f, 0)) // nothing stayed pinned
}

// A client that cannot be protected keeps its pages dirty, and is named.
func TestProtectFails(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	p := w.mapFile(f, 4)
	w.ok(p.store(1, 'x'))
	p.err = errors.New("EAGAIN for ever")
	_, err := w.fs.Fsync(ctx, f, 0, 0)
	w.fails(err, p.err)
	if s := w.fs.Status(); s.InodesDirty != 1 || s.DirtyPages != 1 {
		t.Fatalf("%d inodes, %d pages dirty", s.InodesDirty, s.DirtyPages)
	}
	_, _, err = w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute})
	w.fails(err, p.err)
	if l := w.fs.freezer.Level(); l != freeze.Unfrozen {
		t.Fatal("left at level", l)
	}
	w.ok(p.store(1, 'y'))
	p.err = nil
	res, err := w.fs.Fsync(ctx, f, 0, 0)
	if err != nil || res.Pages != 1 {
		t.Fatal(res, err)
	}
	w.ok(p.m.Unmap(ctx))
}

// While one client is stuck, attributes, listings and status answer.
func TestStuckClientHoldsUpNobodyElse(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	p := w.mapFile(f, 4)
	w.ok(p.store(1, 'x'))
	p.stuck = make(chan struct{})
	done := make(chan error)
	go func() {
		_, _, err := w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute, Patience: 200 * time.Millisecond})
		done <- err
	}()
	for range 20 {
		w.fs.Status()
		w.fs.Mappings()
		if _, err := w.fs.GetAttr(ctx, f); err != nil {
			t.Error(err)
		}
		if _, _, err := w.fs.Inodes(ctx, InodeFilter{}); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.fails(<-done, freeze.ErrTimedOut)
	close(p.stuck)
	p.stuck = nil
	w.ok(p.m.Unmap(ctx))
}

func TestMkwriteGrantFails(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	p := w.mapFile(f, 4)
	bad := errors.New("ESRCH")
	w.fails(p.m.Mkwrite(0, 9, func(PageRun) error { return bad }), bad)
	if s := w.fs.Status(); s.InodesDirty != 0 || s.DirtyPages != 0 {
		t.Fatal("tagged though not granted")
	}
	var got PageRun
	w.ok(p.m.Mkwrite(1, 9, func(r PageRun) error { got = r; return p.grant(r) }))
	if got != (PageRun{1, 3}) {
		t.Fatal("granted", got, "past the mapping")
	}
	w.fails(p.m.Mkwrite(4, 1, p.grant), ErrStale)
	p.m.SetRanges([]PageRun{{0, 2}})
	w.fails(p.m.Mkwrite(2, 1, p.grant), ErrStale)
	waitFor(t, func() bool { return w.fs.Status().InodesDirty == 0 }) // fsync at unmap
	p.m.SetRanges(nil)
	w.fails(p.m.Mkwrite(0, 1, p.grant), ErrStale)
	w.ok(p.m.Unmap(ctx))
	w.ok(w.fs.Truncate(ctx, f, 0))
}

// A stop does not wait for those who wait for mappings of before the restart:
// they are let go, and told why, when the freezer closes.
func TestStopWhileMappingsSurvive(t *testing.T) {
	w := newWorld(t, 16<<20, func(o *Options) { o.DeferOrphans = true })
	bounded, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	ended := make(chan error, 2)
	go func() {
		_, err := w.fs.Create(bounded, root, "g", NewNode{})
		ended <- err
	}()
	go func() {
		_, _, err := w.fs.Freeze(bounded, freeze.Request{Holder: "early", Lease: time.Minute, Patience: time.Minute})
		ended <- err
	}()
	time.Sleep(5 * time.Millisecond) // they wait, or come later: either way they end
	w.ok(w.fs.Freezer().Close(bounded))
	for range 2 {
		w.fails(<-ended, freeze.ErrClosed)
	}
	w.ok(bounded.Err())
	w.fs.Adopted()
}

func TestAdoptMapping(t *testing.T) {
	w := newWorld(t, 16<<20, func(o *Options) { o.DeferOrphans = true })
	w.fs.Adopted()
	f := w.file(root, "f")
	p := w.mapFile(f, 8)
	w.ok(p.store(2, 'x'))
	w.ok(w.fs.Unlink(ctx, root, "f"))
	_, err := w.fs.WaitDurable(ctx)
	w.ok(err)
	w.crash() // the mapping survives the server
	_, err = w.fs.Create(TryOnly(ctx), root, "g", NewNode{})
	w.fails(err, ErrRecovering) // and not ErrFrozen: nothing is frozen
	late, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	_, err = w.fs.Create(late, root, "g", NewNode{})
	cancel()
	w.fails(err, ErrRecovering)
	// A freeze could not hold the survivor's stores: it is refused, in its patience.
	_, _, err = w.fs.Freeze(ctx, freeze.Request{Holder: "early", Lease: time.Minute, Patience: 20 * time.Millisecond})
	w.fails(err, freeze.ErrTimedOut)
	var refusal *freeze.Refusal
	if !errors.As(err, &refusal) || len(refusal.WaitingFor) != 1 || w.fs.Freezer().Level() != freeze.Unfrozen {
		t.Fatalf("refused as %+v", err)
	}
	// One with the patience for it is reached as soon as the survivor is taken back.
	reached := make(chan error, 1)
	go func() {
		_, _, err := w.fs.Freeze(ctx, freeze.Request{Holder: "patient", Lease: time.Minute, Patience: 30 * time.Second})
		reached <- err
	}()
	m, exts, err := w.fs.AdoptMapping(f, MapRequest{Length: 8 * 4096, Writable: true, Protector: p}, []PageRun{{2, 1}, {7, 5}})
	w.ok(err)
	if !slices.Equal(exts, p.exts) {
		t.Fatal("other blocks", exts)
	}
	if s := w.fs.Status(); s.InodesDirty != 1 || s.DirtyPages != 2 {
		t.Fatalf("%d inodes, %d pages dirty", s.InodesDirty, s.DirtyPages)
	}
	select {
	case err := <-reached:
		t.Fatal("a freeze ended while a mapping survived:", err)
	default:
	}
	w.fs.Adopted()
	w.ok(<-reached)
	_, err = w.fs.Thaw(ctx, freeze.ThawRequest{Holder: "patient"})
	w.ok(err)
	w.file(root, "g")
	if w.fs.Status().PendingOrphans != 1 {
		t.Fatal("the mapped orphan was freed")
	}
	w.ok(m.Unmap(ctx))
	waitFor(t, func() bool { return w.fs.Status().PendingOrphans == 0 })
	sparse := w.file(root, "sparse")
	w.ok(w.fs.Truncate(ctx, sparse, 8*4096))
	m, _, err = w.fs.AdoptMapping(sparse, MapRequest{Length: 8 * 4096, Writable: true, Protector: p}, []PageRun{{2, 1}})
	w.ok(err)
	w.ok(m.Unmap(ctx)) // a dirty page without a block has no line to flush
}

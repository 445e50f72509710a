package core

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// A client that drops exactly what it is told of never has anything stale.
func TestWatchIsComplete(t *testing.T) {
	seed := seedOf(t)
	r := newWatchRun(t, seed, deafness{})
	steps := 600
	if testing.Short() {
		steps = 200
	}
	for i := range steps {
		if err := r.step(); err != nil {
			r.fail("seed %d, step %d: %v", seed, i, err)
		}
	}
	r.compare()
}

// watchNotices are the notices of each operation that must not be missing.
var watchNotices = []struct { // immutable
	op    string
	kinds []string
}{
	{"create", []string{"entry", "dir"}}, {"mkdir", []string{"entry", "dir"}}, {"symlink", []string{"entry", "dir"}},
	{"link", []string{"entry", "dir", "attr"}}, {"unlink", []string{"entry", "dir", "attr"}}, {"rmdir", []string{"entry", "dir"}},
	{"rename", []string{"entry", "dir", "attr"}}, {"write", []string{"data", "attr"}}, {"truncate", []string{"data", "attr"}},
	{"fallocate", []string{"data", "attr"}}, {"xattr", []string{"attr", "dir"}}, {"setattr", []string{"attr", "dir"}},
	{"upload", []string{"entry", "dir", "attr"}}, {"tmpfile", []string{"entry", "dir"}}, {"read", []string{"attr"}}, {"map", []string{"attr"}},
	{"store", []string{"data", "attr"}}, {"fsync", []string{"data"}}, {"sync", []string{"data"}}, {"freeze", []string{"data"}}, {"unmap", []string{"data"}},
	{"release", []string{"attr"}},
}

// Each notice counts: without it the client has something stale, and is seen to.
func TestWatchMissesNothing(t *testing.T) {
	seed := seedOf(t)
	for _, x := range watchNotices {
		for _, kind := range x.kinds {
			t.Run(x.op+"/"+kind, func(t *testing.T) {
				lost := 0
				for try := range uint64(5) { // what a run comes to is chance
					r := newWatchRun(t, seed+try, deafness{x.op, kind})
					for i := range 600 {
						if err := r.step(); err != nil {
							t.Logf("step %d: %v", i, err)
							return
						}
					}
					lost += r.c.lost
				}
				t.Fatalf("seed %d: %d notices were missing, and nothing was stale", seed, lost)
			})
		}
	}
}

// counter counts what it is told.
type counter struct {
	mu    sync.Mutex
	calls []string
	on    func(ino format.Ino)
}

func (c *counter) InodeChanged(ino format.Ino, off, n int64) {
	c.mu.Lock()
	c.calls = append(c.calls, fmt.Sprintf("inode %d %d+%d", ino, off, n))
	c.mu.Unlock()
	if c.on != nil {
		c.on(ino)
	}
}

func (c *counter) EntryChanged(dir format.Ino, name string) {
	c.mu.Lock()
	c.calls = append(c.calls, fmt.Sprintf("entry %d/%s", dir, name))
	c.mu.Unlock()
	if c.on != nil {
		c.on(dir)
	}
}

func (c *counter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.calls
	c.calls = nil
	return l
}

// A watcher is not told of its own changes, and after stop of none.
func TestWatchFrom(t *testing.T) {
	w := newWorld(t, 16<<20)
	a, b := &counter{}, &counter{}
	stopA, stopB := w.fs.Watch(a), w.fs.Watch(b)
	own := FromWatcher(ctx, a)
	expect := func(what string, na, nb []string) {
		t.Helper()
		if ga, gb := a.take(), b.take(); !slices.Equal(ga, na) || !slices.Equal(gb, nb) {
			t.Fatalf("%s: one is told %q, the other %q", what, ga, gb)
		}
	}
	n, err := w.fs.Create(own, root, "f", NewNode{})
	w.ok(err)
	expect("create", nil, []string{fmt.Sprintf("entry %d/f", root), fmt.Sprintf("inode %d 0+0", root)})
	_, err = w.fs.WriteAt(own, n.Ino, make([]byte, 10), 100)
	w.ok(err)
	wrote := fmt.Sprintf("inode %d 0+110", n.Ino) // from the old end on
	expect("write", nil, []string{wrote})
	v, ok := w.fs.View(own, n.Ino, 0, 1)
	if v.Release(); !ok {
		t.Fatal("no view")
	}
	attrs := fmt.Sprintf("inode %d 0+0", n.Ino)
	expect("read", nil, []string{attrs})
	_, err = w.fs.Lookup(ctx, root, "none")
	w.fails(err, ErrNotFound)
	_, err = w.fs.Create(ctx, root, "f", NewNode{})
	w.fails(err, ErrExists)
	expect("refused", nil, nil)

	p := newTable()
	m, exts, err := w.fs.Map(own, n.Ino, MapRequest{Length: 2 * format.PageSize, Writable: true, Grow: true, WayIn: "mount", Protector: p})
	w.ok(err)
	a.take()
	b.take()
	mp := &mapped{table: p, m: m, exts: exts, w: w}
	w.ok(mp.store(1, 'x'))
	page := fmt.Sprintf("inode %d 4096+4096", n.Ino)
	expect("store", nil, []string{page})
	w.ok(m.Unmap(ctx))
	expect("unmap", []string{page}, []string{page}) // the sync knows not who stored

	u, err := w.fs.NewUpload(ctx, NewNode{})
	w.ok(err)
	_, err = u.ReadFrom(bytes.NewReader(make([]byte, 3<<20)))
	w.ok(err)
	expect("upload", nil, nil)
	w.ok(u.Close())
	eventually(t, "the upload is freed", func() bool { return len(b.take()) > 0 })
	a.take()

	stopA()
	stopA()
	stopB()
	w.write(n.Ino, 0, make([]byte, 10))
	expect("nobody watches", nil, nil)
	if w.fs.watchers.any() {
		t.Fatal("somebody still watches")
	}
}

// Whoever is told may use the file system: nothing is held (N1).
func TestWatchHoldsNothing(t *testing.T) {
	w := newWorld(t, 24<<20)
	c := &counter{}
	told := 0
	c.on = func(ino format.Ino) {
		told++
		if n, who := w.fs.startWrite.Inside(); n != 0 {
			t.Errorf("told inside the gate: %v", who)
		}
		if n, who := w.fs.startPageFault.Inside(); n != 0 {
			t.Errorf("told inside the gate: %v", who)
		}
		for _, ino := range []format.Ino{ino, root} {
			in, err := w.fs.get(ino)
			w.ok(err)
			if !in.mu.TryLock() {
				t.Fatal("told with a lock of an inode held")
			}
			in.mu.Unlock()
			if pg := in.pages.Load(); pg != nil {
				if !pg.mu.TryLock() || len(pg.sem) > 0 {
					t.Fatal("told with the pages locked")
				}
				pg.mu.Unlock()
			}
			w.fs.put(in)
		}
		if !w.fs.renameMu.TryLock() || len(w.fs.syncer.sem) > 0 || len(w.fs.threads) > 0 {
			t.Fatal("told with a lock held")
		}
		w.fs.renameMu.Unlock()
		w.durable() // not inside a transaction: a seal waits for those
	}
	w.fs.Watch(c)
	// Names stay linked, so that the reaper keeps still.
	f, d := w.file(root, "f"), w.dir(root, "d")
	w.write(f, 0, pattern(1, 100_000))
	_, err := w.fs.Append(ctx, f, []byte("x"))
	w.ok(err)
	_, err = w.fs.Symlink(ctx, d, "s", NewNode{Target: "t"})
	w.ok(err)
	_, err = w.fs.Link(ctx, f, d, "g")
	w.ok(err)
	w.ok(w.fs.Rename(ctx, root, "f", d, "f", RenameReplace))
	w.ok(w.fs.Rename(ctx, d, "f", d, "s", RenameExchange))
	w.ok(w.fs.Truncate(ctx, f, 50_000))
	w.ok(w.fs.Truncate(ctx, f, 60_000))
	w.ok(w.fs.Fallocate(ctx, f, FallocPunchHole, 5000, 20_000))
	w.ok(w.fs.SetXattr(ctx, f, "user.a", nil, false, false))
	w.ok(w.fs.RemoveXattr(ctx, f, "user.a"))
	w.read(f)
	_, err = w.fs.ReadDir(ctx, d, 0, 10)
	w.ok(err)
	u, err := w.fs.NewUpload(ctx, NewNode{})
	w.ok(err)
	_, _, err = u.Commit(ctx, d, "u", nil)
	w.ok(err)
	w.ok(u.Close())
	p := w.mapFile(f, 20)
	w.ok(p.store(3, 'a'))
	_, err = w.fs.Fsync(ctx, f, 0, 0)
	w.ok(err)
	w.ok(p.store(3, 'b'))
	_, err = w.fs.Sync(ctx)
	w.ok(err)
	w.ok(p.store(3, 'c'))
	w.ok(p.m.Unmap(ctx))
	w.ok(w.fs.Unlink(ctx, d, "g"))
	if told < 40 {
		t.Fatalf("told %d times", told)
	}
}

// Of pages that a program has stored to whoever makes them clean tells.
func TestWatchCleaned(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	p := w.mapFile(f, 8)
	c := &counter{}
	w.fs.Watch(c)
	page := fmt.Sprintf("inode %d %d+%d", f, 3*format.PageSize, format.PageSize)
	for _, x := range []struct {
		what  string
		clean func() error
	}{
		{"fsync", func() error { return second(w.fs.Fsync(ctx, f, 0, 0)) }},
		{"msync", func() error { return second(p.m.Sync(ctx, PageRun{First: 2, Count: 2})) }},
		{"sync", func() error { return second(w.fs.Sync(ctx)) }},
		{"freeze", func() error { w.freeze(); w.thaw(); return nil }},
		{"walk-all", func() error {
			_, _, err := w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute, WalkAll: true})
			w.thaw()
			return err
		}},
		{"unmap", func() error { return p.m.Unmap(ctx) }},
	} {
		w.ok(p.store(3, 'a'))
		if got := c.take(); !slices.Equal(got, []string{page}) {
			t.Fatalf("%s: of the first store is told %q", x.what, got)
		}
		w.ok(p.store(3, 'b'))
		if got := c.take(); len(got) != 0 {
			t.Fatalf("%s: of the second store is told %q: who could have seen it?", x.what, got)
		}
		w.ok(x.clean())
		if got := c.take(); !slices.Equal(got, []string{page}) {
			t.Errorf("%s: of the page that became clean is told %q", x.what, got)
		}
		w.ok(x.clean())
		if got := c.take(); len(got) != 0 {
			t.Errorf("%s: of a clean page is told %q", x.what, got)
		}
	}
}

// A watcher costs a write no allocation.
func TestWatchAllocates(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	p := pattern(1, 4096)
	w.write(f, 0, p)
	write := func() { w.write(f, 0, p) }
	write()
	none := testing.AllocsPerRun(2000, write)
	stop := w.fs.Watch(quiet{})
	one := testing.AllocsPerRun(2000, write)
	stop()
	if none != one {
		t.Fatalf("a write makes %v allocations, with a watcher %v", none, one)
	}
}

type quiet struct{}

func (quiet) InodeChanged(format.Ino, int64, int64)    {}
func (quiet) EntryChanged(dir format.Ino, name string) {}

// BenchmarkWatch is a write of 64 bytes and a create with an unlink, unwatched and watched.
func BenchmarkWatch(b *testing.B) {
	w := benchWorld(b, 64<<20)
	f := w.file(root, "f")
	w.write(f, 0, pattern(1, 4096))
	for _, watched := range []string{"nobody", "one"} {
		stop := func() {}
		if watched == "one" {
			stop = w.fs.Watch(quiet{})
		}
		b.Run("write/"+watched, func(b *testing.B) {
			b.ReportAllocs()
			p := pattern(1, 64)
			for b.Loop() {
				w.write(f, 0, p)
			}
		})
		b.Run("create+unlink/"+watched, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.file(root, "g")
				w.ok(w.fs.Unlink(ctx, root, "g"))
			}
		})
		stop()
	}
}

package core

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem"
)

// faulty is a medium whose flushes and fences fail when told to.
type faulty struct {
	pmem.Medium
	flush, fence atomic.Bool
}

type faultyBatch struct {
	pmem.Batch
	m *faulty
}

func (m *faulty) Begin() pmem.Batch { return &faultyBatch{m.Medium.Begin(), m} }

func (b *faultyBatch) Flush(off, n int64) error {
	if b.m.flush.Load() {
		return &pmem.MediaError{Off: off, Op: "flush"}
	}
	return b.Batch.Flush(off, n)
}

func (b *faultyBatch) Fence() error {
	if b.m.fence.Load() {
		return fmt.Errorf("fence: %w", syscall.EIO)
	}
	return b.Batch.Fence()
}

// newFaulty mounts a world's image through a faulty medium.
func newFaulty(t *testing.T) (*world, *faulty) {
	w := newWorld(t, 16<<20)
	w.unmount()
	m := &faulty{Medium: w.m}
	fs, err := Mount(m, w.opt)
	w.ok(err)
	w.fs = fs
	return w, m
}

// Pages whose flush failed are dirty still, and the next sync flushes them.
func TestFlushFails(t *testing.T) {
	w, m := newFaulty(t)
	f := w.file(root, "f")
	p := w.mapFile(f, 8)
	w.ok(p.store(2, 'x'))
	w.ok(p.store(5, 'y'))
	m.flush.Store(true)
	for range 2 {
		_, err := w.fs.Fsync(ctx, f, 0, 0)
		w.fails(err, ErrIO)
		_, err = w.fs.Sync(ctx)
		w.fails(err, ErrIO)
		if s := w.fs.Status(); s.InodesDirty != 1 || s.DirtyPages != 2 {
			t.Fatalf("%d inodes, %d pages dirty", s.InodesDirty, s.DirtyPages)
		}
	}
	_, _, err := w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute})
	w.fails(err, ErrIO)
	m.flush.Store(false)
	res, err := w.fs.Fsync(ctx, f, 0, 0)
	if err != nil || res.Pages != 2 || w.fs.Status().DirtyPages != 0 {
		t.Fatal(res, err)
	}
	w.ok(p.m.Unmap(ctx))
}

// A commit that fails is the ERROR state: nothing changes any more and
// everybody is told why; reads go on; a remount has what was durable.
func TestErrorState(t *testing.T) {
	w, m := newFaulty(t)
	f := w.file(root, "f")
	w.write(f, 0, pattern(1, 10_000))
	p := w.mapFile(f, 1)
	_, err := w.fs.Fsync(ctx, f, 0, 0)
	w.ok(err)
	w.file(root, "lost")
	m.fence.Store(true)
	_, err = w.fs.WaitDurable(ctx)
	w.fails(err, ErrReadOnly)
	m.fence.Store(false)
	if w.fs.Status().Degraded == nil {
		t.Fatal("status does not say so")
	}
	_, err = w.fs.Create(ctx, root, "g", NewNode{})
	w.fails(err, ErrReadOnly)
	w.fails(err, syscall.EIO) // the cause
	_, err = w.fs.WriteAt(ctx, f, []byte("x"), 0)
	w.fails(err, ErrReadOnly)
	w.fails(w.fs.Unlink(ctx, root, "f"), ErrReadOnly)
	w.fails(p.store(0, 'x'), ErrReadOnly)
	_, _, err = w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute})
	w.fails(err, ErrReadOnly)
	if w.fs.Errno(err) != int(syscall.EROFS) {
		t.Fatal("errno", w.fs.Errno(err))
	}
	if got := w.read(f); !bytes.Equal(got, pattern(1, 10_000)) {
		t.Fatal("reads must go on")
	}
	_ = w.fs.Unmount(ctx) // says what Status said
	w.check()
	w.mount()
	if got := w.read(f); !bytes.Equal(got, pattern(1, 10_000)) {
		t.Fatal("what was durable is gone")
	}
	_, err = w.fs.Lookup(ctx, root, "lost")
	w.fails(err, ErrNotFound)
}

// Clean inodes are evicted while there are many, dirty and pinned ones stay.
func TestEviction(t *testing.T) {
	w := newWorld(t, 64<<20, func(o *Options) { o.MaxInodes = 1 }) // 16 a shard at least
	pinned := w.file(root, "pinned")
	w.ok(w.fs.Acquire(pinned))
	mapped := w.file(root, "mapped")
	p := w.mapFile(mapped, 2)
	w.ok(p.store(1, 'm'))
	const n = 12_000
	inos := make([]format.Ino, n)
	for i := range inos {
		inos[i] = w.file(root, fmt.Sprint(i))
		w.write(inos[i], 0, []byte(fmt.Sprint(i))) // a deferred record
	}
	if _, err := w.fs.WaitDurable(ctx); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		for i, ino := range inos {
			mode := uint32(0o600 + round)
			a, err := w.fs.SetAttr(ctx, ino, SetAttr{Mode: &mode})
			if err != nil || a.Size != int64(len(fmt.Sprint(i))) {
				t.Fatal(i, a.Size, err)
			}
			if i%3000 == 0 {
				w.freeze() // eviction goes on while frozen
				for _, ino := range inos[:3000] {
					if _, err := w.fs.GetAttr(ctx, ino); err != nil {
						t.Fatal(err)
					}
				}
				w.thaw()
			}
		}
	}
	if c := w.fs.Status().InodesCached; c > 3*16*cacheShards {
		t.Fatalf("%d inodes are cached", c)
	}
	for i, ino := range inos {
		if a, err := w.fs.GetAttr(ctx, ino); err != nil || a.Mode&0o777 != 0o602 || a.Size != int64(len(fmt.Sprint(i))) {
			t.Fatalf("inode %d: %+v %v", ino, a, err)
		}
	}
	w.ok(w.fs.Unlink(ctx, root, "pinned"))
	if _, err := w.fs.GetAttr(ctx, pinned); err != nil {
		t.Fatal("a pinned inode is gone:", err)
	}
	w.fs.Release(pinned)
	w.ok(p.store(1, 'n'))
	w.ok(p.m.Unmap(ctx))
}

// Many goroutines at everything, with freezes in between.
func TestConcurrent(t *testing.T) {
	w := newWorld(t, 64<<20)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	dirs := make([]format.Ino, 4)
	for i := range dirs {
		dirs[i] = w.dir(root, fmt.Sprint("d", i))
	}
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				d, e := dirs[(g+n)%4], dirs[(g+n*n+1)%4]
				name, other := fmt.Sprint("n", n%7), fmt.Sprint("n", n%5)
				a, err := w.fs.Create(ctx, d, name, NewNode{})
				if err == nil {
					_, err = w.fs.WriteAt(ctx, a.Ino, pattern(n, 6000), int64(n%3)*5000)
				}
				for _, err := range []error{err,
					w.fs.Rename(ctx, d, name, e, other, RenameMode(n%3)),
					second(w.fs.Mkdir(ctx, e, fmt.Sprint("sub", n%3), NewNode{})),
					w.fs.Rename(ctx, e, fmt.Sprint("sub", n%3), d, fmt.Sprint("sub", n%4), RenameReplace),
					w.fs.Rmdir(ctx, d, fmt.Sprint("sub", n%4)),
					second(w.fs.Fsync(ctx, a.Ino, 0, 0)),
					second(w.fs.ReadDir(ctx, d, 0, 100)),
					w.fs.Unlink(ctx, e, other)} {
					if err != nil && !errors.Is(err, ErrExists) && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrStale) && !errors.Is(err, ErrNotEmpty) &&
						!errors.Is(err, ErrIsDir) && !errors.Is(err, ErrNotDir) {
						t.Error(err)
						return
					}
				}
			}
		}()
	}
	for range 10 {
		time.Sleep(20 * time.Millisecond)
		w.freeze()
		w.check()
		w.thaw()
	}
	close(stop)
	wg.Wait()
}

func second[T any](_ T, err error) error { return err }

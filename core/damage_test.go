package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem"
)

// fileWorld is a world whose image is a file in /dev/shm, which the test may cut.
func fileWorld(t *testing.T, size int64) (*world, string) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "permafrost-damage-")
	if err != nil {
		t.Skip("the image is to lie on tmpfs: ", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "image")
	m, err := pmem.Create(path, size, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, m: m, mask: ^uint64(0)}
	w.ok(Mkfs(m, MkfsOptions{}))
	w.opt.CommitInterval = time.Hour
	w.mount()
	return w, path
}

// reopen opens the image file anew, as after a restart.
func (w *world) reopen(path string) {
	w.t.Helper()
	m, err := pmem.Open(path, pmem.Options{})
	w.ok(err)
	w.m = m
	w.mount()
}

// eventually waits for a condition that background work brings about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatal("it never happens: ", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (w *world) durable() {
	w.t.Helper()
	_, err := w.fs.WaitDurable(ctx)
	w.ok(err)
}

// blockAt is the block of a page of a file.
func (w *world) blockAt(ino format.Ino, p format.Page) format.Block {
	w.t.Helper()
	e, ok, err := w.fs.extentAt(ino, p)
	if err != nil || !ok || e.end() <= p {
		w.t.Fatal("page", p, "of inode", ino, "has no block", err)
	}
	return e.at(p)
}

// badBlocks is the list by block.
func (w *world) badBlocks() map[format.Block]BadBlock {
	w.t.Helper()
	list, err := w.fs.BadBlocks(ctx, 0, 1<<20)
	w.ok(err)
	m := make(map[format.Block]BadBlock)
	for i, b := range list {
		if i > 0 && list[i-1].Block >= b.Block {
			w.t.Fatalf("the list is not ascending: %+v", list)
		}
		m[b.Block] = b
	}
	return m
}

// wantBad fails unless err is EIO for one of the pages [p, end) of a file, and
// the list has its block, as pending or not. It returns the block.
func (w *world) wantBad(err error, ino format.Ino, p, end format.Page, pending bool) format.Block {
	w.t.Helper()
	w.fails(err, ErrIO)
	b, ok := DamagedBlock(err)
	if !ok || w.fs.Errno(err) != int(syscall.EIO) {
		w.t.Fatalf("errno %d, block %d: %v", w.fs.Errno(err), b, err)
	}
	var got BadBlock
	eventually(w.t, "the list has the bad block", func() bool {
		got, ok = w.badBlocks()[b]
		return ok && (pending || !got.Pending)
	})
	if got.Pending != pending || got.Ino != ino || got.Page < p || got.Page >= end || w.blockAt(ino, got.Page) != b {
		w.t.Fatalf("block %d of the pages %d to %d of inode %d is listed as %+v", b, p, end, ino, got)
	}
	return b
}

// fill takes all the space that is left with one file, and fails if that got
// one of the bad blocks. Then it deletes it.
func (w *world) fill(bad map[format.Block]BadBlock) {
	w.t.Helper()
	f := w.file(root, "fill")
	end := int64(0)
	for n := int64(chunkSize); n >= format.PageSize; {
		// Allocated, not written: a bad block must not even be tried.
		switch err := w.fs.Fallocate(ctx, f, FallocKeepSize, end, n); {
		case errors.Is(err, ErrNoSpace):
			n /= 2
		case err != nil:
			w.t.Fatal(err)
		default:
			end += n
		}
	}
	exts, err := w.fs.Extents(ctx, f, 0, 1<<20)
	w.ok(err)
	total := uint64(0)
	for _, e := range exts {
		total += e.Count
		for b := range bad {
			if e.has(b) {
				w.t.Fatalf("bad block %d was allocated again", b)
			}
		}
	}
	if total == 0 {
		w.t.Fatal("nothing was allocated")
	}
	w.ok(w.fs.Unlink(ctx, root, "fill"))
}

// faultyWorld is a world with some files on a FUSE file.
func faultyWorld(t *testing.T) (*world, *faultyFile) {
	t.Helper()
	w, backing := fileWorld(t, 16<<20)
	for i := range 400 {
		f := w.file(root, fmt.Sprint("f", i))
		w.write(f, 0, pattern(i, 5000))
	}
	w.unmount()
	w.ok(w.m.Close())
	ff := newFaultyFile(t, backing)
	w.reopen(ff.path)
	return w, ff
}

// On a medium whose pages answer EIO: data. A block that a file owns is as in
// TestTruncatedData. A free one that turns out to be bad when somebody gets it
// is retired, and that one gets another.
func TestBadDataPage(t *testing.T) {
	w, ff := faultyWorld(t)
	f, other := w.lookup(root, "f7"), w.lookup(root, "f8")
	bad := w.blockAt(f, 1)
	ff.order("read", int64(bad)*format.BlockSize, format.BlockSize)
	page := make([]byte, format.PageSize)
	_, err := w.fs.ReadAt(ctx, f, page[:100], format.PageSize)
	if b := w.wantBad(err, f, 1, 2, false); b != bad {
		t.Fatalf("block %d, not %d", b, bad)
	}
	_, err = w.fs.WriteAt(ctx, f, page[:100], format.PageSize)
	w.fails(err, ErrIO)
	if n, err := w.fs.ReadAt(ctx, f, page, 0); n != len(page) || err != nil || !bytes.Equal(page, pattern(7, 5000)[:len(page)]) {
		t.Fatal("its other page:", err)
	}
	if got := w.read(other); !bytes.Equal(got, pattern(8, 5000)) {
		t.Fatal("its neighbour reads wrong")
	}

	// A free block: whoever takes all the space there is gets it.
	for round, take := range []func(ino format.Ino, off int64, n int) error{
		func(ino format.Ino, off int64, n int) error {
			_, err := w.fs.WriteAt(ctx, ino, pattern(9, n), off)
			return err
		},
		func(ino format.Ino, off int64, n int) error {
			return w.fs.Fallocate(ctx, ino, FallocAllocate, off, int64(n))
		},
	} {
		probe := w.file(root, "probe")
		w.write(probe, 0, pattern(9, 20_000))
		next := w.blockAt(probe, 2)
		w.ok(w.fs.Unlink(ctx, root, "probe")) // in the group that allocated it: free at once
		eventually(t, "it is freed", func() bool { return w.fs.Status().PendingOrphans == 0 })
		ff.order("read", int64(next)*format.BlockSize, format.BlockSize)
		g := w.file(root, "g")
		end := int64(0)
		for n := chunkSize; n >= format.PageSize; {
			switch err := take(g, end, n); {
			case errors.Is(err, ErrNoSpace):
				n /= 2
			case err != nil:
				t.Fatal(err)
			default:
				end += int64(n)
			}
		}
		if b, ok := w.badBlocks()[next]; !ok || b.Ino != 0 || b.Pending {
			t.Fatalf("block %d was bad and free: %+v", next, w.badBlocks())
		}
		got := make([]byte, chunkSize)
		want := pattern(9, chunkSize)
		if round == 1 {
			want = make([]byte, chunkSize)
		}
		for at := int64(0); at+chunkSize <= min(end, 4<<20); at += chunkSize {
			if _, err := w.fs.ReadAt(ctx, g, got, at); err != nil || !bytes.Equal(got, want) {
				t.Fatal("the new file reads wrong:", err)
			}
		}
		w.ok(w.fs.Unlink(ctx, root, "g"))
		eventually(t, "it is freed", func() bool { return w.fs.Status().PendingOrphans == 0 })
	}
	list := w.badBlocks()
	if len(list) != 3 {
		t.Fatalf("%+v", list)
	}
	w.durable()
	ff.order("mend", 0, 0)
	w.remount()
	if got := w.badBlocks(); len(got) != 3 || got[bad].Path != "/f7" {
		t.Fatalf("after the restart: %+v", got)
	}
	w.fill(list)
	w.close()
}

// On a medium whose pages answer EIO: a leaf. The files whose records it holds
// cannot be had, all others can; nothing changes any more, and a freeze is
// refused. What was changed before is durable.
func TestBadMetadataPage(t *testing.T) {
	w, ff := faultyWorld(t)
	f, far := w.lookup(root, "f200"), w.lookup(root, "f5")
	w.write(far, 0, []byte("before"))
	leaf := w.leafOf(f)
	ff.order("read", int64(leaf)*format.BlockSize, format.BlockSize)
	_, err := w.fs.ReadAt(ctx, f, make([]byte, 100), 0)
	w.fails(err, ErrIO)
	if b, ok := DamagedBlock(err); !ok || b != leaf {
		t.Fatalf("block %d, not %d: %v", b, leaf, err)
	}
	w.wantReadOnly(nil)
	if got := w.read(far); !bytes.Equal(got, append([]byte("before"), pattern(5, 5000)[6:]...)) {
		t.Fatal("a file far from it reads wrong")
	}
	if _, err := w.fs.Fsync(ctx, far, 0, 0); err != nil {
		t.Fatal("what was changed before is not made durable:", err)
	}
	lost := 0
	for i := range 400 {
		a, err := w.fs.Resolve(ctx, fmt.Sprint("/f", i))
		if err == nil {
			_, err = w.fs.ReadAt(ctx, a.Ino, make([]byte, 100), 0)
		}
		if err != nil {
			w.fails(err, ErrIO)
			lost++
		}
	}
	if lost == 0 || lost > 100 {
		t.Fatalf("%d of 400 files cannot be read for one bad leaf", lost)
	}
	if err := w.fs.Unmount(ctx); !errors.Is(err, syscall.EIO) {
		t.Fatal("unmount:", err)
	}
	_, err = Mount(w.m, w.opt)
	if b, ok := DamagedBlock(err); !ok || b != leaf {
		t.Fatal("a mount of the damaged image:", err)
	}
	ff.order("mend", 0, 0)
	w.check()
	w.mount()
	if got := w.read(far); !bytes.HasPrefix(got, []byte("before")) {
		t.Fatal("what was changed before is lost")
	}
	w.close()
}

// On a medium whose pages answer EIO: writing. The first fence that fails is the
// ERROR state (T11), whoever it is that waits for it.
func TestBadWriteBack(t *testing.T) {
	for _, by := range []string{"commit", "fsync"} {
		t.Run(by, func(t *testing.T) {
			w, ff := faultyWorld(t)
			f := w.lookup(root, "f7")
			p := w.mapFile(f, 1)
			w.durable()
			at := int64(w.blockAt(f, 0)) * format.BlockSize
			var err error
			ff.order("write", at, format.BlockSize)
			if by == "commit" {
				w.write(f, 0, []byte("new"))
				_, err = w.fs.WaitDurable(ctx)
				w.fails(err, ErrReadOnly)
			} else {
				w.ok(p.store(0, 'x'))
				_, err = w.fs.Fsync(ctx, f, 0, 0)
				w.fails(err, ErrIO)
			}
			w.fails(err, pmem.ErrFenceFailed)
			w.fails(w.fs.store.Failed(), pmem.ErrFenceFailed)
			_, err = w.fs.Create(ctx, root, "new", NewNode{})
			w.fails(err, ErrReadOnly)
			if got := w.read(w.lookup(root, "f8")); !bytes.Equal(got, pattern(8, 5000)) {
				t.Fatal("reads must go on")
			}
			_ = w.fs.Unmount(context.Background()) // says what Status said
			ff.order("mend", 0, 0)
			w.ok(w.m.Close())
			w.reopen(ff.path)
			w.close()
		})
	}
}

// A dirty page that cannot be flushed keeps its file dirty: its syncs fail, and
// a freeze is refused, for the store in it would be missing. Both end with the
// file.
func TestLostDirtyPage(t *testing.T) {
	w, path := fileWorld(t, 16<<20)
	w.write(w.file(root, "old"), 0, pattern(2, 12<<20))
	w.durable()
	w.ok(w.fs.Grow(ctx, 32<<20)) // nodes stay below, new data goes above
	f := w.file(root, "f")
	p := w.mapFile(f, 2048)
	w.durable()
	w.ok(p.store(2000, 'x'))
	w.ok(os.Truncate(path, int64(w.blockAt(f, 2000))*format.BlockSize))
	for range 2 {
		_, err := w.fs.Fsync(ctx, f, 0, 0)
		w.wantBad(err, f, 2000, 2001, false)
		_, _, err = w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute})
		w.fails(err, ErrIO)
	}
	w.fails(p.m.Unmap(ctx), ErrIO)
	w.ok(w.fs.Unlink(ctx, root, "f"))
	eventually(t, "the file is freed", func() bool { return w.fs.Status().PendingOrphans == 0 })
	w.freeze()
	w.thaw()
	w.ok(os.Truncate(path, 32<<20))
	w.close()
}

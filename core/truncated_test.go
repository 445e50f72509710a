package core

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/core/tree"
)

// A file that is cut while it is mapped: what lay behind the cut is an
// I/O error to whoever needs it, to read, to write, to clear or to flush, and a
// block on the bad-block list: durably, for as long as the file has it and
// after that, while frozen only in memory. Everything else goes on.
func TestTruncatedData(t *testing.T) {
	w, path := fileWorld(t, 16<<20)
	small := w.file(root, "small")
	w.write(small, 0, pattern(1, 10_000))
	old := w.file(root, "old")
	w.write(old, 0, pattern(2, 11<<20)) // most of what there is
	w.durable()
	w.ok(w.fs.Grow(ctx, 32<<20)) // nodes stay below, new data goes above
	f := w.file(w.dir(root, "dir"), "f")
	w.write(f, 0, pattern(3, 8<<20))
	p := w.mapFile(f, 2048)
	w.durable()
	const cutPage = 1500
	cut := w.blockAt(f, cutPage)
	if w.blockAt(f, 2047) < cut || cut < 16<<20/format.BlockSize {
		t.Fatalf("page %d is block %d", cutPage, cut)
	}
	w.ok(os.Truncate(path, int64(cut)*format.BlockSize))

	page := make([]byte, format.PageSize)
	access := []struct {
		what string
		page format.Page
		do   func(off int64) error
	}{
		{"read", 1600, func(off int64) error { _, err := w.fs.ReadAt(ctx, f, page, off); return err }},
		{"write", 1610, func(off int64) error { _, err := w.fs.WriteAt(ctx, f, page, off); return err }},
		{"write in part", 1620, func(off int64) error { _, err := w.fs.WriteAt(ctx, f, page[:10], off+9); return err }},
		{"zero", 1630, func(off int64) error { return w.fs.Fallocate(ctx, f, FallocZeroRange, off, format.PageSize) }},
		{"punch in part", 1640, func(off int64) error { return w.fs.Fallocate(ctx, f, FallocPunchHole, off+100, 100) }},
	}
	for _, a := range access {
		t.Log(a.what)
		b := w.wantBad(a.do(int64(a.page)*format.PageSize), f, a.page, a.page+1, false)
		if got := w.badBlocks()[b].Path; got != "/dir/f" {
			t.Fatalf("%s: block %d belongs to %q", a.what, b, got)
		}
	}
	// A read that begins before the cut, and a flush of what a program stored.
	n, err := w.fs.ReadAt(ctx, f, make([]byte, 4<<20), int64(cutPage-3)*format.PageSize+100)
	if n != 3*format.PageSize-100 {
		t.Fatalf("%d bytes were read, three pages less 100 bytes are there", n)
	}
	w.wantBad(err, f, cutPage, cutPage+1, false)
	w.ok(p.m.Mkwrite(1650, 1, p.grant))
	_, err = w.fs.Fsync(ctx, f, 0, 0)
	w.wantBad(err, f, 1650, 1651, false)
	if s := w.fs.Status(); s.Degraded != nil || s.MetadataErrors != 0 || s.DataErrors < 7 || s.BadBlocks != 7 || s.BadBlocksPending != 0 {
		t.Fatalf("%+v", s)
	}

	// Everything else goes on.
	if got := w.read(small); !bytes.Equal(got, pattern(1, 10_000)) {
		t.Fatal("another file reads wrong")
	}
	whole := make([]byte, cutPage*format.PageSize)
	if n, err := w.fs.ReadAt(ctx, f, whole, 0); n != len(whole) || err != nil || !bytes.Equal(whole, pattern(3, 8<<20)[:n]) {
		t.Fatal("what is left of the file reads wrong:", n, err)
	}
	w.write(small, 3, []byte("changed"))

	// While frozen a bad block is listed, and not in the image.
	_, err = w.fs.Fsync(ctx, f, 0, 0) // page 1650 can never be made clean
	w.fails(err, ErrIO)
	w.ok(os.Truncate(path, 32<<20))
	_, err = w.fs.Fsync(ctx, f, 0, 0)
	w.ok(err)
	w.freeze()
	w.ok(os.Truncate(path, int64(cut)*format.BlockSize))
	before := bytes.Clone(w.m.Bytes(0, int64(cut)*format.BlockSize))
	_, err = w.fs.ReadAt(ctx, f, page, 1660*format.PageSize)
	w.wantBad(err, f, 1660, 1661, true)
	time.Sleep(50 * time.Millisecond) // for what must not happen
	if s := w.fs.Status(); s.BadBlocks != 7 || s.BadBlocksPending != 1 || s.Blocked != 0 {
		t.Fatalf("%d bad blocks, %d pending, %d callers held", s.BadBlocks, s.BadBlocksPending, s.Blocked)
	}
	if !bytes.Equal(before, w.m.Bytes(0, int64(cut)*format.BlockSize)) {
		t.Fatal("the image changed while frozen")
	}
	w.thaw()
	eventually(t, "the block is recorded after the thaw", func() bool {
		s := w.fs.Status()
		return s.BadBlocks == 8 && s.BadBlocksPending == 0
	})
	w.durable()

	// New data lands elsewhere; the new blocks that were tried are retired.
	w.ok(w.fs.Unlink(ctx, root, "old"))
	for range 3 {
		w.write(small, 0, []byte("x"))
		w.durable()
	}
	g := w.file(root, "g")
	w.write(g, 0, pattern(4, 1<<20))
	if got := w.read(g); !bytes.Equal(got, pattern(4, 1<<20)) {
		t.Fatal("a new file reads wrong")
	}

	// Across a restart, and beyond the end of the file they belonged to.
	w.ok(p.m.Unmap(ctx))
	list := w.badBlocks()
	w.ok(os.Truncate(path, 32<<20)) // an image that is too short is not mounted
	w.remount()
	if got := w.badBlocks(); len(got) != len(list) {
		t.Fatalf("%d bad blocks after the restart, there were %d", len(got), len(list))
	}
	w.ok(w.fs.Unlink(ctx, w.lookup(root, "dir"), "f"))
	eventually(t, "the file is freed", func() bool { return w.fs.Status().PendingOrphans == 0 })
	for b, x := range w.badBlocks() {
		if x.Ino != 0 {
			t.Fatalf("block %d still belongs to a file: %+v", b, x)
		}
	}
	for range 3 {
		w.write(small, 0, []byte("x"))
		w.durable()
	}
	w.fill(list)
	w.remount()
	w.fill(list)
	if got := w.badBlocks(); len(got) != len(list) {
		t.Fatalf("%d bad blocks at the end, there were %d", len(got), len(list))
	}
	w.close()
}

func (w *world) lookup(dir format.Ino, name string) format.Ino {
	w.t.Helper()
	a, err := w.fs.Lookup(ctx, dir, name)
	w.ok(err)
	return a.Ino
}

// A file that is cut where the metadata lies: whoever needs a node that is gone
// is told its block, and from then on nothing changes any more. What memory has
// is served. Nothing crashes; with its bytes back, the image is whole.
func TestTruncatedMetadata(t *testing.T) {
	w, path := fileWorld(t, 16<<20)
	f := w.file(root, "f")
	w.write(f, 0, pattern(1, 100_000))
	w.unmount()
	w.mount() // so that nothing of the tree is in memory
	p := w.mapFile(f, 4)
	saved, err := os.ReadFile(path)
	w.ok(err)
	cut := int64(format.MaxImage)
	for _, b := range w.nodes() {
		cut = min(cut, int64(b)*format.BlockSize)
	}
	w.ok(os.Truncate(path, cut))

	_, err = w.fs.Lookup(ctx, root, "f")
	w.fails(err, ErrIO)
	if b, ok := DamagedBlock(err); !ok || int64(b)*format.BlockSize < cut {
		t.Fatalf("block %d: %v", b, err)
	}
	w.wantReadOnly(p)
	if a, err := w.fs.GetAttr(ctx, f); err != nil || a.Size != 100_000 {
		t.Fatal("what is in memory is not served:", err)
	}
	if err := w.fs.Unmount(ctx); !errors.Is(err, syscall.EIO) {
		t.Fatal("unmount:", err)
	}
	w.ok(os.WriteFile(path, saved, 0o600))
	w.check()
	w.mount()
	if got := w.read(f); !bytes.Equal(got, pattern(1, 100_000)) {
		t.Fatal("the file reads wrong")
	}
	w.close()
}

// nodes lists the blocks of the durable tree's nodes.
func (w *world) nodes() (list []format.Block) {
	w.t.Helper()
	w.eachNode(func(p format.Ptr, _ int, _ *format.Node) { list = append(list, p.Block) })
	return list
}

func (w *world) eachNode(fn func(p format.Ptr, level int, n *format.Node)) {
	w.t.Helper()
	sv, err := tree.OpenSalvage(w.m)
	w.ok(err)
	w.ok(sv.Choose(0))
	sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{Node: func(p format.Ptr, level int, n *format.Node) bool {
		fn(p, level, n)
		return true
	}})
}

// leafOf is the leaf with a file's extents. It must not be the root.
func (w *world) leafOf(ino format.Ino) (b format.Block) {
	w.t.Helper()
	w.eachNode(func(p format.Ptr, level int, n *format.Node) {
		if _, found := n.Find(key(ino, format.KindExtent, 0)); level == 0 && found {
			b = p.Block
		}
	})
	if b == 0 || len(w.nodes()) < 10 {
		w.t.Fatal("no leaf for inode", ino)
	}
	return b
}

// wantReadOnly fails unless every change is refused, with the damage as the
// reason, and the freeze, too.
func (w *world) wantReadOnly(p *mapped) {
	w.t.Helper()
	s := w.fs.Status()
	if s.Degraded == nil || s.MetadataErrors == 0 {
		w.t.Fatalf("degraded: %v, %d metadata errors", s.Degraded, s.MetadataErrors)
	}
	if list, total := w.fs.Damages(); total != s.MetadataErrors || len(list) == 0 {
		w.t.Fatalf("%+v, %d", list, total)
	}
	_, err := w.fs.Create(ctx, root, "new", NewNode{})
	w.fails(err, ErrReadOnly)
	if _, ok := DamagedBlock(err); !ok {
		w.t.Fatal("the reason does not name a block:", err)
	}
	_, err = w.fs.Mkdir(ctx, root, "new", NewNode{})
	w.fails(err, ErrReadOnly)
	w.fails(w.fs.Unlink(ctx, root, "f"), ErrReadOnly)
	if p != nil {
		w.fails(p.store(0, 'y'), ErrReadOnly)
	}
	_, _, err = w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute})
	w.fails(err, ErrReadOnly)
	if l := w.fs.freezer.Level(); l != freeze.Unfrozen {
		w.t.Fatal("level", l)
	}
}

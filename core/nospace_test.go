package core

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// fullSetup makes what the operations work on.
func fullSetup(w *world) *driver {
	d := &driver{w: w, root: &mnode{ino: root, typ: format.TypeDir, children: map[string]*mnode{}}}
	d.dirs = []*mnode{d.root}
	dir := func(parent *mnode, name string) *mnode {
		n := &mnode{ino: w.dir(parent.ino, name), typ: format.TypeDir, children: map[string]*mnode{}, xattrs: map[string]string{}}
		d.add(parent, name, n)
		return n
	}
	file := func(parent *mnode, name string, size int, offs ...int) *mnode {
		n := &mnode{ino: w.file(parent.ino, name), typ: format.TypeRegular, xattrs: map[string]string{}}
		d.add(parent, name, n)
		for _, off := range offs {
			w.write(n.ino, int64(off), pattern(off, size))
			n.data = grown(n.data, off+size)
			copy(n.data[off:], pattern(off, size))
		}
		return n
	}
	sub := dir(d.root, "dir")
	dir(sub, "sub")
	f := file(d.root, "file", 30_000, 0)
	sparse := file(d.root, "sparse", 4096, 0, 8192, 20_480, 102_400)
	file(d.root, "small", 100, 0)
	file(sub, "inner", 5000, 0)
	d.add(d.root, "two", file(sub, "one", 100, 0))
	w.ok(second(w.fs.Link(ctx, d.child("two").ino, root, "two")))
	for n, size := range map[*mnode]int{f: 3000, sparse: 100} {
		w.ok(w.fs.SetXattr(ctx, n.ino, "user.old", pattern(1, size), false, false))
		n.xattrs["user.old"] = string(pattern(1, size))
	}
	for i := range 60 { // several leaves
		file(sub, fmt.Sprintf("%s-%d", strings.Repeat("n", 200), i), 0)
	}
	return d
}

// fill leaves exactly n free blocks that any operation may take: the rest is
// a file's.
func (d *driver) fill(n int64) {
	d.w.t.Helper()
	fs := d.w.fs
	filler := d.root.children["filler"]
	if filler == nil {
		filler = &mnode{ino: d.w.file(root, "filler"), typ: format.TypeRegular, xattrs: map[string]string{}}
		d.add(d.root, "filler", filler)
	}
	in, err := fs.get(filler.ino)
	d.w.ok(err)
	defer fs.put(in)
	page := format.Page(0)
	for range 100 {
		for range 3 { // what was freed comes back
			d.w.ok(second(fs.store.Commit(ctx, tree.CommitOptions{FreezeID: 1})))
		}
		sp := fs.store.Space()
		more := int64(sp.Free-sp.Reserved) - int64(sp.Kept) - n
		if more == 0 {
			return
		}
		in.mu.Lock()
		tx, err := fs.begin(4, int(max(more, 0)), true)
		d.w.ok(err)
		if more < 0 {
			_, err = tx.cutExtents(in, page+format.Page(more), page, 100)
			d.w.ok(err)
			page += format.Page(more)
		}
		for more > 0 {
			b, got, err := tx.tx.AllocData(0, uint64(more))
			d.w.ok(err)
			tx.putExtent(in, Extent{Page: page, Block: b, Count: got})
			page += format.Page(got)
			more -= int64(got)
		}
		tx.dirtyAttrs(in)
		d.w.ok(tx.end())
		in.mu.Unlock()
	}
	d.w.t.Fatalf("the image does not settle at %d blocks: %+v", n, fs.store.Space())
}

// clone copies the model.
func (n *mnode) clone(parent *mnode, done map[*mnode]*mnode) *mnode {
	if c := done[n]; c != nil {
		return c
	}
	c := *n
	done[n] = &c
	c.data, c.xattrs = slices.Clone(n.data), maps.Clone(n.xattrs)
	if n.typ == format.TypeDir {
		c.parent, c.children = parent, map[string]*mnode{}
		for name, child := range n.children {
			c.children[name] = child.clone(&c, done)
		}
	}
	return &c
}

// fullBase is an image, as its bytes and as a model, that runs begin with.
type fullBase struct {
	w     *world
	image []byte
	root  *mnode
}

// newFullBase keeps what setup made.
func newFullBase(t *testing.T, size int64, setup func(w *world) *driver) *fullBase {
	t.Helper()
	w := newWorld(t, size)
	d := setup(w)
	waitFor(t, func() bool { return w.fs.Status().PendingOrphans == 0 })
	w.unmount()
	b := &fullBase{w: w, image: bytes.Clone(w.m.Bytes(0, w.m.Size())), root: d.root}
	w.mount()
	return b
}

// begin mounts the image anew, as it was kept.
func (b *fullBase) begin() *driver {
	b.w.t.Helper()
	b.w.unmount()
	b.w.ok(fillMedium(b.w.m, b.image))
	b.w.mount()
	d := &driver{w: b.w, root: b.root.clone(nil, map[*mnode]*mnode{})}
	d.dirs = []*mnode{d.root}
	return d
}

// settled holds everything against the model: mounted, committed, by check.
func (d *driver) settled() {
	d.w.t.Helper()
	waitFor(d.w.t, func() bool { return d.w.fs.Status().PendingOrphans == 0 })
	d.compare()
	if _, err := d.w.fs.WaitDurable(ctx); err != nil {
		d.fail("a commit failed: %v", err) // T10
	}
	d.w.check()
}

// TestNoSpaceAtEveryBlock carries out every operation with 0, 1, 2 ... blocks
// left, until it succeeds. Before that it fails with ErrNoSpace and has changed
// nothing; commits go on; and when room was made it succeeds. What makes room, or
// was promised, succeeds with no block left.
func TestNoSpaceAtEveryBlock(t *testing.T) {
	base := newFullBase(t, 2<<20, fullSetup)
	for _, op := range spaceOps() {
		t.Run(op.name, func(t *testing.T) {
			base.w.t = t
			n := int64(0)
			for ; ; n++ {
				d := base.begin()
				d.note("%s with %d blocks left", op.name, n)
				d.fill(n)
				err := op.do(d)
				if err != nil && (op.must || !errors.Is(err, ErrNoSpace)) {
					d.fail("%s with %d blocks left: %v", op.name, n, err)
				}
				d.settled()
				if err == nil {
					d.w.remount()
					d.compare()
					break
				}
				d.w.ok(d.dropOp(d.w.fs.Unlink(ctx, root, "filler"), "filler"))
				waitFor(t, func() bool { return d.w.fs.Status().PendingOrphans == 0 })
				if err := op.do(d); err != nil {
					d.fail("%s, when %d blocks were too few and room was made: %v", op.name, n, err)
				}
				d.settled()
				if n > 200 {
					d.fail("%s does not succeed with %d blocks", op.name, n)
				}
			}
			t.Logf("it takes %d blocks", n)
		})
	}
	base.w.t = t
}

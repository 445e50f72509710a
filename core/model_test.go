package core

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

type mnode struct {
	ino      format.Ino
	typ      uint32
	data     []byte
	target   string
	children map[string]*mnode
	xattrs   map[string]string
	parent   *mnode // directories
	nlink    int    // files: names
}

// driver makes one random operation after another on both.
type driver struct {
	w    *world
	r    *rand.Rand
	root *mnode
	dirs []*mnode // some may be removed
	log  []string
}

func (d *driver) note(form string, args ...any) {
	d.log = append(d.log, fmt.Sprintf(form, args...))
	if len(d.log) > 40 {
		d.log = d.log[1:]
	}
}

func (d *driver) fail(form string, args ...any) {
	d.w.t.Helper()
	for _, l := range d.log {
		d.w.t.Log(l)
	}
	d.w.t.Fatalf(form, args...)
}

// want compares an error with what the model says.
func (d *driver) want(err, want error) bool {
	d.w.t.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		d.fail("got %v, want %v", err, want)
	}
	return err == nil
}

func (d *driver) alive(n *mnode) bool { return n == d.root || n.parent != nil }

// dir picks a directory, name a name that is often taken.
func (d *driver) dir() *mnode {
	for {
		if n := d.dirs[d.r.IntN(len(d.dirs))]; d.alive(n) {
			return n
		}
	}
}

func (d *driver) name(dir *mnode) string {
	if d.r.IntN(3) > 0 && len(dir.children) > 0 {
		names := slices.Sorted(maps.Keys(dir.children))
		return names[d.r.IntN(len(names))]
	}
	return fmt.Sprint("n", d.r.IntN(12))
}

// pick picks a directory and a child, nil if the name is free.
func (d *driver) pick() (*mnode, string, *mnode) {
	dir := d.dir()
	name := d.name(dir)
	return dir, name, dir.children[name]
}

func TestModel(t *testing.T) {
	steps := 3000
	if testing.Short() {
		steps = 1000
	}
	for _, mask := range []uint64{^uint64(0), 3} {
		seed := seedOf(t)
		t.Run(fmt.Sprintf("mask=%x", mask), func(t *testing.T) {
			t.Logf("seed %d", seed)
			w := newWorld(t, 24<<20)
			w.mask, w.fs.hashMask = mask, mask
			d := &driver{w: w, r: rand.New(rand.NewPCG(seed, mask)), root: &mnode{ino: root, typ: format.TypeDir, children: map[string]*mnode{}}}
			d.dirs = []*mnode{d.root}
			for i := range steps {
				d.step()
				if i%200 == 199 {
					d.compare()
				}
			}
			d.compare()
		})
	}
}

func (d *driver) step() {
	ops := []struct {
		weight int
		run    func()
	}{
		{12, d.create}, {3, d.mkdir}, {2, d.symlink}, {5, d.link}, {8, d.unlink}, {3, d.rmdir}, {10, d.rename},
		{14, d.write}, {4, d.truncate}, {5, d.falloc}, {4, d.xattr}, {3, d.upload}, {3, d.tmpfile}, {4, d.readAt}, {2, d.fsync}, {1, d.freezeThaw}, {1, d.remount},
	}
	sum := 0
	for _, o := range ops {
		sum += o.weight
	}
	n := d.r.IntN(sum)
	for _, o := range ops {
		if n -= o.weight; n < 0 {
			o.run()
			return
		}
	}
}

func (d *driver) add(dir *mnode, name string, n *mnode) {
	dir.children[name] = n
	n.nlink++
	if n.typ == format.TypeDir {
		n.parent = dir
		d.dirs = append(d.dirs, n)
	}
}

func (d *driver) create() {
	dir, name, old := d.pick()
	d.note("create %d/%s", dir.ino, name)
	a, err := d.w.fs.Create(ctx, dir.ino, name, NewNode{Mode: format.TypeRegular | 0o600})
	want := error(nil)
	if old != nil {
		want = ErrExists
	}
	if d.want(err, want) {
		d.add(dir, name, &mnode{ino: a.Ino, typ: format.TypeRegular, xattrs: map[string]string{}})
	}
}

func (d *driver) mkdir() {
	dir, name, old := d.pick()
	d.note("mkdir %d/%s", dir.ino, name)
	a, err := d.w.fs.Mkdir(ctx, dir.ino, name, NewNode{Mode: 0o700})
	want := error(nil)
	if old != nil {
		want = ErrExists
	}
	if d.want(err, want) {
		d.add(dir, name, &mnode{ino: a.Ino, typ: format.TypeDir, children: map[string]*mnode{}, xattrs: map[string]string{}})
	}
}

func (d *driver) symlink() {
	dir, name, old := d.pick()
	target := string(bytes.Repeat([]byte("t"), 1+d.r.IntN(3000)))
	d.note("symlink %d/%s", dir.ino, name)
	a, err := d.w.fs.Symlink(ctx, dir.ino, name, NewNode{Target: target})
	want := error(nil)
	if old != nil {
		want = ErrExists
	}
	if d.want(err, want) {
		d.add(dir, name, &mnode{ino: a.Ino, typ: format.TypeSymlink, target: target, xattrs: map[string]string{}})
	}
}

func (d *driver) link() {
	_, _, n := d.pick()
	dir, name, old := d.pick()
	if n == nil {
		return
	}
	d.note("link %d to %d/%s", n.ino, dir.ino, name)
	_, err := d.w.fs.Link(ctx, n.ino, dir.ino, name)
	want := error(nil)
	switch {
	case n.typ == format.TypeDir:
		want = ErrInvalid
	case old != nil:
		want = ErrExists
	}
	if d.want(err, want) {
		d.add(dir, name, n)
	}
}

func (d *driver) drop(dir *mnode, name string) {
	n := dir.children[name]
	delete(dir.children, name)
	n.nlink--
	if n.typ == format.TypeDir {
		n.parent = nil
	}
}

func (d *driver) unlink() {
	dir, name, n := d.pick()
	d.note("unlink %d/%s", dir.ino, name)
	err := d.w.fs.Unlink(ctx, dir.ino, name)
	want := error(nil)
	switch {
	case n == nil:
		want = ErrNotFound
	case n.typ == format.TypeDir:
		want = ErrIsDir
	}
	if d.want(err, want) {
		d.drop(dir, name)
	}
}

func (d *driver) rmdir() {
	dir, name, n := d.pick()
	d.note("rmdir %d/%s", dir.ino, name)
	err := d.w.fs.Rmdir(ctx, dir.ino, name)
	want := error(nil)
	switch {
	case n == nil:
		want = ErrNotFound
	case n.typ != format.TypeDir:
		want = ErrNotDir
	case len(n.children) > 0:
		want = ErrNotEmpty
	}
	if d.want(err, want) {
		d.drop(dir, name)
	}
}

// above reports whether a is b or above it.
func above(a, b *mnode) bool {
	for ; b != nil; b = b.parent {
		if a == b {
			return true
		}
	}
	return false
}

func (d *driver) rename() {
	od, on, n := d.pick()
	nd, nn, old := d.pick()
	mode := RenameMode(d.r.IntN(3))
	d.note("rename %d/%s to %d/%s mode %d", od.ino, on, nd.ino, nn, mode)
	err := d.w.fs.Rename(ctx, od.ino, on, nd.ino, nn, mode)
	want := d.renameError(od, n, nd, old, mode)
	if !d.want(err, want) || n == old {
		return
	}
	d.drop(od, on)
	if old != nil {
		d.drop(nd, nn)
	}
	d.add(nd, nn, n)
	if mode == RenameExchange {
		d.add(od, on, old)
	}
}

func (d *driver) renameError(od, n, nd, old *mnode, mode RenameMode) error {
	switch {
	case n == nil, mode == RenameExchange && old == nil:
		return ErrNotFound
	case mode == RenameNoReplace && old != nil:
		return ErrExists
	case n == old:
		return nil
	case n.typ == format.TypeDir && above(n, nd):
		return ErrInvalid
	case old != nil && old.typ == format.TypeDir && above(old, od):
		if mode == RenameExchange {
			return ErrInvalid
		}
		return ErrNotEmpty
	case mode == RenameExchange || old == nil:
		return nil
	case old.typ == format.TypeDir && n.typ != format.TypeDir:
		return ErrIsDir
	case old.typ != format.TypeDir && n.typ == format.TypeDir:
		return ErrNotDir
	case old.typ == format.TypeDir && len(old.children) > 0:
		return ErrNotEmpty
	}
	return nil
}

const modelFile = 200_000 // largest file of the model, bytes

// freezeThaw freezes, takes the image as a backup does, and goes on with
// either: they are the same file system.
func (d *driver) freezeThaw() {
	d.note("freeze")
	_, _, err := d.w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute})
	d.want(err, nil)
	d.compare()
	if d.r.IntN(2) == 0 {
		d.note("go on with the backup")
		d.w.crash()
		return
	}
	d.w.thaw()
}

func (d *driver) remount() {
	if d.r.IntN(2) == 0 {
		d.note("remount")
		d.w.remount()
		return
	}
	d.note("sync and crash")
	_, err := d.w.fs.Sync(ctx)
	d.want(err, nil)
	d.w.crash()
}

// compare holds the whole tree against the model.
func (d *driver) compare() {
	d.w.t.Helper()
	d.compareNode(d.root, "/")
}

func (d *driver) compareNode(n *mnode, path string) {
	d.w.t.Helper()
	fs := d.w.fs
	a, err := fs.GetAttr(ctx, n.ino)
	if err != nil || a.Mode&format.TypeMask != n.typ {
		d.fail("%s: %+v, %v", path, a, err)
	}
	if n.typ != format.TypeDir && int(a.Nlink) != n.nlink {
		d.fail("%s: %d links, not %d", path, a.Nlink, n.nlink)
	}
	names, err := fs.ListXattr(ctx, n.ino)
	if err != nil || len(names) != len(n.xattrs) {
		d.fail("%s: attributes %v, %v; want %d", path, names, err, len(n.xattrs))
	}
	for name, v := range n.xattrs {
		if got, err := fs.GetXattr(ctx, n.ino, name); err != nil || string(got) != v {
			d.fail("%s: attribute %s: %v", path, name, err)
		}
	}
	switch n.typ {
	case format.TypeRegular:
		if got := d.w.read(n.ino); !bytes.Equal(got, n.data) {
			d.fail("%s (inode %d): %d bytes read are not the %d written", path, n.ino, len(got), len(n.data))
		}
	case format.TypeSymlink:
		if got, err := fs.Readlink(ctx, n.ino); err != nil || got != n.target {
			d.fail("%s: target %q, %v", path, got, err)
		}
	case format.TypeDir:
		list, err := fs.ReadDir(ctx, n.ino, 0, 1<<20)
		if err != nil || len(list) != len(n.children) {
			d.fail("%s: %d names, %v; want %d", path, len(list), err, len(n.children))
		}
		for _, e := range list {
			c := n.children[e.Name]
			if c == nil || c.ino != e.Ino || c.typ != e.Type {
				d.fail("%s: entry %+v", path, e)
			}
			d.compareNode(c, path+e.Name+"/")
		}
	}
}

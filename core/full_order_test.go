package core

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"permafrost/core/format"
)

// shapes are the ways in which an image is filled to its last block: each fills
// until nothing more of its kind finds room. What they leave is taken by a file
// of exactly the blocks that are left.
var shapes = map[string]func(d *driver){
	"one big file": func(d *driver) {
		n := d.newFile(d.root, "big")
		for d.fits(d.pages(n, len(n.data), 64)) {
		}
		for d.fits(d.pages(n, len(n.data), 1)) {
		}
	},
	"a file of many extents": func(d *driver) {
		n := d.newFile(d.root, "big")
		for d.fits(d.pages(n, len(n.data)+format.PageSize, 1)) {
		}
	},
	"many small files": func(d *driver) {
		for i := 0; ; i++ {
			n := d.newFile(d.root, fmt.Sprint("f", i))
			if n == nil || !d.fits(d.pages(n, 0, 1)) {
				return
			}
		}
	},
	"many inodes": func(d *driver) {
		for i := 0; d.newFile(d.root, fmt.Sprint("f", i)) != nil; i++ {
		}
	},
	"deep directories": func(d *driver) {
		dir := d.root
		for i := 0; ; i++ {
			a, err := d.w.fs.Mkdir(ctx, dir.ino, strings.Repeat("d", 200), NewNode{Mode: 0o700})
			n := &mnode{typ: format.TypeDir}
			if !d.fits(d.made(a, err, dir, strings.Repeat("d", 200), n)) || d.newFile(dir, strings.Repeat("f", 200)) == nil {
				return
			}
			dir = n
		}
	},
	"attributes": func(d *driver) {
		for i := 0; ; i++ {
			n := d.newFile(d.root, fmt.Sprint("f", i))
			if n == nil {
				return
			}
			for j, size := range []int{1, 900, 5000} {
				name := fmt.Sprint("user.", j)
				if !d.fits(d.w.fs.SetXattr(ctx, n.ino, name, pattern(j, size), false, false)) {
					return
				}
				n.xattrs[name] = string(pattern(j, size))
			}
		}
	},
}

// fits reports whether there was room, and fails for any other reason.
func (d *driver) fits(err error) bool {
	d.w.t.Helper()
	if err != nil && !errors.Is(err, ErrNoSpace) {
		d.fail("fill: %v", err)
	}
	return err == nil
}

// newFile makes a file; nil if there is no room.
func (d *driver) newFile(dir *mnode, name string) *mnode {
	n := &mnode{typ: format.TypeRegular}
	a, err := d.w.fs.Create(ctx, dir.ino, name, NewNode{Mode: 0o600})
	if !d.fits(d.made(a, err, dir, name, n)) {
		return nil
	}
	return n
}

// pages writes whole pages of a file.
func (d *driver) pages(n *mnode, off, count int) error {
	done, err := d.w.fs.WriteAt(ctx, n.ino, pattern(off, count*format.PageSize), int64(off))
	if done > 0 {
		n.data = grown(n.data, off+done)
		copy(n.data[off:], pattern(off, done))
	}
	return err
}

// leaves lists the model's files and empty directories, with their directories.
func (d *driver) leaves() (list []leaf) {
	var walk func(dir *mnode)
	walk = func(dir *mnode) {
		for _, name := range slices.Sorted(maps.Keys(dir.children)) {
			n := dir.children[name]
			if n.typ == format.TypeDir && len(n.children) > 0 {
				walk(n)
			} else {
				list = append(list, leaf{dir, name, n})
			}
		}
	}
	walk(d.root)
	return list
}

type leaf struct {
	dir  *mnode
	name string
	n    *mnode
}

// take unlinks a leaf, or removes it if it is a directory.
func (d *driver) take(l leaf) {
	d.w.t.Helper()
	var err error
	if l.n.typ == format.TypeDir {
		err = d.w.fs.Rmdir(ctx, l.dir.ino, l.name)
	} else {
		err = d.w.fs.Unlink(ctx, l.dir.ino, l.name)
	}
	if err != nil {
		d.fail("take away %s: %v", l.name, err)
	}
	d.drop(l.dir, l.name)
}

// empty truncates a file to zero.
func (d *driver) empty(n *mnode) {
	d.w.t.Helper()
	if err := d.w.fs.Truncate(ctx, n.ino, 0); err != nil {
		d.fail("truncate inode %d: %v", n.ino, err)
	}
	n.data = nil
}

// TestFullImageAnyOrder: on an image that is filled to the last block, unlink,
// truncate to zero and freeze succeed in every order, for every shape of full;
// and in any order until the image is empty.
func TestFullImageAnyOrder(t *testing.T) {
	for _, size := range []int64{1 << 20, 4 << 20} {
		for _, name := range slices.Sorted(maps.Keys(shapes)) {
			shape := shapes[name]
			if size > 1<<20 && (name == "many inodes" || name == "deep directories") {
				continue // as the small image, but for half a minute
			}
			t.Run(fmt.Sprintf("%s, %d MiB", name, size>>20), func(t *testing.T) {
				base := newFullBase(t, size, func(w *world) *driver {
					d := &driver{w: w, root: &mnode{ino: root, typ: format.TypeDir, children: map[string]*mnode{}}}
					d.dirs = []*mnode{d.root}
					kept := d.newFile(d.root, "kept")
					w.ok(d.pages(kept, 0, 3))
					d.newFile(d.root, "filler") // while there is room for it
					shape(d)
					d.fill(0)
					return d
				})
				for _, order := range []string{"utf", "uft", "tuf", "tfu", "fut", "ftu"} {
					d := base.begin()
					d.note("order %s", order)
					d.fullOrder(order)
				}
				seed := seedOf(t)
				t.Logf("depth %d, %+v, seed %d", base.w.fs.store.Depth(), base.w.fs.store.Space(), seed)
				base.begin().takeAll(rand.New(rand.NewPCG(seed, uint64(size))))
			})
		}
	}
}

// fullOrder carries out one permutation of unlink, truncate to zero and freeze,
// three times over.
func (d *driver) fullOrder(order string) {
	for range 3 {
		for _, what := range order {
			d.step3(what, d.leaves(), 0)
		}
	}
	d.settled()
	a, err := d.w.fs.Create(ctx, root, "after", NewNode{})
	if err := d.made(a, err, d.root, "after", &mnode{typ: format.TypeRegular}); err != nil && !errors.Is(err, ErrNoSpace) {
		d.fail("create afterwards: %v", err)
	}
	d.w.remount()
	d.compare()
}

// step3 carries out one of the three on the i-th leaf or the next that will do.
func (d *driver) step3(what rune, list []leaf, i int) {
	d.w.t.Helper()
	d.note("%c", what)
	switch what {
	case 'u':
		d.take(list[i%len(list)])
	case 't':
		for x := range list {
			if l := list[(i+x)%len(list)]; l.n.typ == format.TypeRegular {
				d.empty(l.n)
				return
			}
		}
	case 'f':
		d.w.freeze()
		d.w.thaw()
	}
}

// takeAll makes room in a random order until nothing is left.
func (d *driver) takeAll(r *rand.Rand) {
	for list := d.leaves(); len(list) > 0; {
		i, last := r.IntN(len(list)), len(list)-1
		l := list[i]
		if r.IntN(20) == 0 {
			d.step3('f', nil, 0)
		}
		if l.n.typ == format.TypeRegular && r.IntN(4) == 0 {
			d.empty(l.n)
			continue
		}
		d.take(l)
		list[i], list = list[last], list[:last]
		if l.dir.parent == nil || len(l.dir.children) > 0 {
			continue
		}
		for name, n := range l.dir.parent.children { // its directory can go now
			if n == l.dir {
				list = append(list, leaf{l.dir.parent, name, n})
			}
		}
	}
	d.settled()
	d.w.write(d.w.file(root, "new"), 0, pattern(1, 100_000))
}

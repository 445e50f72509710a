package core

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"permafrost/core/format"
)

// spaceOp is one operation at a time when space runs out. do carries it out on
// the file system, and on the model exactly what the file system says it did.
type spaceOp struct {
	name string
	do   func(d *driver) error
	must bool // it makes room, or may not fail for space: it succeeds with none
}

// child is a node of the model by its path.
func (d *driver) child(path string) *mnode {
	n := d.root
	for name := range strings.SplitSeq(path, "/") {
		if n = n.children[name]; n == nil {
			d.w.t.Fatalf("the model has no %s", path)
		}
	}
	return n
}

// made enters a new inode in the model.
func (d *driver) made(a Attr, err error, dir *mnode, name string, n *mnode) error {
	if err == nil {
		n.ino, n.xattrs = a.Ino, map[string]string{}
		if n.typ == format.TypeDir {
			n.children = map[string]*mnode{}
		}
		d.add(dir, name, n)
	}
	return err
}

// spaceOps is every operation of core that changes something, or that allocates.
func spaceOps() []spaceOp {
	return slices.Concat(spaceOpsOfNames(), spaceOpsOfData(), spaceOpsOfAttributes(), spaceOpsOfRoom())
}

// big is n bytes to write.
func big(n int) []byte { return pattern(n, n) }

// spaceOpsOfNames make names.
func spaceOpsOfNames() []spaceOp {
	return []spaceOp{
		{"create", func(d *driver) error {
			a, err := d.w.fs.Create(ctx, root, "new", NewNode{Mode: format.TypeRegular | 0o600})
			return d.made(a, err, d.root, "new", &mnode{typ: format.TypeRegular})
		}, false},
		{"mkdir", func(d *driver) error {
			a, err := d.w.fs.Mkdir(ctx, d.child("dir").ino, "new", NewNode{Mode: 0o700})
			return d.made(a, err, d.child("dir"), "new", &mnode{typ: format.TypeDir})
		}, false},
		{"symlink", func(d *driver) error {
			target := strings.Repeat("t", 4000)
			a, err := d.w.fs.Symlink(ctx, root, "new", NewNode{Target: target})
			return d.made(a, err, d.root, "new", &mnode{typ: format.TypeSymlink, target: target})
		}, false},
		{"link", func(d *driver) error {
			_, err := d.w.fs.Link(ctx, d.child("file").ino, d.child("dir").ino, "linked")
			if err == nil {
				d.add(d.child("dir"), "linked", d.child("file"))
			}
			return err
		}, false},
		renameOp("rename", "dir/inner", "moved", RenameReplace),
		renameOp("rename over", "small", "sparse", RenameReplace),
		renameOp("rename a directory", "dir/sub", "sub", RenameNoReplace),
		renameOp("exchange", "file", "dir/sub", RenameExchange),
	}
}

// spaceOpsOfData change the content of files.
func spaceOpsOfData() []spaceOp {
	return []spaceOp{
		writeOp("write in place", "file", 1000, big(5000), true),
		writeOp("write into holes", "sparse", 5000, big(60_000), false),
		writeOp("write past the end", "small", 100_000, big(10_000), false),
		{"append", func(d *driver) error {
			n := d.child("file")
			_, err := d.w.fs.Append(ctx, n.ino, big(9000))
			if err == nil {
				n.data = append(n.data, big(9000)...)
			}
			return err
		}, false},
		truncateOp("truncate to zero", "file", 0),
		truncateOp("shorten", "sparse", 12_345),
		truncateOp("lengthen", "small", 1<<20),
		fallocOp("allocate", "sparse", FallocAllocate, 0, 150_000, false),
		fallocOp("allocate ahead", "small", FallocKeepSize, 0, 100_000, false),
		fallocOp("punch", "file", FallocPunchHole, 3000, 20_000, true),
		fallocOp("zero", "sparse", FallocZeroRange, 1000, 150_000, false),
		fallocOp("zero ahead", "small", FallocZeroRangeKeepSize, 10, 50_000, false),
	}
}

// spaceOpsOfAttributes change attributes of both kinds.
func spaceOpsOfAttributes() []spaceOp {
	return []spaceOp{
		xattrOp("small attribute", "user.new", []byte("v")),
		xattrOp("large attribute", "user.new", big(9000)),
		xattrOp("larger attribute", "user.old", big(6000)),
		xattrOp("smaller attribute", "user.old", big(10)),
		{"remove an attribute", func(d *driver) error {
			n := d.child("file")
			err := d.w.fs.RemoveXattr(ctx, n.ino, "user.old")
			if err == nil {
				delete(n.xattrs, "user.old")
			}
			return err
		}, true},
		{"set attributes", func(d *driver) error {
			mode, at := uint32(0o4711), time.Unix(1_600_000_000, 0)
			_, err := d.w.fs.SetAttr(ctx, d.child("file").ino, SetAttr{Mode: &mode, Mtime: &at})
			return err
		}, false},
		{"shorten and set attributes", func(d *driver) error {
			mode, size, n := uint32(0o4711), int64(100), d.child("file")
			_, err := d.w.fs.SetAttr(ctx, n.ino, SetAttr{Mode: &mode, Size: &size})
			if err == nil {
				n.data = n.data[:size]
			}
			return err
		}, false},
		{"shorten by a byte and set attributes", func(d *driver) error {
			mode, size, n := uint32(0o4711), int64(29_999), d.child("file")
			_, err := d.w.fs.SetAttr(ctx, n.ino, SetAttr{Mode: &mode, Size: &size})
			if err == nil {
				n.data = n.data[:size]
			}
			return err
		}, true},
	}
}

// spaceOpsOfRoom replace and remove files, map them, and make all durable.
func spaceOpsOfRoom() []spaceOp {
	return []spaceOp{
		{"upload", func(d *driver) error { return d.uploadOver("sparse", big(40_000)) }, false},
		{"upload a new file", func(d *driver) error { return d.uploadOver("new", big(10)) }, false},
		{"tmpfile and link", func(d *driver) error { return d.tmpfileAs("new", big(10)) }, false},
		{"unlink", func(d *driver) error { return d.dropOp(d.w.fs.Unlink(ctx, root, "file"), "file") }, true},
		{"unlink one of two names", func(d *driver) error { return d.dropOp(d.w.fs.Unlink(ctx, root, "two"), "two") }, true},
		{"unlink with attributes", func(d *driver) error { return d.dropOp(d.w.fs.Unlink(ctx, root, "sparse"), "sparse") }, true},
		{"rmdir", func(d *driver) error {
			err := d.w.fs.Rmdir(ctx, d.child("dir").ino, "sub")
			if err == nil {
				d.drop(d.child("dir"), "sub")
			}
			return err
		}, true},
		{"map", func(d *driver) error { return d.mapOp("sparse", 30) }, false},
		{"map and store", func(d *driver) error { return d.mapOp("file", 2) }, true},
		{"fsync", func(d *driver) error { return second(d.w.fs.Fsync(ctx, d.child("file").ino, 0, 0)) }, true},
		{"sync", func(d *driver) error { return second(d.w.fs.Sync(ctx)) }, true},
		{"freeze", func(d *driver) error { d.w.freeze(); d.w.thaw(); return nil }, true},
		{"grow", func(d *driver) error { return d.w.fs.Grow(ctx, d.w.m.Size()+1<<20) }, true},
	}
}

func renameOp(name, from, to string, mode RenameMode) spaceOp {
	split := func(d *driver, path string) (*mnode, string) {
		if dir, name, ok := strings.Cut(path, "/"); ok {
			return d.child(dir), name
		}
		return d.root, path
	}
	return spaceOp{name, func(d *driver) error {
		od, on := split(d, from)
		nd, nn := split(d, to)
		err := d.w.fs.Rename(ctx, od.ino, on, nd.ino, nn, mode)
		if err != nil {
			return err
		}
		n, old := od.children[on], nd.children[nn]
		d.drop(od, on)
		if old != nil {
			d.drop(nd, nn)
		}
		d.add(nd, nn, n)
		if mode == RenameExchange {
			d.add(od, on, old)
		}
		return nil
	}, false}
}

func writeOp(name, path string, off int, p []byte, must bool) spaceOp {
	return spaceOp{name, func(d *driver) error {
		n := d.child(path)
		done, err := d.w.fs.WriteAt(ctx, n.ino, p, int64(off))
		n.data = grown(n.data, max(len(n.data), off+done)*min(done, 1)) // what it says was written is, and no more
		copy(n.data[min(off, len(n.data)):], p[:done])
		return err
	}, must}
}

func truncateOp(name, path string, size int) spaceOp {
	return spaceOp{name, func(d *driver) error {
		n := d.child(path)
		err := d.w.fs.Truncate(ctx, n.ino, int64(size))
		if err == nil {
			n.data = grown(n.data[:min(size, len(n.data))], size)
		}
		return err
	}, true}
}

func fallocOp(name, path string, mode FallocMode, off, length int, must bool) spaceOp {
	return spaceOp{name, func(d *driver) error {
		n := d.child(path)
		err := d.w.fs.Fallocate(ctx, n.ino, mode, int64(off), int64(length))
		if err != nil {
			return err
		}
		if mode == FallocAllocate || mode == FallocZeroRange {
			n.data = grown(n.data, off+length)
		}
		if mode == FallocPunchHole || mode == FallocZeroRange || mode == FallocZeroRangeKeepSize {
			if off < len(n.data) {
				clear(n.data[off:min(off+length, len(n.data))])
			}
		}
		return nil
	}, must}
}

func xattrOp(what, name string, v []byte) spaceOp {
	return spaceOp{what, func(d *driver) error {
		n := d.child("file")
		err := d.w.fs.SetXattr(ctx, n.ino, name, v, false, false)
		if err == nil {
			n.xattrs[name] = string(v)
		}
		return err
	}, false}
}

// dropOp takes a name of the root out of the model if the file system did.
func (d *driver) dropOp(err error, name string) error {
	if err == nil {
		d.drop(d.root, name)
	}
	return err
}

// tmpfileAs makes a file without a name and gives it one in the root.
func (d *driver) tmpfileAs(name string, p []byte) error {
	a, err := d.w.fs.Tmpfile(ctx, root, NewNode{Mode: 0o600})
	if err != nil {
		return err
	}
	defer d.w.fs.Release(a.Ino)
	if _, err := d.w.fs.WriteAt(ctx, a.Ino, p, 0); err != nil {
		return err
	}
	if _, err := d.w.fs.Link(ctx, a.Ino, root, name); err != nil {
		return err
	}
	d.add(d.root, name, &mnode{ino: a.Ino, typ: format.TypeRegular, data: p, xattrs: map[string]string{}})
	return nil
}

// uploadOver uploads p in place of a name of the root.
func (d *driver) uploadOver(name string, p []byte) error {
	u, err := d.w.fs.NewUpload(ctx, NewNode{Mode: 0o600})
	if err != nil {
		return err
	}
	defer u.Close()
	if _, err := u.ReadFrom(bytes.NewReader(p)); err != nil {
		return err
	}
	a, _, err := u.Commit(ctx, root, name, nil)
	if err != nil {
		return err
	}
	if d.root.children[name] != nil {
		d.drop(d.root, name)
	}
	d.add(d.root, name, &mnode{ino: a.Ino, typ: format.TypeRegular, data: p, xattrs: map[string]string{}})
	return nil
}

// mapOp maps the beginning of a file, stores to it, syncs and unmaps it.
func (d *driver) mapOp(path string, pages int64) error {
	n, p := d.child(path), newTable()
	m, exts, err := d.w.fs.Map(ctx, n.ino, MapRequest{Length: pages * format.PageSize, Writable: true, Grow: true, WayIn: "attach",
		Process: Process{PID: 7, Comm: "client"}, Protector: p})
	if err != nil {
		return err
	}
	mp := &mapped{table: p, m: m, exts: exts, w: d.w}
	n.data = grown(n.data, int(pages)*format.PageSize)
	for page := range pages { // with what was promised to a mapping: no error from here on
		if err := mp.store(format.Page(page), 'm'); err != nil {
			return fmt.Errorf("store to page %d: %v", page, err)
		}
		n.data[page*format.PageSize] = 'm'
	}
	_, err = m.Sync(ctx, PageRun{First: 0, Count: uint64(pages)})
	if err = errors.Join(err, m.Unmap(ctx)); err != nil {
		return fmt.Errorf("sync and unmap: %v", err)
	}
	return nil
}

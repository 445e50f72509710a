package core

import (
	"bytes"
	"fmt"
	"slices"

	"permafrost/core/format"
)

// regular picks a regular file, or nil.
func (d *driver) regular() *mnode {
	for range 10 {
		if _, _, n := d.pick(); n != nil && n.typ == format.TypeRegular {
			return n
		}
	}
	return nil
}

func (d *driver) bytes(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(d.r.Uint32())
	}
	return p
}

func grown(data []byte, size int) []byte {
	if size > len(data) {
		data = append(data, make([]byte, size-len(data))...)
	}
	return data
}

func (d *driver) write() {
	n := d.regular()
	if n == nil {
		return
	}
	off := d.r.IntN(modelFile)
	if d.r.IntN(2) == 0 {
		off = d.r.IntN(len(n.data) + 1)
	}
	p := d.bytes(1 + d.r.IntN(20_000))
	if d.r.IntN(4) == 0 {
		d.note("append %d bytes to %d", len(p), n.ino)
		at, err := d.w.fs.Append(ctx, n.ino, p)
		d.want(err, nil)
		if at != int64(len(n.data)) {
			d.fail("appended at %d, the file had %d bytes", at, len(n.data))
		}
		n.data = append(n.data, p...)
		return
	}
	d.note("write %d at %d of %d", len(p), off, n.ino)
	_, err := d.w.fs.WriteAt(ctx, n.ino, p, int64(off))
	d.want(err, nil)
	n.data = grown(n.data, off+len(p))
	copy(n.data[off:], p)
}

func (d *driver) truncate() {
	n := d.regular()
	if n == nil {
		return
	}
	size := d.r.IntN(modelFile)
	d.note("truncate %d to %d", n.ino, size)
	d.want(d.w.fs.Truncate(ctx, n.ino, int64(size)), nil)
	if size < len(n.data) {
		n.data = slices.Clone(n.data[:size])
	}
	n.data = grown(n.data, size)
}

func (d *driver) falloc() {
	n := d.regular()
	if n == nil {
		return
	}
	mode := FallocMode(d.r.IntN(5))
	off, length := d.r.IntN(modelFile), 1+d.r.IntN(50_000)
	d.note("fallocate %d mode %d: %d at %d", n.ino, mode, length, off)
	d.want(d.w.fs.Fallocate(ctx, n.ino, mode, int64(off), int64(length)), nil)
	switch mode {
	case FallocAllocate, FallocZeroRange:
		n.data = grown(n.data, off+length)
	}
	if mode == FallocPunchHole || mode == FallocZeroRange || mode == FallocZeroRangeKeepSize {
		if off < len(n.data) {
			clear(n.data[off:min(off+length, len(n.data))])
		}
	}
}

func (d *driver) xattr() {
	_, _, n := d.pick()
	if n == nil {
		return
	}
	name := fmt.Sprint("user.", d.r.IntN(5))
	if _, ok := n.xattrs[name]; d.r.IntN(3) == 0 {
		d.note("remove attribute %s of %d", name, n.ino)
		want := error(nil)
		if !ok {
			want = ErrNoData
		}
		if d.want(d.w.fs.RemoveXattr(ctx, n.ino, name), want) {
			delete(n.xattrs, name)
		}
		return
	}
	v := d.bytes(d.r.IntN(1 << d.r.IntN(13)))
	d.note("set attribute %s of %d, %d bytes", name, n.ino, len(v))
	d.want(d.w.fs.SetXattr(ctx, n.ino, name, v, false, false), nil)
	n.xattrs[name] = string(v)
}

func (d *driver) upload() {
	dir, name, old := d.pick()
	p := d.bytes(d.r.IntN(20_000))
	d.note("upload %d/%s", dir.ino, name)
	u, err := d.w.fs.NewUpload(ctx, NewNode{Mode: 0o600})
	d.want(err, nil)
	defer u.Close()
	if _, err := u.ReadFrom(bytes.NewReader(p)); err != nil {
		d.fail("upload: %v", err)
	}
	if d.r.IntN(4) == 0 {
		return // given up
	}
	a, replaced, err := u.Commit(ctx, dir.ino, name, nil)
	want := error(nil)
	if old != nil && old.typ == format.TypeDir {
		want = ErrIsDir
	}
	if !d.want(err, want) {
		return
	}
	if replaced != (old != nil) {
		d.fail("replaced: %t", replaced)
	}
	if old != nil {
		d.drop(dir, name)
	}
	d.add(dir, name, &mnode{ino: a.Ino, typ: format.TypeRegular, data: p, xattrs: map[string]string{}})
}

// tmpfile makes a file without a name, writes to it, and gives it a name or up.
func (d *driver) tmpfile() {
	dir, name, old := d.pick()
	d.note("tmpfile for %d/%s", dir.ino, name)
	a, err := d.w.fs.Tmpfile(ctx, dir.ino, NewNode{Mode: 0o600})
	if !d.want(err, nil) {
		return
	}
	defer d.w.fs.Release(a.Ino)
	n := &mnode{ino: a.Ino, typ: format.TypeRegular, data: d.bytes(d.r.IntN(20_000)), xattrs: map[string]string{}}
	_, err = d.w.fs.WriteAt(ctx, a.Ino, n.data, 0)
	d.want(err, nil)
	if d.r.IntN(2) == 0 {
		d.fsync()
	}
	if d.r.IntN(4) == 0 {
		return // given up
	}
	_, err = d.w.fs.Link(ctx, a.Ino, dir.ino, name)
	want := error(nil)
	if old != nil {
		want = ErrExists
	}
	if d.want(err, want) {
		d.add(dir, name, n)
	}
}

func (d *driver) readAt() {
	n := d.regular()
	if n == nil || len(n.data) == 0 {
		return
	}
	off := d.r.IntN(len(n.data))
	p := make([]byte, 1+d.r.IntN(30_000))
	m, _ := d.w.fs.ReadAt(ctx, n.ino, p, int64(off))
	if !bytes.Equal(p[:m], n.data[off:min(off+len(p), len(n.data))]) {
		d.fail("read %d at %d of %d: other bytes", len(p), off, n.ino)
	}
}

func (d *driver) fsync() {
	if n := d.regular(); n != nil && d.r.IntN(2) == 0 {
		d.note("fsync %d", n.ino)
		_, err := d.w.fs.Fsync(ctx, n.ino, 0, 0)
		d.want(err, nil)
		return
	}
	d.note("commit")
	_, err := d.w.fs.WaitDurable(ctx)
	d.want(err, nil)
}

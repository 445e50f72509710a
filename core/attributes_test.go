package core

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"permafrost/core/format"
)

func TestXattrs(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	want := make(map[string][]byte)
	for i, n := range []int{0, 1, 900, 960, 5000, 65536} {
		name := fmt.Sprint("user.", i)
		want[name] = pattern(i, n)
		w.ok(w.fs.SetXattr(ctx, f, name, want[name], true, false))
	}
	w.ok(w.fs.SetXattr(ctx, f, "user.4", []byte("short now"), false, true))
	want["user.4"] = []byte("short now")
	w.ok(w.fs.SetXattr(ctx, f, "user.1", pattern(9, 3000), false, false))
	want["user.1"] = pattern(9, 3000)
	w.fails(w.fs.SetXattr(ctx, f, "user.1", nil, true, false), ErrExists)
	w.fails(w.fs.SetXattr(ctx, f, "user.no", nil, false, true), ErrNoData)
	w.fails(w.fs.SetXattr(ctx, f, "user.big", make([]byte, 65537), false, false), ErrTooBig)
	w.fails(w.fs.SetXattr(ctx, f, strings.Repeat("n", 256), nil, false, false), ErrNameTooLong)
	w.fails(w.fs.SetXattr(ctx, f, "a\x00b", nil, false, false), ErrInvalid)
	w.fails(w.fs.RemoveXattr(ctx, f, "user.no"), ErrNoData)
	w.remount()
	names, err := w.fs.ListXattr(ctx, f)
	w.ok(err)
	if len(names) != len(want) {
		t.Fatal(names)
	}
	for name, v := range want {
		got, err := w.fs.GetXattr(ctx, f, name)
		if err != nil || !bytes.Equal(got, v) {
			t.Fatalf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	w.ok(w.fs.RemoveXattr(ctx, f, "user.5"))
	_, err = w.fs.GetXattr(ctx, f, "user.5")
	w.fails(err, ErrNoData)
	w.ok(w.fs.Unlink(ctx, root, "f")) // attributes go with it
}

func TestSetAttr(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	mode, uid, gid := uint32(0o7600), uint32(5), uint32(6)
	when := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	a, err := w.fs.SetAttr(ctx, f, SetAttr{Mode: &mode, UID: &uid, GID: &gid, Atime: &when, Mtime: &when})
	w.ok(err)
	w.remount()
	b, err := w.fs.GetAttr(ctx, f)
	w.ok(err)
	if b.Mode != format.TypeRegular|0o7600 || b.UID != 5 || b.GID != 6 || !b.Mtime.Equal(when) || !b.Atime.Equal(when) || !b.Ctime.Equal(a.Ctime) {
		t.Fatalf("%+v", b)
	}
	far := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	_, err = w.fs.SetAttr(ctx, f, SetAttr{Mtime: &far})
	w.fails(err, ErrInvalid)
}

func TestInodesListing(t *testing.T) {
	w := newWorld(t, 32<<20)
	d := w.dir(root, "d")
	var inos []format.Ino
	for i := range 50 {
		inos = append(inos, w.file(d, fmt.Sprint("f", i)))
	}
	var maps []*mapped
	for i := 10; i < 20; i++ {
		maps = append(maps, w.mapFile(inos[i], 1))
		if i < 15 {
			w.ok(maps[i-10].store(0, 'x'))
		}
	}
	yes, no := true, false
	list := func(f InodeFilter) []InodeInfo {
		t.Helper()
		var all []InodeInfo
		for {
			items, next, err := w.fs.Inodes(ctx, f)
			w.ok(err)
			all = append(all, items...)
			if next == "" {
				return all
			}
			if len(items) > f.Limit {
				t.Fatal(len(items), "items of at most", f.Limit)
			}
			f.Cursor = next
		}
	}
	for _, c := range []struct {
		f    InodeFilter
		want int
	}{
		{InodeFilter{Limit: 7}, 52}, {InodeFilter{Limit: 3, Dirty: &yes}, 5}, {InodeFilter{Limit: 5, Dirty: &yes}, 5},
		{InodeFilter{Limit: 4, Dirty: &no}, 47}, {InodeFilter{Limit: 2, Mapped: &yes}, 10}, {InodeFilter{Limit: 100, Mapped: &no}, 42},
		{InodeFilter{Limit: 3, Mapped: &yes, Dirty: &no}, 5}, {InodeFilter{Limit: 2, PathPrefix: "/d/f1"}, 11},
		{InodeFilter{Limit: 2, PathPrefix: "/none"}, 0},
	} {
		got := list(c.f)
		seen := make(map[format.Ino]bool)
		for i, in := range got {
			if seen[in.Ino] {
				t.Fatalf("%+v: inode %d twice", c.f, in.Ino)
			}
			seen[in.Ino] = true
			if i > 0 && in.Dirty && !got[i-1].Dirty {
				t.Fatalf("%+v: a dirty inode behind a clean one", c.f)
			}
		}
		if len(got) != c.want {
			t.Fatalf("%+v: %d inodes, want %d", c.f, len(got), c.want)
		}
	}
	for _, bad := range []string{"x", "!!", "ZA"} {
		_, _, err := w.fs.Inodes(ctx, InodeFilter{Cursor: bad})
		w.fails(err, ErrInvalid)
	}
	for _, p := range maps {
		w.ok(p.m.Unmap(ctx))
	}
}

package core

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// imageRecords is what the records of an image's newest commit say.
type imageRecords struct {
	inodes  map[format.Ino]format.Inode
	names   map[format.Ino]map[string]format.Dirent
	extents map[format.Ino][]Extent
	xattrs  map[format.Ino]map[string][]byte
	targets map[format.Ino]string
	p       []byte // the image
}

// recordsOf reads the records of a clean image, without mounting it.
func recordsOf(t testing.TB, p []byte) *imageRecords {
	m := mediumOf(t, p)
	sv, err := tree.OpenSalvage(m)
	if err != nil {
		t.Fatal(err)
	}
	r := &imageRecords{p: p, inodes: make(map[format.Ino]format.Inode), names: make(map[format.Ino]map[string]format.Dirent),
		extents: make(map[format.Ino][]Extent), xattrs: make(map[format.Ino]map[string][]byte), targets: make(map[format.Ino]string)}
	last := ""
	sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
		for ; i < j; i++ {
			if err := r.add(n.Key(i), bytes.Clone(n.Value(i)), &last); err != nil {
				t.Fatalf("record %v of a clean image: %v", n.Key(i), err)
			}
		}
		return true
	}})
	return r
}

func (r *imageRecords) add(k tree.Key, v []byte, last *string) (err error) {
	if k.Ino == 0 {
		return nil
	}
	switch k.Kind {
	case format.KindInode:
		var a format.Inode
		err = a.Decode(v)
		r.inodes[k.Ino] = a
	case format.KindDirent:
		var d format.Dirent
		err = d.Decode(v)
		if r.names[k.Ino] == nil {
			r.names[k.Ino] = make(map[string]format.Dirent)
		}
		r.names[k.Ino][string(d.Name)] = d
	case format.KindExtent:
		var e Extent
		e, err = decodeExtent(k, v)
		r.extents[k.Ino] = append(r.extents[k.Ino], e)
	case format.KindSymlink:
		r.targets[k.Ino] += string(v)
	case format.KindXattr:
		if r.xattrs[k.Ino] == nil {
			r.xattrs[k.Ino] = make(map[string][]byte)
		}
		if k.Off%xattrStep != 0 {
			r.xattrs[k.Ino][*last] = append(r.xattrs[k.Ino][*last], v...)
			break
		}
		var h format.XattrHead
		err = h.Decode(v)
		*last = string(h.Name)
		r.xattrs[k.Ino][*last] = bytes.Clone(h.Value)
	}
	return err
}

// read is the bytes [off, off+n) of a file, as its extents have them.
func (r *imageRecords) read(ino format.Ino, off int64, n int) []byte {
	out := make([]byte, n)
	for _, e := range r.extents[ino] {
		start := int64(e.Page) * format.PageSize
		from, to := max(off, start), min(off+int64(n), start+int64(e.Count)*format.PageSize)
		if from < to {
			copy(out[from-off:to-off], r.p[blockOff(e.Block)+from-start:])
		}
	}
	return out
}

// maxFuzzRead bounds what is read of one file, in bytes.
const maxFuzzRead = 256 << 10

// visitor looks at everything in a mounted file system.
type visitor struct {
	t      *testing.T
	fs     *FS
	strict bool          // no error is allowed
	want   *imageRecords // nil: not known
	seen   map[format.Ino]bool
	dirs   []format.Ino
	files  []format.Ino
}

// ok reports success; an error that is none of this package's is a failure, as
// is any in a clean image.
func (v *visitor) ok(what string, err error) bool {
	v.t.Helper()
	if err != nil && (v.strict || !knownError(err)) {
		v.t.Fatalf("%s (clean: %t): %v", what, v.strict, err)
	}
	return err == nil
}

func (v *visitor) walk() {
	v.seen = map[format.Ino]bool{root: true}
	v.dirs = []format.Ino{root}
	for i := 0; i < len(v.dirs); i++ {
		v.dir(v.dirs[i])
	}
	for cursor, pages := "", 0; pages < 100; pages++ {
		items, next, err := v.fs.Inodes(ctx, InodeFilter{Limit: 100, Cursor: cursor})
		if !v.ok("list inodes", err) || next == "" {
			break
		}
		for i := range items {
			v.inode(items[i].Ino) // those without a name too
		}
		cursor = next
	}
	v.fs.Status()
}

func (v *visitor) dir(ino format.Ino) {
	v.inode(ino)
	n := 0
	for cursor := uint64(0); ; {
		list, err := v.fs.ReadDir(ctx, ino, cursor, 50)
		if !v.ok("list", err) || len(list) == 0 {
			break
		}
		for _, e := range list {
			if e.Cursor <= cursor {
				v.t.Fatalf("directory %d: cursor %d follows %d", ino, e.Cursor, cursor)
			}
			cursor = e.Cursor
			n++
			if v.want != nil && v.want.names[ino][e.Name].Ino != e.Ino {
				v.t.Fatalf("directory %d: %+v is not what its records say", ino, e)
			}
			a, err := v.fs.Lookup(ctx, ino, e.Name)
			if !v.ok("look up", err) || v.seen[a.Ino] {
				continue
			}
			v.seen[a.Ino] = true
			if a.Mode&format.TypeMask == format.TypeDir {
				v.dirs = append(v.dirs, a.Ino)
			} else {
				v.inode(a.Ino)
			}
		}
	}
	if v.want != nil && n != len(v.want.names[ino]) {
		v.t.Fatalf("directory %d lists %d names, its records are %d", ino, n, len(v.want.names[ino]))
	}
}

// inode looks at one inode, whatever its type is.
func (v *visitor) inode(ino format.Ino) {
	a, err := v.fs.GetAttr(ctx, ino)
	if !v.ok("attributes", err) {
		return
	}
	v.fs.Paths(ino, 10)
	names, err := v.fs.ListXattr(ctx, ino)
	v.ok("list attributes", err)
	for _, name := range names {
		x, err := v.fs.GetXattr(ctx, ino, name)
		if v.ok("attribute", err) && v.want != nil && !bytes.Equal(x, v.want.xattrs[ino][name]) {
			v.t.Fatalf("inode %d: attribute %q is not what its records say", ino, name)
		}
	}
	if v.want != nil {
		w := v.want.inodes[ino]
		if w.Mode != a.Mode || w.Size != uint64(a.Size) || w.Nlink != a.Nlink || len(names) != len(v.want.xattrs[ino]) {
			v.t.Fatalf("inode %d: %+v, its record is %+v", ino, a, w)
		}
	}
	switch a.Mode & format.TypeMask {
	case format.TypeSymlink:
		target, err := v.fs.Readlink(ctx, ino)
		if v.ok("target", err) && (len(target) != int(a.Size) || v.want != nil && target != v.want.targets[ino]) {
			v.t.Fatalf("inode %d: a target of %d bytes, its size is %d", ino, len(target), a.Size)
		}
		_, err = v.fs.Resolve(ctx, "/"+target)
		if err != nil && !knownError(err) {
			v.t.Fatal("resolve:", err)
		}
	case format.TypeRegular:
		v.files = append(v.files, ino)
		v.file(ino, a.Size)
	}
}

func (v *visitor) file(ino format.Ino, size int64) {
	for _, off := range []int64{0, 5000, size/2 - 1, size - 10_000, size - 1} {
		if off < 0 || off >= size {
			continue
		}
		p := make([]byte, min(size-off, maxFuzzRead))
		n, err := v.fs.ReadAt(ctx, ino, p, off)
		if err == io.EOF {
			err = nil
		}
		if v.ok("read", err) && n != len(p) {
			v.t.Fatalf("inode %d: %d of %d bytes at %d without an error", ino, n, len(p), off)
		}
		if v.want != nil && !bytes.Equal(p, v.want.read(ino, off, n)) {
			v.t.Fatalf("inode %d: the %d bytes at %d are not what its extents hold", ino, n, off)
		}
		for _, seek := range []error{second(v.fs.SeekData(ctx, ino, off)), second(v.fs.SeekHole(ctx, ino, off))} {
			if seek != nil && !errors.Is(seek, ErrNXIO) {
				v.ok("seek", seek)
			}
		}
	}
	exts, err := v.fs.Extents(ctx, ino, 0, 1000)
	if v.ok("extents", err) && v.want != nil && len(exts) != len(v.want.extents[ino]) {
		v.t.Fatalf("inode %d: extents %v, its records %v", ino, exts, v.want.extents[ino])
	}
}

// change makes every kind of change. Of a clean image all succeed, but for
// space, which the image has little of.
func (v *visitor) change() {
	fs := v.fs
	may := func(what string, err error) {
		v.t.Helper()
		if err == nil || errors.Is(err, ErrNoSpace) {
			return
		}
		for _, allowed := range []error{ErrNotFound, ErrExists, ErrNoData, ErrStale, ErrIsDir, ErrNotDir, ErrNotEmpty, ErrInvalid, ErrTooBig, ErrTooManyLink} {
			if v.strict && errors.Is(err, allowed) {
				return
			}
		}
		v.ok(what, err)
	}
	for i, ino := range v.files[:min(len(v.files), 8)] {
		may("write", second(fs.WriteAt(ctx, ino, pattern(i, 5000), int64(i)*3000)))
		may("punch", fs.Fallocate(ctx, ino, FallocPunchHole, 4096, 20_000))
		may("set attribute", fs.SetXattr(ctx, ino, "user.new", []byte("x"), false, false))
		may("truncate", fs.Truncate(ctx, ino, int64(i%3)*2000))
		may("link", second(fs.Link(ctx, ino, root, fmt.Sprint("hard", i))))
	}
	for i, dir := range v.dirs[:min(len(v.dirs), 4)] {
		may("create", second(fs.Create(ctx, dir, "new", NewNode{})))
		may("mkdir", second(fs.Mkdir(ctx, dir, "newdir", NewNode{})))
		may("rename", fs.Rename(ctx, dir, "new", root, fmt.Sprint("moved", i), RenameReplace))
		list, err := fs.ReadDir(ctx, dir, 0, 6)
		v.ok("list", err)
		for _, e := range list {
			if e.Type == format.TypeDir {
				may("move a directory", fs.Rename(ctx, dir, e.Name, root, "movedir", RenameReplace))
				may("rmdir", fs.Rmdir(ctx, dir, e.Name))
			} else {
				may("unlink", fs.Unlink(ctx, dir, e.Name))
			}
		}
		_, err = fs.WaitDurable(ctx)
		may("commit", err)
	}
}

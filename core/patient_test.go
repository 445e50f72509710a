package core

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// patient is an image that gets damaged and repaired. before is what it held.
type patient struct {
	t      testing.TB
	m      pmem.Medium
	before map[string]found
	lost   []tree.Lost // what its commit had lost before the repair
	forged bool        // it was changed in ways that nothing can tell from the truth
}

// found is one file, directory or symlink as a user sees it.
type found struct {
	ino     format.Ino
	mode    uint32
	nlink   uint32
	size    int64
	content [32]byte // of data, target and attributes
}

// healthy is an image that patients are copies of.
type healthy struct {
	once   sync.Once
	image  []byte
	before map[string]found
}

// newPatient copies the large image, which has files of every kind.
func newPatient(t testing.TB) *patient { return large.copy(t, 400) }

// newSmallPatient copies the small one.
func newSmallPatient(t testing.TB) *patient { return small.copy(t, 40) }

func (h *healthy) copy(t testing.TB, files int) *patient {
	t.Helper()
	const size = 32 << 20
	m, err := pmem.CreateMemfd("repair-test", size, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	p := &patient{t: t, m: m}
	h.once.Do(func() {
		p.fill(files)
		h.image, h.before = p.bytes(), p.before
	})
	p.store(h.image)
	p.before = h.before
	return p
}

// store replaces the whole image.
func (p *patient) store(image []byte) {
	p.t.Helper()
	b := p.m.Begin()
	defer b.End()
	p.ok(b.Write(0, image))
	p.ok(b.Fence())
}

func (p *patient) fill(files int) {
	p.t.Helper()
	p.ok(Mkfs(p.m, MkfsOptions{Label: "patient"}))
	p.mounted(func(w *world) {
		for d := range 8 {
			dir := w.dir(format.RootIno, fmt.Sprintf("dir-%d", d))
			sub := w.dir(dir, "sub")
			for i := range files {
				f := w.file(dir, fmt.Sprintf("file-%d-%d", d, i))
				if i%8 == 0 {
					w.write(f, 0, pattern(d*1000+i, 3000+i))
				}
				if i%20 == 1 {
					p.ok(w.fs.Link(ctx, f, sub, fmt.Sprintf("link-%d", i)))
				}
			}
			big := w.file(sub, "big")
			for i := range 60 {
				w.write(big, int64(i)*20000, pattern(d*100+i, 4096))
			}
			p.ok(w.fs.SetXattr(ctx, big, "user.long", pattern(d, 5000), false, false))
			p.ok(w.fs.Symlink(ctx, sub, "sym", NewNode{Mode: format.TypeSymlink | 0o777, Target: strings.Repeat("long/", 600)}))
		}
	})
	p.before = p.contents()
}

func (p *patient) ok(args ...any) {
	p.t.Helper()
	if err, bad := args[len(args)-1].(error); bad && err != nil {
		p.t.Fatal(err)
	}
}

// mounted runs fn on the mounted image.
func (p *patient) mounted(fn func(w *world)) {
	p.t.Helper()
	fs, err := Mount(p.m, Options{})
	p.ok(err)
	fn(&world{t: p.t, fs: fs})
	p.ok(fs.Unmount(ctx))
}

// contents is everything in the image, by path.
func (p *patient) contents() map[string]found {
	p.t.Helper()
	all := make(map[string]found)
	p.mounted(func(w *world) { p.collect(w, format.RootIno, "", all) })
	return all
}

func (p *patient) collect(w *world, dir format.Ino, path string, all map[string]found) {
	p.t.Helper()
	for cursor := uint64(0); ; {
		list, err := w.fs.ReadDir(ctx, dir, cursor, 500)
		p.ok(err)
		for _, e := range list {
			cursor = e.Cursor
			a, err := w.fs.GetAttr(ctx, e.Ino)
			p.ok(err)
			h := sha256.New()
			switch a.Mode & format.TypeMask {
			case format.TypeRegular:
				if a.Size < 64<<20 { // else it is forged
					h.Write(w.read(e.Ino))
				}
			case format.TypeSymlink:
				target, err := w.fs.Readlink(ctx, e.Ino)
				p.ok(err)
				io.WriteString(h, target)
			}
			names, err := w.fs.ListXattr(ctx, e.Ino)
			p.ok(err)
			for _, name := range names {
				v, err := w.fs.GetXattr(ctx, e.Ino, name)
				p.ok(err)
				fmt.Fprintf(h, "%q%q", name, v)
			}
			f := found{ino: e.Ino, mode: a.Mode, nlink: a.Nlink, size: a.Size}
			if a.Mode&format.TypeMask == format.TypeDir {
				f.size = 0 // its names, which are looked at themselves
			}
			h.Sum(f.content[:0])
			at := path + "/" + e.Name
			all[at] = f
			if a.Mode&format.TypeMask == format.TypeDir {
				p.collect(w, e.Ino, at, all)
			}
		}
		if len(list) < 500 {
			return
		}
	}
}

// leafOf is the block of the leaf that holds a record, and its pointer's level.
func (p *patient) leafOf(k tree.Key) format.Block {
	p.t.Helper()
	sv, err := tree.OpenSalvage(p.m)
	p.ok(err)
	_, b, err := sv.Get(k, nil)
	p.ok(err)
	return b
}

// first is the key of an inode's first record of a kind.
func (p *patient) first(path string, kind uint8) (k tree.Key) {
	p.t.Helper()
	f, ok := p.before[path]
	if !ok {
		p.t.Fatal("no", path)
	}
	sv, err := tree.OpenSalvage(p.m)
	p.ok(err)
	sv.Walk(key(f.ino, kind, 0), key(f.ino, kind+1, 0), tree.Visit{Leaf: func(_ format.Ptr, n *format.Node, i, _ int) bool {
		k = n.Key(i)
		return false
	}})
	if k == (tree.Key{}) {
		p.t.Fatal("no such record of", path)
	}
	return k
}

// nodes is the blocks of the nodes of a level.
func (p *patient) nodes(level int) (blocks []format.Block) {
	p.t.Helper()
	sv, err := tree.OpenSalvage(p.m)
	p.ok(err)
	sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{Node: func(ptr format.Ptr, l int, _ *format.Node) bool {
		if l == level {
			blocks = append(blocks, ptr.Block)
		}
		return true
	}})
	return blocks
}

// flip changes one byte of a block.
func (p *patient) flip(b format.Block, off int) {
	p.t.Helper()
	at := blockOff(b) + int64(off)
	batch := p.m.Begin()
	defer batch.End()
	p.ok(batch.Write(at, []byte{p.m.Bytes(at, 1)[0] ^ 0x40}))
	p.ok(batch.Fence())
}

// raw changes records behind the file system's back, with all checksums right.
func (p *patient) raw(fn func(s *tree.Store, tx *tree.Tx)) {
	p.t.Helper()
	s, err := tree.Open(p.m, tree.Options{Extents: ownedBlocks})
	p.ok(err)
	tx, err := s.Begin(tree.Reserve{Nodes: 200})
	p.ok(err)
	fn(s, tx)
	tx.End()
	p.ok(s.Close(ctx))
}

func (p *patient) inodeOf(s *tree.Store, path string) (format.Ino, format.Inode) {
	p.t.Helper()
	ino := p.before[path].ino
	v, err := s.Get(key(ino, format.KindInode, 0), nil)
	p.ok(err)
	var a format.Inode
	p.ok(a.Decode(v))
	return ino, a
}

func putRaw(t testing.TB, tx *tree.Tx, ino format.Ino, a *format.Inode) {
	t.Helper()
	var b [format.InodeSize]byte
	a.Encode(b[:])
	if err := tx.Put(key(ino, format.KindInode, 0), b[:]); err != nil {
		t.Fatal(err)
	}
}

// bytes is a copy of the whole image.
func (p *patient) bytes() []byte { return bytes.Clone(p.m.Bytes(0, p.m.Size())) }

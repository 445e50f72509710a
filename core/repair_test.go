package core

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
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

var (
	large = &healthy{} // a tree of 3 levels
	small = &healthy{} // a tree of 2
)

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

// sick verifies that the check finds something, and returns it.
func (p *patient) sick() *Report {
	p.t.Helper()
	r, err := Check(ctx, p.m, nil)
	p.ok(err)
	if r.OK() {
		p.t.Fatal("the check finds nothing")
	}
	return r
}

// repair repairs, and verifies everything that holds after any repair: the
// image is clean, repairing again changes no byte, and whatever is not as it was
// stands in the report.
func (p *patient) repair(o RepairOptions) (*Report, map[string]found) {
	p.t.Helper()
	sv, err := tree.OpenSalvage(p.m)
	p.ok(err)
	p.ok(sv.Choose(o.Generation))
	p.lost = nil
	sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{Lost: func(l tree.Lost) { p.lost = append(p.lost, l) }})
	r, err := Repair(ctx, p.m, o)
	p.ok(err)
	p.clean()
	p.repairedRing(r)
	whole := p.bytes()
	again, err := Repair(ctx, p.m, RepairOptions{})
	p.ok(err)
	if !again.OK() || again.Repaired != nil || !bytes.Equal(whole, p.bytes()) {
		p.t.Error("the second repair changed something")
	}
	after := p.contents()
	p.clean()
	if !p.forged {
		p.compare(r, after)
	}
	return r, after
}

// repairedRing verifies that every commit that a mount may fall back to is a
// repaired one, and that it may fall back twice.
func (p *patient) repairedRing(r *Report) {
	p.t.Helper()
	sv, err := tree.OpenSalvage(p.m)
	p.ok(err)
	root := sv.Commit().Roots[0]
	reach := 0
	for _, l := range sv.Slots() {
		if l.Err != nil {
			p.t.Errorf("slot %d is still damaged: %v", l.Block, l.Err)
		}
		if l.Reach {
			reach++
			if l.Record.Roots[0] != root || l.Record.Generation > r.Generation {
				p.t.Errorf("a mount may fall back to generation %d, of another tree", l.Record.Generation)
			}
		}
	}
	if reach != format.MaxFallback+1 {
		p.t.Errorf("%d commits within reach of a mount", reach)
	}
}

func (p *patient) clean() {
	p.t.Helper()
	r, err := Check(ctx, p.m, nil)
	p.ok(err)
	for _, problem := range r.Problems {
		p.t.Error("after the repair:", problem)
	}
}

// compare verifies that what is not as it was is in the report: by its path, by
// its inode, or, if its inode and all its names are gone, as part of what is
// lost. What only moved has its content.
func (p *patient) compare(r *Report, after map[string]found) {
	p.t.Helper()
	told := make(map[string]bool)
	hurt := make(map[format.Ino]bool)
	moved := make(map[format.Ino]bool)
	for _, problem := range r.Problems {
		told[problem.Path] = true
		moved[problem.Ino] = true
		switch problem.Kind {
		case ProblemLost, ProblemExtents, ProblemXattr, ProblemRecord, ProblemNoInode:
			hurt[problem.Ino] = true
		}
	}
	byIno := make(map[format.Ino]found)
	for _, a := range after {
		byIno[a.ino] = a
	}
	for path, b := range p.before {
		told[path] = told[path] || moved[b.ino]
	}
	silent := 0
	for path, b := range p.before {
		if a, ok := after[path]; ok && a == b {
			continue
		}
		a, there := byIno[b.ino]
		gone := !there && slices.ContainsFunc(p.lost, func(l tree.Lost) bool { return l.From.Ino <= b.ino && b.ino <= l.To.Ino })
		whole := there && a.content == b.content && a.mode == b.mode && a.size == b.size
		isDir := b.mode&format.TypeMask == format.TypeDir
		if gone || hurt[b.ino] || (told[path] || under(path, told)) && (whole || isDir) {
			continue
		}
		if silent++; silent < 10 {
			p.t.Errorf("%s is not as it was (there: %t, %+v, %+v), and nothing is said of it", path, there, a, b)
		}
	}
	for path := range after {
		if _, ok := p.before[path]; !ok && !told[path] && !strings.HasPrefix(path, "/lost+found") && !under(path, told) {
			p.t.Errorf("%s was not there before, and nothing is said of it", path)
		}
	}
}

// under reports whether a directory above path is in the set.
func under(path string, set map[string]bool) bool {
	for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path, '/') {
		if path = path[:i]; set[path] {
			return true
		}
	}
	return false
}

// mentions verifies that a report names something.
func (p *patient) mentions(r *Report, what string, match func(Problem) bool) {
	p.t.Helper()
	if !slices.ContainsFunc(r.Problems, match) {
		p.t.Errorf("no problem says %s:", what)
		for _, problem := range r.Problems[:min(len(r.Problems), 20)] {
			p.t.Log(problem)
		}
	}
}

// same verifies that everything but the given paths is as it was.
func (p *patient) same(after map[string]found, but ...string) {
	p.t.Helper()
	a, b := maps.Clone(after), maps.Clone(p.before)
	for _, path := range but {
		delete(a, path)
		delete(b, path)
	}
	if !maps.Equal(a, b) {
		for path, x := range b {
			if a[path] != x {
				p.t.Errorf("%s: %+v, was %+v", path, a[path], x)
			}
		}
		for path := range a {
			if _, ok := b[path]; !ok {
				p.t.Errorf("%s is new", path)
			}
		}
	}
}

// A clean image is not touched, whatever is asked.
func TestRepairClean(t *testing.T) {
	p := newPatient(t)
	whole := p.bytes()
	r, err := Repair(ctx, p.m, RepairOptions{})
	p.ok(err)
	if !r.OK() || r.Repaired != nil {
		t.Fatalf("%+v", r)
	}
	if _, err := Repair(ctx, p.m, RepairOptions{Generation: r.Generation - 1}); !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
	if !bytes.Equal(whole, p.bytes()) {
		t.Fatal("repair changed a clean image")
	}
}

// A damaged leaf of each kind: what stood in it is lost and told, the rest is as
// it was.
func TestRepairLeaf(t *testing.T) {
	for name, at := range map[string]func(p *patient) tree.Key{
		"inodes":  func(p *patient) tree.Key { return p.first("/dir-3/file-3-200", format.KindInode) },
		"dirents": func(p *patient) tree.Key { return p.first("/dir-5", format.KindDirent) },
		"extents": func(p *patient) tree.Key { return p.first("/dir-2/sub/big", format.KindExtent) },
		"target":  func(p *patient) tree.Key { return p.first("/dir-2/sub/sym", format.KindSymlink) },
		"xattr":   func(p *patient) tree.Key { return p.first("/dir-6/sub/big", format.KindXattr) },
		"root":    func(p *patient) tree.Key { return tree.Key{Ino: format.RootIno, Kind: format.KindInode} },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			k := at(p)
			b := p.leafOf(k)
			p.flip(b, 2000)
			p.mentions(p.sick(), fmt.Sprintf("block %d", b), func(x Problem) bool { return x.Block == b })
			r, after := p.repair(RepairOptions{})
			p.mentions(r, fmt.Sprintf("block %d", b), func(x Problem) bool { return x.Block == b })
			if len(after) < len(p.before)-100 && name != "root" {
				t.Errorf("%d of %d are left", len(after), len(p.before))
			}
		})
	}
}

// Damaged inner nodes and a damaged root, with no older one to fall back to:
// a search of the image finds the leaves.
func TestRepairInner(t *testing.T) {
	for level := 1; level <= 2; level++ {
		t.Run(fmt.Sprint(level), func(t *testing.T) {
			p := newPatient(t)
			for range 6 { // no slot of the ring leads anywhere else
				p.mounted(func(*world) {})
			}
			blocks := p.nodes(level)
			b := blocks[len(blocks)/2]
			p.flip(b, 100)
			p.mentions(p.sick(), fmt.Sprintf("block %d", b), func(x Problem) bool { return x.Block == b })
			r, after := p.repair(RepairOptions{})
			if r.Repaired.Strays == 0 {
				t.Error("no leaf was found")
			}
			p.same(after)
		})
	}
}

// A leaf that was emptied long ago still stands in its block. Where a node above
// it is found as well it does not come back.
func TestRepairInnerOutdated(t *testing.T) {
	p := newPatient(t)
	p.mounted(func(w *world) {
		for i := range 400 {
			p.ok(w.fs.Unlink(ctx, p.before["/dir-3"].ino, fmt.Sprintf("file-3-%d", i)))
		}
	})
	p.before = p.contents()
	for range 6 {
		p.mounted(func(*world) {})
	}
	root := p.nodes(2)
	if len(root) != 1 {
		t.Fatal("the tree is not of 3 levels")
	}
	p.flip(root[0], 100)
	p.sick()
	_, after := p.repair(RepairOptions{})
	p.same(after)
}

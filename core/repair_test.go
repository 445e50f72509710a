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

var (
	large = &healthy{} // a tree of 3 levels
	small = &healthy{} // a tree of 2
)

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

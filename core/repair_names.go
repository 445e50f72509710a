package core

import (
	"fmt"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// name is an entry of a directory of the new tree.
type name struct {
	link format.Link // where it stands
	ino  format.Ino  // whom it means
	text string
}

// namesOf calls fn for every entry that the new tree has, as far as it is
// decided: first those that were there, then those that were added.
func (r *repair) namesOf(fn func(l format.Link, d *format.Dirent)) {
	var dir *surveyDir
	added := make(map[format.Link]bool, len(r.added)) // they may stand where another was dropped
	for _, a := range r.added {
		added[a.link] = true
	}
	r.walk(tree.Visit{Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
		for ; i < j; i++ {
			k, v := n.Key(i), n.Value(i)
			if k.Kind != format.KindDirent || k.Ino == format.OrphanIno || added[format.Link{Parent: k.Ino, Cookie: k.Off}] {
				continue
			}
			if dir == nil || dir.ino != k.Ino {
				dir = r.dir(k.Ino)
			}
			if e, edited := r.edits[k]; edited {
				v = e
			}
			var d format.Dirent
			if dir != nil && v != nil && d.Decode(v) == nil {
				fn(format.Link{Parent: k.Ino, Cookie: k.Off}, &d)
			}
		}
		return r.err == nil
	}})
	for _, a := range r.added {
		k := key(a.link.Parent, format.KindDirent, a.link.Cookie)
		var d format.Dirent
		if v := r.edits[k]; v != nil && added[a.link] && d.Decode(v) == nil {
			fn(a.link, &d)
		}
		delete(added, a.link)
	}
}

// judgeNames decides which names stay (P4), and counts them.
func (r *repair) judgeNames() error {
	r.namesOf(func(l format.Link, d *format.Dirent) { r.judgeName(l, d) })
	for i := range r.moved {
		m := &r.moved[i]
		text := string(m.d.Name)
		if r.inode(m.d.Ino) == nil || r.dir(m.dir) == nil {
			r.problemName(ProblemNoInode, m.dir, text, m.d.Ino, "the name stood at the offset of another, and its inode is gone: it is removed")
			continue
		}
		l, there := r.place(m.dir, text)
		if l.Cookie == 0 || there {
			r.problemName(ProblemRecord, m.dir, text, m.d.Ino, "the name stood at the offset of another, and there is no place for it: it is removed")
			continue
		}
		r.problemName(ProblemRecord, m.dir, text, m.d.Ino, "the name stood at the offset of another, where lookups do not find it: it is moved")
		r.addName(l, m.d.Ino, m.d.Type, text)
		r.judgeName(l, &m.d)
	}
	return nil
}

// addName puts an entry that was not there.
func (r *repair) addName(l format.Link, ino format.Ino, typ uint32, text string) {
	r.put(key(l.Parent, format.KindDirent, l.Cookie), format.AppendDirent(nil, ino, typ, text))
	r.added = append(r.added, name{link: l, ino: ino, text: text})
}

// problemName is a problem that has a name of its own.
func (r *repair) problemName(kind string, dir format.Ino, text string, ino format.Ino, form string, args ...any) {
	r.problem(kind, ino, form, args...)
	p := &r.problems[len(r.problems)-1]
	p.dir, p.text = dir, text
}

// judgeName decides about one name, and counts it if it stays.
func (r *repair) judgeName(l format.Link, d *format.Dirent) {
	k := key(l.Parent, format.KindDirent, l.Cookie)
	in := r.inode(d.Ino)
	switch {
	case in == nil:
		r.drop(k)
		r.problemName(ProblemNoInode, l.Parent, string(d.Name), d.Ino, "its inode, a %s, is lost: the name is removed", format.TypeName(d.Type))
		return
	case d.Ino == format.RootIno:
		r.drop(k)
		r.problemName(ProblemDir, l.Parent, string(d.Name), d.Ino, "the name means the root directory: it is removed")
		return
	case in.names >= format.MaxLinks:
		r.drop(k)
		r.problemName(ProblemLinks, l.Parent, string(d.Name), d.Ino, "the inode has %d names already: this one is removed", in.names)
		return
	}
	typ := uint32(in.typ) << 12
	if typ == format.TypeDir && !r.judgeDirName(l, d) {
		return
	}
	if typ != d.Type {
		r.put(k, format.AppendDirent(nil, d.Ino, typ, string(d.Name)))
		r.problemName(ProblemType, l.Parent, string(d.Name), d.Ino, "the name called it a %s: it is a %s", format.TypeName(d.Type), format.TypeName(typ))
	}
	r.count(l, d.Ino, 1)
}

// judgeDirName lets a directory keep one name: that in its record, if there is
// one, else the first. It reports whether this one stays.
func (r *repair) judgeDirName(l format.Link, d *format.Dirent) bool {
	dir := r.dir(d.Ino)
	exact := dir.named != namedExact && dir.link == l
	switch {
	case dir.named == namedNot && exact:
		dir.named = namedExact
	case dir.named == namedNot:
		// The record's own name may still come: it is kept in the fix.
		dir.named = namedElse
		r.fix(d.Ino).link = &l
	case exact:
		other := *r.fix(d.Ino).link
		r.fix(d.Ino).link, dir.named = nil, namedExact
		r.dropName(other, d.Ino)
	default:
		r.drop(key(l.Parent, format.KindDirent, l.Cookie))
		r.problemName(ProblemDir, l.Parent, string(d.Name), d.Ino, "the directory has another name: this one is removed")
		return false
	}
	return true
}

// dropName drops a name of a directory that was counted.
func (r *repair) dropName(l format.Link, ino format.Ino) {
	r.drop(key(l.Parent, format.KindDirent, l.Cookie))
	r.count(l, ino, -1)
	r.problem(ProblemDir, ino, "its name at cookie %#x of directory %d is removed: a directory has one, below the root", l.Cookie, l.Parent)
}

// count adds delta to everything that counts a name.
func (r *repair) count(l format.Link, ino format.Ino, delta int) {
	in := r.inode(ino)
	in.names += uint32(delta)
	in.balance += uint64(delta) * r.seed.LinkHash(l)
	dir := r.dir(l.Parent)
	dir.entries += uint64(delta)
	if uint32(in.typ)<<12 == format.TypeDir {
		dir.subdirs += uint64(delta)
	}
}

// judgeDirs finds the directories that the root is not above, gives them and
// every inode without a name one in /lost+found (P6), and compares what
// directories say of themselves with what they hold (P5).
func (r *repair) judgeDirs() error {
	for i := range r.dirs {
		d := &r.dirs[i]
		if f := r.fixes[d.ino]; d.named == namedElse && f != nil {
			d.link = *f.link
		}
	}
	for i := range r.dirs {
		r.reach(&r.dirs[i])
	}
	var homeless []format.Ino
	for i := range r.inodes {
		if in := &r.inodes[i]; in.names == 0 && in.ino != format.RootIno && !r.isOrphan(in) {
			homeless = append(homeless, in.ino)
		}
	}
	for _, ino := range homeless { // linking makes inodes
		if err := r.linkLost(ino); err != nil {
			return err
		}
	}
	for i := range r.dirs {
		r.judgeDir(&r.dirs[i])
	}
	return nil
}

// isOrphan reports a consistent orphan: unlinked, still in use when the image
// was left, and to be freed by the next mount.
func (r *repair) isOrphan(in *surveyInode) bool {
	_, listed := r.orphans[in.ino]
	if !listed || in.nlink != 0 || in.names != 0 || r.fixes[in.ino] != nil && r.fixes[in.ino].typ != 0 {
		return false
	}
	d := r.dir(in.ino)
	return d == nil || d.entries == 0
}

// reach walks from a directory upwards. Where the way goes round in a circle,
// the directory met twice loses its name.
func (r *repair) reach(d *surveyDir) {
	var walk []*surveyDir
	for at := d; at != nil && at.state != dirReached; at = r.dir(at.link.Parent) {
		if at.state == dirOnWalk {
			r.dropName(at.link, at.ino)
			at.named = namedNot
			break
		}
		at.state = dirOnWalk
		walk = append(walk, at)
		if at.ino == format.RootIno || at.named == namedNot {
			break // without a name it gets one that the root is above
		}
	}
	for _, at := range walk {
		at.state = dirReached
	}
}

// judgeDir compares a directory's record with its entries.
func (r *repair) judgeDir(d *surveyDir) {
	in := r.inode(d.ino)
	f := r.fixes[d.ino]
	made := f != nil && f.typ != 0
	if d.size != d.entries {
		if !made {
			r.problem(ProblemDir, d.ino, "its record counted %d names: it holds %d", d.size, d.entries)
		}
		r.fix(d.ino).size = new(d.entries)
	}
	if d.ino == format.RootIno && d.link.Parent != format.RootIno {
		r.fix(d.ino).link = &format.Link{Parent: format.RootIno}
	}
	want := uint64(in.nlink)
	if !r.isOrphan(in) {
		want = 2 + d.subdirs
	}
	if uint64(in.nlink) != want {
		if !made {
			r.problem(ProblemDir, d.ino, "its link count was %d: with %d subdirectories it is %d", in.nlink, d.subdirs, want)
		}
		r.fix(d.ino).nlink = new(want)
	}
}

// place finds where a new name of a directory goes. There: the directory has
// that name already, at the link given. A cookie of 0: there is no room.
func (r *repair) place(dir format.Ino, text string) (l format.Link, there bool) {
	base := format.CookieBase(r.seed.SumString(text) & r.hashMask)
	taken := make(map[uint64]string)
	r.sv.Walk(key(dir, format.KindDirent, base), key(dir, format.KindDirent, base+format.MaxCollisions), tree.Visit{
		Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
			for ; i < j; i++ {
				var d format.Dirent
				if k := n.Key(i); !r.dropped(k) && d.Decode(n.Value(i)) == nil {
					taken[k.Off] = string(d.Name)
				}
			}
			return true
		},
	})
	for c := base; c < base+format.MaxCollisions; c++ {
		var d format.Dirent
		if v := r.edits[key(dir, format.KindDirent, c)]; v != nil && d.Decode(v) == nil {
			taken[c] = string(d.Name)
		}
		if used, ok := taken[c]; ok && used == text {
			return format.Link{Parent: dir, Cookie: c}, true
		}
	}
	for c := base; c < base+format.MaxCollisions; c++ {
		if _, ok := taken[c]; !ok {
			return format.Link{Parent: dir, Cookie: c}, false
		}
	}
	return format.Link{Parent: dir}, false
}

// lostFound is the directory that takes what has no name.
type lostFound struct {
	dir  format.Ino // 0: not known yet
	made int        // directories of that kind made or taken so far
}

// lostName is the directory's name in the root.
const lostName = "lost+found"

// linkLost gives an inode a name in /lost+found.
func (r *repair) linkLost(ino format.Ino) error {
	in := r.inode(ino)
	typ := uint32(in.typ) << 12
	if typ == format.TypeDir && r.lf.dir != 0 && r.dir(r.lf.dir).subdirs+2 >= format.MaxLinks {
		r.lf.dir = 0
	}
	if r.lf.dir == 0 {
		if err := r.findLostFound(); err != nil {
			return err
		}
	}
	text := fmt.Sprint(ino)
	l, there := r.place(r.lf.dir, text)
	for i := 1; (there || l.Cookie == 0) && i < 1000; i++ {
		text = fmt.Sprintf("%d-%d", ino, i)
		l, there = r.place(r.lf.dir, text)
	}
	if there || l.Cookie == 0 {
		return fmt.Errorf("inode %d finds no name in /%s that is free: %w", ino, lostName, ErrExists)
	}
	r.addName(l, ino, typ, text)
	r.count(l, ino, 1)
	if d := r.dir(ino); d != nil {
		d.link, d.named = l, namedElse
	}
	r.fix(ino).found = true
	r.done.Found++
	r.problemName(ProblemFound, r.lf.dir, text, ino, "it had no name: it is linked here")
	return nil
}

// findLostFound takes the first of lost+found, lost+found-1, ... that is a
// directory with room, or makes it.
func (r *repair) findLostFound() error {
	for ; r.lf.made < 1000; r.lf.made++ {
		text := lostName
		if r.lf.made > 0 {
			text = fmt.Sprintf("%s-%d", lostName, r.lf.made)
		}
		l, there := r.place(format.RootIno, text)
		if there {
			if d := r.dirAt(l); d != nil && d.subdirs+2 < format.MaxLinks {
				r.lf.dir = d.ino
				r.lf.made++
				return nil
			}
			continue
		}
		if l.Cookie != 0 {
			r.lf.made++
			return r.makeLostFound(l, text)
		}
	}
	return fmt.Errorf("every name of /%s is taken by something else: %w", lostName, ErrExists)
}

// dirAt is the directory that a name means.
func (r *repair) dirAt(l format.Link) *surveyDir {
	k := key(l.Parent, format.KindDirent, l.Cookie)
	v := r.edits[k]
	if v == nil {
		v, _, _ = r.sv.Get(k, nil) // what cannot be read names nothing
	}
	var d format.Dirent
	if d.Decode(v) != nil {
		return nil
	}
	return r.dir(d.Ino)
}

// makeLostFound makes the directory.
func (r *repair) makeLostFound(l format.Link, text string) error {
	ino := r.nextIno
	if ino >= format.MaxNumber-tree.RoomToCount {
		return fmt.Errorf("no inode number is left for /%s: %w", lostName, ErrNoSpace)
	}
	r.nextIno++
	// The greatest number: both lists stay ascending.
	r.inodes = append(r.inodes, surveyInode{ino: ino, typ: uint8(format.TypeDir >> 12)})
	r.dirs = append(r.dirs, surveyDir{ino: ino, link: l, named: namedElse, state: dirReached})
	f := r.fix(ino)
	f.typ, f.relink, f.link = format.TypeDir, true, &l
	r.addName(l, ino, format.TypeDir, text)
	r.count(l, ino, 1)
	r.lf.dir = ino
	return nil
}

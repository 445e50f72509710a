package core

import (
	"bytes"
	"fmt"
	"slices"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// surveyInode is what must agree about one inode of the new tree.
type surveyInode struct {
	ino     format.Ino
	balance uint64 // as checkedInode.balance
	names   uint32 // entries that mean it
	ptrs    uint32 // back-pointers it has
	nlink   uint32 // as its record says
	typ     uint8  // mode >> 12
}

// surveyDir is what must agree about one directory of the new tree.
type surveyDir struct {
	ino     format.Ino
	link    format.Link // as its record says; from judgeNames on, its name if named
	entries uint64
	subdirs uint64
	size    uint64 // as its record says
	named   uint8  // has a name: namedNot, namedElse or namedExact
	state   uint8  // of the walk to the root: dirUnknown...
}

const (
	namedNot   = iota
	namedElse  // by a name that its record does not know
	namedExact // by the name in its record
)

// inodeFix is what is changed in one inode's record.
type inodeFix struct {
	blocks, size, nlink *uint64
	link                *format.Link
	typ                 uint32        // not 0: there is no record, one is made of this type
	relink              bool          // its back-pointers are made anew
	found               bool          // it was linked in /lost+found
	links               []format.Link // all its names, once that is known; only with relink
}

// movedName is an entry that stands at the offset of another.
type movedName struct {
	dir format.Ino
	d   format.Dirent // owns its name
}

// surveyed is the inode whose records are coming.
type surveyed struct {
	ino     format.Ino
	has     bool // its record can be read
	a       format.Inode
	typ     uint32 // of its record or, without one, of what else is found; 0: not known
	ptrs    uint32
	balance uint64
	blocks  uint64
	next    format.Page // first page behind the extents so far
	end     format.Page // first page behind the extents kept
	target  uint64      // bytes of the target so far
	chunk   uint64      // chunks of it
	broken  bool        // the target has a gap
	xattr   []tree.Key  // records of the attribute that is coming
	name    string      // its name
	missing uint64      // bytes of it that are still to come
	others  []tree.Key  // without a record: those that do not tell the type
	base    uint64      // of the names that are coming
	group   [][]byte    // the names of that hash
}

func (r *repair) fix(ino format.Ino) *inodeFix {
	f := r.fixes[ino]
	if f == nil {
		f = new(inodeFix)
		r.fixes[ino] = f
	}
	return f
}

func (r *repair) put(k tree.Key, v []byte) { r.edits[k] = bytes.Clone(v) }
func (r *repair) drop(k tree.Key)          { r.edits[k] = nil }

// dropped reports whether a record of the old tree goes.
func (r *repair) dropped(k tree.Key) bool {
	v, edited := r.edits[k]
	return edited && v == nil
}

// survey looks at every readable record by itself and with its neighbours: P1,
// P2, P3.
func (r *repair) survey() error {
	cur := &surveyed{}
	next := func(ino format.Ino) {
		r.closeInode(cur)
		*cur = surveyed{ino: ino, group: cur.group[:0], xattr: cur.xattr[:0]}
		if ino == format.RootIno {
			cur.typ = format.TypeDir
		}
	}
	r.walk(tree.Visit{
		Leaf: func(p format.Ptr, n *format.Node, i, j int) bool {
			r.records += uint64(j - i)
			for ; i < j; i++ {
				k, v := n.Key(i), n.Value(i)
				if k.Ino != cur.ino {
					next(k.Ino)
				}
				if err := r.record(cur, k, v, p.Block); err != nil {
					r.drop(k)
					r.problemAt(ProblemRecord, k.Ino, p.Block, "%s record at offset %#x dropped: %v", format.KindName(k.Ino, k.Kind), k.Off, err)
				}
			}
			return true
		},
		Lost: r.lost,
	})
	next(0)
	r.done.Records = r.records
	r.addRoot()
	for _, ino := range r.doomed {
		r.dropAll(ino)
	}
	return nil
}

// lost tells of a part of the tree that cannot be read, and of the inode that
// loses a part of its records there. Those that lose all are missed by name.
func (r *repair) lost(l tree.Lost) {
	r.keep.Add(l.Block, 1)
	r.problemAt(ProblemTree, 0, l.Block, "%v", l)
	if l.From.Ino != format.OrphanIno && l.From.Kind > format.KindInode {
		r.problem(ProblemLost, l.From.Ino, "its records from the %s at offset %#x on are lost, as far as they stood in block %d",
			format.KindName(l.From.Ino, l.From.Kind), l.From.Off, l.Block)
	}
}

// record looks at one record. Its error says why the record is dropped.
func (r *repair) record(cur *surveyed, k tree.Key, v []byte, leaf format.Block) error {
	if k.Ino == format.OrphanIno {
		return r.ownRecord(k, v)
	}
	if k.Kind != format.KindXattr {
		r.endXattr(cur)
	}
	switch k.Kind {
	case format.KindInode:
		return r.inodeRecord(cur, k, v)
	case format.KindLink:
		var l format.Link
		if err := l.Decode(v); err != nil {
			return err
		}
		if k.Off&^255 != format.CookieBase(r.seed.LinkHash(l)&r.hashMask) {
			return fmt.Errorf("%w: back-pointer at the offset of another", format.ErrBadRecord)
		}
		cur.ptrs++
		cur.balance -= r.seed.LinkHash(l)
		cur.other(k)
		return nil
	case format.KindDirent:
		return r.direntRecord(cur, k, v)
	case format.KindExtent:
		return r.extentRecord(cur, k, v, leaf)
	case format.KindSymlink:
		return r.targetRecord(cur, k, v)
	case format.KindXattr:
		return r.xattrRecord(cur, k, v)
	}
	return fmt.Errorf("%w: unknown kind %d", format.ErrBadRecord, k.Kind)
}

// other remembers a record that goes if the inode's type stays unknown.
func (cur *surveyed) other(k tree.Key) {
	if !cur.has {
		cur.others = append(cur.others, k)
	}
}

// is reports whether the inode may have records that only typ has. Without a
// record of its own the first of them says what it is (P3).
func (cur *surveyed) is(typ uint32) error {
	if cur.typ == 0 {
		cur.typ = typ
	}
	if cur.typ != typ {
		return fmt.Errorf("%w: the inode is a %s", format.ErrBadRecord, format.TypeName(cur.typ))
	}
	return nil
}

// ownRecord looks at a record of the tree itself.
func (r *repair) ownRecord(k tree.Key, v []byte) error {
	switch k.Kind {
	case format.KindBadBlock:
		b := format.Block(k.Off)
		if b < r.sb.First || b >= r.sb.Blocks || r.owned.Has(b) {
			return fmt.Errorf("%w: the bad block is in use, or outside the image", format.ErrBadRecord)
		}
		r.owned.Add(b, 1)
		r.keep.Add(b, 1)
	case format.KindOrphan:
		if len(v) != 0 {
			r.put(k, []byte{})
		}
		r.orphans[format.Ino(k.Off)] = struct{}{}
	default:
		return fmt.Errorf("%w: unknown kind %d", format.ErrBadRecord, k.Kind)
	}
	return nil
}

func (r *repair) inodeRecord(cur *surveyed, k tree.Key, v []byte) error {
	if k.Off != 0 {
		return fmt.Errorf("%w: inode record at offset %d", format.ErrBadRecord, k.Off)
	}
	var a format.Inode
	if err := a.Decode(v); err != nil {
		return err
	}
	if typ := a.Mode & format.TypeMask; k.Ino == format.RootIno && typ != format.TypeDir {
		return fmt.Errorf("%w: the root is a %s", format.ErrBadRecord, format.TypeName(typ))
	}
	cur.has, cur.a, cur.typ = true, a, a.Mode&format.TypeMask
	if cur.a.Nlink > 0 && k.Ino != format.RootIno {
		cur.ptrs++
		cur.balance -= r.seed.LinkHash(format.Link{Parent: cur.a.Parent, Cookie: cur.a.Cookie})
	}
	return nil
}

// closeInode verifies what one inode's own records say of each other, and
// takes the inode into the new tree.
func (r *repair) closeInode(cur *surveyed) {
	if cur.ino == format.OrphanIno {
		return
	}
	r.endXattr(cur)
	if cur.typ == 0 {
		for _, k := range cur.others {
			r.drop(k)
		}
		if len(cur.others) > 0 {
			r.problem(ProblemLost, cur.ino, "its record is lost, and nothing that is left tells what it was: %d records dropped", len(cur.others))
		}
		return
	}
	if !cur.has {
		r.newRecord(cur)
	}
	switch {
	case cur.typ == format.TypeSymlink && !r.closeTarget(cur):
		return
	case cur.blocks != cur.a.Blocks:
		if cur.blocks < cur.a.Blocks {
			r.problem(ProblemLost, cur.ino, "%d of its %d data blocks are lost: they read as zeros", cur.a.Blocks-cur.blocks, cur.a.Blocks)
		} else {
			r.problem(ProblemExtents, cur.ino, "its extents hold %d blocks, its record said %d", cur.blocks, cur.a.Blocks)
		}
		r.fix(cur.ino).blocks = new(cur.blocks)
	}
	r.inodes = append(r.inodes, surveyInode{ino: cur.ino, balance: cur.balance, ptrs: cur.ptrs, nlink: cur.a.Nlink, typ: uint8(cur.typ >> 12)})
	if cur.typ == format.TypeDir {
		r.dirs = append(r.dirs, surveyDir{ino: cur.ino, link: format.Link{Parent: cur.a.Parent, Cookie: cur.a.Cookie}, size: cur.a.Size})
	}
	if cur.ino >= r.nextIno {
		r.problem(ProblemTree, cur.ino, "its number was not given yet: the next one was %d", r.nextIno)
		r.nextIno = cur.ino + 1
	}
}

// newRecord makes up for a record that is lost (P3).
func (r *repair) newRecord(cur *surveyed) {
	f := r.fix(cur.ino)
	f.typ, f.relink = cur.typ, true
	cur.a.Blocks = cur.blocks
	f.blocks = new(cur.blocks)
	what := "a directory"
	switch cur.typ {
	case format.TypeRegular:
		cur.a.Size = min(uint64(cur.end)*format.PageSize, format.MaxFileSize)
		what = fmt.Sprintf("a file of %d bytes", cur.a.Size)
	case format.TypeSymlink:
		cur.a.Size = cur.target
		what = "a symlink"
	}
	f.size = new(cur.a.Size)
	r.problem(ProblemLost, cur.ino, "its record is lost: it is %s of root's now, mode %#o; owner, times and exact size are not known", what, newMode(cur.typ))
}

// newMode is the permission bits of an inode whose record is lost: nobody's but
// root's.
func newMode(typ uint32) uint32 {
	if typ == format.TypeDir {
		return 0o700
	}
	return 0o600
}

// closeTarget verifies a symlink's target; false: nothing is left of it.
func (r *repair) closeTarget(cur *surveyed) bool {
	orphan := cur.has && cur.a.Nlink == 0 // its target may be half freed
	if orphan || cur.target == cur.a.Size && !cur.broken {
		return true
	}
	if cur.target == 0 {
		r.problem(ProblemLost, cur.ino, "it was a symlink, and its target is lost: it is removed")
		r.doomed = append(r.doomed, cur.ino)
		return false
	}
	if cur.has {
		r.problem(ProblemLost, cur.ino, "of its target only the first %d of %d bytes are left", cur.target, cur.a.Size)
	}
	r.fix(cur.ino).size = new(cur.target)
	return true
}

// addRoot makes a root directory if there is none.
func (r *repair) addRoot() {
	if len(r.inodes) > 0 && r.inodes[0].ino == format.RootIno {
		return
	}
	r.problem(ProblemLost, format.RootIno, "the root directory is lost: an empty one is made")
	r.inodes = slices.Insert(r.inodes, 0, surveyInode{ino: format.RootIno, typ: uint8(format.TypeDir >> 12)})
	r.dirs = slices.Insert(r.dirs, 0, surveyDir{ino: format.RootIno})
	f := r.fix(format.RootIno)
	f.typ, f.relink = format.TypeDir, true
}

// dropAll drops every record of an inode.
func (r *repair) dropAll(ino format.Ino) {
	delete(r.fixes, ino)
	r.sv.Walk(key(ino, 0, 0), key(ino+1, 0, 0), tree.Visit{Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
		for ; i < j; i++ {
			r.drop(n.Key(i))
		}
		return true
	}})
}

// inode is an inode of the new tree, nil if it has none of that number. The
// pointer holds until one is added.
func (r *repair) inode(ino format.Ino) *surveyInode {
	i, ok := slices.BinarySearchFunc(r.inodes, ino, func(s surveyInode, ino format.Ino) int { return compareIno(s.ino, ino) })
	if !ok {
		return nil
	}
	return &r.inodes[i]
}

// dir is a directory of the new tree, nil if it has none of that number.
func (r *repair) dir(ino format.Ino) *surveyDir {
	i, ok := slices.BinarySearchFunc(r.dirs, ino, func(s surveyDir, ino format.Ino) int { return compareIno(s.ino, ino) })
	if !ok {
		return nil
	}
	return &r.dirs[i]
}

func compareIno(a, b format.Ino) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

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
	headed  bool        // an attribute has come from its beginning on
	others  []tree.Key  // without a record: those that do not tell the type
	base    uint64      // of the names that are coming
	group   [][]byte    // the names of that hash
}

// beingFreed is as of currentInode.
func (cur *surveyed) beingFreed() bool { return cur.has && cur.a.Nlink == 0 }

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
					if r.edits[k] == nil { // else what is left of an extent before begins here
						r.drop(k)
					}
					r.problemAt(ProblemRecord, k.Ino, p.Block, "%s record at offset %#x dropped: %v", format.KindName(k.Ino, k.Kind), k.Off, err)
				}
			}
			return true
		},
		Lost: r.lost,
	})
	next(0)
	r.disownBad()
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
	if k.Ino >= format.MaxNumber-tree.RoomToCount {
		return fmt.Errorf("%w: no inode has such a number", format.ErrBadRecord)
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
	case format.KindBadData:
		var d format.BadData
		b := format.Block(k.Off)
		if err := d.Decode(v); err != nil {
			return err
		}
		if b < r.sb.First || b >= r.sb.Blocks {
			return fmt.Errorf("%w: the bad block lies outside the image", format.ErrBadRecord)
		}
		r.bad.add(b, d)
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

// disownBad retires the bad blocks whose file has lost them. Those that have
// another owner by now are met again by that one.
func (r *repair) disownBad() {
	for ino, pages := range r.bad {
		for p, b := range pages {
			r.drop(tree.Key{Kind: format.KindBadData, Off: uint64(b)})
			r.problemAt(ProblemRecord, ino, b, "block %d was bad and its page %d, and is that no more", b, p)
			if !r.owned.Has(b) {
				r.owned.Add(b, 1)
				r.keep.Add(b, 1)
				r.put(tree.Key{Kind: format.KindBadBlock, Off: uint64(b)}, []byte{})
			}
		}
	}
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

package core

import (
	"fmt"
	"slices"

	"permafrost/core/format"
	"permafrost/core/tree"
)

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
	if cur.beingFreed() || cur.target == cur.a.Size && !cur.broken {
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

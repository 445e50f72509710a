package core

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// judgeLinks compares what inodes say of their names with the names there are,
// and makes the link counts and back-pointers of those that are wrong anew (P5).
func (r *repair) judgeLinks() error {
	wrong := false
	for i := range r.inodes {
		in := &r.inodes[i]
		f := r.fixes[in.ino]
		nlink := in.nlink == in.names || uint32(in.typ)<<12 == format.TypeDir
		if nlink && in.ptrs == in.names && in.balance == 0 && (f == nil || !f.relink) {
			continue
		}
		if wrong = true; f == nil || f.typ == 0 && !f.found {
			r.problem(ProblemLinks, in.ino, "its link count was %d and it had %d back-pointers: they are made anew for its %d names", in.nlink, in.ptrs, in.names)
		}
		r.fix(in.ino).relink = true
	}
	if wrong {
		r.namesOf(func(l format.Link, d *format.Dirent) {
			if f := r.fixes[d.Ino]; f != nil && f.relink {
				f.links = append(f.links, l)
			}
		})
	}
	for ino, f := range r.fixes {
		if f.relink {
			if err := r.relink(ino, f); err != nil {
				return err
			}
		}
	}
	for _, ino := range slices.Sorted(maps.Keys(r.orphans)) {
		in := r.inode(ino)
		if in != nil && r.isOrphan(in) {
			continue
		}
		r.drop(key(format.OrphanIno, format.KindOrphan, uint64(ino)))
		if in == nil {
			r.problem(ProblemOrphan, ino, "it was on the list of orphans and is not there: it is taken off")
		} else {
			r.problem(ProblemOrphan, ino, "it was on the list of orphans and has a name: it is taken off")
		}
	}
	return nil
}

// relink makes the back-pointers of an inode what its names are. The name in
// its record stays the primary one, if it is one of them.
func (r *repair) relink(ino format.Ino, f *inodeFix) error {
	in := r.inode(ino)
	further := make(map[format.Link]bool, len(f.links))
	for _, l := range f.links {
		further[l] = true
	}
	if len(f.links) > 0 {
		primary := f.links[0]
		if f.typ == 0 {
			a, err := r.oldInode(ino)
			if err != nil {
				return err
			}
			if l := (format.Link{Parent: a.Parent, Cookie: a.Cookie}); further[l] {
				primary = l
			}
		}
		f.link = &primary
		delete(further, primary)
	}
	if uint32(in.typ)<<12 != format.TypeDir {
		f.nlink = new(uint64(len(f.links)))
	}
	taken := make(map[uint64]bool)
	r.sv.Walk(key(ino, format.KindLink, 0), key(ino, format.KindLink+1, 0), tree.Visit{
		Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
			for ; i < j; i++ {
				var l format.Link
				k := n.Key(i)
				switch {
				case r.dropped(k):
				case l.Decode(n.Value(i)) == nil && further[l]:
					taken[k.Off] = true
					delete(further, l)
				default:
					r.drop(k)
				}
			}
			return true
		},
	})
	for l := range further {
		off := format.CookieBase(r.seed.LinkHash(l) & r.hashMask)
		end := off + format.MaxCollisions
		for ; off < end && taken[off]; off++ {
		}
		if off == end {
			return fmt.Errorf("inode %d: %d links of one hash: %w", ino, format.MaxCollisions, ErrTooManyLink)
		}
		taken[off] = true
		var b [format.LinkSize]byte
		l.Encode(b[:])
		r.put(key(ino, format.KindLink, off), b[:])
	}
	return nil
}

// oldInode reads an inode record that the survey could read.
func (r *repair) oldInode(ino format.Ino) (a format.Inode, err error) {
	v, _, err := r.sv.Get(key(ino, format.KindInode, 0), nil)
	if err == nil {
		err = a.Decode(v)
	}
	if err != nil {
		return a, fmt.Errorf("inode %d: %w: %w", ino, tree.ErrUnsteady, err)
	}
	return a, nil
}

// putInodes writes the records that change.
func (r *repair) putInodes() error {
	now := time.Now().UnixNano()
	gen := r.sv.NextGeneration()
	for ino, f := range r.fixes {
		var a format.Inode
		if f.typ != 0 {
			a = format.Inode{Mode: f.typ | newMode(f.typ), Atime: now, Mtime: now, Ctime: now, Btime: now}
			if ino == format.RootIno {
				a.Mode |= 0o755
			}
		} else {
			var err error
			if a, err = r.oldInode(ino); err != nil {
				return err
			}
		}
		if f.blocks != nil {
			a.Blocks = *f.blocks
		}
		if f.size != nil {
			a.Size = *f.size
		}
		if f.nlink != nil {
			a.Nlink = uint32(*f.nlink)
		}
		if f.link != nil {
			a.Parent, a.Cookie = f.link.Parent, f.link.Cookie
		}
		a.Gen = gen
		var b [format.InodeSize]byte
		a.Encode(b[:])
		r.put(key(ino, format.KindInode, 0), b[:])
	}
	return nil
}

// write commits the new tree.
func (r *repair) write() error {
	edits := make([]tree.Edit, 0, len(r.edits))
	for k, v := range r.edits {
		edits = append(edits, tree.Edit{Key: k, Value: v, Delete: v == nil})
	}
	slices.SortFunc(edits, func(a, b tree.Edit) int { return a.Key.Compare(b.Key) })
	r.done.Edits = uint64(len(edits))
	r.visited = 0
	o := tree.RewriteOptions{Edits: edits, Extents: ownedBlocks, Records: r.records,
		NextIno: r.nextIno, Inodes: uint64(len(r.inodes)), Keep: r.older, Node: r.step}
	r.older.AddAll(r.keep)
	rec, err := r.sv.Rewrite(r.ctx, o)
	if errors.Is(err, tree.ErrNoSpace) {
		// What only the other commits use must do: the chosen one stays whole.
		o.Keep, r.visited = r.keep, 0
		rec, err = r.sv.Rewrite(r.ctx, o)
	}
	r.written = rec != nil
	if errors.Is(err, tree.ErrNoSpace) {
		return fmt.Errorf("%w: copy files out of the image, mounted read-only, to repair it: %w", ErrNoSpace, err)
	}
	return err
}

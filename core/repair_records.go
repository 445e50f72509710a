package core

import (
	"bytes"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// direntRecord looks at one name by itself; whom it means is judged later.
func (r *repair) direntRecord(cur *surveyed, k tree.Key, v []byte) error {
	if err := cur.is(format.TypeDir); err != nil {
		return err
	}
	var d format.Dirent
	if err := d.Decode(v); err != nil {
		return err
	}
	if base := format.CookieBase(r.seed.Sum(d.Name) & r.hashMask); k.Off&^255 != base {
		d.Name = bytes.Clone(d.Name)
		r.moved = append(r.moved, movedName{dir: k.Ino, d: d})
		r.drop(k)
		return nil // told when it has its new place
	}
	if k.Off&^255 != cur.base {
		cur.base, cur.group = k.Off&^255, cur.group[:0]
	}
	for _, name := range cur.group {
		if bytes.Equal(name, d.Name) {
			return fmt.Errorf("%w: the name %q stands there twice", format.ErrBadRecord, d.Name)
		}
	}
	cur.group = append(cur.group, bytes.Clone(d.Name))
	return nil
}

// extentRecord gives an extent its blocks, as far as they have no owner yet (P2).
func (r *repair) extentRecord(cur *surveyed, k tree.Key, v []byte, leaf format.Block) error {
	whole, err := decodeExtent(k, v)
	if err != nil {
		return err
	}
	r.keep.Add(whole.Block, whole.Count)
	if err := cur.is(format.TypeRegular); err != nil {
		return err
	}
	e := whole
	if e.Page < cur.next {
		over := min(uint64(cur.next-e.Page), e.Count)
		r.problem(ProblemExtents, k.Ino, "pages %d to %d are in two extents: the second is cut", e.Page, e.Page+format.Page(over)-1)
		e = e.from(over)
	}
	cur.next = max(cur.next, whole.end())
	e = r.clip(k.Ino, e)
	var kept []Extent
	for e.Count > 0 {
		var n uint64
		var mine bool
		if n, mine = r.claim(e, leaf); mine {
			kept = append(kept, Extent{Page: e.Page, Block: e.Block, Count: n})
			r.bad.found(k.Ino, kept[len(kept)-1])
			cur.blocks += n
			cur.end = e.Page + format.Page(n)
		} else {
			if r.shared == nil {
				r.shared = tree.NewBlockSet(r.sb.Blocks)
			}
			r.shared.Add(e.Block, n)
			r.problemAt(ProblemExtents, k.Ino, e.Block, "pages %d to %d lie in %d blocks that belong to another: they are cut and read as zeros", e.Page, uint64(e.Page)+n-1, n)
		}
		e = e.from(n)
	}
	if len(kept) == 1 && kept[0] == whole {
		return nil
	}
	if r.edits[k] == nil { // else an extent cut before has a piece that begins here
		r.drop(k)
	}
	for _, x := range kept {
		var b [format.ExtentSize]byte
		format.Extent{Block: x.Block, Count: x.Count}.Encode(b[:])
		r.put(key(k.Ino, format.KindExtent, uint64(x.Page)), b[:])
	}
	return nil
}

// tellShared names the files that keep blocks which others wanted too: what
// stands there may be the others'.
func (r *repair) tellShared() error {
	if r.shared == nil {
		return nil
	}
	r.walk(tree.Visit{Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
		for ; i < j; i++ {
			k, v := n.Key(i), n.Value(i)
			if e, edited := r.edits[k]; edited {
				v = e
			}
			var e format.Extent
			if k.Kind != format.KindExtent || k.Ino == format.OrphanIno || e.Decode(v) != nil {
				continue
			}
			if both := r.shared.Count(e.Block, e.Count); both > 0 {
				r.problemAt(ProblemExtents, k.Ino, e.Block, "%d blocks of its pages %d to %d were another file's too: look at what stands there", both, k.Off, k.Off+e.Count-1)
			}
		}
		return true
	}})
	return nil
}

// from is e without its first n pages.
func (e Extent) from(n uint64) Extent {
	return Extent{Page: e.Page + format.Page(n), Block: e.Block + format.Block(n), Count: e.Count - n}
}

// clip cuts off what lies outside the image.
func (r *repair) clip(ino format.Ino, e Extent) Extent {
	whole := e
	if e.Count > 0 && e.Block < r.sb.First {
		e = e.from(min(uint64(r.sb.First-e.Block), e.Count))
	}
	if e.Count > 0 {
		e.Count = min(e.Count, uint64(max(r.sb.Blocks, e.Block)-e.Block))
	}
	if cut := whole.Count - e.Count; cut > 0 {
		r.problem(ProblemExtents, ino, "%d of the pages %d to %d lie outside the image: they are cut and read as zeros", cut, whole.Page, whole.end()-1)
	}
	return e
}

// claim takes the blocks that e begins with: the first n of them, which have no
// owner yet (mine), or which have.
func (r *repair) claim(e Extent, leaf format.Block) (n uint64, mine bool) {
	first := func(set *tree.BlockSet, limit uint64) (n uint64, member bool) {
		set.Runs(e.Block, limit, func(_ format.Block, length uint64, m bool) {
			if n == 0 {
				n, member = length, m
			}
		})
		return n, member
	}
	n, taken := first(r.owned, e.Count)
	if !taken && r.firm != nil && r.sv.Stray(leaf) {
		// What a search found yields to what the tree leads to.
		n, taken = first(r.firm, n)
	}
	if taken {
		return n, false
	}
	r.owned.Add(e.Block, n)
	return n, true
}

// targetRecord looks at one chunk of a symlink's target.
func (r *repair) targetRecord(cur *surveyed, k tree.Key, v []byte) error {
	if err := cur.is(format.TypeSymlink); err != nil {
		return err
	}
	if cur.target == 0 && cur.beingFreed() {
		cur.chunk = k.Off
	}
	if k.Off != cur.chunk || len(v) == 0 || len(v) > format.ChunkSize || cur.broken || cur.target+uint64(len(v)) > format.MaxTarget {
		cur.broken = true
		return fmt.Errorf("%w: chunk %d of the target, %d bytes, where chunk %d belongs", format.ErrBadRecord, k.Off, len(v), cur.chunk)
	}
	cur.chunk++
	cur.target += uint64(len(v))
	return nil
}

// xattrRecord looks at one record of an attribute. An attribute is whole or goes.
func (r *repair) xattrRecord(cur *surveyed, k tree.Key, v []byte) error {
	cur.other(k)
	if k.Off%xattrStep != 0 {
		if cur.beingFreed() && !cur.headed && len(v) <= format.ChunkSize {
			return nil
		}
		if cur.missing == 0 || k.Off != cur.xattr[len(cur.xattr)-1].Off+1 || uint64(len(v)) != min(cur.missing, format.ChunkSize) {
			r.endXattr(cur)
			return fmt.Errorf("%w: a chunk that follows no attribute", format.ErrBadRecord)
		}
		cur.missing -= uint64(len(v))
		cur.xattr = append(cur.xattr, k)
		return nil
	}
	r.endXattr(cur)
	var h format.XattrHead
	if err := h.Decode(v); err != nil {
		return err
	}
	if k.Off>>16 != format.XattrBase(r.seed.Sum(h.Name)&r.hashMask)>>16 {
		return fmt.Errorf("%w: attribute %q stands at the offset of another", format.ErrBadRecord, h.Name)
	}
	cur.headed = true
	cur.xattr = append(cur.xattr[:0], k)
	cur.name, cur.missing = string(h.Name), h.Length-uint64(len(h.Value))
	return nil
}

// endXattr drops the attribute that was coming if it is not complete.
func (r *repair) endXattr(cur *surveyed) {
	if cur.missing == 0 {
		return
	}
	for _, k := range cur.xattr {
		r.drop(k)
	}
	r.problem(ProblemXattr, cur.ino, "its attribute %q lacks %d bytes: it is removed", cur.name, cur.missing)
	cur.missing = 0
}

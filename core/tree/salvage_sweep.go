package tree

import (
	"context"
	"fmt"
	"slices"

	"permafrost/core/format"
)

// hole is an inner node that cannot be read, and what Sweep found of the leaves
// below it.
type hole struct {
	Lost
	leaves []stray // ascending, apart from one another
}

// stray is a node that no readable node leads to.
type stray struct {
	ptr         format.Ptr
	first, last Key
}

// holeAt names a hole: the same block may be missed in two places.
type holeAt struct {
	block format.Block
	from  Key
}

// family is a level-1 node found by a sweep: it says which leaves of its range
// are its children, and so which others are outdated.
type family struct {
	stray
	children []format.Ptr
}

// Sweep searches the whole image for the leaves below inner nodes that cannot be
// read, so that one lost page does not cost everything below it. Walk visits
// them from then on, after it told of the loss. It returns how many it found.
//
// What it finds was stored by some commit, but need not be the newest version:
// of leaves whose keys overlap it takes the youngest, and where a level-1 node
// is found too, only that node's children. Records that were deleted may come
// back, and records of different ages may meet. Blocks of skip (may be nil) are
// not looked at: they are known to hold data. Memory: 100 bytes a leaf found.
//
// Errors: ctx's.
func (s *Salvage) Sweep(ctx context.Context, skip *BlockSet, progress func(done, total uint64)) (found int, err error) {
	live, holes := s.holes()
	if len(holes) == 0 {
		return 0, nil
	}
	families := make([][]family, len(holes))
	page := new(format.Node)
	for b := s.super.First; b < s.super.Blocks; b++ {
		if b%progressEvery == 0 {
			if err := ctx.Err(); err != nil {
				return 0, fmt.Errorf("search for lost tree nodes: %w", err)
			}
			if progress != nil {
				progress(uint64(b), uint64(s.super.Blocks))
			}
		}
		if live.Has(b) || skip != nil && skip.Has(b) || !s.readStray(b, page) {
			continue
		}
		for i := range holes {
			holes[i].consider(page, &families[i])
		}
	}
	s.stray, s.strayAt = make(map[holeAt]*hole, len(holes)), NewBlockSet(s.super.Blocks)
	for i := range holes {
		h := &holes[i]
		h.choose(families[i])
		found += len(h.leaves)
		s.stray[holeAt{h.Block, h.From}] = h
		for _, l := range h.leaves {
			s.strayAt.Add(l.ptr.Block, 1)
		}
	}
	return found, nil
}

// holes walks the tree for the nodes that can be read, and for the inner ones
// that cannot.
func (s *Salvage) holes() (live *BlockSet, holes []hole) {
	s.stray, s.strayAt = nil, nil
	live = NewBlockSet(s.super.Blocks)
	s.Walk(Key{}, format.MaxKey, Visit{
		Node: func(p format.Ptr, _ int, _ *format.Node) bool {
			live.Add(p.Block, 1)
			return true
		},
		Lost: func(l Lost) {
			if l.Level > 0 && l.Whole {
				holes = append(holes, hole{Lost: l})
			}
		},
	})
	return live, holes
}

// readStray reads block b if it holds a whole node of the two lowest levels.
func (s *Salvage) readStray(b format.Block, n *format.Node) bool {
	if _, err := s.m.ReadAt(n[:], int64(b)*format.BlockSize); err != nil {
		return false
	}
	return n.Block() == b && n.Level() <= 1 && n.VerifySelf(b) == nil && n.VerifyValues() == nil && n.Count() > 0
}

// consider notes a node that may have stood below the hole.
func (h *hole) consider(n *format.Node, families *[]family) {
	first, last := n.Key(0), n.Key(n.Count()-1)
	if n.Birth() > h.birth || n.Level() >= h.Level || first.Less(h.From) || !last.Less(h.To) {
		return
	}
	x := stray{format.Ptr{Block: n.Block(), Birth: n.Birth(), CRC: n.Sum()}, first, last}
	if n.Level() == 0 {
		h.leaves = append(h.leaves, x)
		return
	}
	f := family{stray: x}
	for i := range n.Count() {
		f.children = append(f.children, n.Child(i))
	}
	*families = append(*families, f)
}

// choose drops the leaves that others make outdated.
func (h *hole) choose(families []family) {
	families = youngest(families, func(f *family) *stray { return &f.stray })
	children := make(map[format.Ptr]struct{})
	for i := range families {
		for _, c := range families[i].children {
			children[c] = struct{}{}
		}
	}
	h.leaves = slices.DeleteFunc(h.leaves, func(l stray) bool {
		if _, child := children[l.ptr]; child {
			return false
		}
		i, exact := slices.BinarySearchFunc(families, l.first, func(f family, k Key) int { return f.first.Compare(k) })
		return exact || i > 0 && l.first.Less(families[i-1].last)
	})
	h.leaves = youngest(h.leaves, func(l *stray) *stray { return l })
}

// youngest is those of list that lie apart from one another, ascending: of two
// that overlap the younger is taken.
func youngest[T any](list []T, at func(*T) *stray) (taken []T) {
	byFirst := func(a, b T) int { return at(&a).first.Compare(at(&b).first) }
	for len(list) > 0 {
		slices.SortFunc(list, byFirst)
		var round []T
		for i := range list {
			// Those taken lie apart, so only the last of them can reach the next.
			x, end := at(&list[i]), len(round)-1
			switch {
			case end < 0 || at(&round[end]).last.Less(x.first):
				round = append(round, list[i])
			case x.ptr.Birth > at(&round[end]).ptr.Birth:
				round[end] = list[i]
			}
		}
		taken = append(taken, round...)
		slices.SortFunc(taken, byFirst)
		// What was dropped for one that was dropped itself has another chance.
		list = slices.DeleteFunc(list, func(x T) bool {
			i, exact := slices.BinarySearchFunc(taken, at(&x).first, func(t T, k Key) int { return at(&t).first.Compare(k) })
			return exact || i > 0 && !at(&taken[i-1]).last.Less(at(&x).first) || i < len(taken) && !at(&x).last.Less(at(&taken[i]).first)
		})
	}
	return taken
}

// Stray reports whether block b is a leaf that Sweep found.
func (s *Salvage) Stray(b format.Block) bool { return s.strayAt != nil && s.strayAt.Has(b) }

// strays visits what Sweep found below a node that cannot be read.
func (w *salvageWalk) strays(p format.Ptr, low, high Key) bool {
	h := w.s.stray[holeAt{p.Block, low}]
	if h == nil {
		return true
	}
	for i, l := range h.leaves {
		upper := high
		if i+1 < len(h.leaves) {
			upper = h.leaves[i+1].first
		}
		if !laterKey(l.first, w.from).Less(earlierKey(upper, w.to)) {
			continue
		}
		if !w.node(l.ptr, 0, l.first, upper) {
			return false
		}
	}
	return true
}

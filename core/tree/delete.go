package tree

import (
	"fmt"

	"permafrost/core/format"
	"permafrost/pmem"
)

const (
	// sparseBytes: a node with less in it looks for a neighbour to merge with.
	sparseBytes = format.NodeCap / 4
	// mergedBytes bounds a merged node, so that it does not split at once.
	mergedBytes = format.NodeCap * 3 / 4
)

// step is one node of a path: n is child at of the step before.
type step struct {
	n  *heapNode
	at int
}

// path leads from the root to a leaf; every node is the open group's own.
type path struct {
	steps [format.MaxLevel + 1]step
	n     int
}

func (p *path) add(n *heapNode, at int) { p.steps[p.n] = step{n, at}; p.n++ }

// leaf is the last node of the path.
func (p *path) leaf() *heapNode { return p.steps[p.n-1].n }

// Delete removes k's record and reports whether there was one. It takes the
// tree's lock for itself (T2).
//
// Errors: as Put.
func (t *Tx) Delete(k Key) (deleted bool, err error) {
	if t.ended {
		return false, fmt.Errorf("delete %v: %w", k, ErrEnded)
	}
	deleted, err = t.delete(k)
	if err != nil {
		t.s.met(err)
		return false, t.failed(fmt.Errorf("delete %v: %w", k, err))
	}
	if deleted {
		t.touch()
	}
	return deleted, nil
}

func (t *Tx) delete(k Key) (deleted bool, err error) {
	s := t.s
	prev := pmem.CatchFaults()
	defer pmem.Caught(prev, s.m, &err)
	s.treeMu.Lock()
	defer s.treeMu.Unlock()
	n, _, err := s.leafLocked(k)
	if err != nil {
		return false, err
	}
	i, found := n.Find(k)
	if !found {
		return false, nil
	}
	var p path
	if err := t.pathLocked(k, &p); err != nil {
		return false, err
	}
	t.removeLocked(p.leaf(), i, i+1)
	return true, t.shrinkLocked(&p)
}

// DeleteRange removes up to limit records of [from, to) in ascending order,
// calls fn (may be nil) with each of them after its removal, and returns how
// many it removed; fewer than limit means that none is left. fn is called
// without any lock; the value is valid only during the call.
//
// Errors: as Put; n counts what was removed nevertheless.
func (t *Tx) DeleteRange(from, to Key, limit int, fn func(k Key, v []byte)) (n int, err error) {
	if t.ended {
		return 0, fmt.Errorf("delete range %v to %v: %w", from, to, ErrEnded)
	}
	page := pages.Get().(*format.Node)
	defer pages.Put(page)
	for n < limit && from.Less(to) {
		i, j, next, err := t.deleteFromLeaf(from, to, limit-n, page)
		if err != nil {
			t.s.met(err)
			return n, t.failed(fmt.Errorf("delete range %v to %v: %w", from, to, err))
		}
		if j > i {
			t.touch()
			n += j - i
		}
		for ; i < j && fn != nil; i++ {
			fn(page.Key(i), page.Value(i))
		}
		from = next
	}
	return n, nil
}

// deleteFromLeaf removes at most limit records of [from, to) from the leaf of
// from. page gets a copy of the leaf as it was; the records removed are [i, j)
// of it, and next is where to go on.
func (t *Tx) deleteFromLeaf(from, to Key, limit int, page *format.Node) (i, j int, next Key, err error) {
	s := t.s
	prev := pmem.CatchFaults()
	defer pmem.Caught(prev, s.m, &err)
	s.treeMu.Lock()
	defer s.treeMu.Unlock()
	n, next, err := s.leafLocked(from)
	if err != nil {
		return 0, 0, Key{}, err
	}
	*page = *n
	i, _ = page.Find(from)
	j, _ = page.Find(to)
	j = min(j, i+limit)
	if i == j {
		return i, j, next, nil
	}
	var p path
	if err := t.pathLocked(from, &p); err != nil {
		return 0, 0, Key{}, err
	}
	t.removeLocked(p.leaf(), i, j)
	return i, j, page.Key(j - 1).Next(), t.shrinkLocked(&p)
}

// removeLocked removes the records [i, j) of a leaf.
func (t *Tx) removeLocked(leaf *heapNode, i, j int) {
	leaf.page.Remove(i, j)
	leaf.last, leaf.run = -1, 0
	t.s.countRecord(i - j)
}

// pathLocked fills in the path to k's leaf and makes it the open group's own.
// On an error the records are as they were.
func (t *Tx) pathLocked(k Key, p *path) error {
	s := t.s
	n, err := t.ownRootLocked()
	if err != nil {
		return err
	}
	p.add(n, 0)
	for level := int(s.root.Level); level > 0; level-- {
		i := n.page.ChildFor(k)
		if n, err = t.ownChildLocked(n, i, level-1); err != nil {
			return err
		}
		p.add(n, i)
	}
	return nil
}

// shrinkLocked drops or merges nodes of the path that a removal left empty or
// sparse, from the leaf upwards, and lowers the tree while its root has a
// single child. It allocates nothing.
func (t *Tx) shrinkLocked(p *path) error {
	for i := p.n - 1; i > 0; i-- {
		n, parent, at := p.steps[i].n, p.steps[i-1].n, p.steps[i].at
		switch {
		case n.page.Count() == 0:
			if err := t.removeChildLocked(parent, at); err != nil {
				return err
			}
		case n.page.Used() < sparseBytes:
			merged, err := t.mergeLocked(n, parent, at)
			if err != nil {
				return err
			}
			if !merged {
				return t.lowerLocked()
			}
		default:
			return nil
		}
	}
	return t.lowerLocked()
}

// removeChildLocked removes child at of parent and frees its node.
func (t *Tx) removeChildLocked(parent *heapNode, at int) error {
	p := parent.page.Child(at)
	parent.page.RemoveChild(at)
	if err := t.s.freeNodeLocked(p); err != nil {
		return t.s.fail(err)
	}
	return nil
}

// mergeLocked merges n, child at of parent, with a neighbour if both together
// leave room. A neighbour that cannot be read is left alone: merging is a
// nicety. But it is damage (T14).
func (t *Tx) mergeLocked(n, parent *heapNode, at int) (bool, error) {
	level := n.page.Level()
	page := pages.Get().(*format.Node)
	defer pages.Put(page)
	fits := func(p format.Ptr) bool {
		return t.s.peekLocked(p, level, page) == nil && page.Used()+n.page.Used() <= mergedBytes
	}
	if at+1 < parent.page.Count() {
		if p := parent.page.Child(at + 1); fits(p) {
			t.absorb(n, p, page, n.page.Count())
			return true, t.removeChildLocked(parent, at+1)
		}
	}
	if at > 0 {
		if p := parent.page.Child(at - 1); fits(p) {
			t.absorb(n, p, page, 0)
			// n takes over the place and the lower bound of its left neighbour.
			parent.page.SetChild(at-1, n.ptr())
			parent.page.SetChild(at, p)
			return true, t.removeChildLocked(parent, at)
		}
	}
	return false, nil
}

// peekLocked copies the node that p points to into page.
func (s *Store) peekLocked(p format.Ptr, level int, page *format.Node) (err error) {
	defer func() {
		if err != nil {
			s.met(err)
		}
	}()
	prev := pmem.CatchFaults()
	defer pmem.Caught(prev, s.m, &err)
	n, err := s.view(p, level)
	if err == nil {
		*page = *n
	}
	return err
}

// absorb copies everything in from, the node that p points to, into n at index
// i: at its end, or at its beginning.
func (t *Tx) absorb(n *heapNode, p format.Ptr, from *format.Node, i int) {
	n.last, n.run = -1, 0
	if from.Level() == 0 {
		for x := range from.Count() {
			n.page.Insert(i+x, from.Key(x), from.Value(x))
		}
		return
	}
	s := t.s
	if s.sealed != nil && p.Birth == s.sealed.gen {
		n.stale = oldest(n.stale, oldest(s.sealed.gen, s.sealed.nodes[p.CRC].stale))
	}
	if p.Birth == s.open.gen {
		n.stale = oldest(n.stale, s.open.nodes[p.CRC].stale)
	}
	for x := range from.Count() {
		n.page.InsertChild(i+x, from.Key(x), from.Child(x))
	}
}

// lowerLocked takes away roots with a single child, and makes a root that lost
// its last child an empty leaf.
func (t *Tx) lowerLocked() error {
	s := t.s
	for s.root.Level > 0 {
		root := s.open.nodes[s.root.CRC]
		switch root.page.Count() {
		case 0:
			root.page.Init(0, s.root.Block, s.open.gen)
			root.stale = 0
			s.root.Level = 0
			return nil
		case 1:
			old := s.root.Ptr
			s.root = format.Root{Ptr: root.page.Child(0), Level: s.root.Level - 1}
			if err := s.freeNodeLocked(old); err != nil {
				return s.fail(err)
			}
		default:
			return nil
		}
		if s.root.Birth != s.open.gen {
			return nil // the single child was not on the path
		}
	}
	return nil
}

package tree

import (
	"fmt"

	"permafrost/core/format"
	"permafrost/pmem"
)

// Put inserts the record (k, v) or replaces k's value. It takes the tree's
// lock for itself (T2).
//
// Errors: ErrBadRecord for a value over format.MaxValue bytes or an inode
// number of format.MaxIno, ErrNoSpace if more than was reserved is needed and
// not to be had, ErrEnded, *format.DamageError, *pmem.MediaError. An error after
// the transaction's first change is the ERROR state (T11).
func (t *Tx) Put(k Key, v []byte) error {
	switch {
	case t.ended:
		return fmt.Errorf("put %v: %w", k, ErrEnded)
	case len(v) > format.MaxValue:
		return fmt.Errorf("put %v: value of %d bytes, at most %d: %w", k, len(v), format.MaxValue, ErrBadRecord)
	case k.Ino >= format.MaxIno:
		return fmt.Errorf("put %v: %w", k, ErrBadRecord)
	}
	if err := t.put(k, v); err != nil {
		t.s.met(err)
		return t.failed(fmt.Errorf("put %v: %w", k, err))
	}
	t.touch()
	return nil
}

func (t *Tx) put(k Key, v []byte) (err error) {
	s := t.s
	prev := pmem.CatchFaults()
	defer pmem.Caught(prev, s.m, &err)
	s.treeMu.Lock()
	defer s.treeMu.Unlock()
	leaf, parent, at, err := t.leafForPutLocked(k)
	if err != nil {
		return err
	}
	i, found := leaf.page.Find(k)
	if found {
		if leaf.page.FitsInstead(i, len(v)) {
			leaf.page.Replace(i, v)
			return nil
		}
		// As a removal and an insertion, so that the split need not know. The
		// split comes first: it may fail, and then nothing is lost.
	} else {
		s.countRecord(1)
		leaf.note(i)
		if leaf.page.Fits(len(v)) {
			leaf.page.Insert(i, k, v)
			return nil
		}
	}
	if err := t.splitLeafLocked(leaf, parent, at, i, k, v, found); err != nil {
		if !found {
			s.countRecord(-1)
		}
		return err
	}
	return nil
}

// countRecord adds delta to the number of records.
func (s *Store) countRecord(delta int) { s.counters.records.Add(uint64(delta)) }

// note remembers where records are inserted, to recognise ascending keys.
func (n *heapNode) note(i int) {
	if int32(i) == n.last+1 {
		n.run++
	} else {
		n.run = 0
	}
	n.last = int32(i)
}

// leafForPutLocked is k's leaf, made the open group's own together with its
// path, its parent (nil for a root leaf) and its index there. Full inner nodes
// on the path are split on the way down, so the parent has room for one more.
func (t *Tx) leafForPutLocked(k Key) (leaf, parent *heapNode, at int, err error) {
	s := t.s
	n, err := t.ownRootLocked()
	if err != nil {
		return nil, nil, 0, err
	}
	for level := int(s.root.Level); level > 0; level-- {
		if n.page.Count() == format.MaxChildren {
			if n, err = t.splitInnerLocked(n, parent, at, k); err != nil {
				return nil, nil, 0, err
			}
		}
		i := n.page.ChildFor(k)
		child, err := t.ownChildLocked(n, i, level-1)
		if err != nil {
			return nil, nil, 0, err
		}
		if i == 0 && k.Less(n.page.Key(0)) {
			n.page.SetKey(0, k) // T13; or a split of the child would go before it
		}
		parent, at, n = n, i, child
	}
	return n, parent, at, nil
}

// ownRootLocked makes the root the open group's own.
func (t *Tx) ownRootLocked() (*heapNode, error) {
	s := t.s
	n, p, err := s.ownLocked(t, s.root.Ptr, int(s.root.Level))
	if err != nil {
		return nil, err
	}
	s.root.Ptr = p
	return n, nil
}

// ownChildLocked makes n's i-th child, at the given level, the open group's
// own. n is so already.
func (t *Tx) ownChildLocked(n *heapNode, i, level int) (*heapNode, error) {
	p := n.page.Child(i)
	if p.Birth == t.gen {
		return t.s.open.nodes[p.CRC], nil
	}
	child, p, err := t.s.ownLocked(t, p, level)
	if err != nil {
		return nil, err
	}
	n.page.SetChild(i, p)
	return child, nil
}

// parentOrRootLocked is parent, or a new root above n if parent is nil.
func (t *Tx) parentOrRootLocked(n, parent *heapNode) (*heapNode, error) {
	if parent != nil {
		return parent, nil
	}
	s := t.s
	if s.root.Level == format.MaxLevel {
		return nil, damaged(s.root.Block, "the tree is too high")
	}
	root, err := s.newNodeLocked(t, int(s.root.Level)+1)
	if err != nil {
		return nil, err
	}
	root.page.InsertChild(0, Key{}, n.ptr())
	s.root = format.Root{Ptr: root.ptr(), Level: s.root.Level + 1}
	return root, nil
}

// splitInnerLocked splits the full inner node n, child at of parent (nil: the
// root), and returns the half that k belongs to.
func (t *Tx) splitInnerLocked(n, parent *heapNode, at int, k Key) (*heapNode, error) {
	right, err := t.s.newNodeLocked(t, n.page.Level())
	if err != nil {
		return nil, err
	}
	if parent, err = t.splitParentLocked(n, parent, right); err != nil {
		return nil, err
	}
	count := n.page.Count()
	cut := count / 2
	if n.page.ChildFor(k) == count-1 {
		cut = count - 1 // keys ascend: leave this half full
	}
	right.stale = n.stale
	n.page.MoveChildren(cut, right.page)
	separator := right.page.Key(0)
	parent.page.InsertChild(at+1, separator, right.ptr())
	if k.Less(separator) {
		return n, nil
	}
	return right, nil
}

// splitParentLocked is parentOrRootLocked; failing, it drops right again.
func (t *Tx) splitParentLocked(n, parent, right *heapNode) (*heapNode, error) {
	parent, err := t.parentOrRootLocked(n, parent)
	if err != nil {
		if e := t.s.freeNodeLocked(right.ptr()); e != nil {
			return nil, t.s.fail(e)
		}
		return nil, err
	}
	return parent, nil
}

// splitLeafLocked splits leaf, child at of parent (nil: the root), to make
// room for (k, v) at index i, in place of the record there if replace.
func (t *Tx) splitLeafLocked(leaf, parent *heapNode, at, i int, k Key, v []byte, replace bool) error {
	right, err := t.s.newNodeLocked(t, 0)
	if err != nil {
		return err
	}
	if parent, err = t.splitParentLocked(leaf, parent, right); err != nil {
		return err
	}
	if replace {
		leaf.page.Remove(i, i+1)
	}
	cut := leaf.cut(i, len(v))
	leaf.page.MoveRecords(cut, right.page)
	if i < cut || i == cut && leaf.page.Fits(len(v)) && right.page.Count() > 0 {
		leaf.page.Insert(i, k, v)
		leaf.last = int32(i)
	} else {
		right.page.Insert(i-cut, k, v)
		right.last, right.run = int32(i-cut), leaf.run
	}
	parent.page.InsertChild(at+1, right.page.Key(0), right.ptr())
	return nil
}

// runToSplitAt is how many insertions in a row must ascend for a leaf to be
// split at the place of the last one.
const runToSplitAt = 4

// cut is the index to split the leaf at when a record with a value of length
// bytes is to be inserted at i. Ascending insertions split where they are, so
// that they leave full leaves behind; others split in the middle of the bytes.
func (n *heapNode) cut(i, length int) int {
	count := n.page.Count()
	if i == count || n.run >= runToSplitAt && i > 0 {
		return i
	}
	size := format.RecordOverhead + length
	half := (n.page.Used() + size) / 2
	left := 0
	for x := range count {
		if x == i {
			left += size
		}
		if left+n.page.RecordSize(x) > half && x > 0 {
			return x
		}
		left += n.page.RecordSize(x)
	}
	return count - 1
}

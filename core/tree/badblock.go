package tree

import (
	"fmt"

	"permafrost/core/format"
)

// RetireBlock makes b a bad block, never to be allocated again: the tree's own
// record owns it from now on. b is free, or a block of file data that the caller
// calls this for in place of FreeData. Retiring a bad block again does nothing.
//
// Errors: ErrBadRange outside the allocatable blocks, ErrBadFree for a block
// that was freed and waits for T5, and those of Put.
func (t *Tx) RetireBlock(b format.Block) error {
	k := Key{Kind: format.KindBadBlock, Off: uint64(b)}
	if t.ended {
		return fmt.Errorf("retire block %d: %w", b, ErrEnded)
	}
	if _, err := t.s.Get(k, nil); err == nil {
		return nil
	}
	fresh, err := t.s.alloc.retire(b)
	if err != nil {
		return fmt.Errorf("retire block %d: %w", b, err)
	}
	if err := t.Put(k, nil); err != nil {
		if fresh {
			t.s.alloc.unretire(b)
		}
		return fmt.Errorf("retire block %d: %w", b, err)
	}
	t.s.badBlocks.Add(1)
	if fresh {
		t.s.counters.data.Add(1)
	}
	return nil
}

// BadBlocks calls fn for every retired block, in ascending order, until it
// returns false.
//
// Errors: as Scan.
func (s *Store) BadBlocks(fn func(b format.Block) bool) error {
	from := Key{Kind: format.KindBadBlock}
	to := Key{Kind: format.KindBadBlock + 1}
	return s.Scan(from, to, func(k Key, _ []byte) bool { return fn(format.Block(k.Off)) })
}

// BadBlockCount is how many blocks are retired. O(1).
func (s *Store) BadBlockCount() uint64 { return s.badBlocks.Load() }

// countBadBlocks counts what earlier mounts retired. Records that cannot be
// read are left out: reading them is check's business, and mounting goes on.
func (s *Store) countBadBlocks() {
	n := uint64(0)
	_ = s.BadBlocks(func(format.Block) bool { n++; return true })
	s.badBlocks.Store(n)
}

// retire takes b out of the free blocks, and reports whether it was one; a
// block in use stays so.
func (a *allocator) retire(b format.Block) (fresh bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !a.inRangeLocked(b, 1):
		return false, ErrBadRange
	case a.isLiveLocked(b, 1):
		return false, nil
	case a.wordLocked(b&^63, true)&(1<<(b%64)) != 0:
		return false, ErrBadFree
	case !a.reserve(1, true): // every free block is promised to somebody
		return false, ErrNoSpace
	}
	return true, a.takenLocked(b, 1)
}

// unretire makes free again what retire took.
func (a *allocator) unretire(b format.Block) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.freeNowLocked(b, 1)
}

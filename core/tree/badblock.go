package tree

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"permafrost/core/format"
)

// A bad block is on the bad-block list for good. It is in one of two states:
//
//	in a file   MarkBadData: an extent owns it, its record says whose page it is
//	   |  FreeData
//	retired     RetireBlock, RetireFree: the tree's own record owns it
//
// The allocator gives away neither (allocator.bad).

// BadBlock is one entry of the bad-block list.
type BadBlock struct {
	Block format.Block
	Ino   format.Ino  // the file it belongs to; 0: retired
	Page  format.Page // which page of it
}

// RetireBlock makes b a bad block, never to be allocated again: the tree's own
// record owns it from now on. b is free, or a block of file data that the caller
// calls this for in place of FreeData. Retiring a bad block again does nothing.
//
// Errors: ErrBadRange outside the allocatable blocks, and those of Put.
func (t *Tx) RetireBlock(b format.Block) error { return t.retire(b, true) }

// RetireFree is RetireBlock for a block that nobody owns.
//
// Errors: ErrInUse if somebody does; else as RetireBlock.
func (t *Tx) RetireFree(b format.Block) error { return t.retire(b, false) }

func (t *Tx) retire(b format.Block, live bool) error {
	if t.ended {
		return fmt.Errorf("retire block %d: %w", b, ErrEnded)
	}
	was, err := t.s.alloc.retire(b, live)
	if err == nil {
		switch was {
		case wasRetired:
			return nil
		case wasInFile:
			err = t.retireInFile(b)
		default:
			err = t.Put(Key{Kind: format.KindBadBlock, Off: uint64(b)}, nil)
		}
		if err != nil {
			t.s.alloc.unretire(b, was)
		}
	}
	if err != nil {
		return fmt.Errorf("retire block %d: %w", b, err)
	}
	if was != wasInFile {
		t.s.badBlocks.Add(1)
	}
	if was == wasFree || was == wasDying {
		t.s.counters.data.Add(1)
	}
	return nil
}

// retireInFile changes the record of a bad block that its file gives up.
func (t *Tx) retireInFile(b format.Block) error {
	if _, err := t.Delete(Key{Kind: format.KindBadData, Off: uint64(b)}); err != nil {
		return err
	}
	return t.Put(Key{Kind: format.KindBadBlock, Off: uint64(b)}, nil)
}

// MarkBadData puts b, which is a page of a file, on the bad-block list. The
// file keeps it until FreeData, which retires it. Marking it again, or a
// retired one, does nothing.
//
// Errors: ErrBadRange, ErrBadFree for a block that nobody owns, and those of Put.
func (t *Tx) MarkBadData(b format.Block, owner format.BadData) error {
	if t.ended {
		return fmt.Errorf("mark block %d as bad: %w", b, ErrEnded)
	}
	fresh, err := t.s.alloc.markBad(b)
	if err == nil && fresh {
		var v [format.BadDataSize]byte
		owner.Encode(v[:])
		if err = t.Put(Key{Kind: format.KindBadData, Off: uint64(b)}, v[:]); err != nil {
			t.s.alloc.unretire(b, wasLive)
		}
	}
	if err != nil {
		return fmt.Errorf("mark block %d as bad: %w", b, err)
	}
	if fresh {
		t.s.badBlocks.Add(1)
	}
	return nil
}

// BadBlocks is the bad-block list from a block on, ascending, at most limit
// entries of it.
//
// Errors: as Scan.
func (s *Store) BadBlocks(from format.Block, limit int) ([]BadBlock, error) {
	var list []BadBlock
	for kind := format.KindBadBlock; kind <= format.KindBadData; kind++ {
		n := 0
		err := s.Scan(Key{Kind: kind, Off: uint64(from)}, Key{Kind: kind + 1}, func(k Key, v []byte) bool {
			bad := BadBlock{Block: format.Block(k.Off)}
			var d format.BadData
			if kind == format.KindBadData && d.Decode(v) == nil { // else check names it
				bad.Ino, bad.Page = d.Ino, d.Page
			}
			list = append(list, bad)
			n++
			return n < limit
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b BadBlock) int { return cmp.Compare(a.Block, b.Block) })
	return list[:min(len(list), max(limit, 0))], nil
}

// BadBlockCount is how many blocks are on the bad-block list. O(1).
func (s *Store) BadBlockCount() uint64 { return s.badBlocks.Load() }

// IsBadBlock reports whether a block is on the list. It is false on a store that
// was opened read-only.
func (s *Store) IsBadBlock(b format.Block) bool {
	if s.alloc == nil {
		return false
	}
	s.alloc.mu.Lock()
	defer s.alloc.mu.Unlock()
	_, bad := s.alloc.bad[b]
	return bad
}

// HasBadBlock reports whether any of the n blocks from first on is on the list.
// On a store that was opened read-only, which does not keep the list in memory,
// it is true as soon as the list has any block.
func (s *Store) HasBadBlock(first format.Block, n uint64) bool {
	if s.badBlocks.Load() == 0 {
		return false
	}
	if s.alloc == nil {
		return true
	}
	s.alloc.mu.Lock()
	defer s.alloc.mu.Unlock()
	if uint64(len(s.alloc.bad)) < n {
		for b := range s.alloc.bad {
			if b >= first && uint64(b-first) < n {
				return true
			}
		}
		return false
	}
	for b := first; uint64(b-first) < n; b++ {
		if _, bad := s.alloc.bad[b]; bad {
			return true
		}
	}
	return false
}

// loadBadBlocks reads the list that earlier mounts left. What cannot be read of
// it is damage (T14), so nothing is allocated without knowing.
func (s *Store) loadBadBlocks() {
	n := uint64(0)
	for from := format.Block(0); ; {
		list, err := s.BadBlocks(from, 1024)
		if err != nil || len(list) == 0 {
			break
		}
		for _, bad := range list {
			n++
			from = bad.Block + 1
			if s.alloc != nil {
				s.alloc.bad[bad.Block] = bad.Ino != 0 // nobody else yet
			}
		}
	}
	s.badBlocks.Store(n)
}

// wasState is what a block was before it was retired.
type wasState uint8

const (
	wasFree    wasState = iota
	wasDying            // freed, and waiting for T5
	wasLive             // file data
	wasInFile           // file data, and known to be bad
	wasRetired          // bad already
)

// retire takes b out of the blocks that can be given away, and tells what it
// was. With live a block in use is one that its owner gives up here.
func (a *allocator) retire(b format.Block, live bool) (was wasState, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.inRangeLocked(b, 1) {
		return 0, ErrBadRange
	}
	inFile, bad := a.bad[b]
	switch {
	case bad && !inFile:
		return wasRetired, nil
	case a.isLiveLocked(b, 1) && !live:
		return 0, ErrInUse
	case bad:
		was = wasInFile
	case a.isLiveLocked(b, 1):
		was = wasLive
		a.dataAt = (b/chunkBlocks + 1) * chunkBlocks // bad blocks come in clusters
	case a.wordLocked(b&^63, true)&(1<<(b%64)) != 0:
		was = wasDying
		a.setDyingLocked(b, false) // settle leaves it alone from now on
	case !a.reserve(1, true): // every free block is promised to somebody
		return 0, ErrNoSpace
	default:
		if err := a.takenLocked(b, 1); err != nil {
			return 0, err
		}
	}
	a.bad[b] = false
	return was, nil
}

// unretire takes back what retire or markBad did.
func (a *allocator) unretire(b format.Block, was wasState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.bad, b)
	switch was {
	case wasFree:
		a.freeNowLocked(b, 1)
	case wasDying:
		a.setDyingLocked(b, true)
	case wasInFile:
		a.bad[b] = true
	}
}

// setDyingLocked says whether a freed block still waits for T5: it stands in a
// list of pending, which settle reads without those that are bad.
func (a *allocator) setDyingLocked(b format.Block, dying bool) {
	eachWord(b, 1, func(i format.Block, c, w int, mask uint64) {
		if dying {
			a.laterOf(i).dying[c][w] |= mask
			a.dying++
		} else {
			a.laterOf(i).dying[c][w] &^= mask
			a.dying--
		}
	})
}

// markBad notes that b, which is in use, is bad; fresh tells whether that is new.
func (a *allocator) markBad(b format.Block) (fresh bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch _, bad := a.bad[b]; {
	case bad:
		return false, nil
	case !a.inRangeLocked(b, 1):
		return false, ErrBadRange
	case !a.isLiveLocked(b, 1):
		return false, ErrBadFree
	}
	a.bad[b] = true
	return true, nil
}

// badIn lists the bad blocks of [b, b+n), ascending.
func (a *allocator) badIn(b format.Block, n uint64) []format.Block {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.badInLocked(b, n)
}

func (a *allocator) badInLocked(b format.Block, n uint64) (list []format.Block) {
	switch {
	case len(a.bad) == 0:
		return nil
	case n < uint64(len(a.bad)):
		for x := b; x < b+format.Block(n); x++ {
			if _, bad := a.bad[x]; bad {
				list = append(list, x)
			}
		}
		return list
	}
	for x := range a.bad {
		if x >= b && uint64(x-b) < n {
			list = append(list, x)
		}
	}
	slices.Sort(list)
	return list
}

// freeDyingLocked frees a run that waited for T5, but for blocks that turned
// out to be bad meanwhile. It returns how many it freed.
func (a *allocator) freeDyingLocked(r run) uint64 {
	if len(a.bad) == 0 {
		a.freeNowLocked(r.start, r.n)
		return r.n
	}
	bad := a.badInLocked(r.start, r.n)
	eachRunBetween(r, bad, a.freeNowLocked)
	return r.n - uint64(len(bad))
}

// eachRunBetween calls fn for the parts of r that lie between some of its
// blocks, ascending.
func eachRunBetween(r run, without []format.Block, fn func(b format.Block, n uint64)) {
	at, end := r.start, r.start+format.Block(r.n)
	for _, x := range without {
		if x > at {
			fn(at, uint64(x-at))
		}
		at = x + 1
	}
	if end > at {
		fn(at, uint64(end-at))
	}
}

// freeData frees [b, b+n) for FreeData, and retires the bad blocks in it.
func (t *Tx) freeData(b format.Block, n uint64) error {
	var failed error
	bad := t.s.alloc.badIn(b, n)
	eachRunBetween(run{b, n}, bad, func(b format.Block, n uint64) {
		if err := t.s.alloc.freeData(b, n, t.gen); err != nil {
			failed = errors.Join(failed, err)
			return
		}
		t.s.counters.data.Add(-n)
	})
	for _, x := range bad {
		failed = errors.Join(failed, t.RetireBlock(x))
	}
	return failed
}

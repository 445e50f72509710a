package tree

import (
	"context"
	"errors"
	"fmt"

	"permafrost/core/format"
)

// Reserve says what a transaction may need at most (T10). What it does not use
// returns when it ends.
type Reserve struct {
	Nodes      int // tree nodes: see Store.NodesFor
	DataBlocks int // blocks of file data
	// Emergency lets the transaction use the blocks kept for what makes room or
	// must not fail: unlink, truncate, freeze, the time stamps of a mapping.
	Emergency bool
}

// Tx is a transaction: everything done through it lands in one commit. It
// belongs to one goroutine.
type Tx struct {
	s       *Store
	gen     format.Generation // its group; immutable
	nodes   int64             // reserved and not used yet
	data    int64             // reserved and not used yet
	changed bool              // something was changed: an error is now T11
	seal    bool              // belongs to OnSeal
	ended   bool
}

// NodesFor is the greatest number of tree nodes that a transaction with that
// many Puts and Deletes can make, as the tree is now, for Reserve.Nodes.
func (s *Store) NodesFor(records int) int {
	s.treeMu.RLock()
	depth := int(s.root.Level) + 1
	s.treeMu.RUnlock()
	return worstNodes(records, depth)
}

// worstNodes is NodesFor in a tree of depth levels. A Put copies its path and may
// split every node of it; the tree may grow by a level meanwhile.
func worstNodes(records, depth int) int { return records*2*depth + 2 }

// Begin opens a transaction in the open group. It waits for a seal in
// progress, and commits first if the group is full (T6) or space is short.
// The calling goroutine must have no other transaction open.
//
// Errors: ErrNoSpace, ErrState, ErrReadOnly, ErrClosed.
func (s *Store) Begin(r Reserve) (*Tx, error) {
	need := int64(r.Nodes) + int64(r.DataBlocks)
	if r.Nodes < 0 || r.DataBlocks < 0 {
		return nil, fmt.Errorf("reserve %d nodes and %d data blocks: %w", r.Nodes, r.DataBlocks, ErrBadRecord)
	}
	reserve := s.reserveShared
	for try := 0; ; try++ {
		reserved, err := reserve(need, r.Emergency)
		if err != nil {
			return nil, err
		}
		gen, full := s.OpenGeneration(), s.openNodes.Load() >= maxGroupNodes
		switch {
		case reserved && !full:
			return &Tx{s: s, gen: gen, nodes: int64(r.Nodes), data: int64(r.DataBlocks)}, nil
		case reserved:
			s.alloc.release(need)
		case try > 2*keepCommits || !s.worthCommitting(need, r.Emergency):
			err = fmt.Errorf("reserve %d blocks: %w", need, ErrNoSpace)
		default:
			reserve = s.reserveAlone
		}
		s.groupMu.RUnlock()
		if err == nil {
			err = s.commitPast(context.Background(), gen)
		}
		if err != nil {
			return nil, err
		}
	}
}

// reserveShared reserves n blocks beside what others have reserved. Without an
// error groupMu is held, shared, whether there was room or not.
func (s *Store) reserveShared(n int64, emergency bool) (bool, error) {
	s.groupMu.RLock()
	if err := s.usableLocked(); err != nil {
		s.groupMu.RUnlock()
		return false, err
	}
	return s.alloc.reserve(n, emergency), nil
}

// reserveAlone is reserveShared at an instant when nobody has a transaction
// open: others reserve for the worst and use little of it, and however many of
// them come and go, what is kept for one emergency is there for this one. Who
// does this takes turns, until the transaction is open.
func (s *Store) reserveAlone(n int64, emergency bool) (bool, error) {
	s.shortMu.Lock()
	defer s.shortMu.Unlock()
	s.groupMu.Lock()
	reserved := s.alloc.reserve(n, emergency)
	s.groupMu.Unlock()
	s.groupMu.RLock()
	err := s.usableLocked()
	if err != nil {
		s.groupMu.RUnlock()
		if reserved {
			s.alloc.release(n)
		}
	}
	return reserved, err
}

// worthCommitting reports whether commits could make need blocks available:
// they wait for open transactions, whose reservations return, and let freed
// blocks go.
func (s *Store) worthCommitting(need int64, emergency bool) bool {
	if !emergency {
		need += s.alloc.floor.Load()
	}
	return s.alloc.couldHave() >= need
}

// End closes the transaction. Ending twice is harmless.
func (t *Tx) End() {
	if t.ended {
		return
	}
	t.ended = true
	t.s.alloc.release(t.nodes + t.data)
	if !t.seal {
		t.s.groupMu.RUnlock()
	}
}

// Generation is the group the transaction belongs to: what it changes is
// durable once WaitDurable for it returns.
func (t *Tx) Generation() format.Generation { return t.gen }

// touch notes a change.
func (t *Tx) touch() {
	t.changed = true
	if !t.s.dirty.Load() {
		t.s.dirty.Store(true)
	}
}

// failed is err, which ended an operation; if the transaction had changed
// something before, half of it must not be committed (T11).
func (t *Tx) failed(err error) error {
	if t.changed && !errors.Is(err, ErrState) {
		return t.s.fail(fmt.Errorf("a transaction failed half way: %w", err))
	}
	return err
}

// allocNode allocates a block for a node, reserved or, if the reservation was
// too small, from what is available.
func (t *Tx) allocNode() (format.Block, error) {
	if t.nodes == 0 && !t.s.alloc.reserve(1, true) {
		return 0, ErrNoSpace
	}
	b, err := t.s.alloc.node()
	if err != nil {
		if t.nodes == 0 {
			t.s.alloc.release(1)
		}
		return 0, err
	}
	if t.nodes > 0 {
		t.nodes--
	}
	return b, nil
}

// AllocData allocates one run of 1 to n blocks for file data: next to hint if
// there is room, 2 MiB-aligned for 512 blocks and more. Call it again for the
// rest. The blocks' content is undefined.
//
// Errors: ErrNoSpace if nothing is reserved any more and the image is full,
// ErrBadRange for n of 0, ErrEnded, ErrState.
func (t *Tx) AllocData(hint format.Block, n uint64) (format.Block, uint64, error) {
	switch {
	case t.ended:
		return 0, 0, fmt.Errorf("allocate %d blocks: %w", n, ErrEnded)
	case n == 0:
		return 0, 0, fmt.Errorf("allocate no blocks: %w", ErrBadRange)
	}
	a := t.s.alloc
	if t.data < int64(n) {
		// The reservation was too small: more of it, above the floor only.
		n = min(n, format.MaxImage/format.BlockSize)
		if more := int64(n) - t.data; a.reserve(more, false) {
			t.data += more
		}
	}
	n = min(n, uint64(t.data))
	if n == 0 {
		return 0, 0, fmt.Errorf("allocate data: %w", ErrNoSpace)
	}
	r, err := a.data(hint, n, t.gen)
	if err != nil {
		if !errors.Is(err, ErrNoSpace) {
			err = t.s.fail(err)
		}
		return 0, 0, fmt.Errorf("allocate %d blocks: %w", n, err)
	}
	t.data -= int64(r.n)
	t.s.counters.data.Add(r.n)
	t.touch()
	return r.start, r.n, nil
}

// FreeData frees n blocks from b on. They are used again at once if they were
// allocated in the open group, else when T5 allows; bad blocks among them are
// retired instead. A block that is not in use is the ERROR state (T11).
func (t *Tx) FreeData(b format.Block, n uint64) {
	if n == 0 || t.ended {
		return
	}
	t.touch()
	if err := t.freeData(b, n); err != nil {
		_ = t.s.fail(err) // told by the next Begin, Commit or Err
	}
}

// NextIno takes the next inode number; it is never given again (T9).
func (t *Tx) NextIno() format.Ino {
	t.touch()
	return format.Ino(t.s.counters.nextIno.Add(1) - 1)
}

// AddInodes changes the number of inodes.
func (t *Tx) AddInodes(delta int) {
	t.touch()
	t.s.counters.inodes.Add(uint64(delta))
}

// Counters are the tree's counters as they are now.
func (s *Store) Counters() format.Counters { return s.counters.get() }

// Space is how the image's blocks are used.
type Space struct {
	TotalBlocks uint64 // of the image
	Used        uint64 // by nodes, data and the fixed part
	Free        uint64 // not in use
	Reserved    uint64 // part of Free: promised to open transactions
	Kept        uint64 // part of Free: for emergency transactions only
	PendingFree uint64 // part of Used: freed, reusable after the next commits
}

// Space is the state of the image's blocks. A read-only store counts what the
// mounted commit uses.
func (s *Store) Space() Space {
	if s.alloc == nil {
		c := &s.mount.commit
		used := c.Counters.Nodes + c.Counters.Data + uint64(s.super.First)
		return Space{TotalBlocks: uint64(s.super.Blocks), Used: used, Free: uint64(s.super.Blocks) - used}
	}
	a := s.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	return Space{
		TotalBlocks: uint64(a.total),
		Used:        uint64(a.total) - a.free,
		Free:        a.free,
		Reserved:    uint64(max(int64(a.free)-a.avail.Load(), 0)),
		Kept:        uint64(a.floor.Load()),
		PendingFree: a.dying,
	}
}

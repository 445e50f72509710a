package tree

import (
	"context"
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/pmem"
	"permafrost/pmem/plant"
)

// CommitOptions direct Commit.
type CommitOptions struct {
	// FreezeID marks the commit record as a freeze's final commit. If it is not
	// 0 a record is written even if nothing changed.
	FreezeID uint64
}

// sealedGroup is what commit makes durable.
type sealedGroup struct {
	*group
	root     format.Root // its CRC is a handle if it was born in the group
	counters format.Counters
	freezeID uint64
	rec      format.CommitRecord // made by write
}

// errNothing: the group has no changes and nobody insists on a record.
var errNothing = errors.New("nothing to commit")

// Commit seals the open group and makes it durable, and returns the newest
// durable generation. Without changes and FreezeID it does nothing. It waits
// for open transactions and, while ctx lasts, for a commit in progress.
//
// Errors: ErrState (the first failed commit is that state's cause),
// ErrReadOnly, ErrClosed, ctx's.
func (s *Store) Commit(ctx context.Context, o CommitOptions) (format.Generation, error) {
	if err := s.lockCommit(ctx); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	defer s.unlockCommit()
	// Once more with the right to commit in hand: a freeze that was given up
	// while it waited must not write into the image of the next one.
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	if err := s.commitLocked(o.FreezeID, o.FreezeID != 0); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	return s.DurableGeneration(), nil
}

// WaitDurable returns when generation g is durable. The first caller commits on
// its own goroutine; others who come meanwhile share the next commit. A group
// without changes is as durable as the one before it.
//
// Errors: ErrState, ErrReadOnly, ErrClosed, ctx's, and an error for a
// generation that is not begun yet.
func (s *Store) WaitDurable(ctx context.Context, g format.Generation) error {
	if open := s.OpenGeneration(); g > open {
		return fmt.Errorf("wait for generation %d: the newest is %d", g, open)
	}
	for s.DurableGeneration() < g {
		lead, err := s.leadOrFollow(ctx, g)
		if lead {
			err = s.commitUpTo(g)
			s.unlockCommit()
		}
		if err != nil {
			return fmt.Errorf("wait for generation %d: %w", g, err)
		}
		if lead {
			return nil
		}
	}
	return nil
}

// leadOrFollow waits until the caller may commit (lead: it holds commitSem) or
// something was published.
func (s *Store) leadOrFollow(ctx context.Context, g format.Generation) (lead bool, err error) {
	select {
	case s.commitSem <- struct{}{}:
		return true, nil
	default:
	}
	// The channel comes before the second look, so that no publish is missed.
	published := s.nextPublish()
	if s.DurableGeneration() >= g {
		return false, nil
	}
	if err := s.Failed(); err != nil {
		return false, stateError(err)
	}
	select {
	case s.commitSem <- struct{}{}:
		return true, nil
	case <-published:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// commitUpTo makes g durable. Needs commitSem, so no group is sealed: g is
// durable already or it is open.
func (s *Store) commitUpTo(g format.Generation) error {
	if s.DurableGeneration() >= g {
		return nil
	}
	return s.commitLocked(0, false)
}

// commitPast writes a record for generation gen even if nothing changed in it,
// unless that has been done: it makes T5 let blocks go.
func (s *Store) commitPast(ctx context.Context, gen format.Generation) error {
	if err := s.lockCommit(ctx); err != nil {
		return err
	}
	defer s.unlockCommit()
	if s.OpenGeneration() > gen {
		return nil
	}
	return s.commitLocked(0, true)
}

func (s *Store) lockCommit(ctx context.Context) error {
	select {
	case s.commitSem <- struct{}{}:
		return nil
	default:
	}
	select {
	case s.commitSem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) unlockCommit() { <-s.commitSem }

// nextPublish is closed when a generation becomes durable or the store fails.
func (s *Store) nextPublish() <-chan struct{} {
	s.pubMu.Lock()
	defer s.pubMu.Unlock()
	if s.pubWake == nil {
		s.pubWake = make(chan struct{})
	}
	return s.pubWake
}

// wake tells everybody who waits for a publish to look again.
func (s *Store) wake() {
	s.pubMu.Lock()
	defer s.pubMu.Unlock()
	if s.pubWake != nil {
		close(s.pubWake)
		s.pubWake = nil
	}
}

// commitLocked is the commit protocol (T3). Needs commitSem.
func (s *Store) commitLocked(freezeID uint64, force bool) error {
	g, err := s.seal(freezeID, force)
	if errors.Is(err, errNothing) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.write(g, nil); err != nil {
		s.met(err)
		return s.fail(fmt.Errorf("commit of generation %d: %w", g.gen, err))
	}
	s.publish(g)
	return nil
}

// seal ends the open group and begins the next. It waits for the transactions
// that are open. Needs commitSem.
//
// Errors: errNothing, ErrState, ErrReadOnly, ErrClosed.
func (s *Store) seal(freezeID uint64, force bool) (*sealedGroup, error) {
	s.groupMu.Lock()
	defer s.groupMu.Unlock()
	if err := s.sealableLocked(); err != nil {
		return nil, err
	}
	return s.sealLocked(freezeID, force)
}

// sealLocked is seal. Needs groupMu exclusively.
func (s *Store) sealLocked(freezeID uint64, force bool) (*sealedGroup, error) {
	if s.o.OnSeal != nil && !plant.On(plant.Deferred) {
		tx := &Tx{s: s, gen: s.OpenGeneration(), seal: true}
		err := s.o.OnSeal(tx)
		tx.End()
		if err != nil {
			return nil, s.fail(fmt.Errorf("write the deferred records: %w", err))
		}
	}
	if f := s.Failed(); f != nil {
		return nil, stateError(f)
	}
	if !s.dirty.Load() && !force {
		return nil, errNothing
	}
	s.treeMu.Lock()
	defer s.treeMu.Unlock()
	g := &s.sealing
	*g = sealedGroup{group: s.open, root: s.root, counters: s.counters.get(), freezeID: freezeID}
	s.sealed = s.open
	s.open = s.spare
	s.open.gen, s.spare = g.gen+1, nil
	s.openGen.Store(uint64(g.gen + 1))
	s.openNodes.Store(0)
	s.dirty.Store(false)
	return g, nil
}

// write makes a sealed group durable: nodes, fence, slot, fence. save, if not
// nil, writes the allocator's snapshot in between and completes the record.
// Needs commitSem.
func (s *Store) write(g *sealedGroup, save func(b pmem.Batch, rec *format.CommitRecord) error) error {
	rec := &g.rec
	*rec = format.CommitRecord{
		Generation: g.gen,
		FreezeID:   g.freezeID,
		// Carried on by every commit, so that it outlives the ring's turn.
		LastFreezeID: max(s.last.LastFreezeID, g.freezeID),
		TimeNS:       s.now().UnixNano(),
		Blocks:       s.super.Blocks,
		Counters:     g.counters,
	}
	b := s.m.Begin()
	defer b.End()
	root, err := s.writeRoot(b, g)
	if err != nil {
		return err
	}
	rec.Roots[0] = root
	if save != nil {
		if err := save(b, rec); err != nil {
			return err
		}
	}
	if plant.On(plant.RecordFirst) {
		if err := s.recordFirst(rec); err != nil {
			return err
		}
	}
	if !plant.On(plant.NodeFence) {
		if err := b.Fence(); err != nil {
			return fmt.Errorf("fence of the nodes: %w", err)
		}
	}
	if err := writeSlot(b, &s.super, rec); err != nil {
		return err
	}
	if plant.On(plant.RecordFence) {
		return nil
	}
	if err := b.Fence(); err != nil {
		return fmt.Errorf("fence of the commit record: %w", err)
	}
	return nil
}

// recordFirst is the planted fault of that name.
func (s *Store) recordFirst(rec *format.CommitRecord) error {
	b := s.m.Begin()
	defer b.End()
	return errors.Join(writeSlot(b, &s.super, rec), b.Fence())
}

// slotBlock is the ring's block for generation g.
func slotBlock(sb *format.Superblock, g format.Generation) format.Block {
	return sb.Ring + format.Block(uint64(g)%uint64(sb.Slots))
}

// writeSlot stores a commit record in its slot.
func writeSlot(b pmem.Batch, sb *format.Superblock, rec *format.CommitRecord) error {
	var buf [format.CommitSize]byte
	rec.Encode(&buf)
	if err := b.Write(int64(slotBlock(sb, rec.Generation))*format.BlockSize, buf[:]); err != nil {
		return fmt.Errorf("write the commit record: %w", err)
	}
	return nil
}

// writeRoot stores every node of the group and returns the root as the commit
// record has it.
func (s *Store) writeRoot(b pmem.Batch, g *sealedGroup) (root format.Root, err error) {
	prev := pmem.CatchFaults()
	defer pmem.Caught(prev, s.m, &err)
	root = g.root
	w := nodeWriter{s: s, b: b, g: g.group}
	defer w.release()
	if root.Birth == g.gen {
		root.CRC, err = w.write(g.nodes[root.CRC])
	} else {
		root.CRC = w.stored(root.Ptr) // it may be a handle without meaning (T12)
	}
	return root, err
}

// nodeWriter stores the nodes of a sealed group, children first.
type nodeWriter struct {
	s       *Store
	b       pmem.Batch
	g       *group
	scratch [format.MaxLevel + 1]*format.Node // by level
}

// release gives the scratch pages back.
func (w *nodeWriter) release() {
	for _, page := range w.scratch {
		if page != nil {
			pages.Put(page)
		}
	}
}

// write stores n and everything below it that was born in the group, and
// returns n's checksum. n itself is not changed (T3).
func (w *nodeWriter) write(n *heapNode) (uint32, error) {
	level := n.page.Level()
	page := w.scratch[level]
	if page == nil {
		page = pages.Get().(*format.Node)
		w.scratch[level] = page
	}
	*page = *n.page
	if level > 0 {
		if err := w.children(n, page); err != nil {
			return 0, err
		}
	}
	crc := page.Seal()
	b := page.Block()
	if err := w.b.Write(int64(b)*format.BlockSize, page[:]); err != nil {
		return 0, fmt.Errorf("write tree node to block %d: %w", b, err)
	}
	return crc, nil
}

// children stores the children of n that were born in the group, and replaces
// handles in page, a copy of n, by checksums (T12).
func (w *nodeWriter) children(n *heapNode, page *format.Node) error {
	for i := range page.Count() {
		birth := page.ChildBirth(i)
		switch {
		case birth == w.g.gen:
			p := page.Child(i)
			crc, err := w.write(w.g.nodes[p.CRC])
			if err != nil {
				return err
			}
			p.CRC = crc
			page.SetChild(i, p)
		case n.stale != 0 && birth >= n.stale:
			p := page.Child(i)
			p.CRC = w.stored(p)
			page.SetChild(i, p)
		}
	}
	return nil
}

// stored is the checksum in the durable node that p points to. s.base changes
// only under commitSem, which the writer holds.
func (w *nodeWriter) stored(p format.Ptr) uint32 {
	off := uint64(p.Block) * format.BlockSize
	return (*format.Node)(w.s.base[off : off+format.BlockSize]).Sum()
}

// publish ends the sealed group: its nodes are read from the image from now
// on. Needs commitSem.
func (s *Store) publish(g *sealedGroup) {
	s.treeMu.Lock()
	s.spare, s.sealed = s.sealed, nil
	s.spare.nodes = s.pool.giveAll(s.spare.nodes)
	s.treeMu.Unlock()
	s.last = g.rec
	s.setNewest(&g.rec)
	s.freezeID.Store(g.freezeID)
	s.durable.Store(uint64(g.gen))
	s.alloc.settle(g.gen)
	s.wake()
}

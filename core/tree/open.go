package tree

import (
	"context"
	"errors"
	"fmt"
	"time"

	"permafrost/core/format"
	"permafrost/pmem"
)

// Open mounts the newest commit of m whose root is whole, and rebuilds or loads
// the allocator. Unless read-only it then writes two records of the same tree
// (see settle). The store does not own m: close m after the store.
//
// Errors: format.ErrNotOurs, ErrNewerFormat, ErrTruncated, ErrTooSmall,
// ErrDamaged; *pmem.MediaError.
func Open(m pmem.Medium, o Options) (*Store, error) {
	s, err := open(m, o)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	return s, nil
}

func open(m pmem.Medium, o Options) (*Store, error) {
	start := time.Now() // how long it takes is told, not stored
	im, err := readImage(m)
	if err != nil {
		return nil, err
	}
	if x := im.super.ReadOnlyOnly(); x != 0 && !o.ReadOnly {
		return nil, fmt.Errorf("features %#x: open it read-only, or: %w", x, format.ErrNewerFormat)
	}
	s := &Store{
		m: m, o: o, now: o.Now, super: *im.super,
		wakeup:    make(chan struct{}, 1),
		commitSem: make(chan struct{}, 1),
		base:      m.Bytes(0, int64(im.super.Blocks)*format.BlockSize),
		verified:  newVerifiedMap(im.super.Blocks),
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.mount.superCopy = im.superCopy
	if err := s.mountNewest(im); err != nil {
		return nil, err
	}
	if !o.ReadOnly {
		if err := roomToCount(im.super, &s.mount.commit); err != nil {
			return nil, err
		}
		if err := s.readAllocator(); err != nil {
			return nil, err
		}
		if err := s.settle(im.newest); err != nil {
			return nil, err
		}
	}
	s.loadBadBlocks()
	s.mount.recovery = time.Since(start)
	return s, nil
}

// mountNewest takes the newest commit whose root is whole.
func (s *Store) mountNewest(im *image) error {
	var first error
	for _, rec := range im.commits {
		s.root = rec.Roots[0]
		err := s.verifyRoot()
		if err == nil {
			s.mount.commit = *rec
			for _, r := range im.commits { // those that the mount falls back over count as well
				if id := max(r.LastFreezeID, r.FreezeID); id <= format.MaxNumber-RoomToCount {
					s.mount.lastFreeze = max(s.mount.lastFreeze, id)
				}
			}
			s.mount.fellBack = int(im.newest - rec.Generation)
			s.last = *rec
			s.last.LastFreezeID = s.mount.lastFreeze
			s.setNewest(rec)
			s.counters.set(&rec.Counters)
			s.durable.Store(uint64(rec.Generation))
			s.freezeID.Store(rec.FreezeID)
			next := im.newest + 1
			if rec == im.commits[0] {
				next = rec.Generation + 1 // all that lies between is torn
			}
			s.open, s.spare = &group{gen: next}, &group{}
			s.openGen.Store(uint64(next))
			return nil
		}
		if first == nil {
			first = fmt.Errorf("root of generation %d: %w", rec.Generation, err)
		}
	}
	return first
}

func (s *Store) verifyRoot() (err error) {
	prev := pmem.CatchFaults()
	defer pmem.Caught(prev, s.m, &err)
	_, err = s.media(s.root.Ptr, int(s.root.Level))
	return err
}

// settle commits the mounted tree twice more, without nodes. From then on the
// two commits that the next mount may fall back to are the mounted one, and
// blocks that only its predecessors used may be reused (T5). It also makes the
// snapshot of a clean unmount void before the first change.
//
// Records that a power cut has torn, up to generation newest, are written over
// first, in order: a power cut in the middle of that tears again what was torn
// before, so that crash upon crash never leaves more of them behind the newest
// whole record than one commit under way can.
func (s *Store) settle(newest format.Generation) error {
	b := s.m.Begin()
	defer b.End()
	rec := s.mount.commit
	rec.LastFreezeID = s.mount.lastFreeze
	rec.FreezeID, rec.Clean, rec.Snapshot, rec.SnapshotPages = 0, false, 0, 0
	rec.Generation = s.open.gen - 1
	for n := 0; n < keepCommits || rec.Generation < newest; n++ {
		rec.Generation++
		rec.TimeNS = s.now().UnixNano()
		if err := writeSlot(b, &s.super, &rec); err != nil {
			return err
		}
		if err := b.Fence(); err != nil {
			return fmt.Errorf("fence of the first commit records: %w", err)
		}
	}
	s.last = rec
	s.setNewest(&rec)
	s.freezeID.Store(0)
	s.durable.Store(uint64(rec.Generation))
	s.openGen.Store(uint64(rec.Generation + 1))
	s.open.gen = rec.Generation + 1
	return nil
}

// Close commits what is open, together with the allocator's snapshot, and lets
// go of the medium. It waits for open transactions and, while ctx lasts, for a
// commit in progress. In the ERROR state nothing is written. Only a Close that
// fails for ctx may be repeated.
//
// Errors: as Commit.
func (s *Store) Close(ctx context.Context) error {
	if err := s.lockCommit(ctx); err != nil {
		return fmt.Errorf("close image: %w", err)
	}
	defer s.unlockCommit()
	err := s.closeLocked()
	s.treeMu.Lock()
	s.gone = true
	s.treeMu.Unlock()
	s.wake()
	if err != nil {
		return fmt.Errorf("close image: %w", err)
	}
	return nil
}

// closeLocked is the last commit. Needs commitSem.
func (s *Store) closeLocked() error {
	s.groupMu.Lock()
	defer s.groupMu.Unlock()
	err := s.sealableLocked()
	s.closed = true
	if errors.Is(err, ErrReadOnly) {
		return nil
	}
	if err != nil {
		return err
	}
	g, err := s.sealLocked(0, true)
	if err != nil {
		return err
	}
	save := s.saveAllocator
	if s.harm.first() != nil {
		save = nil // so that the next mount walks the tree, and finds the damage
	}
	if err := s.write(g, save); err != nil {
		s.met(err)
		return s.fail(fmt.Errorf("commit of generation %d: %w", g.gen, err))
	}
	s.publish(g)
	if err := s.harm.first(); err != nil {
		return stateError(err)
	}
	return nil
}

// Grow makes the image size bytes large, growing the medium first if it is
// smaller. It waits for a commit in progress while ctx lasts.
//
// Errors: format.ErrTooLarge, ErrBadRange for less than there is, ErrState,
// ErrReadOnly, ErrClosed, ctx's, the medium's.
func (s *Store) Grow(ctx context.Context, size int64) error {
	if err := s.lockCommit(ctx); err != nil {
		return fmt.Errorf("grow image: %w", err)
	}
	defer s.unlockCommit()
	s.groupMu.RLock()
	err := s.usableLocked()
	s.groupMu.RUnlock()
	if err == nil {
		err = s.growLocked(size)
	}
	if err != nil {
		return fmt.Errorf("grow image to %d bytes: %w", size, err)
	}
	return nil
}

// growLocked is Grow. The superblocks tell the new size before a block beyond
// the old one is given away. Needs commitSem.
func (s *Store) growLocked(size int64) error {
	sb := s.super
	blocks := format.Block(size / format.BlockSize)
	switch {
	case size > format.MaxImage:
		return format.ErrTooLarge
	case size < 0 || blocks < sb.Blocks:
		return fmt.Errorf("it has %d blocks: %w", sb.Blocks, ErrBadRange)
	case blocks == sb.Blocks:
		return nil
	}
	if s.m.Size() < size {
		if err := s.m.Grow(size); err != nil {
			return err
		}
	}
	sb.Blocks = blocks
	b := s.m.Begin()
	defer b.End()
	if err := writeSuperblocks(b, &sb); err != nil {
		return s.fail(err)
	}
	s.treeMu.Lock()
	s.super = sb
	s.base = s.m.Bytes(0, int64(blocks)*format.BlockSize)
	s.verified = s.verified.grown(blocks)
	s.treeMu.Unlock()
	s.alloc.mu.Lock()
	s.alloc.extendLocked(blocks)
	s.alloc.mu.Unlock()
	return nil
}

package tree

import (
	"context"
	"fmt"

	"permafrost/core/format"
)

// Scrub reads the metadata of a store in use from the medium, and verifies it: both
// superblocks, the newest commit record, and every node of the durable tree. It
// holds no lock from one step to the next, and pins nothing: its place is a key,
// and each step goes on there in the tree that is durable by then. So every
// node that stands in the tree during the whole walk is read.
//
// A node is read without a lock, too. Should it not be what its pointer says, it
// may have been freed meanwhile and its block used again; but not before
// generation g + keepCommits + 1 is durable, where g is the commit that the step
// began with (T5). A node found bad before that is bad.
//
// It is used by one goroutine.
type Scrub struct {
	s     *Store
	at    Key // every node that lies below it has been read
	fixed bool
	done  bool
	Nodes uint64 // read so far
	Found uint64 // of them damaged

	newest  [format.MaxLevel + 1]Key // first key of the node counted last, by level
	counted [format.MaxLevel + 1]bool

	// Of the step:
	gen    format.Generation
	first  format.Block // first block of the image that may hold a node
	blocks format.Block // size of the image
	left   int          // nodes that may be read still
	read   int          // nodes read, again or for the first time
	stale  bool         // the tree of gen has been given up since
	pages  [format.MaxLevel + 1]format.Node
}

// newestRoot is the root of the newest durable commit.
type newestRoot struct {
	gen  format.Generation
	root format.Root
}

func (s *Store) setNewest(rec *format.CommitRecord) {
	s.newestMu.Lock()
	s.newest = newestRoot{rec.Generation, rec.Roots[0]}
	s.newestMu.Unlock()
}

// NewScrub begins a walk.
func (s *Store) NewScrub() *Scrub { return &Scrub{s: s} }

// scrubPatience is how often in a row a step may find its tree given up before
// commits have to wait for the next one.
const scrubPatience = 3

// Step reads about n nodes, and returns how many it read, and whether the walk
// has ended. What is damaged is noted in the store (T14, Damages), and the walk
// goes on behind it.
//
// Errors: ErrClosed, ctx's.
func (sc *Scrub) Step(ctx context.Context, n int) (read int, done bool, err error) {
	if sc.done {
		return 0, true, nil
	}
	sc.read = 0
	if !sc.fixed {
		if err := sc.fixedPlaces(ctx); err != nil {
			return 0, false, fmt.Errorf("scrub: %w", err)
		}
		sc.fixed = true
	}
	for try := 1; ; try++ {
		if try > scrubPatience {
			if err := sc.s.lockCommit(ctx); err != nil {
				return sc.read, false, fmt.Errorf("scrub: %w", err)
			}
			defer sc.s.unlockCommit()
		}
		if err := sc.walk(n); err != nil || !sc.stale {
			return sc.read, sc.done, err
		}
	}
}

// Of is about how many nodes the walk will have read in the end.
func (sc *Scrub) Of() uint64 { return max(sc.s.counters.nodes.Load(), sc.Nodes) }

// walk reads nodes from sc.at on.
func (sc *Scrub) walk(n int) error {
	s := sc.s
	s.newestMu.Lock()
	at := s.newest
	s.newestMu.Unlock()
	s.treeMu.RLock()
	gone := s.gone
	sc.first, sc.blocks = s.super.First, s.super.Blocks
	s.treeMu.RUnlock()
	if gone {
		return fmt.Errorf("scrub: %w", ErrClosed)
	}
	sc.gen, sc.stale = at.gen, false
	sc.left = max(n, int(at.root.Level)+2) // a path and one more, to get on
	if at.root.Birth > at.gen {
		sc.found(damaged(at.root.Block, "root of generation %d in a commit of %d", at.root.Birth, at.gen))
	}
	sc.done = sc.node(at.root.Ptr, int(at.root.Level), Key{}, format.MaxKey, true)
	return nil
}

// node reads the node that p points to, whose keys lie in [low, high), and what
// lies below it from sc.at on; false: the step ends here.
func (sc *Scrub) node(p format.Ptr, level int, low, high Key, root bool) (more bool) {
	if sc.left == 0 {
		return false
	}
	sc.left--
	sc.read++
	n := &sc.pages[level]
	err := sc.verify(p, level, n, low, high, root)
	if err != nil && sc.s.DurableGeneration() > sc.gen+keepCommits {
		sc.stale = true
		return false
	}
	sc.count(level, low)
	if err != nil {
		sc.found(err)
		sc.at = high
		return true
	}
	if level == 0 {
		sc.at = high
		return true
	}
	if sc.at.Less(n.Key(0)) {
		sc.at = n.Key(0) // nothing lies before it (T13)
	}
	for i := range n.Count() {
		upper := high
		if i+1 < n.Count() {
			upper = n.Key(i + 1)
		}
		if !sc.at.Less(upper) {
			continue
		}
		if !sc.node(n.Child(i), level-1, n.Key(i), upper, false) {
			return false
		}
	}
	return true
}

// count counts a node when it is met first. An inner node is met again by each
// step that goes on below it: it begins before the step's place then, or at it
// if the step before had not got to a child.
func (sc *Scrub) count(level int, low Key) {
	if low.Less(sc.at) || sc.counted[level] && sc.newest[level] == low {
		return
	}
	sc.counted[level], sc.newest[level] = true, low
	sc.Nodes++
}

// verify copies a node from the medium and looks at all of its rules.
func (sc *Scrub) verify(p format.Ptr, level int, n *format.Node, low, high Key, root bool) error {
	if p.Block < sc.first || p.Block >= sc.blocks {
		return damaged(p.Block, "a child pointer leads outside the image")
	}
	if _, err := sc.s.m.ReadAt(n[:], int64(p.Block)*format.BlockSize); err != nil {
		return fmt.Errorf("read tree node: %w", err)
	}
	if err := n.Verify(p, level); err != nil {
		return err
	}
	count := n.Count()
	switch {
	case count == 0 && !root:
		return damaged(p.Block, "an empty leaf that is not the root")
	case count > 0 && (n.Key(0).Less(low) || !n.Key(count-1).Less(high)):
		return damaged(p.Block, "keys %v to %v lie outside %v to %v", n.Key(0), n.Key(count-1), low, high)
	}
	return nil
}

// found takes note of damage. Lookups verify the block again from now on: they
// answer with an error where they would have used what it holds now.
func (sc *Scrub) found(err error) {
	sc.Found++
	sc.s.met(fmt.Errorf("scrub: %w", err))
	if b, ok := DamagedBlock(err); ok {
		sc.s.treeMu.RLock()
		sc.s.verified.unset(b)
		sc.s.treeMu.RUnlock()
	}
}

// fixedPlaces verifies the superblocks and the newest commit record. Commits
// wait for it, for they write there.
func (sc *Scrub) fixedPlaces(ctx context.Context) error {
	s := sc.s
	if err := s.lockCommit(ctx); err != nil {
		return err
	}
	defer s.unlockCommit()
	s.treeMu.RLock()
	gone := s.gone
	s.treeMu.RUnlock()
	if gone {
		return ErrClosed
	}
	for i := range format.Block(format.SuperblockCopies) {
		switch sb, err := superblockAt(s.m, i); {
		case err != nil && i == 0 && s.mount.superCopy: // known since the mount, which goes by the copy
		case err != nil:
			sc.found(inBlock(i, err))
		case *sb != s.super:
			sc.found(damaged(i, "the superblock is not the one that was mounted"))
		}
	}
	var buf [format.CommitSize]byte
	b := slotBlock(&s.super, s.last.Generation)
	if _, err := s.m.ReadAt(buf[:], int64(b)*format.BlockSize); err != nil {
		sc.found(fmt.Errorf("read the commit record: %w", err))
		return nil
	}
	switch rec, err := format.DecodeCommit(b, &buf); {
	case err != nil:
		sc.found(inBlock(b, err))
	case rec.Generation != s.last.Generation || rec.Roots[0] != s.last.Roots[0]:
		sc.found(damaged(b, "the commit record is not the newest one"))
	}
	return nil
}

// inBlock is err as damage to block b, if it does not say so itself.
func inBlock(b format.Block, err error) error {
	if _, ok := DamagedBlock(err); ok {
		return err
	}
	return damaged(b, "%v", err)
}

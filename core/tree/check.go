package tree

import (
	"context"
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/pmem"
)

// maxProblems is how many problems a report lists; the rest are counted.
const maxProblems = 1000

// CheckOptions direct a check.
type CheckOptions struct {
	// Extents as in Options.
	Extents func(k Key, v []byte, used func(b format.Block, n uint64))
	// Visit is called for every readable record in ascending order; an error is
	// a problem of that record. Nil: records are not looked into.
	Visit func(k Key, v []byte) error
	// Progress is called now and then with the nodes visited so far and in all.
	Progress func(done, total uint64)
}

// Problem is one broken rule.
type Problem struct {
	Block format.Block // where, or 0
	Key   Key          // which record, or the zero key
	What  string
}

// String says it in one line.
func (p Problem) String() string {
	switch {
	case p.Key != Key{}:
		return fmt.Sprintf("record %v in block %d: %s", p.Key, p.Block, p.What)
	case p.Block != 0:
		return fmt.Sprintf("block %d: %s", p.Block, p.What)
	}
	return p.What
}

// Report is what a check found.
type Report struct {
	Generation format.Generation
	FreezeID   uint64
	Clean      bool // the commit of a clean unmount
	Depth      int
	Counters   format.Counters // as the commit has them
	Nodes      uint64          // visited
	Records    uint64
	Data       uint64         // blocks owned by records
	Torn       []format.Block // slots of the ring that hold neither a whole commit nor nothing
	Mended     []format.Block // slots of which one bit is wrong: as good as whole
	Problems   []Problem
	More       uint64 // problems beyond those listed
}

// Err is nil if there is no problem, else format.ErrDamaged with the first.
func (r *Report) Err() error {
	if len(r.Problems) == 0 {
		return nil
	}
	return fmt.Errorf("%d problems, the first: %v: %w", uint64(len(r.Problems))+r.More, r.Problems[0], format.ErrDamaged)
}

func (r *Report) add(b format.Block, k Key, form string, args ...any) {
	if len(r.Problems) == maxProblems {
		r.More++
		return
	}
	r.Problems = append(r.Problems, Problem{Block: b, Key: k, What: fmt.Sprintf(form, args...)})
}

// Check verifies the newest commit of an image that nobody has open: fixed
// places, every node, the ownership of every block, the counters and the saved
// allocator. It reads only, and trusts nothing.
//
// The error says that nothing could be checked, as Open; what was found wrong
// is in the report.
func Check(m pmem.Medium, o CheckOptions) (*Report, error) {
	im, err := readImage(m)
	if err != nil {
		return nil, fmt.Errorf("check image: %w", err)
	}
	rec := im.commits[0]
	c := newChecker(m, im.super, rec, &o)
	for i := range format.Block(format.SuperblockCopies) {
		sb, err := superblockAt(m, i)
		switch {
		case errors.Is(err, format.ErrNotOurs): // its advice is for an image that has none at all
			c.r.add(i, Key{}, "superblock in block %d: its first bytes are damaged", i)
		case err != nil:
			c.r.add(i, Key{}, "superblock in block %d: %v", i, err)
		case *sb != *im.super:
			c.r.add(i, Key{}, "the superblocks differ")
		}
	}
	c.r.Torn, c.r.Mended = im.torn, im.mended
	for _, p := range im.unread { // no power cut does that
		c.r.add(p.Block, p.Key, "%s", p.What)
	}
	if im.newest > rec.Generation+1 {
		c.r.add(im.super.Ring, Key{}, "%d commit records behind generation %d are damaged", im.newest-rec.Generation, rec.Generation)
	}
	if err := roomToCount(im.super, rec); err != nil {
		c.r.add(slotBlock(im.super, rec.Generation), Key{}, "%v", err)
	}
	c.walk()
	if rec.Clean {
		saved, err := loadAllocator(m, im.super, rec)
		if err != nil {
			c.r.add(rec.Snapshot, Key{}, "saved allocator: %v", err)
		} else {
			c.compare(saved, true)
		}
	}
	return &c.r, nil
}

// Check verifies the newest durable commit while the store is in use, and that
// the allocator agrees with it. Commits wait for it, transactions do not until
// the open group is full. Commit first to have everything looked at. To a store
// with open changes only "nothing in use is free" is checked of the allocator.
//
// Errors: ErrClosed, ctx's; what was found wrong is in the report.
func (s *Store) Check(ctx context.Context, o CheckOptions) (*Report, error) {
	if err := s.lockCommit(ctx); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	defer s.unlockCommit()
	s.treeMu.RLock()
	gone := s.gone
	s.treeMu.RUnlock()
	if gone {
		return nil, fmt.Errorf("check: %w", ErrClosed)
	}
	if o.Extents == nil {
		o.Extents = s.o.Extents
	}
	c := newChecker(s.m, &s.super, &s.last, &o)
	c.walk()
	if s.alloc != nil && s.Err() == nil {
		s.groupMu.Lock()
		exact := !s.dirty.Load() && s.openNodes.Load() == 0
		s.alloc.mu.Lock()
		c.compare(s.alloc, exact)
		s.alloc.mu.Unlock()
		s.groupMu.Unlock()
	}
	return &c.r, nil
}

// checker walks one commit.
type checker struct {
	m       pmem.Medium
	sb      *format.Superblock
	rec     *format.CommitRecord
	o       *CheckOptions
	r       Report
	found   *allocator            // the blocks met
	again   map[format.Block]bool // nodes whose block had an owner before
	skipped bool                  // a subtree could not be read: counts mean nothing
	last    Key                   // last record met
	any     bool                  // last is valid
	pages   [format.MaxLevel + 1]format.Node
}

func newChecker(m pmem.Medium, sb *format.Superblock, rec *format.CommitRecord, o *CheckOptions) *checker {
	return &checker{
		m: m, sb: sb, rec: rec, o: o,
		found: newAllocator(sb.First, sb.Blocks),
		r: Report{
			Generation: rec.Generation, FreezeID: rec.FreezeID, Clean: rec.Clean,
			Depth: int(rec.Roots[0].Level) + 1, Counters: rec.Counters,
		},
	}
}

// walk visits the tree and compares the counters.
func (c *checker) walk() {
	root := c.rec.Roots[0]
	if root.Birth > c.rec.Generation {
		c.r.add(root.Block, Key{}, "root of generation %d in a commit of %d", root.Birth, c.rec.Generation)
	}
	c.node(root.Ptr, int(root.Level), Key{}, format.MaxKey, true)
	if c.skipped {
		return
	}
	want := &c.rec.Counters
	for _, x := range []struct {
		what      string
		got, want uint64
	}{
		{"nodes", c.r.Nodes, want.Nodes},
		{"records", c.r.Records, want.Records},
		{"data blocks", c.r.Data, want.Data},
	} {
		if x.got != x.want {
			c.r.add(0, Key{}, "the tree has %d %s, its commit says %d", x.got, x.what, x.want)
		}
	}
}

// node visits the node that p points to; its keys must lie in [low, high).
func (c *checker) node(p format.Ptr, level int, low, high Key, root bool) {
	n := &c.pages[level]
	if err := c.read(p, level, n); err != nil {
		c.skipped = true
		c.r.add(p.Block, Key{}, "%v", err)
		return
	}
	if err := c.found.markUsed(p.Block, 1, true); err != nil {
		c.r.add(p.Block, Key{}, "tree node: %v", err)
		// It may be here for the second time, and what is below it too, once for
		// every way that leads there: the third time ends it.
		if c.again[p.Block] {
			c.skipped = true
			return
		}
		if c.again == nil {
			c.again = make(map[format.Block]bool)
		}
		c.again[p.Block] = true
	}
	c.r.Nodes++
	if c.o.Progress != nil && c.r.Nodes%progressEvery == 0 {
		c.o.Progress(c.r.Nodes, c.rec.Counters.Nodes)
	}
	count := n.Count()
	if count == 0 && !root {
		c.r.add(p.Block, Key{}, "an empty leaf that is not the root")
		return
	}
	if count > 0 && (n.Key(0).Less(low) || !n.Key(count-1).Less(high)) {
		c.r.add(p.Block, Key{}, "keys %v to %v lie outside %v to %v", n.Key(0), n.Key(count-1), low, high)
	}
	if level == 0 {
		c.leaf(p.Block, n)
		return
	}
	for i := range count {
		upper := high
		if i+1 < count {
			upper = n.Key(i + 1)
		}
		c.node(n.Child(i), level-1, n.Key(i), upper, false)
	}
}

// read copies a node out of the image and verifies it.
func (c *checker) read(p format.Ptr, level int, n *format.Node) error {
	if p.Block < c.sb.First || p.Block >= c.sb.Blocks {
		return errors.New("a child pointer leads outside the image")
	}
	if _, err := c.m.ReadAt(n[:], int64(p.Block)*format.BlockSize); err != nil {
		return err
	}
	if err := n.Verify(p, level); err != nil {
		return err
	}
	return n.VerifyValues()
}

// leaf visits the records of a leaf.
func (c *checker) leaf(b format.Block, n *format.Node) {
	for i := range n.Count() {
		k, v := n.Key(i), n.Value(i)
		if c.any && !c.last.Less(k) {
			c.r.add(b, k, "does not follow %v", c.last)
		}
		c.last, c.any = k, true
		c.r.Records++
		owned(k, v, c.o.Extents, func(start format.Block, count uint64) {
			c.r.Data += count
			if err := c.found.markUsed(start, count, false); err != nil {
				c.r.add(b, k, "%v", err)
			}
		})
		if c.o.Visit != nil && (k.Ino != 0 || k.Kind != format.KindBadBlock) {
			if err := c.o.Visit(k, v); err != nil {
				c.r.add(b, k, "%v", err)
			}
		}
	}
}

// compare holds an allocator against what the walk met: nothing met may be
// free, and, if exact, nothing else may be in use.
func (c *checker) compare(a *allocator, exact bool) {
	if c.skipped {
		return
	}
	if a.total != c.found.total {
		c.r.add(0, Key{}, "the allocator knows %d blocks, the image has %d", a.total, c.found.total)
		return
	}
	var free, extra uint64
	var firstFree, firstExtra format.Block
	for b := format.Block(0); b < a.total; b += 64 {
		// Blocks freed since the commit are dying, and still belong to it.
		met, used := c.found.wordLocked(b, false), a.wordLocked(b, !exact)
		if x := met &^ used; x != 0 {
			note(&free, &firstFree, b, x)
		}
		if x := used &^ met; exact && x != 0 {
			note(&extra, &firstExtra, b, x)
		}
	}
	if free > 0 {
		c.r.add(firstFree, Key{}, "%d blocks in use are free to the allocator, this is the first", free)
	}
	if extra > 0 {
		c.r.add(firstExtra, Key{}, "%d blocks in use to the allocator belong to nobody, this is the first", extra)
	}
}

package tree

import (
	"context"
	"errors"
	"fmt"
	"time"

	"permafrost/core/format"
	"permafrost/pmem"
)

// Edit is a change that Rewrite makes to one record.
type Edit struct {
	Key    Key
	Value  []byte
	Delete bool // the record goes
}

// RewriteOptions direct Rewrite.
type RewriteOptions struct {
	Edits []Edit // strictly ascending by key
	// Extents as in Options: counts the blocks that records own.
	Extents func(k Key, v []byte, used func(b format.Block, n uint64))
	Records uint64     // how many readable records the edits were made for
	NextIno format.Ino // the new commit's counters
	Inodes  uint64
	// Keep is the blocks that nothing may be written to: those of the new tree's
	// records, and those that anybody might still want to read should this fail.
	Keep *BlockSet
	Now  func() time.Time // clock of the commit; nil: time.Now
	Node func()           // called for every node visited; may be nil
}

// ErrUnsteady: the image read differently the second time.
var ErrUnsteady = errors.New("the image does not read the same twice; copy it to a sound medium and repair the copy")

// Rewrite makes a commit of what can be read of the chosen one and the edits:
// leaves without an edit stay where they are, the others and all inner nodes
// are written to blocks outside Keep. What cannot be read is not part of it.
//
// Order: every node, fence, one commit record, fence: a crash in between
// leaves the file system as it was. Only then follow more records of the new tree:
// two, so that the next mount cannot fall back to another, and as many as it
// takes to write over every damaged slot. One that stayed would look like a
// newer commit when the ring comes round to it.
//
// Errors: ErrNoSpace if there are not enough blocks outside Keep, ErrUnsteady,
// ErrBadRecord, ctx's, the medium's. With an error the record is returned if it
// was or may have been committed; if it is nil nothing has changed but
// the content of blocks outside Keep.
func (s *Salvage) Rewrite(ctx context.Context, o RewriteOptions) (*format.CommitRecord, error) {
	if s.rec == nil {
		return nil, fmt.Errorf("rewrite the tree: no commit was chosen: %w", ErrNotFound)
	}
	w := &rewriter{ctx: ctx, s: s, o: &o, edits: o.Edits, gen: s.NextGeneration(), at: s.super.Blocks, b: s.m.Begin()}
	defer w.b.End()
	rec, err := w.run()
	if err != nil {
		return rec, fmt.Errorf("rewrite the tree: %w", err)
	}
	return rec, nil
}

// NextGeneration is the generation that Rewrite commits: greater than every one
// that may have been durable (as at mount, damaged slots right behind the newest
// record count), in a slot that holds none of the commits still of use.
func (s *Salvage) NextGeneration() format.Generation {
	newest := format.Generation(0)
	for i := range s.slots {
		if r := s.slots[i].Record; r != nil {
			newest = max(newest, r.Generation)
		}
	}
	gen := newest + 1
	for ; gen <= newest+format.Generation(len(s.slots)) && s.slot(gen).Err != nil; gen++ {
	}
	for range s.slots {
		if l := s.slot(gen); l.Record == nil || !l.Reach && l.Record != s.rec {
			break
		}
		gen++
	}
	return gen
}

func (s *Salvage) slot(g format.Generation) *Slot {
	return &s.slots[uint64(g)%uint64(len(s.slots))]
}

// rewriter is one Rewrite.
type rewriter struct {
	ctx   context.Context
	s     *Salvage
	o     *RewriteOptions
	b     pmem.Batch
	gen   format.Generation
	edits []Edit // still to be made
	at    format.Block
	read  uint64                            // records met
	nodes [format.MaxLevel + 1]*format.Node // being filled, by level; nil: none
	count format.Counters
	err   error
}

func (w *rewriter) run() (*format.CommitRecord, error) {
	w.s.Walk(Key{}, format.MaxKey, Visit{
		Node: func(format.Ptr, int, *format.Node) bool {
			if w.o.Node != nil {
				w.o.Node()
			}
			return true
		},
		Leaf: func(p format.Ptr, n *format.Node, i, j int) bool {
			if w.err = w.ctx.Err(); w.err == nil {
				w.err = w.leaf(p, n, i, j)
			}
			return w.err == nil
		},
	})
	if w.err == nil {
		w.err = w.editsBelow(format.MaxKey)
	}
	if w.err == nil && w.read != w.o.Records {
		w.err = fmt.Errorf("%d records, then %d: %w", w.o.Records, w.read, ErrUnsteady)
	}
	if w.err != nil {
		return nil, w.err
	}
	root, err := w.finish()
	if err != nil {
		return nil, err
	}
	return w.commit(root)
}

// leaf takes the records [i, j) of a leaf: the leaf as it is if nothing of it
// changes.
func (w *rewriter) leaf(p format.Ptr, n *format.Node, i, j int) error {
	if err := w.editsBelow(n.Key(i)); err != nil {
		return err
	}
	w.read += uint64(j - i)
	if i == 0 && j == n.Count() && (len(w.edits) == 0 || n.Key(j-1).Less(w.edits[0].Key)) {
		for x := range j {
			w.counted(n.Key(x), n.Value(x))
		}
		if err := w.close(0); err != nil {
			return err
		}
		w.count.Nodes++
		return w.child(1, n.Key(0), p)
	}
	for ; i < j; i++ {
		k, v := n.Key(i), n.Value(i)
		if err := w.editsBelow(k); err != nil {
			return err
		}
		if len(w.edits) > 0 && w.edits[0].Key == k {
			e := w.edits[0]
			w.edits = w.edits[1:]
			if e.Delete {
				continue
			}
			v = e.Value
		}
		if err := w.record(k, v); err != nil {
			return err
		}
	}
	return nil
}

// editsBelow adds the edits before k: records that were not there.
func (w *rewriter) editsBelow(k Key) error {
	for len(w.edits) > 0 && w.edits[0].Key.Less(k) {
		e := w.edits[0]
		w.edits = w.edits[1:]
		if len(w.edits) > 0 && !e.Key.Less(w.edits[0].Key) {
			return fmt.Errorf("edit of %v does not follow %v: %w", w.edits[0].Key, e.Key, ErrBadRecord)
		}
		if e.Delete {
			continue // of a record that is gone already
		}
		if len(e.Value) > format.MaxValue {
			return fmt.Errorf("edit of %v with %d bytes: %w", e.Key, len(e.Value), ErrBadRecord)
		}
		if err := w.record(e.Key, e.Value); err != nil {
			return err
		}
	}
	return nil
}

// counted adds a record to the counters.
func (w *rewriter) counted(k Key, v []byte) {
	w.count.Records++
	owned(k, v, w.o.Extents, func(_ format.Block, n uint64) { w.count.Data += n })
}

// record adds a record to the leaf being filled.
func (w *rewriter) record(k Key, v []byte) error {
	w.counted(k, v)
	if n := w.nodes[0]; n != nil && n.Count() > 0 && !n.Fits(len(v)) {
		if err := w.close(0); err != nil {
			return err
		}
	}
	n := w.filling(0)
	n.Insert(n.Count(), k, v)
	return nil
}

// child adds a child to the node of a level being filled.
func (w *rewriter) child(level int, k Key, p format.Ptr) error {
	if level > format.MaxLevel {
		return fmt.Errorf("the tree is too high: %w", ErrNoSpace)
	}
	if n := w.nodes[level]; n != nil && n.Count() == format.MaxChildren {
		if err := w.close(level); err != nil {
			return err
		}
	}
	n := w.filling(level)
	n.InsertChild(n.Count(), k, p)
	return nil
}

// filling is the node of a level being filled.
func (w *rewriter) filling(level int) *format.Node {
	if w.nodes[level] == nil {
		w.nodes[level] = new(format.Node)
		w.nodes[level].Init(level, 0, w.gen)
	}
	return w.nodes[level]
}

// close stores the node of a level being filled, if it has anything, and makes
// it a child of the level above.
func (w *rewriter) close(level int) error {
	n := w.nodes[level]
	if n == nil || n.Count() == 0 {
		return nil
	}
	p, err := w.store(n)
	if err != nil {
		return err
	}
	k := n.Key(0)
	n.Init(level, 0, w.gen)
	return w.child(level+1, k, p)
}

// store writes a node to a free block.
func (w *rewriter) store(n *format.Node) (format.Ptr, error) {
	b, ok := w.o.Keep.HighestOut(w.s.super.First, w.at)
	if !ok {
		return format.Ptr{}, fmt.Errorf("no free block for tree node %d: %w", w.count.Nodes+1, ErrNoSpace)
	}
	w.at = b
	n.Move(b, w.gen)
	p := format.Ptr{Block: b, Birth: w.gen, CRC: n.Seal()}
	w.count.Nodes++
	if err := w.b.Write(int64(b)*format.BlockSize, n[:]); err != nil {
		return p, fmt.Errorf("write tree node to block %d: %w", b, err)
	}
	return p, nil
}

// finish stores what is being filled and returns the root: the first node that
// has no brother.
func (w *rewriter) finish() (root format.Root, err error) {
	if err := w.close(0); err != nil {
		return root, err
	}
	for level := 1; level <= format.MaxLevel && w.nodes[level] != nil; level++ {
		n := w.nodes[level]
		if n.Count() == 1 && (level == format.MaxLevel || w.nodes[level+1] == nil) {
			return format.Root{Ptr: n.Child(0), Level: uint8(level - 1)}, nil
		}
		if err := w.close(level); err != nil {
			return root, err
		}
	}
	root.Ptr, err = w.store(w.filling(0)) // there is no record at all
	return root, err
}

// commit makes the tree under root the newest commit.
func (w *rewriter) commit(root format.Root) (*format.CommitRecord, error) {
	now := w.o.Now
	if now == nil {
		now = time.Now
	}
	w.count.NextIno, w.count.Inodes = w.o.NextIno, w.o.Inodes
	rec := &format.CommitRecord{Generation: w.gen, TimeNS: now().UnixNano(), Blocks: w.s.super.Blocks, Counters: w.count}
	rec.Roots[0] = root
	for i := range w.s.slots { // an id that was given stays given
		if r := w.s.slots[i].Record; r != nil {
			if id := max(r.LastFreezeID, r.FreezeID); id <= format.MaxNumber-RoomToCount {
				rec.LastFreezeID = max(rec.LastFreezeID, id)
			}
		}
	}
	if err := w.b.Fence(); err != nil {
		return nil, fmt.Errorf("fence of the nodes: %w", err)
	}
	last := w.gen + format.MaxFallback
	for g := last; g < w.gen+format.Generation(len(w.s.slots)); g++ {
		if w.s.slot(g).Err != nil {
			last = g
		}
	}
	for next := *rec; next.Generation <= last; next.Generation++ {
		if err := writeSlot(w.b, &w.s.super, &next); err != nil {
			return rec, err
		}
		if err := w.b.Fence(); err != nil {
			return rec, fmt.Errorf("fence of commit record %d: %w", next.Generation, err)
		}
	}
	return rec, nil
}

// RestoreSuperblocks writes both superblocks anew if one of them is damaged or
// they differ, and reports whether it did. Each is fenced by itself.
//
// Errors: the medium's.
func (s *Salvage) RestoreSuperblocks() (written bool, err error) {
	whole := true
	for i := range format.Block(format.SuperblockCopies) {
		sb, err := superblockAt(s.m, i)
		whole = whole && err == nil && *sb == s.super
	}
	if whole {
		return false, nil
	}
	b := s.m.Begin()
	defer b.End()
	if err := writeSuperblocks(b, &s.super); err != nil {
		return false, fmt.Errorf("restore the superblocks: %w", err)
	}
	return true, nil
}

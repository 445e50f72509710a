package tree

import (
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/pmem"
)

// Salvage reads what can be read of one commit of an image that may be damaged
// and that nobody has open. It trusts nothing it reads, changes nothing, and
// goes on behind what it cannot read.
//
// It belongs to one goroutine. Memory: a page a level, and what Sweep says.
type Salvage struct {
	m       pmem.Medium
	super   format.Superblock
	slots   []Slot
	rec     *format.CommitRecord // the commit being read; nil if none was found
	stray   map[holeAt]*hole     // what Sweep found for rec; nil before
	strayAt *BlockSet            // the blocks of those leaves; nil before
}

// Slot is one slot of the commit ring as it stands.
type Slot struct {
	Block  format.Block
	Record *format.CommitRecord // nil if there is none that holds
	Mended bool                 // one bit of the record is wrong; Record has it right
	Empty  bool                 // never written
	Err    error                // why there is no record; nil if Empty
	Root   error                // why the root of Record cannot be read
	Reach  bool                 // a mount would consider it (T5)
	Mount  bool                 // a mount would take it
}

// Lost is a part of the tree that cannot be read: the records of [From, To).
type Lost struct {
	Block    format.Block // the node at fault
	Level    int
	From, To Key
	Err      error
	Whole    bool              // nothing of the node is used, else its keys outside the range are not
	Found    int               // leaves below it that Sweep found
	birth    format.Generation // of the pointer that led to it
}

// String says it in one line.
func (l Lost) String() string {
	to := l.To.String()
	if l.To == format.MaxKey {
		to = "the end"
	}
	what := "are lost"
	if l.Found > 0 {
		what = fmt.Sprintf("are lost but for %d leaves that a search of the image found, which may be outdated", l.Found)
	}
	return fmt.Sprintf("records %v to %s %s: %v", l.From, to, what, l.Err)
}

// Visit is what Walk tells. Functions that are nil are not called.
type Visit struct {
	// Node is called for each readable node, before what is in it, which is left
	// out if it returns false. The node is valid during the call only.
	Node func(p format.Ptr, level int, n *format.Node) bool
	// Leaf is called for each readable leaf that has records in the range: they
	// are [i, j) of n, valid during the call only. False ends the walk.
	Leaf func(p format.Ptr, n *format.Node, i, j int) bool
	// Lost is called for what cannot be read.
	Lost func(l Lost)
}

// OpenSalvage reads the superblock and the ring, and chooses the commit that a
// mount would take.
//
// Errors: format.ErrNotOurs, ErrNewerFormat, ErrTooSmall, ErrDamaged if both
// superblocks are; the medium's. An empty or damaged ring is none: see Choose.
func OpenSalvage(m pmem.Medium) (*Salvage, error) {
	sb, _, err := readSuperblock(m)
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	s := &Salvage{m: m, super: *sb}
	s.readSlots()
	for i := range s.slots {
		if s.slots[i].Mount {
			s.rec = s.slots[i].Record
		}
	}
	return s, nil
}

// readSlots reads the ring and the roots it leads to.
func (s *Salvage) readSlots() {
	s.slots = make([]Slot, s.super.Slots)
	for i := range s.slots {
		l := &s.slots[i]
		l.Block = s.super.Ring + format.Block(i)
		sl := readSlot(s.m, &s.super, l.Block)
		l.Record, l.Mended, l.Empty, l.Err = sl.rec, sl.mended, sl.empty, sl.err
		if l.Record != nil {
			var n format.Node
			l.Root = s.read(l.Record.Roots[0].Ptr, int(l.Record.Roots[0].Level), &n)
		}
	}
	im := &image{super: &s.super}
	if im.readRing(s.m) != nil {
		return
	}
	taken := false
	for _, rec := range im.commits {
		for i := range s.slots {
			l := &s.slots[i]
			if l.Record == nil || l.Record.Generation != rec.Generation {
				continue
			}
			l.Reach = true
			if l.Mount = !taken && l.Root == nil; l.Mount {
				taken = true
			}
		}
	}
}

// Superblock is the one that was read.
func (s *Salvage) Superblock() format.Superblock { return s.super }

// Slots is the ring, in order of its blocks. The records are shared.
func (s *Salvage) Slots() []Slot { return s.slots }

// Commit is the commit that is read, nil if none was found. It is shared.
func (s *Salvage) Commit() *format.CommitRecord { return s.rec }

// Choose reads the commit of generation gen instead, whole or not. With 0 it is
// the one that a mount would take or, if there is none, the newest in the ring.
//
// Errors: ErrNotFound if the ring has no such commit, format.ErrDamaged if it
// has none at all.
func (s *Salvage) Choose(gen format.Generation) error {
	var best *format.CommitRecord
	for i := range s.slots {
		l := &s.slots[i]
		switch {
		case l.Record == nil:
		case gen != 0 && l.Record.Generation == gen, gen == 0 && l.Mount:
			s.rec, s.stray, s.strayAt = l.Record, nil, nil
			return nil
		case best == nil || l.Record.Generation > best.Generation:
			best = l.Record
		}
	}
	switch {
	case best == nil:
		return damaged(s.super.Ring, "the ring holds no commit record")
	case gen != 0:
		return fmt.Errorf("generation %d is not in the ring, the newest there is %d: %w", gen, best.Generation, ErrNotFound)
	}
	s.rec, s.stray, s.strayAt = best, nil, nil
	return nil
}

// read copies a node out of the image and verifies it.
func (s *Salvage) read(p format.Ptr, level int, n *format.Node) error {
	if p.Block < s.super.First || p.Block >= s.super.Blocks {
		return damaged(p.Block, "a child pointer leads outside the image")
	}
	if _, err := s.m.ReadAt(n[:], int64(p.Block)*format.BlockSize); err != nil {
		return err
	}
	if err := n.Verify(p, level); err != nil {
		return err
	}
	return n.VerifyValues()
}

// salvageWalk is one Walk.
type salvageWalk struct {
	s        *Salvage
	v        *Visit
	from, to Key
	pages    [format.MaxLevel + 1]*format.Node // by level, made when first needed
}

// Walk visits what can be read of the records [from, to), in ascending order.
func (s *Salvage) Walk(from, to Key, v Visit) {
	if s.rec == nil || !from.Less(to) {
		return
	}
	w := &salvageWalk{s: s, v: &v, from: from, to: to}
	r := &s.rec.Roots[0]
	w.node(r.Ptr, int(r.Level), Key{}, format.MaxKey)
}

func (w *salvageWalk) lost(p format.Ptr, level int, low, high Key, whole bool, err error) {
	if w.v.Lost != nil {
		l := Lost{Block: p.Block, Level: level, From: low, To: high, Err: err, Whole: whole, birth: p.Birth}
		if h := w.s.stray[holeAt{p.Block, low}]; h != nil && whole {
			l.Found = len(h.leaves)
		}
		w.v.Lost(l)
	}
}

// node visits the node that p points to: of its keys those in [low, high) are
// its own. Walks that descend into a node several times, as a damaged inner
// node may make them, see disjoint ranges of it, so their work is bounded.
func (w *salvageWalk) node(p format.Ptr, level int, low, high Key) (goOn bool) {
	if w.pages[level] == nil {
		w.pages[level] = new(format.Node)
	}
	n := w.pages[level]
	if err := w.s.read(p, level, n); err != nil {
		w.lost(p, level, low, high, true, err)
		return w.strays(p, low, high)
	}
	if w.v.Node != nil && !w.v.Node(p, level, n) {
		return true
	}
	count := n.Count()
	if count > 0 && (n.Key(0).Less(low) || !n.Key(count-1).Less(high)) {
		w.lost(p, level, low, high, false, damaged(p.Block, "keys %v to %v lie outside %v to %v", n.Key(0), n.Key(count-1), low, high))
	}
	if level == 0 {
		return w.leaf(p, n, laterKey(low, w.from), earlierKey(high, w.to))
	}
	for i := range count {
		lower, upper := n.Key(i), high
		if i == 0 {
			lower = low // keys below the first child's belong to it too
		}
		if i+1 < count {
			upper = n.Key(i + 1)
		}
		lower, upper = laterKey(lower, low), earlierKey(upper, high)
		if !laterKey(lower, w.from).Less(earlierKey(upper, w.to)) {
			continue
		}
		if !w.node(n.Child(i), level-1, lower, upper) {
			return false
		}
	}
	return true
}

// leaf visits the records of [low, high).
func (w *salvageWalk) leaf(p format.Ptr, n *format.Node, low, high Key) bool {
	if w.v.Leaf == nil {
		return true
	}
	i, _ := n.Find(low)
	j, _ := n.Find(high)
	return i >= j || w.v.Leaf(p, n, i, j)
}

func laterKey(a, b Key) Key {
	if a.Less(b) {
		return b
	}
	return a
}

func earlierKey(a, b Key) Key {
	if b.Less(a) {
		return b
	}
	return a
}

// errUnreadable: the record asked for stands in a part that cannot be read.
var errUnreadable = errors.New("the part of the tree where it stands cannot be read")

// Get returns a copy of k's value, appended to buf[:0], and the block of its
// leaf.
//
// Errors: ErrNotFound; another one, which wraps format.ErrDamaged or is the
// medium's, if the leaf cannot be read.
func (s *Salvage) Get(k Key, buf []byte) (v []byte, b format.Block, err error) {
	err = fmt.Errorf("record %v: %w", k, ErrNotFound)
	s.Walk(k, k.Next(), Visit{
		Leaf: func(p format.Ptr, n *format.Node, i, _ int) bool {
			v, b, err = append(buf[:0], n.Value(i)...), p.Block, nil
			return false
		},
		Lost: func(l Lost) {
			if !k.Less(l.From) && k.Less(l.To) {
				err = fmt.Errorf("record %v: %w: %w", k, errUnreadable, l.Err)
			}
		},
	})
	return v, b, err
}

package tree

import (
	"sync/atomic"

	"permafrost/core/format"
)

const (
	// maxGroupNodes bounds the open group: 64 MiB of nodes (T6).
	maxGroupNodes = 64 << 20 / format.BlockSize
	// softGroupNodes is when CommitNeeded fires.
	softGroupNodes = maxGroupNodes * 3 / 4
	// slabNodes is how many nodes are allocated at once.
	slabNodes = 32
	// maxPooledNodes is how many idle nodes are kept for the next groups.
	maxPooledNodes = maxGroupNodes / 2
)

// heapNode is a node born in the open or the sealed group. Guarded by
// Store.treeMu while open, immutable while sealed.
type heapNode struct {
	page   *format.Node
	handle uint32
	// stale is the oldest generation whose children, in this node, may carry a
	// handle that means nothing any more in place of their CRC; 0 for none (T12).
	stale format.Generation
	// last is where the last record was inserted, run how often in a row the
	// place was the one after it: a sign of ascending keys.
	last, run int32
}

// group is a transaction group's nodes. Guarded by Store.treeMu while open;
// sealed, everything but root.CRC is immutable.
type group struct {
	gen   format.Generation
	nodes []*heapNode // by handle; nil where a node was dropped again
}

// nodePool keeps heap nodes for reuse. Guarded by Store.treeMu.
type nodePool struct {
	free    []*heapNode   // single nodes
	batches [][]*heapNode // nodes of finished groups; may hold nils
	idle    int           // upper bound of the nodes kept
}

// take returns a node with undefined content.
func (p *nodePool) take() *heapNode {
	for {
		if last := len(p.free) - 1; last >= 0 {
			n := p.free[last]
			p.free = p.free[:last]
			p.idle--
			if n != nil {
				return n
			}
			continue
		}
		last := len(p.batches) - 1
		if last < 0 {
			return p.more()
		}
		p.free = p.batches[last]
		p.batches = p.batches[:last]
	}
}

// more allocates nodes and returns one of them.
func (p *nodePool) more() *heapNode {
	pages := make([]format.Node, slabNodes)
	nodes := make([]heapNode, slabNodes)
	for i := range nodes {
		nodes[i].page = &pages[i]
		p.give(&nodes[i])
	}
	return p.take()
}

// give hands one node back.
func (p *nodePool) give(n *heapNode) {
	p.idle++
	p.free = append(p.free, n)
}

// giveAll hands a group's nodes back and returns an empty slice for the next
// group. It is O(1): few are moved, many are kept as they are.
func (p *nodePool) giveAll(nodes []*heapNode) []*heapNode {
	switch {
	case len(nodes) <= slabNodes:
		for _, n := range nodes {
			if n != nil {
				p.give(n)
			}
		}
		clear(nodes)
		return nodes[:0]
	case p.idle+len(nodes) <= maxPooledNodes:
		p.idle += len(nodes)
		p.batches = append(p.batches, nodes)
	}
	return nil
}

// verifiedMap has a bit for every block of the image: a node that was verified
// since mount, or that this mount stores there: set when the block is
// allocated, because an atomic operation in the middle of a commit would wait
// for its non-temporal stores. Parts are made when first needed.
type verifiedMap []atomic.Pointer[[verifiedWords]atomic.Uint64]

const (
	verifiedPart  = 1 << 18 // blocks a part: 1 GiB
	verifiedWords = verifiedPart / 64
)

func newVerifiedMap(blocks format.Block) verifiedMap {
	return make(verifiedMap, (blocks+verifiedPart-1)/verifiedPart)
}

// grown is a map for more blocks with the same parts.
func (m verifiedMap) grown(blocks format.Block) verifiedMap {
	g := newVerifiedMap(blocks)
	for i := range m {
		g[i].Store(m[i].Load())
	}
	return g
}

func (m verifiedMap) has(b format.Block) bool {
	p := m[b/verifiedPart].Load()
	b %= verifiedPart
	return p != nil && p[b/64].Load()&(1<<(b%64)) != 0
}

func (m verifiedMap) set(b format.Block) {
	part := &m[b/verifiedPart]
	p := part.Load()
	if p == nil {
		part.CompareAndSwap(nil, new([verifiedWords]atomic.Uint64))
		p = part.Load()
	}
	b %= verifiedPart
	if bit := uint64(1) << (b % 64); p[b/64].Load()&bit == 0 {
		p[b/64].Or(bit)
	}
}

// unset makes the next lookup verify b again.
func (m verifiedMap) unset(b format.Block) {
	if int(b/verifiedPart) >= len(m) {
		return
	}
	if p := m[b/verifiedPart].Load(); p != nil {
		b %= verifiedPart
		p[b/64].And(^(uint64(1) << (b % 64)))
	}
}

// view is the node that p points to, at the given level, wherever it lives.
// Needs treeMu, shared or not; the node must not be used outside it.
func (s *Store) view(p format.Ptr, level int) (*format.Node, error) {
	if p.Birth == s.open.gen {
		return s.open.nodes[p.CRC].page, nil
	}
	if s.sealed != nil && p.Birth == s.sealed.gen {
		return s.sealed.nodes[p.CRC].page, nil
	}
	return s.media(p, level)
}

// media is the node that p points to in the image, verified when first met.
// Its memory may fault: callers stand between CatchFaults and Caught.
func (s *Store) media(p format.Ptr, level int) (*format.Node, error) {
	off := uint64(p.Block) * format.BlockSize
	if p.Block == 0 || p.Block > format.MaxImage/format.BlockSize || off+format.BlockSize > uint64(len(s.base)) {
		return nil, damaged(p.Block, "a child pointer leads outside the image")
	}
	n := (*format.Node)(s.base[off : off+format.BlockSize])
	if !s.verified.has(p.Block) {
		if err := n.Verify(p, level); err != nil {
			return nil, err
		}
		if level == 0 && n.Count() == 0 && p.Block != s.root.Block {
			return nil, damaged(p.Block, "an empty leaf that is not the root") // T13
		}
		s.verified.set(p.Block)
	}
	// Two pointers of a damaged tree may lead to one node. Verified for one, it
	// need not be what the other means.
	if n.Level() != level || n.Birth() != p.Birth {
		return nil, damaged(p.Block, "a tree node of level %d and generation %d where level %d and generation %d were expected",
			n.Level(), n.Birth(), level, p.Birth)
	}
	return n, nil
}

// addNodeLocked takes a node for the open group and gives it a handle. Needs treeMu.
func (s *Store) addNodeLocked() *heapNode {
	n := s.pool.take()
	n.handle = uint32(len(s.open.nodes))
	n.stale, n.last, n.run = 0, -1, 0
	s.open.nodes = append(s.open.nodes, n)
	if s.openNodes.Add(1) == softGroupNodes {
		select {
		case s.wakeup <- struct{}{}:
		default:
		}
	}
	return n
}

// dropNodeLocked takes a node out of the open group again. Needs treeMu.
func (s *Store) dropNodeLocked(n *heapNode) {
	s.open.nodes[n.handle] = nil
	s.openNodes.Add(-1)
	s.pool.give(n)
}

// newNodeLocked makes an empty node of the open group. Needs treeMu.
func (s *Store) newNodeLocked(t *Tx, level int) (*heapNode, error) {
	b, err := t.allocNode()
	if err != nil {
		return nil, err
	}
	s.verified.set(b)
	n := s.addNodeLocked()
	n.page.Init(level, b, s.open.gen)
	s.counters.nodes.Add(1)
	return n, nil
}

// freeNodeLocked frees the node that p points to. Needs treeMu.
func (s *Store) freeNodeLocked(p format.Ptr) error {
	s.counters.nodes.Add(^uint64(0))
	return s.forgetLocked(p)
}

// forgetLocked gives up p's block and, if it was born here, its heap node.
// Needs treeMu.
func (s *Store) forgetLocked(p format.Ptr) error {
	born := p.Birth == s.open.gen
	if born {
		s.dropNodeLocked(s.open.nodes[p.CRC])
	}
	return s.alloc.freeNode(p.Block, s.open.gen, born)
}

// ownLocked makes the node that p points to one of the open group, copying it
// if it is not, and returns its new pointer, which the caller stores in the
// parent. Needs treeMu. On an error nothing has changed.
func (s *Store) ownLocked(t *Tx, p format.Ptr, level int) (*heapNode, format.Ptr, error) {
	if p.Birth == s.open.gen {
		return s.open.nodes[p.CRC], p, nil
	}
	old, err := s.view(p, level)
	if err != nil {
		return nil, p, err
	}
	// The copy comes first because it may fault; a fault costs a heap node only.
	n := s.addNodeLocked()
	*n.page = *old
	b, err := t.allocNode()
	if err != nil {
		s.dropNodeLocked(n)
		return nil, p, err
	}
	s.verified.set(b)
	n.page.Move(b, s.open.gen)
	if level > 0 && s.sealed != nil && p.Birth == s.sealed.gen {
		n.stale = oldest(s.sealed.gen, s.sealed.nodes[p.CRC].stale)
	}
	if err := s.alloc.freeNode(p.Block, s.open.gen, false); err != nil {
		return nil, p, s.fail(err)
	}
	return n, n.ptr(), nil
}

// ptr is the pointer to a node of the open group.
func (n *heapNode) ptr() format.Ptr {
	return format.Ptr{Block: n.page.Block(), Birth: n.page.Birth(), CRC: n.handle}
}

// oldest is the smaller of two generations, where 0 stands for none.
func oldest(a, b format.Generation) format.Generation {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

package format

// Node is a tree node as it lies on the medium and, in the same form, on the
// heap: docs/FORMAT.md, "Node". A leaf (level 0) holds records, any other node
// holds children. The methods trust a node that passed Verify or that they
// made themselves; they check nothing but array bounds.
type Node [BlockSize]byte

const (
	// MaxLevel bounds the height of the tree: 50^8 children exceed the blocks
	// of the largest image.
	MaxLevel = 10
	// MaxValue is the longest value of a record, in bytes.
	MaxValue = 1280
	// NodeCap is the room of a node for slots and values, in bytes.
	NodeCap = BlockSize - nodeHeader
	// MaxChildren is the greatest number of children of a node.
	MaxChildren = NodeCap / childSize

	nodeMagic = 0x6e50
)

// Offsets within a node.
const (
	ndCRC      = 0
	ndMagic    = 4
	ndLevel    = 6
	ndShard    = 7
	ndBirth    = 8
	ndBlock    = 16
	ndCount    = 24
	ndLow      = 26 // leaf: lowest byte used by values
	ndDead     = 28 // leaf: bytes above ndLow that belong to no record
	ndZero     = 30
	ndSlots    = 32
	nodeHeader = ndSlots
)

// Offsets within a slot. The key lies alike in both kinds, so that one search
// serves both.
const (
	slIno  = 0
	slOff  = 8
	slKind = 16

	slValOff = 18
	slValLen = 20
	slotSize = 24

	slCRC     = 20
	slBlock   = 24
	slBirth   = 32
	childSize = 40
)

// Init makes n an empty node.
func (n *Node) Init(level int, b Block, g Generation) {
	clear(n[:])
	le.PutUint16(n[ndMagic:], nodeMagic)
	n[ndLevel] = uint8(level)
	le.PutUint16(n[ndLow:], BlockSize)
	n.Move(b, g)
}

// Move gives the node the place and generation it will be stored under.
func (n *Node) Move(b Block, g Generation) {
	le.PutUint64(n[ndBirth:], uint64(g))
	le.PutUint64(n[ndBlock:], uint64(b))
}

// Level is the node's height above the leaves.
func (n *Node) Level() int { return int(n[ndLevel]) }

// Birth is the generation that made the node.
func (n *Node) Birth() Generation { return Generation(le.Uint64(n[ndBirth:])) }

// Block is the node's place.
func (n *Node) Block() Block { return Block(le.Uint64(n[ndBlock:])) }

// Count is the number of records or children.
func (n *Node) Count() int { return int(le.Uint16(n[ndCount:])) }

func (n *Node) setCount(c int) { le.PutUint16(n[ndCount:], uint16(c)) }

// touchBytes is how much of a leaf is brought into the cache before a search:
// the slots of 40 records.
const touchBytes = ndSlots + 40*slotSize

// stride is the size of a slot.
func (n *Node) stride() int {
	if n[ndLevel] == 0 {
		return slotSize
	}
	return childSize
}

// Used is how much of NodeCap live slots and values take, in bytes.
func (n *Node) Used() int {
	if n[ndLevel] != 0 {
		return n.Count() * childSize
	}
	return n.Count()*slotSize + BlockSize - n.low() - n.dead()
}

// Key is the key of the i-th slot.
func (n *Node) Key(i int) Key {
	p := n[ndSlots+i*n.stride():]
	return Key{Ino: Ino(le.Uint64(p[slIno:])), Kind: p[slKind], Off: le.Uint64(p[slOff:])}
}

func putKey(p []byte, k Key) {
	le.PutUint64(p[slIno:], uint64(k.Ino))
	le.PutUint64(p[slOff:], k.Off)
	p[slKind] = k.Kind
}

// SetKey changes the key of the i-th slot; the order must stay right.
func (n *Node) SetKey(i int, k Key) { putKey(n[ndSlots+i*n.stride():], k) }

// search is the number of slots whose key is at most k. Its loop has no
// branch that depends on the keys.
func (n *Node) search(stride int, k Key) int {
	count := n.Count()
	if count == 0 {
		return 0
	}
	base := 0
	for count > 1 {
		half := count / 2
		p := n[ndSlots+(base+half)*stride:][:slotSize:slotSize]
		above := k.below(le.Uint64(p[slIno:]), uint64(p[slKind]), le.Uint64(p[slOff:]))
		base += half & (int(above) - 1)
		count -= half
	}
	p := n[ndSlots+base*stride:][:slotSize:slotSize]
	above := k.below(le.Uint64(p[slIno:]), uint64(p[slKind]), le.Uint64(p[slOff:]))
	return base + 1 - int(above)
}

// Find is the place of k in a leaf: its index if it is there, else the index
// it would be inserted at.
func (n *Node) Find(k Key) (i int, found bool) {
	// A search takes the slots' lines one after another, each depending on the
	// one before. Loads that depend on nothing bring them in all at once.
	warm := byte(0)
	for off := ndSlots; off < touchBytes; off += 64 {
		warm |= n[off]
	}
	if warm == 0 && n[ndMagic] == 0 {
		return 0, false // not a node: never so, but the loads are not idle
	}
	i = n.search(slotSize, k)
	if i > 0 && n.Key(i-1) == k {
		return i - 1, true
	}
	return i, false
}

// ChildFor is the index of the child whose subtree k belongs to. Keys below
// the first child's key belong to the first child.
func (n *Node) ChildFor(k Key) int { return max(n.search(childSize, k)-1, 0) }

// Child is the i-th child pointer.
func (n *Node) Child(i int) Ptr {
	p := n[ndSlots+i*childSize:][:childSize:childSize]
	return Ptr{
		Block: Block(le.Uint64(p[slBlock:])),
		Birth: Generation(le.Uint64(p[slBirth:])),
		CRC:   le.Uint32(p[slCRC:]),
	}
}

// ChildBirth is the birth generation of the i-th child pointer.
func (n *Node) ChildBirth(i int) Generation {
	return Generation(le.Uint64(n[ndSlots+i*childSize+slBirth:]))
}

// SetChild replaces the i-th child pointer.
func (n *Node) SetChild(i int, c Ptr) {
	p := n[ndSlots+i*childSize:][:childSize:childSize]
	le.PutUint64(p[slBlock:], uint64(c.Block))
	le.PutUint64(p[slBirth:], uint64(c.Birth))
	le.PutUint32(p[slCRC:], c.CRC)
}

// InsertChild makes (k, c) the i-th child. The node must not be full.
func (n *Node) InsertChild(i int, k Key, c Ptr) {
	count := n.Count()
	at := ndSlots + i*childSize
	copy(n[at+childSize:], n[at:ndSlots+count*childSize])
	clear(n[at : at+childSize])
	putKey(n[at:], k)
	n.setCount(count + 1)
	n.SetChild(i, c)
}

// RemoveChild removes the i-th child pointer.
func (n *Node) RemoveChild(i int) { n.removeSlots(i, i+1) }

// removeSlots removes the slots [i, j).
func (n *Node) removeSlots(i, j int) {
	stride, count := n.stride(), n.Count()
	end := ndSlots + count*stride
	at := ndSlots + i*stride
	moved := copy(n[at:end], n[ndSlots+j*stride:end])
	clear(n[at+moved : end])
	n.setCount(count - (j - i))
}

// MoveChildren moves the children [from, Count) of n to the end of to, which
// must have room.
func (n *Node) MoveChildren(from int, to *Node) {
	count, have := n.Count(), to.Count()
	copy(to[ndSlots+have*childSize:], n[ndSlots+from*childSize:ndSlots+count*childSize])
	to.setCount(have + count - from)
	n.removeSlots(from, count)
}

// Sum is the checksum stored in the node.
func (n *Node) Sum() uint32 { return le.Uint32(n[ndCRC:]) }

// Seal computes and stores the checksum, and returns it.
func (n *Node) Seal() uint32 {
	crc := Checksum(n[ndMagic:])
	le.PutUint32(n[ndCRC:], crc)
	return crc
}

// Verify checks a node read from the medium against the pointer that led to
// it: identity, checksum, and the structure that the other methods rely on.
// Whether its keys lie between its parent's is for the caller to check.
//
// Errors: ErrDamaged.
func (n *Node) Verify(p Ptr, level int) error {
	switch {
	case le.Uint16(n[ndMagic:]) != nodeMagic:
		return damaged(p.Block, "not a tree node")
	case n.Block() != p.Block:
		return damaged(p.Block, "a tree node that belongs at block %d", n.Block())
	case n.Birth() == 0:
		return damaged(p.Block, "a tree node of generation 0")
	case n.Birth() != p.Birth:
		return damaged(p.Block, "a tree node of generation %d where %d was expected", n.Birth(), p.Birth)
	case n.Sum() != p.CRC, Checksum(n[ndMagic:]) != p.CRC:
		return damaged(p.Block, "the tree node's checksum is wrong")
	case n.Level() != level:
		return damaged(p.Block, "a tree node of level %d where %d was expected", n.Level(), level)
	case n[ndShard] != 0:
		return damaged(p.Block, "a tree node of shard %d", n[ndShard])
	}
	if level == 0 {
		return n.verifyLeaf(p.Block)
	}
	return n.verifyInner(p)
}

// verifyLeaf checks that slots and values lie inside the node, apart from one
// another, and in order.
func (n *Node) verifyLeaf(b Block) error {
	count, low := n.Count(), n.low()
	if count*slotSize > NodeCap || low < ndSlots+count*slotSize || low > BlockSize {
		return damaged(b, "a leaf of %d records with values from byte %d", count, low)
	}
	sum := 0
	for i := range count {
		p := n[ndSlots+i*slotSize:][:slotSize]
		off, length := int(le.Uint16(p[slValOff:])), int(le.Uint16(p[slValLen:]))
		if length > MaxValue || off < low || off+length > BlockSize {
			return damaged(b, "record %d has its value of %d bytes at byte %d", i, length, off)
		}
		if i > 0 && !n.Key(i-1).Less(n.Key(i)) {
			return damaged(b, "key %v does not follow %v", n.Key(i), n.Key(i-1))
		}
		sum += length
	}
	if sum+n.dead() != BlockSize-low {
		return damaged(b, "values of %d bytes and %d dead ones do not fill %d", sum, n.dead(), BlockSize-low)
	}
	return nil
}

// verifyInner checks the child pointers by themselves.
func (n *Node) verifyInner(p Ptr) error {
	count := n.Count()
	if count == 0 || count > MaxChildren {
		return damaged(p.Block, "a tree node of %d children", count)
	}
	for i := range count {
		c := n.Child(i)
		if c.Block == 0 || c.Birth == 0 || c.Birth > p.Birth {
			return damaged(p.Block, "child %d is block %d of generation %d", i, c.Block, c.Birth)
		}
		if i > 0 && !n.Key(i-1).Less(n.Key(i)) {
			return damaged(p.Block, "key %v does not follow %v", n.Key(i), n.Key(i-1))
		}
	}
	return nil
}

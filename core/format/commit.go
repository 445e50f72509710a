package format

import "hash/crc64"

// CommitRecord is one decoded slot of the ring: docs/FORMAT.md, "Commit
// record". Everything in the image is reachable from one of them.
type CommitRecord struct {
	Generation    Generation
	FreezeID      uint64 // the freeze whose final commit this is, or 0
	LastFreezeID  uint64 // the greatest freeze id of this and all earlier commits: none is given twice
	TimeNS        int64  // when it was sealed, Unix time in nanoseconds
	Clean         bool   // written by a clean unmount; the snapshot is valid
	Snapshot      Block  // first page of the saved allocator, if Clean
	SnapshotPages uint32
	Blocks        Block // size of the image when it was sealed
	Counters      Counters
	Roots         [Shards]Root // only Roots[0] is used by version 1
}

// Counters are the numbers that describe the whole tree of one commit. Check
// compares all but NextIno with what it counts.
type Counters struct {
	NextIno Ino    // the number the next inode gets (T9)
	Inodes  uint64 // kept by the tree's user
	Nodes   uint64 // nodes reachable from the roots
	Data    uint64 // blocks owned by records
	Records uint64
}

// Ptr is a child pointer: the node's place, the generation that made it, and
// its checksum. While the node lives on the heap CRC is its handle instead.
type Ptr struct {
	Block Block
	Birth Generation
	CRC   uint32
}

// Root is a pointer to the root node of one shard. A zero Block is no tree.
type Root struct {
	Ptr
	Level uint8
}

const (
	// CommitSize is how much of its slot a commit record fills, in bytes.
	CommitSize = 512
	// Shards is the number of roots a commit record has room for (T7).
	Shards = 16
	// MinSlots and MaxSlots bound the ring.
	MinSlots = 4
	MaxSlots = 256
	// MaxNumber bounds generations, freeze ids and inode numbers, which only
	// grow: what is above was never reached by counting, and could wrap.
	MaxNumber = 1<<63 - 1
	// MaxFallback is how many commits a mount may fall back (T5).
	MaxFallback = 2
)

const commitMagic = "PFCR"

// Offsets within the commit record.
const (
	crCRC       = 0
	crMagic     = 4
	crGen       = 8
	crFreeze    = 16
	crTime      = 24
	crFlags     = 32
	crSnapPages = 36
	crSnap      = 40
	crNextIno   = 48
	crInodes    = 56
	crNodes     = 64
	crData      = 72
	crRecords   = 80
	crBlocks    = 88
	crLastFrz   = 96
	crCRC64     = 104
	crReserved  = 112
	crRoots     = 128
	crEnd       = crRoots + Shards*rootSize

	rootBlock = 0
	rootBirth = 8
	rootCRC   = 16
	rootLevel = 20
	rootSize  = 24

	crFlagClean = 1
)

// Encode fills p with the record and its checksum.
func (c *CommitRecord) Encode(p *[CommitSize]byte) {
	clear(p[:])
	copy(p[crMagic:], commitMagic)
	le.PutUint64(p[crGen:], uint64(c.Generation))
	le.PutUint64(p[crFreeze:], c.FreezeID)
	le.PutUint64(p[crTime:], uint64(c.TimeNS))
	if c.Clean {
		le.PutUint32(p[crFlags:], crFlagClean)
	}
	le.PutUint32(p[crSnapPages:], c.SnapshotPages)
	le.PutUint64(p[crSnap:], uint64(c.Snapshot))
	le.PutUint64(p[crNextIno:], uint64(c.Counters.NextIno))
	le.PutUint64(p[crInodes:], c.Counters.Inodes)
	le.PutUint64(p[crNodes:], c.Counters.Nodes)
	le.PutUint64(p[crData:], c.Counters.Data)
	le.PutUint64(p[crRecords:], c.Counters.Records)
	le.PutUint64(p[crBlocks:], uint64(c.Blocks))
	le.PutUint64(p[crLastFrz:], c.LastFreezeID)
	for i := range c.Roots {
		r, q := &c.Roots[i], p[crRoots+i*rootSize:]
		le.PutUint64(q[rootBlock:], uint64(r.Block))
		le.PutUint64(q[rootBirth:], uint64(r.Birth))
		le.PutUint32(q[rootCRC:], r.CRC)
		q[rootLevel] = r.Level
	}
	le.PutUint64(p[crCRC64:], commitSum(p))
	le.PutUint32(p[crCRC:], Checksum(p[crMagic:]))
}

// commitSum is the second checksum: of all but the two.
func commitSum(p *[CommitSize]byte) uint64 {
	return crc64.Update(crc64.Checksum(p[crMagic:crCRC64], ecma), ecma, p[crReserved:])
}

// DecodeCommit reads the commit record in slot block b.
//
// Errors: ErrDamaged, for a slot that was never written as well: see
// CommitEmpty.
func DecodeCommit(b Block, p *[CommitSize]byte) (*CommitRecord, error) {
	if string(p[crMagic:crMagic+4]) != commitMagic {
		return nil, damaged(b, "no commit record")
	}
	if le.Uint32(p[crCRC:]) != Checksum(p[crMagic:]) {
		return nil, damaged(b, "the commit record's checksum is wrong")
	}
	// Zero: made before there was a second one.
	if sum := le.Uint64(p[crCRC64:]); sum != 0 && sum != commitSum(p) {
		return nil, damaged(b, "the commit record's second checksum is wrong")
	}
	c := &CommitRecord{
		Generation:    Generation(le.Uint64(p[crGen:])),
		FreezeID:      le.Uint64(p[crFreeze:]),
		LastFreezeID:  le.Uint64(p[crLastFrz:]),
		TimeNS:        int64(le.Uint64(p[crTime:])),
		Clean:         le.Uint32(p[crFlags:])&crFlagClean != 0,
		SnapshotPages: le.Uint32(p[crSnapPages:]),
		Snapshot:      Block(le.Uint64(p[crSnap:])),
		Blocks:        Block(le.Uint64(p[crBlocks:])),
		Counters: Counters{
			NextIno: Ino(le.Uint64(p[crNextIno:])),
			Inodes:  le.Uint64(p[crInodes:]),
			Nodes:   le.Uint64(p[crNodes:]),
			Data:    le.Uint64(p[crData:]),
			Records: le.Uint64(p[crRecords:]),
		},
	}
	for i := range c.Roots {
		q := p[crRoots+i*rootSize:]
		c.Roots[i] = Root{
			Ptr: Ptr{
				Block: Block(le.Uint64(q[rootBlock:])),
				Birth: Generation(le.Uint64(q[rootBirth:])),
				CRC:   le.Uint32(q[rootCRC:]),
			},
			Level: q[rootLevel],
		}
	}
	return c, c.valid(b)
}

// valid checks the rules between the fields.
func (c *CommitRecord) valid(b Block) error {
	if c.Generation == 0 {
		return damaged(b, "commit of generation 0")
	}
	for _, n := range []struct {
		what  string
		value uint64
	}{
		{"generation", uint64(c.Generation)}, {"freeze id", c.FreezeID}, {"greatest freeze id", c.LastFreezeID},
		{"next inode number", uint64(c.Counters.NextIno)},
	} {
		if n.value > MaxNumber {
			return damaged(b, "%s %d is more than any image reaches", n.what, n.value)
		}
	}
	for i, r := range c.Roots {
		switch {
		case (r.Block == 0) != (i > 0):
			return damaged(b, "root %d is at block %d", i, r.Block)
		case r.Birth > c.Generation:
			return damaged(b, "root %d is of generation %d, the commit of %d", i, r.Birth, c.Generation)
		case r.Level > MaxLevel:
			return damaged(b, "root %d has level %d", i, r.Level)
		}
	}
	if c.Clean != (c.Snapshot != 0) {
		return damaged(b, "a clean commit has a snapshot and no other has")
	}
	return nil
}

// CommitEmpty reports a slot that was never written: all zero.
func CommitEmpty(p *[CommitSize]byte) bool { return *p == [CommitSize]byte{} }

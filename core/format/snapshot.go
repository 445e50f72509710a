package format

// SnapshotPage is one page of the saved allocator: docs/FORMAT.md, "Allocator
// snapshot". Its methods read and write the page by offsets.
type SnapshotPage [BlockSize]byte

// ChunkBlocks is the number of blocks in an allocation chunk: 2 MiB.
const ChunkBlocks = 512

// ChunkBits has one bit a block of a chunk, least significant first; a set bit
// is a block in use.
type ChunkBits [ChunkBlocks / 64]uint64

// ChunkEntry is the state of one chunk that is not entirely free.
type ChunkEntry struct {
	Chunk uint32
	Meta  bool // holds tree nodes
	Used  ChunkBits
}

const snapMagic = "PFAS"

// Offsets within a snapshot page.
const (
	spCRC     = 0
	spMagic   = 4
	spGen     = 8
	spBlock   = 16
	spNext    = 24
	spIndex   = 32
	spCount   = 36
	spEntries = 64

	ceChunk = 0
	ceFlags = 4
	ceBits  = 8
	ceSize  = 72

	ceFlagMeta = 1
)

// SnapshotEntries is how many chunks a page describes.
const SnapshotEntries = (BlockSize - spEntries) / ceSize

// Init makes p an empty page.
func (p *SnapshotPage) Init(g Generation, self, next Block, index uint32) {
	clear(p[:])
	copy(p[spMagic:], snapMagic)
	le.PutUint64(p[spGen:], uint64(g))
	le.PutUint64(p[spBlock:], uint64(self))
	le.PutUint64(p[spNext:], uint64(next))
	le.PutUint32(p[spIndex:], index)
}

// Count is the number of entries.
func (p *SnapshotPage) Count() int { return int(le.Uint16(p[spCount:])) }

// Next is the block of the next page, or 0.
func (p *SnapshotPage) Next() Block { return Block(le.Uint64(p[spNext:])) }

// Add appends an entry; it is false if the page is full.
func (p *SnapshotPage) Add(e *ChunkEntry) bool {
	n := p.Count()
	if n == SnapshotEntries {
		return false
	}
	q := p[spEntries+n*ceSize:]
	le.PutUint32(q[ceChunk:], e.Chunk)
	if e.Meta {
		le.PutUint32(q[ceFlags:], ceFlagMeta)
	}
	for i, w := range e.Used {
		le.PutUint64(q[ceBits+8*i:], w)
	}
	le.PutUint16(p[spCount:], uint16(n+1))
	return true
}

// Entry is the i-th entry.
func (p *SnapshotPage) Entry(i int) (e ChunkEntry) {
	q := p[spEntries+i*ceSize:]
	e.Chunk = le.Uint32(q[ceChunk:])
	e.Meta = le.Uint32(q[ceFlags:])&ceFlagMeta != 0
	for i := range e.Used {
		e.Used[i] = le.Uint64(q[ceBits+8*i:])
	}
	return e
}

// Seal stores the checksum.
func (p *SnapshotPage) Seal() { le.PutUint32(p[spCRC:], Checksum(p[spMagic:])) }

// Verify checks the page read from block self, which must be page index of the
// snapshot of generation g.
//
// Errors: ErrDamaged.
func (p *SnapshotPage) Verify(g Generation, self Block, index uint32) error {
	switch {
	case string(p[spMagic:spMagic+4]) != snapMagic:
		return damaged(self, "not a page of the saved allocator")
	case le.Uint32(p[spCRC:]) != Checksum(p[spMagic:]):
		return damaged(self, "the checksum of the saved allocator's page is wrong")
	case Generation(le.Uint64(p[spGen:])) != g, Block(le.Uint64(p[spBlock:])) != self, le.Uint32(p[spIndex:]) != index:
		return damaged(self, "a page of another saved allocator")
	case p.Count() > SnapshotEntries:
		return damaged(self, "the saved allocator's page has %d entries", p.Count())
	}
	return nil
}

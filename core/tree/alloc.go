package tree

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"permafrost/core/format"
)

const (
	chunkBlocks = format.ChunkBlocks       // blocks a chunk: 2 MiB
	areaChunks  = 512                      // chunks an area
	areaBlocks  = areaChunks * chunkBlocks // blocks an area: 1 GiB
	chunkWords  = chunkBlocks / 64
)

// allocator knows which blocks are in use. A block is free, used, or used and
// dying: freed, but kept until T5 lets it go. Bits are kept an area at a time,
// and an area that is entirely free has none.
type allocator struct {
	mu    sync.Mutex
	total format.Block // blocks of the image; guarded by mu
	first format.Block // first block ever given away; immutable
	areas []*area      // nil: entirely free; guarded by mu
	free  uint64       // free blocks; guarded by mu
	whole int          // chunks that are entirely free; guarded by mu

	// avail is the free blocks less those reserved: what a Begin may still
	// take. It is lowered before free is, and raised after.
	avail atomic.Int64
	floor atomic.Int64 // blocks kept for emergency transactions; written under mu

	meta      []uint32     // chunks that tree nodes are taken from; guarded by mu
	metaAt    int          // index in meta where the last node came from; guarded by mu
	metaFloor uint32       // chunks from here on were tried for meta; guarded by mu
	dataAt    format.Block // where the last data run ended; guarded by mu

	pending []deferred // by rising generation; guarded by mu
	dying   uint64     // blocks in pending; guarded by mu
	spare   []run      // an empty list for the next generation; guarded by mu

	// bad is the blocks that are never given away: true for those that belong to
	// a file, which are retired when it gives them up. Guarded by mu.
	bad map[format.Block]bool
}

// deferred is the blocks freed in one generation.
type deferred struct {
	gen  format.Generation
	runs []run
}

// run is a run of blocks.
type run struct {
	start format.Block
	n     uint64
}

// area is the state of 1 GiB of blocks. Guarded by allocator.mu.
type area struct {
	free      uint32
	chunkFree [areaChunks]uint16
	meta      [areaChunks / 64]uint64 // chunks that nodes are taken from
	used      [areaChunks][chunkWords]uint64
	later     *laterBits // nil until a block of the area is freed or young
}

// laterBits are the rarer facts about an area's blocks.
type laterBits struct {
	dying [areaChunks][chunkWords]uint64
	// young blocks hold data allocated in the generation youngGen of their
	// chunk; bits of an older generation mean nothing.
	young    [areaChunks][chunkWords]uint64
	youngGen [areaChunks]format.Generation
}

// newAllocator makes one with every block from first to total free.
func newAllocator(first, total format.Block) *allocator {
	a := &allocator{first: first, bad: make(map[format.Block]bool)}
	a.extendLocked(total)
	a.setLocked(0, uint64(first))
	a.free -= uint64(first)
	a.avail.Add(-int64(first))
	return a
}

// extendLocked adds free blocks up to total. What the last area has beyond the
// image's end is marked used. Needs mu, or nobody else.
func (a *allocator) extendLocked(total format.Block) {
	old := a.total
	if tail := uint64(old % areaBlocks); tail != 0 {
		a.unsetLocked(old, areaBlocks-tail)
	}
	for format.Block(len(a.areas))*areaBlocks < total {
		a.areas = append(a.areas, nil)
		a.whole += areaChunks
	}
	if total%areaBlocks != 0 {
		a.closeLocked(total)
	}
	a.total = total
	a.free += uint64(total - old)
	a.avail.Add(int64(total - old))
	a.floor.Store(emergencyFloor(total))
	a.metaFloor = a.chunks()
}

// closeLocked marks all of b's area from b on as used: whole chunks at once, for
// a small image is nearly all tail.
func (a *allocator) closeLocked(b format.Block) {
	ar := a.areaOf(b)
	if in := uint64(b % chunkBlocks); in != 0 {
		a.setLocked(b, chunkBlocks-in)
	}
	for c := (b%areaBlocks + chunkBlocks - 1) / chunkBlocks; c < areaChunks; c++ {
		for w := range ar.used[c] {
			ar.used[c][w] = ^uint64(0)
		}
		ar.free -= uint32(ar.chunkFree[c])
		if ar.chunkFree[c] == chunkBlocks {
			a.whole--
		}
		ar.chunkFree[c] = 0
	}
}

// emergencyRecords is how many records an operation that makes room may touch
// at once: taking a name away, with what it frees, is the largest of core's.
const emergencyRecords = 9

// emergencyGrowth is how many blocks of nodes such operations may take together
// before they give any back: an unlink puts a record on the list of orphans, and
// what the orphan owns is freed later. A node holds 85 of them at least.
const emergencyGrowth = 16

// emergencyFloor is how many blocks of an image of that size are kept for
// emergency transactions: a 64th, at most 64 MiB. A small image keeps enough for
// one of emergencyRecords, beside emergencyGrowth, in the deepest tree that it can
// have: one with 1,000 nodes at least is needed for four levels, where most nodes
// are sparse.
func emergencyFloor(total format.Block) int64 {
	depth := 3
	if total >= 1024 {
		depth = 4
	}
	return min(max(int64(total)/64, int64(worstNodes(emergencyRecords, depth)+emergencyGrowth)), 64<<20/format.BlockSize)
}

// chunks is the number of chunks, the last of which may be cut short.
func (a *allocator) chunks() uint32 { return uint32((a.total + chunkBlocks - 1) / chunkBlocks) }

// areaOf is the area with b, made if need be.
func (a *allocator) areaOf(b format.Block) *area {
	i := b / areaBlocks
	if a.areas[i] == nil {
		n := &area{free: areaBlocks}
		for c := range n.chunkFree {
			n.chunkFree[c] = chunkBlocks
		}
		a.areas[i] = n
	}
	return a.areas[i]
}

// eachWord calls fn for every bitmap word that [b, b+n) touches, with the mask
// of the bits meant.
func eachWord(b format.Block, n uint64, fn func(area format.Block, chunk, word int, mask uint64)) {
	for n > 0 {
		bit := uint64(b) % 64
		width := min(64-bit, n)
		mask := ^uint64(0) >> (64 - width) << bit
		in := b % areaBlocks
		fn(b/areaBlocks, int(in/chunkBlocks), int(in%chunkBlocks/64), mask)
		b += format.Block(width)
		n -= width
	}
}

// setLocked marks blocks used in the bitmaps; it is false, and marks the rest
// nevertheless, if one of them was used already.
func (a *allocator) setLocked(b format.Block, n uint64) (fresh bool) {
	fresh = true
	eachWord(b, n, func(i format.Block, c, w int, mask uint64) {
		ar := a.areaOf(i * areaBlocks)
		was := ar.used[c][w] & mask
		ar.used[c][w] |= mask
		added := bits.OnesCount64(mask &^ was)
		if ar.chunkFree[c] == chunkBlocks && added > 0 {
			a.whole--
		}
		ar.free -= uint32(added)
		ar.chunkFree[c] -= uint16(added)
		fresh = fresh && was == 0
	})
	return fresh
}

// unsetLocked marks used blocks free in the bitmaps.
func (a *allocator) unsetLocked(b format.Block, n uint64) {
	eachWord(b, n, func(i format.Block, c, w int, mask uint64) {
		ar := a.areas[i]
		mask &= ar.used[c][w]
		ar.used[c][w] &^= mask
		if ar.later != nil {
			ar.later.dying[c][w] &^= mask
			ar.later.young[c][w] &^= mask
		}
		gone := bits.OnesCount64(mask)
		ar.free += uint32(gone)
		ar.chunkFree[c] += uint16(gone)
		if ar.chunkFree[c] == chunkBlocks && gone > 0 {
			a.whole++
		}
	})
}

// takenLocked counts [b, b+n), which was free, out of the free blocks.
func (a *allocator) takenLocked(b format.Block, n uint64) error {
	if !a.setLocked(b, n) {
		return fmt.Errorf("blocks %d+%d allocated twice: %w", b, n, format.ErrDamaged)
	}
	a.free -= n
	return nil
}

// isLiveLocked reports whether all of [b, b+n) is used and not dying.
func (a *allocator) isLiveLocked(b format.Block, n uint64) bool {
	live := true
	eachWord(b, n, func(i format.Block, c, w int, mask uint64) {
		ar := a.areas[i]
		if ar == nil || ar.used[c][w]&mask != mask || ar.later != nil && ar.later.dying[c][w]&mask != 0 {
			live = false
		}
	})
	return live
}

// inRangeLocked reports whether [b, b+n) lies where blocks are given away.
func (a *allocator) inRangeLocked(b format.Block, n uint64) bool {
	return n > 0 && b >= a.first && b < a.total && n <= uint64(a.total-b)
}

// reserve takes n blocks out of what is available. An emergency reservation
// may go below the floor.
func (a *allocator) reserve(n int64, emergency bool) bool {
	floor := int64(0)
	if !emergency {
		floor = a.floor.Load()
	}
	if a.avail.Add(-n) >= floor {
		return true
	}
	a.avail.Add(n)
	return false
}

// release gives back n reserved blocks that were not needed.
func (a *allocator) release(n int64) {
	if n > 0 {
		a.avail.Add(n)
	}
}

// markUsed marks [b, b+n) as found in use by a record or, if meta, by the tree
// itself. It is for recovery only.
//
// Errors: ErrBadRange, format.ErrDamaged if a block has two owners.
func (a *allocator) markUsed(b format.Block, n uint64, meta bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.inRangeLocked(b, n) {
		return fmt.Errorf("blocks %d+%d: %w: %w", b, n, ErrBadRange, format.ErrDamaged)
	}
	if !a.setLocked(b, n) {
		return fmt.Errorf("blocks %d+%d: one of them has two owners: %w", b, n, format.ErrDamaged)
	}
	if meta {
		a.makeMetaLocked(uint32(b / chunkBlocks))
	}
	a.free -= n
	a.avail.Add(-int64(n))
	return nil
}

// wordLocked is the 64 blocks from b on, a multiple of 64: a bit is set where a
// block is used, dying ones included if dying.
func (a *allocator) wordLocked(b format.Block, dying bool) uint64 {
	ar := a.areas[b/areaBlocks]
	if ar == nil {
		return 0
	}
	in := b % areaBlocks
	c, w := in/chunkBlocks, in%chunkBlocks/64
	word := ar.used[c][w]
	if ar.later != nil && !dying {
		word &^= ar.later.dying[c][w]
	}
	return word
}

// note counts the bits of a word of blocks from b on, and keeps the first.
func note(count *uint64, first *format.Block, b format.Block, word uint64) {
	if *count == 0 {
		*first = b + format.Block(bits.TrailingZeros64(word))
	}
	*count += uint64(bits.OnesCount64(word))
}

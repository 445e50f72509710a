package tree

import (
	"math/bits"

	"permafrost/core/format"
)

const (
	// metaLook is how many chunks of nodes are looked at for a free block before
	// a new chunk is taken for nodes.
	metaLook = 64
	// dataLook is how many chunks with some room are looked at for a run of the
	// length wanted before the longest run found must do.
	dataLook = 64
	// goodRun is the shortest run worth taking next to the hint when more is
	// wanted.
	goodRun = 16
)

// node allocates a block for a tree node, away from file data: nodes share
// chunks, so that data finds whole ones.
func (a *allocator) node() (format.Block, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.free == 0 {
		return 0, ErrNoSpace
	}
	c, ok := a.metaChunkLocked()
	if !ok {
		return 0, ErrNoSpace
	}
	b := a.lowestFreeLocked(c)
	return b, a.takenLocked(b, 1)
}

// metaChunkLocked is a chunk with a free block for a node.
func (a *allocator) metaChunkLocked() (uint32, bool) {
	for look := min(metaLook, len(a.meta)); look > 0; look-- {
		if a.metaAt >= len(a.meta) {
			a.metaAt = 0
		}
		c := a.meta[a.metaAt]
		if a.isMeta(c) && a.chunkFree(c) > 0 {
			return c, true
		}
		if !a.isMeta(c) { // data took the chunk over
			last := len(a.meta) - 1
			a.meta[a.metaAt] = a.meta[last]
			a.meta = a.meta[:last]
			continue
		}
		a.metaAt++
	}
	if c, ok := a.wholeChunkLocked(); ok {
		return c, true
	}
	return a.anyChunkLocked()
}

// anyChunkLocked takes the highest chunk with a free block for nodes: the image
// is nearly full.
func (a *allocator) anyChunkLocked() (uint32, bool) {
	for i := len(a.areas) - 1; i >= 0; i-- {
		if ar := a.areas[i]; ar != nil && ar.free == 0 {
			continue
		}
		first := uint32(i * areaChunks)
		for c := min(first+areaChunks, a.chunks()); c > first; c-- {
			if a.chunkFree(c-1) > 0 {
				a.makeMetaLocked(c - 1)
				a.metaAt = len(a.meta) - 1
				return c - 1, true
			}
		}
	}
	return 0, false
}

// wholeChunkLocked takes the highest free chunk for nodes. It goes on below
// the last one it found, and starts again at the top once it is through.
func (a *allocator) wholeChunkLocked() (uint32, bool) {
	for rounds := 0; rounds < 2 && a.whole > 0; rounds++ {
		for a.metaFloor > 0 {
			a.metaFloor--
			if c := a.metaFloor; a.chunkFree(c) == chunkBlocks && !a.isMeta(c) {
				a.makeMetaLocked(c)
				a.metaAt = len(a.meta) - 1
				return c, true
			}
		}
		a.metaFloor = a.chunks()
	}
	return 0, false
}

// chunkFree is the number of free blocks in chunk c.
func (a *allocator) chunkFree(c uint32) int {
	ar := a.areas[c/areaChunks]
	if ar == nil {
		return chunkBlocks
	}
	return int(ar.chunkFree[c%areaChunks])
}

// isMeta reports whether nodes are taken from chunk c.
func (a *allocator) isMeta(c uint32) bool {
	ar := a.areas[c/areaChunks]
	return ar != nil && ar.meta[c%areaChunks/64]&(1<<(c%64)) != 0
}

// makeMetaLocked makes nodes be taken from chunk c.
func (a *allocator) makeMetaLocked(c uint32) {
	if a.isMeta(c) {
		return
	}
	ar := a.areaOf(format.Block(c) * chunkBlocks)
	ar.meta[c%areaChunks/64] |= 1 << (c % 64)
	a.meta = append(a.meta, c)
}

// lowestFreeLocked is the first free block of chunk c, which has one.
func (a *allocator) lowestFreeLocked(c uint32) format.Block {
	ar := a.areaOf(format.Block(c) * chunkBlocks)
	for w, used := range &ar.used[c%areaChunks] {
		if used != ^uint64(0) {
			return format.Block(c)*chunkBlocks + format.Block(w*64+bits.TrailingZeros64(^used))
		}
	}
	return format.Block(c) * chunkBlocks
}

// data allocates one run of 1 to n blocks in generation gen: next to hint if
// there is room, else whole chunks for 2 MiB and more, else a run of the length
// wanted near the last one, else the longest found.
func (a *allocator) data(hint format.Block, n uint64, gen format.Generation) (run, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.free == 0 {
		return run{}, ErrNoSpace
	}
	r := a.findDataLocked(hint, n)
	if r.n == 0 {
		return run{}, ErrNoSpace
	}
	if err := a.takenLocked(r.start, r.n); err != nil {
		return run{}, err
	}
	a.dataAt = r.start + format.Block(r.n)
	a.setYoungLocked(r, gen)
	return r, nil
}

func (a *allocator) findDataLocked(hint format.Block, n uint64) run {
	if a.inRangeLocked(hint, 1) {
		if r := a.runAtLocked(hint, n); r.n == n || r.n >= goodRun {
			return r
		}
	}
	if !a.inRangeLocked(a.dataAt, 1) {
		a.dataAt = a.first
	}
	from := uint32(a.dataAt / chunkBlocks)
	if n >= chunkBlocks && a.whole > 0 {
		if r := a.wholeRunLocked(from, n); r.n > 0 {
			return r
		}
	}
	if r := a.searchLocked(from, n, false); r.n > 0 {
		return r
	}
	return a.searchLocked(from, n, true)
}

// runAtLocked is the free run of at most n blocks that begins at b; it may be
// empty.
func (a *allocator) runAtLocked(b format.Block, n uint64) run {
	r := run{start: b}
	n = min(n, uint64(a.total-b))
	for r.n < n {
		at := b + format.Block(r.n)
		c := uint32(at / chunkBlocks)
		if at%chunkBlocks == 0 && a.chunkFree(c) == chunkBlocks {
			r.n += chunkBlocks
			continue
		}
		ar := a.areas[c/areaChunks]
		if ar == nil {
			r.n += chunkBlocks - uint64(at%chunkBlocks)
			continue
		}
		bit := uint64(at % 64)
		got := min(uint64(bits.TrailingZeros64(ar.used[c%areaChunks][at%chunkBlocks/64]>>bit)), 64-bit)
		r.n += got
		if got < 64-bit {
			break
		}
	}
	r.n = min(r.n, n)
	return r
}

// wholeRunLocked is a run of at most n blocks that begins with a free chunk,
// the first one from chunk from on, around the end. Chunks of nodes that are
// empty do as well.
func (a *allocator) wholeRunLocked(from uint32, n uint64) run {
	chunks := a.chunks()
	for i := uint32(0); i < chunks; {
		c := (from + i) % chunks
		if ar := a.areas[c/areaChunks]; ar != nil && ar.free < chunkBlocks {
			i += min(areaChunks-c%areaChunks, chunks-c)
			continue
		}
		if a.chunkFree(c) == chunkBlocks {
			r := a.runAtLocked(format.Block(c)*chunkBlocks, n)
			a.unmetaLocked(c, uint32((r.n+chunkBlocks-1)/chunkBlocks))
			return r
		}
		i++
	}
	return run{}
}

// unmetaLocked gives n chunks from c on to data.
func (a *allocator) unmetaLocked(c, n uint32) {
	for ; n > 0; c, n = c+1, n-1 {
		if ar := a.areas[c/areaChunks]; ar != nil && ar.chunkFree[c%areaChunks] == chunkBlocks {
			ar.meta[c%areaChunks/64] &^= 1 << (c % 64)
		}
	}
}

// searchLocked is a run of n blocks from chunk from on, around the end; or the
// longest of the first dataLook chunks with room. Chunks of nodes count only
// if meta.
func (a *allocator) searchLocked(from uint32, n uint64, meta bool) (best run) {
	chunks := a.chunks()
	looked := 0
	for i := uint32(0); i < chunks && looked < dataLook; {
		c := (from + i) % chunks
		if ar := a.areas[c/areaChunks]; ar != nil && ar.free == 0 {
			i += min(areaChunks-c%areaChunks, chunks-c)
			continue
		}
		i++
		if a.chunkFree(c) == 0 || a.isMeta(c) != meta {
			continue
		}
		looked++
		if best = a.longestLocked(c, n, best); best.n == n {
			return best
		}
	}
	return best
}

// longestLocked is the first free run of n blocks that begins in chunk c, or
// the longest one if it is longer than best, else best.
func (a *allocator) longestLocked(c uint32, n uint64, best run) run {
	end := min(format.Block(c+1)*chunkBlocks, a.total)
	for b := max(format.Block(c)*chunkBlocks, a.first); b < end; {
		r := a.runAtLocked(b, n)
		if r.n > best.n {
			best = r
			if r.n == n {
				return best
			}
		}
		b = a.nextFreeLocked(b+format.Block(r.n), end)
	}
	return best
}

// nextFreeLocked is the first free block of [b, end), or end. b's chunk is not
// entirely free.
func (a *allocator) nextFreeLocked(b, end format.Block) format.Block {
	for b < end {
		ar := a.areas[b/areaBlocks]
		if ar == nil {
			return b
		}
		in := b % areaBlocks
		free := ^ar.used[in/chunkBlocks][in%chunkBlocks/64] >> (b % 64)
		if free != 0 {
			return min(b+format.Block(bits.TrailingZeros64(free)), end)
		}
		b += 64 - b%64
	}
	return end
}

// setYoungLocked notes that r was allocated for data in generation gen.
func (a *allocator) setYoungLocked(r run, gen format.Generation) {
	eachWord(r.start, r.n, func(i format.Block, c, w int, mask uint64) {
		l := a.laterOf(i)
		if l.youngGen[c] != gen {
			l.young[c] = [chunkWords]uint64{}
			l.youngGen[c] = gen
		}
		l.young[c][w] |= mask
	})
}

// laterOf is the rarer bits of area i, made if need be.
func (a *allocator) laterOf(i format.Block) *laterBits {
	ar := a.areaOf(i * areaBlocks)
	if ar.later == nil {
		ar.later = new(laterBits)
	}
	return ar.later
}

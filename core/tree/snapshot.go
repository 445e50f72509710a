package tree

import (
	"fmt"
	"math/bits"

	"permafrost/core/format"
	"permafrost/pmem"
)

// saveAllocator stores the blocks in use by the last commit in free blocks and
// names them in rec. If there is no room the commit is not a clean one, and the
// next mount walks the tree. Needs groupMu exclusively.
func (s *Store) saveAllocator(b pmem.Batch, rec *format.CommitRecord) error {
	a := s.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	entries := a.entriesLocked()
	count := max((len(entries)+format.SnapshotEntries-1)/format.SnapshotEntries, 1)
	places := a.freePlacesLocked(count)
	if len(places) < count {
		return nil
	}
	for i := range places {
		next := format.Block(0)
		if i+1 < count {
			next = places[i+1]
		}
		var page format.SnapshotPage
		page.Init(rec.Generation, places[i], next, uint32(i))
		for len(entries) > 0 && page.Add(&entries[0]) {
			entries = entries[1:]
		}
		page.Seal()
		if err := b.Write(int64(places[i])*format.BlockSize, page[:]); err != nil {
			return fmt.Errorf("save the allocator: %w", err)
		}
	}
	rec.Clean, rec.Snapshot, rec.SnapshotPages = true, places[0], uint32(count)
	return nil
}

// entriesLocked describes every chunk in use. Dying blocks are free to the next
// mount: it commits twice before it allocates.
func (a *allocator) entriesLocked() (list []format.ChunkEntry) {
	for i, ar := range a.areas {
		if ar == nil {
			continue
		}
		for c := range ar.used {
			chunk := uint32(i*areaChunks + c)
			if ar.chunkFree[c] == chunkBlocks || chunk >= a.chunks() {
				continue
			}
			e := format.ChunkEntry{Chunk: chunk, Meta: a.isMeta(chunk), Used: ar.used[c]}
			if ar.later != nil {
				for w := range e.Used {
					e.Used[w] &^= ar.later.dying[c][w]
				}
			}
			if e.Used != (format.ChunkBits{}) {
				list = append(list, e)
			}
		}
	}
	return list
}

// freePlacesLocked is up to n free blocks, from the end of the image down. They
// stay free: what is stored there lives until the next mount allocates.
func (a *allocator) freePlacesLocked(n int) (places []format.Block) {
	for c := a.chunks(); c > 0 && len(places) < n; c-- {
		if a.chunkFree(c-1) == 0 {
			continue
		}
		start := format.Block(c-1) * chunkBlocks
		end := min(start+chunkBlocks, a.total)
		for b := a.nextFreeLocked(start, end); b < end && len(places) < n; b = a.nextFreeLocked(b+1, end) {
			places = append(places, b)
		}
	}
	return places
}

// loadAllocator reads the snapshot that the clean commit rec names.
//
// Errors: format.ErrDamaged, the medium's.
func loadAllocator(m pmem.Medium, sb *format.Superblock, rec *format.CommitRecord) (*allocator, error) {
	a := newAllocator(sb.First, sb.Blocks)
	b := rec.Snapshot
	var page format.SnapshotPage
	for i := range rec.SnapshotPages {
		if b < sb.First || b >= sb.Blocks {
			return nil, damaged(b, "page %d of the saved allocator lies outside the image", i)
		}
		if _, err := m.ReadAt(page[:], int64(b)*format.BlockSize); err != nil {
			return nil, fmt.Errorf("read the saved allocator: %w", err)
		}
		if err := page.Verify(rec.Generation, b, i); err != nil {
			return nil, err
		}
		for x := range page.Count() {
			e := page.Entry(x)
			if e.Chunk >= a.chunks() {
				return nil, damaged(b, "the saved allocator has a chunk %d outside the image", e.Chunk)
			}
			a.loadChunk(&e)
		}
		b = page.Next()
	}
	want := uint64(sb.Blocks) - uint64(sb.First) - rec.Counters.Nodes - rec.Counters.Data
	if b != 0 || a.free != want {
		return nil, damaged(rec.Snapshot, "the saved allocator has %d free blocks, the commit says %d", a.free, want)
	}
	return a, nil
}

// loadChunk marks the blocks of one entry. The allocator has no other user yet.
func (a *allocator) loadChunk(e *format.ChunkEntry) {
	start := format.Block(e.Chunk) * chunkBlocks
	ar := a.areaOf(start)
	c := e.Chunk % areaChunks
	for w, word := range e.Used {
		word &^= ar.used[c][w]
		for word != 0 {
			bit := bits.TrailingZeros64(word)
			run := bits.TrailingZeros64(^(word >> bit))
			a.setLocked(start+format.Block(w*64+bit), uint64(run))
			a.free -= uint64(run)
			a.avail.Add(-int64(run))
			word &^= ^uint64(0) >> (64 - run) << bit
		}
	}
	if e.Meta {
		a.makeMetaLocked(e.Chunk)
	}
}

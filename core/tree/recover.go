package tree

import (
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/pmem"
)

// image is what the fixed places of an image say.
type image struct {
	super     *format.Superblock
	superCopy bool                   // the primary superblock is damaged
	commits   []*format.CommitRecord // usable, newest first: at most MaxFallback+1
	newest    format.Generation      // greatest generation that may have been durable
	torn      []format.Block         // slots that are neither whole nor empty, and can be read
	mended    []format.Block         // slots of which one bit is wrong: as good as whole
	unread    []Problem              // slots that the medium does not give
}

// readImage reads the superblock and the ring.
//
// Errors: those of package format, and the medium's.
func readImage(m pmem.Medium) (*image, error) {
	im := &image{}
	var err error
	if im.super, im.superCopy, err = readSuperblock(m); err != nil {
		return nil, err
	}
	if want := int64(im.super.Blocks) * format.BlockSize; m.Size() < want {
		return nil, fmt.Errorf("it has %d bytes of %d: %w", m.Size(), want, format.ErrTruncated)
	}
	if err := im.readRing(m); err != nil {
		return nil, err
	}
	return im, nil
}

// RoomToCount is how far below format.MaxNumber generations, freeze ids and the
// next inode number of a commit are that may be gone on from: nobody counts so
// far, and none of them passes the bound.
const RoomToCount = 1 << 32

// roomToCount refuses a commit whose numbers were never reached by counting.
func roomToCount(sb *format.Superblock, rec *format.CommitRecord) error {
	if most := max(uint64(rec.Generation), rec.LastFreezeID, rec.FreezeID, uint64(rec.Counters.NextIno)); most > format.MaxNumber-RoomToCount {
		return damaged(slotBlock(sb, rec.Generation), "a generation, freeze id or inode number of %d leaves no room to count on", most)
	}
	return nil
}

// readSuperblock is the primary superblock or, if that is damaged, its copy.
func readSuperblock(m pmem.Medium) (sb *format.Superblock, copied bool, err error) {
	if m.Size() < format.SuperblockCopies*format.BlockSize {
		return nil, false, fmt.Errorf("%d bytes: %w", m.Size(), format.ErrTooSmall)
	}
	var first error
	for i := range format.Block(format.SuperblockCopies) {
		sb, err := superblockAt(m, i)
		if err == nil || errors.Is(err, format.ErrNewerFormat) {
			return sb, i > 0, err
		}
		if first == nil {
			first = err
		}
	}
	if errors.Is(first, format.ErrNotOurs) && m.Size() < format.MinImage {
		return nil, false, fmt.Errorf("%d bytes: %w", m.Size(), format.ErrTooSmall)
	}
	return nil, false, first
}

// superblockAt reads the superblock in block i.
func superblockAt(m pmem.Medium, i format.Block) (*format.Superblock, error) {
	var page [format.BlockSize]byte
	if _, err := m.ReadAt(page[:], int64(i)*format.BlockSize); err != nil {
		return nil, fmt.Errorf("read superblock %d: %w", i, err)
	}
	return format.DecodeSuperblock(i, &page)
}

// slot is what a slot of the ring holds: a record, nothing, or neither.
type slot struct {
	rec    *format.CommitRecord
	mended bool  // one bit of the record is wrong
	empty  bool  // never written
	err    error // why it holds neither a record nor nothing
	unread bool  // err is the medium's
}

// readSlot reads the slot in block b.
func readSlot(m pmem.Medium, sb *format.Superblock, b format.Block) (s slot) {
	var buf [format.CommitSize]byte
	if _, err := m.ReadAt(buf[:], int64(b)*format.BlockSize); err != nil {
		return slot{err: err, unread: true}
	}
	if format.CommitEmpty(&buf) {
		return slot{empty: true}
	}
	rec, err := format.DecodeCommit(b, &buf)
	if err != nil {
		if rec, s.err = format.MendCommit(b, &buf); s.err != nil {
			return slot{err: err}
		}
		s.mended = true
	}
	switch {
	case slotBlock(sb, rec.Generation) != b:
		return slot{err: damaged(b, "generation %d belongs in block %d", rec.Generation, slotBlock(sb, rec.Generation))}
	case rec.Blocks > sb.Blocks:
		return slot{err: damaged(b, "a commit of an image of %d blocks", rec.Blocks)}
	}
	s.rec = rec
	return s
}

// readRing finds the commits that may be mounted. A slot that is neither whole
// nor empty may be the newest commit, torn or damaged; as many of them as stand
// behind the newest whole one count as fallen back over (T5).
func (im *image) readRing(m pmem.Medium) error {
	sb := im.super
	slots := make([]*format.CommitRecord, sb.Slots)
	torn := make([]bool, sb.Slots)
	var newest *format.CommitRecord
	for i := range slots {
		b := sb.Ring + format.Block(i)
		sl := readSlot(m, sb, b)
		if sl.mended {
			im.mended = append(im.mended, b)
		}
		if torn[i] = sl.err != nil; sl.unread {
			im.unread = append(im.unread, Problem{Block: b, What: fmt.Sprintf("commit slot: %v", sl.err)})
		} else if torn[i] {
			im.torn = append(im.torn, b)
		}
		slots[i] = sl.rec
		if sl.rec != nil && (newest == nil || sl.rec.Generation > newest.Generation) {
			newest = sl.rec
		}
	}
	if newest == nil {
		return damaged(sb.Ring, "the ring holds no commit record")
	}
	at := func(g format.Generation) int { return int(uint64(g) % uint64(sb.Slots)) }
	im.newest = newest.Generation
	for im.newest < newest.Generation+format.Generation(sb.Slots) && torn[at(im.newest+1)] {
		im.newest++
	}
	for back := format.Generation(0); back <= format.MaxFallback && back < im.newest; back++ {
		g := im.newest - back
		if rec := slots[at(g)]; rec != nil && rec.Generation == g {
			im.commits = append(im.commits, rec)
		}
	}
	if len(im.commits) == 0 {
		return damaged(sb.Ring, "%d commit records behind generation %d are damaged, more than a mount may fall back", im.newest-newest.Generation, newest.Generation)
	}
	return nil
}

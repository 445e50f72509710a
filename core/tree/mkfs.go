package tree

import (
	"crypto/rand"
	"fmt"
	"time"

	"permafrost/core/format"
	"permafrost/pmem"
)

// FormatOptions direct Format.
type FormatOptions struct {
	Label string // at most format.MaxLabel bytes
	// UUID and HashSeed are random if zero.
	UUID, HashSeed [16]byte
	// NextIno is the first inode number that Tx.NextIno gives. 0: 1.
	NextIno format.Ino
	// Now is the clock of the creation time. Nil: time.Now.
	Now func() time.Time
}

// tinyImage is the size in blocks below which the ring is small.
const tinyImage = 16 << 20 / format.BlockSize

// Format makes m an image: superblocks, ring, an empty tree and its commit.
// Whatever m held is lost. Until the superblocks are written, last, m is not an
// image, so a crash leaves none that looks right.
//
// Errors: format.ErrTooSmall, format.ErrTooLarge, ErrBadRecord for the label,
// the medium's.
func Format(m pmem.Medium, o FormatOptions) error {
	sb, err := newSuperblock(m.Size(), &o)
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	b := m.Begin()
	defer b.End()
	if err := formatBatch(b, sb, o.NextIno); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	return nil
}

// newSuperblock lays out an image of size bytes.
func newSuperblock(size int64, o *FormatOptions) (*format.Superblock, error) {
	switch {
	case size < format.MinImage:
		return nil, fmt.Errorf("%d bytes: %w", size, format.ErrTooSmall)
	case size > format.MaxImage:
		return nil, fmt.Errorf("%d bytes: %w", size, format.ErrTooLarge)
	case len(o.Label) > format.MaxLabel:
		return nil, fmt.Errorf("label of %d bytes, at most %d: %w", len(o.Label), format.MaxLabel, ErrBadRecord)
	}
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	sb := &format.Superblock{
		Version: format.Version, Label: o.Label, UUID: o.UUID, HashSeed: o.HashSeed,
		Ring: format.SuperblockCopies, Slots: 16, Created: now(),
		Blocks: format.Block(size / format.BlockSize),
	}
	if sb.Blocks < tinyImage {
		sb.Slots = 8
	}
	sb.First = sb.Ring + format.Block(sb.Slots)
	for _, id := range []*[16]byte{&sb.UUID, &sb.HashSeed} {
		if *id == ([16]byte{}) {
			rand.Read(id[:]) // never fails
			if id == &sb.UUID {
				id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // version 4, RFC 9562
			}
		}
	}
	if o.NextIno == 0 {
		o.NextIno = 1
	}
	return sb, nil
}

// formatBatch stores a new image in three steps, each fenced.
func formatBatch(b pmem.Batch, sb *format.Superblock, next format.Ino) error {
	// Nothing of an older image may be found.
	if err := b.Zero(0, int64(sb.First)*format.BlockSize); err != nil {
		return err
	}
	if err := b.Fence(); err != nil {
		return err
	}
	const gen = 1
	var root format.Node
	root.Init(0, sb.First, gen)
	rec := &format.CommitRecord{
		Generation: gen,
		TimeNS:     sb.Created.UnixNano(),
		Blocks:     sb.Blocks,
		Counters:   format.Counters{NextIno: next, Nodes: 1},
	}
	rec.Roots[0].Ptr = format.Ptr{Block: sb.First, Birth: gen, CRC: root.Seal()}
	if err := b.Write(int64(sb.First)*format.BlockSize, root[:]); err != nil {
		return err
	}
	if err := writeSlot(b, sb, rec); err != nil {
		return err
	}
	if err := b.Fence(); err != nil {
		return err
	}
	return writeSuperblocks(b, sb)
}

// writeSuperblocks stores the copy, then the primary superblock, each fenced,
// so that one of them is whole at any time.
func writeSuperblocks(b pmem.Batch, sb *format.Superblock) error {
	var page [format.BlockSize]byte
	sb.Encode(&page)
	for i := format.SuperblockCopies - 1; i >= 0; i-- {
		if err := b.Write(int64(i)*format.BlockSize, page[:]); err != nil {
			return fmt.Errorf("write superblock %d: %w", i, err)
		}
		if err := b.Fence(); err != nil {
			return fmt.Errorf("write superblock %d: %w", i, err)
		}
	}
	return nil
}

package format

import (
	"bytes"
	"fmt"
	"time"
)

// Superblock is the decoded superblock: docs/FORMAT.md, "Superblock". It is
// written by mkfs and by a grow, and by nothing else.
type Superblock struct {
	Version  uint32
	UUID     [16]byte
	HashSeed [16]byte // keys the hash of directory entry names
	Label    string   // at most MaxLabel bytes
	Ring     Block    // first block of the commit ring
	Slots    uint32   // blocks in the ring, one slot each
	Blocks   Block    // size of the image
	First    Block    // first block the allocator may give away
	Created  time.Time
	Incompat uint64 // features without which the image must not be opened
	ROCompat uint64 // features without which it must not be changed
}

const (
	// Version is the newest format version known. Versions are append-only.
	Version = 1
	// MaxLabel is the longest label, in bytes.
	MaxLabel = 64
	// MinImage and MaxImage bound the size of an image, in bytes.
	MinImage = 1 << 20
	MaxImage = 1 << 52
	// SuperblockCopies is how many superblocks an image has, from block 0 on.
	SuperblockCopies = 2

	knownIncompat = 0
	knownROCompat = 0
)

const superMagic = "PERMAFRO"

// Offsets within the superblock.
const (
	sbMagic    = 0
	sbCRC      = 8
	sbVersion  = 12
	sbUUID     = 16
	sbSeed     = 32
	sbLabel    = 48
	sbBlkSize  = 112
	sbSlots    = 116
	sbRing     = 120
	sbBlocks   = 128
	sbFirst    = 136
	sbCreated  = 144
	sbIncompat = 152
	sbROCompat = 160
	sbEnd      = 168
)

// Encode fills a whole block with the superblock and its checksum.
func (s *Superblock) Encode(p *[BlockSize]byte) {
	clear(p[:])
	copy(p[sbMagic:], superMagic)
	le.PutUint32(p[sbVersion:], s.Version)
	copy(p[sbUUID:], s.UUID[:])
	copy(p[sbSeed:], s.HashSeed[:])
	copy(p[sbLabel:sbLabel+MaxLabel], s.Label)
	le.PutUint32(p[sbBlkSize:], BlockSize)
	le.PutUint32(p[sbSlots:], s.Slots)
	le.PutUint64(p[sbRing:], uint64(s.Ring))
	le.PutUint64(p[sbBlocks:], uint64(s.Blocks))
	le.PutUint64(p[sbFirst:], uint64(s.First))
	le.PutUint64(p[sbCreated:], uint64(s.Created.UnixNano()))
	le.PutUint64(p[sbIncompat:], s.Incompat)
	le.PutUint64(p[sbROCompat:], s.ROCompat)
	le.PutUint32(p[sbCRC:], Checksum(p[sbVersion:]))
}

// DecodeSuperblock reads the superblock in p, which is block b of the image.
//
// Errors: ErrNotOurs, ErrNewerFormat, ErrDamaged.
func DecodeSuperblock(b Block, p *[BlockSize]byte) (*Superblock, error) {
	if string(p[sbMagic:sbMagic+8]) != superMagic {
		return nil, fmt.Errorf("block %d has no superblock: %w", b, ErrNotOurs)
	}
	if le.Uint32(p[sbCRC:]) != Checksum(p[sbVersion:]) {
		return nil, damaged(b, "the superblock's checksum is wrong")
	}
	s := &Superblock{
		Version:  le.Uint32(p[sbVersion:]),
		Label:    string(bytes.TrimRight(p[sbLabel:sbLabel+MaxLabel], "\x00")),
		Slots:    le.Uint32(p[sbSlots:]),
		Ring:     Block(le.Uint64(p[sbRing:])),
		Blocks:   Block(le.Uint64(p[sbBlocks:])),
		First:    Block(le.Uint64(p[sbFirst:])),
		Created:  time.Unix(0, int64(le.Uint64(p[sbCreated:]))).UTC(),
		Incompat: le.Uint64(p[sbIncompat:]),
		ROCompat: le.Uint64(p[sbROCompat:]),
	}
	copy(s.UUID[:], p[sbUUID:])
	copy(s.HashSeed[:], p[sbSeed:])
	if s.Version > Version {
		return nil, fmt.Errorf("version %d, known up to %d: %w", s.Version, Version, ErrNewerFormat)
	}
	if x := s.Incompat &^ knownIncompat; x != 0 {
		return nil, fmt.Errorf("unknown features %#x: %w", x, ErrNewerFormat)
	}
	return s, s.valid(b, le.Uint32(p[sbBlkSize:]))
}

// valid checks the rules between the fields.
func (s *Superblock) valid(b Block, blockSize uint32) error {
	switch {
	case s.Version == 0:
		return damaged(b, "format version 0 does not exist")
	case blockSize != BlockSize:
		return damaged(b, "block size is %d, not %d", blockSize, BlockSize)
	case s.Blocks < MinImage/BlockSize || s.Blocks > MaxImage/BlockSize:
		return damaged(b, "size of %d blocks is out of bounds", s.Blocks)
	case s.Slots < MinSlots || s.Slots > MaxSlots:
		return damaged(b, "a ring of %d slots is out of bounds", s.Slots)
	case s.Ring < SuperblockCopies || s.Ring >= s.Blocks:
		return damaged(b, "the ring begins at block %d", s.Ring)
	case s.First < s.Ring+Block(s.Slots) || s.First >= s.Blocks:
		return damaged(b, "the allocatable blocks begin at block %d", s.First)
	}
	return nil
}

// ReadOnlyOnly reports features of the image that this program can read but
// must not change, or 0.
func (s *Superblock) ReadOnlyOnly() uint64 { return s.ROCompat &^ knownROCompat }

package tree

import (
	"math/bits"

	"permafrost/core/format"
)

// BlockSet is a set of blocks of one image: a bit a block, kept 1 GiB of blocks
// at a time, parts without members taking nothing. It has one user at a time.
type BlockSet struct {
	total format.Block // blocks of the image; immutable
	parts []*blockPart // nil: no member
}

type blockPart [areaBlocks / 64]uint64

// NewBlockSet makes an empty set for an image of total blocks.
func NewBlockSet(total format.Block) *BlockSet {
	return &BlockSet{total: total, parts: make([]*blockPart, (total+areaBlocks-1)/areaBlocks)}
}

// words calls fn for the words of [b, b+n), cut at the image's end, with the
// mask of the bits meant. Parts that are not there are made.
func (s *BlockSet) words(b format.Block, n uint64, fn func(word *uint64, mask uint64)) {
	if b >= s.total {
		return
	}
	n = min(n, uint64(s.total-b))
	for n > 0 {
		part := s.parts[b/areaBlocks]
		if part == nil {
			part = new(blockPart)
			s.parts[b/areaBlocks] = part
		}
		bit := uint64(b) % 64
		width := min(64-bit, n)
		fn(&part[b%areaBlocks/64], ^uint64(0)>>(64-width)<<bit)
		b += format.Block(width)
		n -= width
	}
}

// Add makes [b, b+n) members and returns how many were not yet. Blocks outside
// the image are not added.
func (s *BlockSet) Add(b format.Block, n uint64) (fresh uint64) {
	s.words(b, n, func(w *uint64, mask uint64) {
		fresh += uint64(bits.OnesCount64(mask &^ *w))
		*w |= mask
	})
	return fresh
}

// AddAll makes the members of o members. Both are sets of the same image.
func (s *BlockSet) AddAll(o *BlockSet) {
	for i, part := range o.parts {
		switch {
		case part == nil:
		case s.parts[i] == nil:
			s.parts[i] = new(*part)
		default:
			for w, word := range part {
				s.parts[i][w] |= word
			}
		}
	}
}

// Count is how many of [b, b+n) are members.
func (s *BlockSet) Count(b format.Block, n uint64) (members uint64) {
	s.words(b, n, func(w *uint64, mask uint64) { members += uint64(bits.OnesCount64(*w & mask)) })
	return members
}

// Has reports whether b is a member.
func (s *BlockSet) Has(b format.Block) bool {
	if b >= s.total {
		return false
	}
	part := s.parts[b/areaBlocks]
	return part != nil && part[b%areaBlocks/64]&(1<<(b%64)) != 0
}

// Runs cuts [b, b+n) into runs that are members and runs that are not, in
// order. Blocks outside the image are no members.
func (s *BlockSet) Runs(b format.Block, n uint64, fn func(b format.Block, n uint64, member bool)) {
	for n > 0 {
		member := s.Has(b)
		length := s.runLength(b, n, member)
		fn(b, length, member)
		b += format.Block(length)
		n -= length
	}
}

// runLength is how many blocks from b on, at most n, are all members or all
// not.
func (s *BlockSet) runLength(b format.Block, n uint64, member bool) uint64 {
	length := uint64(0)
	for length < n {
		at := b + format.Block(length)
		if at >= s.total {
			if member {
				return length
			}
			return n
		}
		bit := uint64(at) % 64
		var word uint64
		if part := s.parts[at/areaBlocks]; part != nil {
			word = part[at%areaBlocks/64]
		} else if !member {
			length += areaBlocks - uint64(at%areaBlocks)
			continue
		}
		if member {
			word = ^word
		}
		got := min(uint64(bits.TrailingZeros64(word>>bit)), 64-bit)
		length += got
		if got < 64-bit {
			break
		}
	}
	return min(length, n)
}

// HighestOut is the highest block of [from, below) that is no member; false if
// there is none.
func (s *BlockSet) HighestOut(from, below format.Block) (format.Block, bool) {
	for b := min(below, s.total); b > from; {
		b--
		part := s.parts[b/areaBlocks]
		if part == nil {
			return b, true
		}
		out := ^part[b%areaBlocks/64] & (^uint64(0) >> (63 - b%64))
		if out != 0 {
			if found := b/64*64 + format.Block(63-bits.LeadingZeros64(out)); found >= from {
				return found, true
			}
			return 0, false
		}
		b = b / 64 * 64
	}
	return 0, false
}

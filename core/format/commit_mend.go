package format

import (
	"math/bits"
	"sync"
)

// MendCommit reads the commit record in slot block b of which one bit is wrong.
// The first checksum tells which one: CRC-32C of so few bytes differs in six bits
// and more between any two records, so that up to four wrong bits are never taken
// for one. A record that a power cut tore may still look like it, once in a million; that
// it is not is what the second one tells, so a record without is not mended.
//
// Errors: ErrDamaged, if it is not one bit that is wrong.
func MendCommit(b Block, p *[CommitSize]byte) (*CommitRecord, error) {
	wrong := le.Uint32(p[crCRC:]) ^ Checksum(p[crMagic:])
	whole := *p
	if bit, ok := flips()[wrong]; ok {
		whole[crMagic+int(bit)/8] ^= 1 << (bit % 8)
	} else if bits.OnesCount32(wrong) == 1 { // of the checksum itself
		le.PutUint32(whole[crCRC:], le.Uint32(p[crCRC:])^wrong)
	} else {
		return nil, damaged(b, "the commit record's checksum is wrong, by more than one bit")
	}
	if le.Uint64(whole[crCRC64:]) == 0 {
		return nil, damaged(b, "the commit record's checksum is wrong, and there is no second one to mend it by")
	}
	return DecodeCommit(b, &whole)
}

// flips is what each bit behind the checksum, once flipped, changes of the
// checksum: the same whatever the other bits are.
var flips = sync.OnceValue(func() map[uint32]uint16 {
	m := make(map[uint32]uint16)
	var p [CommitSize - crMagic]byte
	zero := Checksum(p[:])
	for bit := range uint16(8 * len(p)) {
		p[bit/8] ^= 1 << (bit % 8)
		m[Checksum(p[:])^zero] = bit
		p[bit/8] ^= 1 << (bit % 8)
	}
	return m
})

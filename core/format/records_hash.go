package format

import (
	"encoding/binary"
	"math/bits"
)

// HashSeed keys the hash of names, so that nobody can choose names that
// collide. It stands in the superblock.
type HashSeed [16]byte

// Sum is SipHash-2-4 of p under the seed.
func (s *HashSeed) Sum(p []byte) uint64 { return sipHash(s, p) }

// SumString is Sum of a string.
func (s *HashSeed) SumString(p string) uint64 { return sipHash(s, p) }

// A cookie is the offset of a dirent: 55 bits of the name's hash, never 0, and
// below them the collision index. It fits a signed 64-bit directory offset and
// is never 0, so that 0 can mean "from the start".
const (
	cookieHashMask = 1<<55 - 1
	// MaxCollisions is how many names of one hash a directory can hold.
	MaxCollisions = 256
)

// CookieBase is the cookie of the first name with this hash.
func CookieBase(hash uint64) uint64 {
	h := hash & cookieHashMask
	if h == 0 {
		h = 1
	}
	return h << 8
}

// XattrBase is the offset of an attribute with this name hash and collision
// index 0, chunk 0: 47 bits of hash, then 8 of collision, then 8 of chunk.
func XattrBase(hash uint64) uint64 { return (hash & (1<<47 - 1)) << 16 }

// LinkHash hashes a back-pointer to the offset of its record.
func (s *HashSeed) LinkHash(l Link) uint64 {
	var b [LinkSize]byte
	l.Encode(b[:])
	return sipHash(s, b[:])
}

func sipHash[T []byte | string](seed *HashSeed, p T) uint64 {
	k0 := binary.LittleEndian.Uint64(seed[0:])
	k1 := binary.LittleEndian.Uint64(seed[8:])
	v0, v1 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d
	v2, v3 := k0^0x6c7967656e657261, k1^0x7465646279746573
	n := len(p)
	i := 0
	for ; i+8 <= n; i += 8 {
		m := uint64(p[i]) | uint64(p[i+1])<<8 | uint64(p[i+2])<<16 | uint64(p[i+3])<<24 |
			uint64(p[i+4])<<32 | uint64(p[i+5])<<40 | uint64(p[i+6])<<48 | uint64(p[i+7])<<56
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	m := uint64(n) << 56
	for j := 0; i+j < n; j++ {
		m |= uint64(p[i+j]) << (8 * j)
	}
	v3 ^= m
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= m
	v2 ^= 0xff
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	return v0 ^ v1 ^ v2 ^ v3
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}

package format

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
)

// Key names one record of the tree: keys are ordered by Ino, then Kind, then
// Off. Inode number 0 belongs to the tree itself (KindBadBlock); MaxIno is
// never used, so that every valid key has a successor.
type Key struct {
	Ino  Ino
	Kind uint8
	Off  uint64
}

// MaxIno is the bound of inode numbers: none is equal to it.
const MaxIno Ino = math.MaxUint64

// The kinds of the tree's own records, under inode number 0. Off is a block.
const (
	// KindBadBlock: a block that must never be allocated again. Its value is
	// empty; the record owns the block.
	KindBadBlock uint8 = 1
	// KindBadData: a block that is bad and that a file's extent owns: when the
	// extent gives it up it becomes a KindBadBlock. Its value is a BadData.
	KindBadData uint8 = 2
)

// MaxKey is greater than every valid key.
var MaxKey = Key{Ino: MaxIno, Kind: math.MaxUint8, Off: math.MaxUint64}

// Compare is negative, zero or positive as k is less than, equal to or greater
// than o.
func (k Key) Compare(o Key) int {
	if c := cmp.Compare(k.Ino, o.Ino); c != 0 {
		return c
	}
	if c := cmp.Compare(k.Kind, o.Kind); c != 0 {
		return c
	}
	return cmp.Compare(k.Off, o.Off)
}

// Less reports k < o.
func (k Key) Less(o Key) bool { return k.below(uint64(o.Ino), uint64(o.Kind), o.Off) == 1 }

// below is 1 if k is less than the key given by its parts, else 0. It is one
// chain of subtractions with borrow: searches call it with unpredictable
// outcomes, where a branch would cost more than the arithmetic.
func (k Key) below(ino, kind, off uint64) uint64 {
	_, b := bits.Sub64(k.Off, off, 0)
	_, b = bits.Sub64(uint64(k.Kind), kind, b)
	_, b = bits.Sub64(uint64(k.Ino), ino, b)
	return b
}

// Next is the smallest key greater than k. k must be less than MaxKey.
func (k Key) Next() Key {
	k.Off++
	if k.Off == 0 {
		k.Kind++
		if k.Kind == 0 {
			k.Ino++
		}
	}
	return k
}

// String is "ino/kind/off".
func (k Key) String() string { return fmt.Sprintf("%d/%d/%d", k.Ino, k.Kind, k.Off) }

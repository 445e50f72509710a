package freeze

import "sync/atomic"

// levelBits is the room for the level in the state word; the rest is the id.
const levelBits = 8

// box is the machine's state: level and freeze id in one atomic word, so that
// both change together and an old freeze's step cannot move a new freeze.
//
// It is boxed (no exported way to store) so that nobody assigns it by accident.
type box struct {
	word atomic.Uint64 // id<<levelBits | level; id is 0 only while Unfrozen
}

func pack(id uint64, l Level) uint64 { return id<<levelBits | uint64(l) }

// load returns the level and the freeze it belongs to (0 while Unfrozen).
func (b *box) load() (id uint64, l Level) {
	w := b.word.Load()
	return w >> levelBits, Level(w & (1<<levelBits - 1))
}

// level is load without the id, for the gates' fast path.
func (b *box) level() Level { return Level(b.word.Load() & (1<<levelBits - 1)) }

// legal says whether the machine may go from one level to another.
func legal(from, to Level) bool {
	switch to {
	case Unfrozen:
		return from > Unfrozen && from <= Complete
	case Write, PageFault, FS, Complete:
		return from == to-1
	}
	return false
}

// move makes one transition of freeze id and reports whether it did. It refuses
// steps that are not in the table and steps of a freeze that is not the current
// one (it was rolled back meanwhile). This is the only place that changes state.
func (b *box) move(id uint64, from, to Level) bool {
	if id == 0 || !legal(from, to) {
		return false
	}
	before, after := pack(id, from), pack(id, to)
	if from == Unfrozen {
		before = 0
	}
	if to == Unfrozen {
		after = 0
	}
	return b.word.CompareAndSwap(before, after)
}

// open brings freeze id back to Unfrozen from whatever level it has reached,
// and reports whether there was anything to open.
func (b *box) open(id uint64) bool {
	for {
		cur, l := b.load()
		if cur != id || l == Unfrozen {
			return false
		}
		if b.move(id, l, Unfrozen) {
			return true
		}
	}
}

// stands says whether freeze id is Complete now. It is a read-modify-write on
// purpose: everything the caller read before (bytes of the image) was read
// before this answer, on processors with weaker ordering too.
func (b *box) stands(id uint64) bool {
	w := pack(id, Complete)
	return b.word.CompareAndSwap(w, w)
}

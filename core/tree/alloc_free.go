package tree

import (
	"fmt"
	"math/bits"

	"permafrost/core/format"
	"permafrost/pmem/plant"
)

// keepCommits is how many commits after the one that freed a block must be
// durable before it is used again (T5).
const keepCommits = format.MaxFallback

// spareRuns is the longest list of runs kept for reuse.
const spareRuns = 1024

// freeNode frees the block of a node in generation gen: at once if it was born
// in the open group, else when T5 allows.
//
// Errors: ErrBadFree.
func (a *allocator) freeNode(b format.Block, gen format.Generation, born bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.inRangeLocked(b, 1) || !a.isLiveLocked(b, 1) {
		return fmt.Errorf("free block %d of a tree node: %w", b, ErrBadFree)
	}
	if born || plant.On(plant.EarlyReuse) {
		a.freeNowLocked(b, 1)
	} else {
		a.deferLocked(b, 1, gen)
	}
	return nil
}

// freeData frees blocks of file data in generation gen: those allocated in the
// same generation at once, the others when T5 allows.
//
// Errors: ErrBadRange, ErrBadFree.
func (a *allocator) freeData(b format.Block, n uint64, gen format.Generation) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.inRangeLocked(b, n) {
		return fmt.Errorf("free blocks %d+%d: %w", b, n, ErrBadRange)
	}
	if !a.isLiveLocked(b, n) {
		return fmt.Errorf("free blocks %d+%d: %w", b, n, ErrBadFree)
	}
	for n > 0 {
		young, length := a.youngRunLocked(b, n, gen)
		if young || plant.On(plant.EarlyReuse) {
			a.freeNowLocked(b, length)
		} else {
			a.deferLocked(b, length, gen)
		}
		b += format.Block(length)
		n -= length
	}
	return nil
}

// youngRunLocked is the length of the run from b on, at most n, whose blocks
// were all allocated in generation gen, or were all not.
func (a *allocator) youngRunLocked(b format.Block, n uint64, gen format.Generation) (young bool, length uint64) {
	for length < n {
		at := b + format.Block(length)
		bit := uint64(at % 64)
		in := at % areaBlocks
		var word uint64
		if l := a.areas[at/areaBlocks].later; l != nil && l.youngGen[in/chunkBlocks] == gen {
			word = l.young[in/chunkBlocks][in%chunkBlocks/64] >> bit
		}
		if length == 0 {
			young = word&1 != 0
		}
		if young {
			word = ^word
		}
		got := min(uint64(bits.TrailingZeros64(word)), 64-bit)
		length += got
		if got < 64-bit {
			break
		}
	}
	return young, min(length, n)
}

// freeNowLocked makes blocks free.
func (a *allocator) freeNowLocked(b format.Block, n uint64) {
	a.unsetLocked(b, n)
	a.free += n
	a.avail.Add(int64(n))
}

// deferLocked notes that blocks were freed in generation gen.
func (a *allocator) deferLocked(b format.Block, n uint64, gen format.Generation) {
	eachWord(b, n, func(i format.Block, c, w int, mask uint64) {
		a.laterOf(i).dying[c][w] |= mask
	})
	a.dying += n
	if last := len(a.pending) - 1; last < 0 || a.pending[last].gen != gen {
		a.pending = append(a.pending, deferred{gen: gen, runs: a.spare})
		a.spare = nil
	}
	d := &a.pending[len(a.pending)-1]
	if last := len(d.runs) - 1; last >= 0 && d.runs[last].start+format.Block(d.runs[last].n) == b {
		d.runs[last].n += n
		return
	}
	d.runs = append(d.runs, run{b, n})
}

// settle makes the blocks free that the newest durable generation lets go (T5).
func (a *allocator) settle(durable format.Generation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	done := 0
	for ; done < len(a.pending) && a.pending[done].gen+keepCommits <= durable; done++ {
		for _, r := range a.pending[done].runs {
			a.dying -= a.freeDyingLocked(r)
		}
		if runs := a.pending[done].runs; cap(runs) <= spareRuns {
			a.spare = runs[:0]
		}
	}
	if done > 0 {
		a.pending = append(a.pending[:0], a.pending[done:]...)
	}
}

// couldHave is how many blocks are free, reserved or not, or will be after
// further commits.
func (a *allocator) couldHave() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int64(a.free + a.dying)
}

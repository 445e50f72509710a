package tree

import (
	"math/rand/v2"
	"testing"

	"permafrost/core/format"
)

// TestAllocatorModel compares the allocator with a plain list of owners.
func TestAllocatorModel(t *testing.T) {
	rnd := newRand(t)
	for _, total := range []format.Block{256, 5000, areaBlocks + 3000} {
		a := newAllocator(18, total)
		type owned struct {
			run
			gen  format.Generation
			data bool
		}
		var live []owned
		owner := make([]format.Generation, total) // generation that frees it, 1: live, 0: free
		for i := range owner[:18] {
			owner[i] = 1
		}
		gen := format.Generation(10)
		free := uint64(total - 18)
		take := func(r run, data bool) {
			for b := r.start; b < r.start+format.Block(r.n); b++ {
				if owner[b] != 0 && (owner[b] == 1 || owner[b]+keepCommits >= gen) {
					t.Fatalf("generation %d: block %d given away, it is %d", gen, b, owner[b])
				}
				owner[b] = 1
			}
			free -= r.n
			live = append(live, owned{r, gen, data})
		}
		for range 20_000 {
			switch rnd.IntN(10) {
			case 0, 1, 2:
				if b, err := a.node(); err == nil {
					a.avail.Add(-1)
					take(run{b, 1}, false)
				} else if free > 0 {
					t.Fatalf("%d free, and no node: %v", free, err)
				}
			case 3, 4, 5:
				n := 1 + rnd.Uint64N([]uint64{4, 100, 2000}[rnd.IntN(3)])
				r, err := a.data(format.Block(rnd.Uint64N(uint64(total))), n, gen)
				if err == nil {
					if r.n == 0 || r.n > n {
						t.Fatalf("%d blocks instead of %d", r.n, n)
					}
					a.avail.Add(-int64(r.n))
					take(r, true)
				} else if free > 0 {
					t.Fatalf("%d free, and no data: %v", free, err)
				}
			case 6, 7, 8, 9:
				if len(live) == 0 {
					continue
				}
				i := rnd.IntN(len(live))
				o := live[i]
				live[i] = live[len(live)-1]
				live = live[:len(live)-1]
				if o.data && o.n > 1 && rnd.IntN(2) == 0 { // a part of it
					keep := o
					keep.n = 1 + rnd.Uint64N(o.n-1)
					live = append(live, keep)
					o.start, o.n = o.start+format.Block(keep.n), o.n-keep.n
				}
				var err error
				if o.data {
					err = a.freeData(o.start, o.n, gen)
				} else {
					err = a.freeNode(o.start, gen, o.gen == gen)
				}
				if err != nil {
					t.Fatal(err)
				}
				for b := o.start; b < o.start+format.Block(o.n); b++ {
					owner[b] = gen
					if o.gen == gen {
						owner[b] = 0
					}
				}
				if o.gen == gen {
					free += o.n
				}
			}
			if rnd.IntN(50) == 0 { // gen becomes durable
				a.settle(gen)
				for b := range owner {
					if owner[b] > 1 && owner[b]+keepCommits <= gen {
						owner[b] = 0
						free++
					}
				}
				gen++
			}
			if a.free != free || a.avail.Load() != int64(free) {
				t.Fatalf("%d free, %d available, want %d", a.free, a.avail.Load(), free)
			}
		}
		checkCounts(t, a)
	}
}

// checkCounts compares the allocator's counts with its bits.
func checkCounts(t *testing.T, a *allocator) {
	t.Helper()
	var free uint64
	whole := 0
	for c := range uint32(len(a.areas) * areaChunks) {
		n := 0
		for i := range format.Block(chunkBlocks) {
			b := format.Block(c)*chunkBlocks + i
			if a.wordLocked(b&^63, true)&(1<<(b%64)) == 0 {
				n++
			}
		}
		if n != a.chunkFree(c) {
			t.Fatalf("chunk %d has %d free blocks, not %d", c, n, a.chunkFree(c))
		}
		free += uint64(n)
		if n == chunkBlocks {
			whole++
		}
	}
	if free != a.free || whole != a.whole {
		t.Fatalf("%d free blocks and %d free chunks, want %d and %d", a.free, a.whole, free, whole)
	}
}

// TestDataPlacement: data comes in long, aligned, adjoining runs, and nodes
// stay out of its way.
func TestDataPlacement(t *testing.T) {
	a := newAllocator(18, 64*chunkBlocks)
	for range 600 {
		if _, err := a.node(); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.meta) != 2 {
		t.Fatalf("600 nodes are spread over %d chunks", len(a.meta))
	}
	r, err := a.data(0, 2*chunkBlocks, 1)
	if err != nil || r.n != 2*chunkBlocks || r.start%chunkBlocks != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	next, err := a.data(r.start+format.Block(r.n), 7, 1)
	if err != nil || next.n != 7 || next.start != r.start+format.Block(r.n) {
		t.Fatalf("%+v does not follow %+v: %v", next, r, err)
	}
	// Everything in single blocks, then a hole of 40.
	for a.free > 0 {
		if _, err := a.data(0, 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.freeData(r.start+100, 40, 1); err != nil {
		t.Fatal(err)
	}
	if err := a.freeData(r.start+10, 3, 1); err != nil {
		t.Fatal(err)
	}
	if got, err := a.data(0, 100, 1); err != nil || got.n != 40 {
		t.Fatalf("%+v, %v: not the longest run", got, err)
	}
	checkCounts(t, a)
}

func BenchmarkAllocData(b *testing.B) {
	a := newAllocator(18, 1<<20)
	rnd := rand.New(rand.NewPCG(1, 2))
	var held [1 << 15]run
	stop := cpuTime(b)
	for b.Loop() {
		r := &held[rnd.IntN(len(held))]
		if r.n > 0 {
			if err := a.freeData(r.start, r.n, 1); err != nil {
				b.Fatal(err)
			}
		}
		var err error
		if *r, err = a.data(r.start, 1+rnd.Uint64N(30), 1); err != nil {
			b.Fatal(err)
		}
	}
	stop()
}

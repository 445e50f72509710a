package tree

import (
	"math/rand/v2"
	"testing"

	"permafrost/core/format"
)

// A set and a plain slice of bools must agree, at the edges of words, parts and
// the image.
func TestBlockSet(t *testing.T) {
	const total = areaBlocks + 1000
	s := NewBlockSet(total)
	want := make([]bool, total)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		b := format.Block(rnd.IntN(total + 50))
		if rnd.IntN(2) == 0 {
			b = areaBlocks - 100 + format.Block(rnd.IntN(200))
		}
		n := uint64(1 + rnd.IntN(300))
		fresh := uint64(0)
		for x := uint64(b); x < min(uint64(b)+n, total); x++ {
			if !want[x] {
				fresh++
				want[x] = true
			}
		}
		if got := s.Add(b, n); got != fresh {
			t.Fatalf("add %d+%d: %d, want %d", b, n, got, fresh)
		}
		at, length := format.Block(rnd.IntN(total)), uint64(1+rnd.IntN(2*areaBlocks))
		count, next := uint64(0), at
		s.Runs(at, length, func(b format.Block, n uint64, member bool) {
			if b != next || n == 0 {
				t.Fatalf("run at %d+%d, want one at %d", b, n, next)
			}
			next += format.Block(n)
			for x := b; x < b+format.Block(n); x++ {
				if in := uint64(x) < total && want[x]; in != member {
					t.Fatalf("block %d in a run of %t", x, member)
				}
			}
			if member {
				count += n
			}
		})
		if next != at+format.Block(length) || s.Count(at, length) != count {
			t.Fatalf("runs of %d+%d end at %d; %d members, counted %d", at, length, next, count, s.Count(at, length))
		}
		from, below := format.Block(rnd.IntN(total)), format.Block(rnd.IntN(total+100))
		highest, found := format.Block(0), false
		for x := min(below, total); x > from && !found; {
			if x--; !want[x] {
				highest, found = x, true
			}
		}
		if got, ok := s.HighestOut(from, below); ok != found || ok && got != highest {
			t.Fatalf("highest outside of [%d, %d): %d %t, want %d %t", from, below, got, ok, highest, found)
		}
	}
	o := NewBlockSet(total)
	o.Add(5, 10)
	o.Add(areaBlocks+5, 10)
	o.AddAll(s)
	for x := range want {
		b := format.Block(x)
		if in := want[x] || x >= 5 && x < 15 || x >= areaBlocks+5 && x < areaBlocks+15; o.Has(b) != in {
			t.Fatalf("block %d: %t", x, o.Has(b))
		}
	}
}

// Of nodes that overlap the youngest is taken, and one whose rival lost to a
// third comes back.
func TestYoungest(t *testing.T) {
	node := func(birth format.Generation, first, last uint64) stray {
		return stray{ptr: format.Ptr{Birth: birth, Block: format.Block(birth)}, first: Key{Ino: 1, Off: first}, last: Key{Ino: 1, Off: last}}
	}
	got := youngest([]stray{
		node(9, 50, 60), node(1, 0, 100), node(5, 0, 20), node(7, 20, 40), node(3, 30, 35), node(4, 0, 19), node(6, 61, 61),
	}, func(s *stray) *stray { return s })
	want := []format.Generation{4, 7, 9, 6}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, s := range got {
		if s.ptr.Birth != want[i] {
			t.Fatalf("place %d: %d, want %d", i, s.ptr.Birth, want[i])
		}
	}
}

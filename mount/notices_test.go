package mount

import (
	"math/rand/v2"
	"testing"
)

// A union of spans holds every byte of both, whatever the order.
func TestSpanUnion(t *testing.T) {
	has := func(s span64, at int64) bool { return s.from != s.to && at >= s.from && (s.to < 0 || at < s.to) }
	rng := rand.New(rand.NewPCG(1, 2))
	one := func() span64 {
		from := rng.Int64N(50)
		switch rng.IntN(4) {
		case 0:
			return span64{}
		case 1:
			return span64{from, -1}
		}
		return span64{from, from + 1 + rng.Int64N(20)}
	}
	for range 10_000 {
		a, b := one(), one()
		u := a.union(b)
		for at := range int64(100) {
			if (has(a, at) || has(b, at)) && !has(u, at) {
				t.Fatalf("%v and %v give %v, without %d", a, b, u, at)
			}
		}
		if a.from == a.to && b.from == b.to && u.from != u.to {
			t.Fatalf("%v and %v give %v", a, b, u)
		}
	}
}

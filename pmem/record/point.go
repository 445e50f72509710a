package record

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
)

// Point is a moment at which the power may go. It is valid during the call that
// got it.
type Point struct {
	Fence   int    // fences before it, and the one that is about to take effect
	Durable []byte // what the medium holds for certain; not to be changed
	Unit    int64  // bytes of a unit
	Units   []Unit // in flight, ascending

	hash uint64 // of Durable
}

// Unit is a unit in flight: the medium holds what Durable has there, or one of
// the versions.
type Unit struct {
	Off      int64
	Versions [][]byte // oldest first
	Torn     []bool   // of each version: seen in the middle of a store only
}

func (r *Recorder) pointLocked() *Point {
	p := &Point{Fence: r.fences, Durable: r.durable.mem, Unit: r.unit, hash: r.hash}
	for u, f := range r.flight {
		x := Unit{Off: u * r.unit}
		for _, v := range f.versions {
			x.Versions, x.Torn = append(x.Versions, v.data), append(x.Torn, v.torn)
		}
		p.Units = append(p.Units, x)
	}
	slices.SortFunc(p.Units, func(a, b Unit) int { return cmp.Compare(a.Off, b.Off) })
	return p
}

// Limits of how many images a point yields.
const (
	fewUnits   = 12   // that many reached units or fewer: every subset
	mostStates = 4096 // of every subset and version
	somePairs  = 256  // pairs of many units
	samples    = 48   // of many units, seeded
)

// State is one image that a crash may leave: for each of the point's units 0 for
// the durable content, else 1 + the index of a version.
type State []uint8

// Hash is that of the image (HashOf).
func (p *Point) Hash(s State) uint64 {
	h := p.hash
	for i, c := range s {
		if c > 0 {
			u := &p.Units[i]
			h ^= unitHash(u.Off/p.Unit, p.Durable[u.Off:u.Off+p.Unit]) ^ unitHash(u.Off/p.Unit, u.Versions[c-1])
		}
	}
	return h
}

// States calls fn with images that a crash at the point may leave, until it
// returns false. The State is valid during the call.
//
// reached says whether something that survives may lead a reader to the unit at
// off. The units that nothing leads to are taken as one: none, all, or mixed.
// Of the others every choice of versions is made if at most 12 are in flight and
// that are at most 4,096 choices; else none, each alone, pairs, all but each, all, each
// earlier version alone and instead of the last, and a seeded sample.
func (p *Point) States(reached func(off int64) bool, rng *rand.Rand, fn func(State) bool) {
	e := enumerator{p: p, rng: rng, fn: fn, s: make(State, len(p.Units))}
	for i := range p.Units {
		if reached(p.Units[i].Off) {
			e.near = append(e.near, i)
		} else {
			e.far = append(e.far, i)
		}
	}
	total := 1
	for _, i := range e.near {
		if total *= 1 + whole(&p.Units[i]); total > mostStates {
			break
		}
	}
	if len(e.near) <= fewUnits && total <= mostStates {
		e.all(0)
	} else {
		e.many()
	}
	e.torn()
}

// whole counts the versions of a unit that are not torn.
func whole(u *Unit) (n int) {
	for _, t := range u.Torn {
		if !t {
			n++
		}
	}
	return n
}

// enumerator makes the states of one point.
type enumerator struct {
	p         *Point
	rng       *rand.Rand
	fn        func(State) bool
	s         State
	near, far []int // units that something leads to, and the others
	turn      int
	over      bool
}

// yield gives the present choice of near units with the far ones as they should
// be: all three ways if there are few states, else in turn.
func (e *enumerator) yield() bool {
	if e.over {
		return false
	}
	ways := 1
	if len(e.far) > 0 {
		ways = 3
		if len(e.near) > 5 {
			ways = 1
		}
	}
	for range ways {
		e.turn++
		for _, i := range e.far {
			switch e.turn % 3 {
			case 0:
				e.s[i] = 0
			case 1:
				e.s[i] = uint8(len(e.p.Units[i].Versions))
			case 2:
				e.s[i] = uint8(e.rng.IntN(len(e.p.Units[i].Versions) + 1))
			}
		}
		if !e.fn(e.s) {
			e.over = true
			return false
		}
	}
	return true
}

// all makes every choice for the near units from the k-th on.
func (e *enumerator) all(k int) {
	if e.over {
		return
	}
	if k == len(e.near) {
		e.yield()
		return
	}
	i := e.near[k]
	e.s[i] = 0
	e.all(k + 1)
	for v, torn := range e.p.Units[i].Torn {
		if !torn {
			e.s[i] = uint8(v + 1)
			e.all(k + 1)
		}
	}
	e.s[i] = 0
}

func (e *enumerator) set(newest bool) {
	for _, i := range e.near {
		e.s[i] = 0
		if newest {
			e.s[i] = e.newest(i)
		}
	}
}

func (e *enumerator) newest(i int) uint8 { return uint8(len(e.p.Units[i].Versions)) }

// many makes a choice of choices: sizes 0, 1, 2, all but one, all, and a sample.
func (e *enumerator) many() {
	e.set(false)
	e.yield()
	e.set(true)
	e.yield()
	for _, i := range e.near {
		e.set(false)
		for v := range e.p.Units[i].Versions {
			e.s[i] = uint8(v + 1)
			e.yield()
		}
		e.set(true)
		for v := range e.p.Units[i].Versions {
			e.s[i] = uint8(v)
			e.yield()
		}
	}
	n := len(e.near)
	for k := range min(somePairs, n*(n-1)/2) {
		a, b := e.near[k%n], e.near[e.rng.IntN(n)]
		e.set(false)
		e.s[a], e.s[b] = e.newest(a), e.newest(b)
		e.yield()
	}
	for range samples {
		for _, i := range e.near {
			e.s[i] = uint8(e.rng.IntN(len(e.p.Units[i].Versions) + 1))
		}
		e.yield()
	}
}

// torn makes the states with one torn line: alone, and with all others new.
func (e *enumerator) torn() {
	for _, i := range e.near {
		for v, torn := range e.p.Units[i].Torn {
			if !torn {
				continue
			}
			for _, others := range []bool{false, true} {
				e.set(others)
				e.s[i] = uint8(v + 1)
				e.yield()
			}
		}
	}
}

// Any is a seeded choice for each unit. A torn line is among the choices.
func (p *Point) Any(rng *rand.Rand) State {
	s := make(State, len(p.Units))
	for i := range p.Units {
		s[i] = uint8(rng.IntN(len(p.Units[i].Versions) + 1))
	}
	return s
}

// Apply makes the image that the state is of one that holds Durable.
func (p *Point) Apply(m *Image, s State) {
	for i, c := range s {
		if c > 0 {
			m.Put(p.Units[i].Off, p.Units[i].Versions[c-1])
		}
	}
}

// Describe says in a line which units of the state are not durable ones.
func (p *Point) Describe(s State, name func(off int64) string) string {
	text, n := "", 0
	for i, c := range s {
		if c == 0 {
			continue
		}
		if n++; n <= 8 {
			u := &p.Units[i]
			text += " " + name(u.Off)
			if int(c) < len(u.Versions) {
				text += "(earlier)"
			}
			if u.Torn[c-1] {
				text += "(torn)"
			}
		}
	}
	return fmt.Sprintf("%d of %d units in flight reached the medium:%s", n, len(p.Units), text)
}

package record

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"permafrost/pmem"
)

const size = 64 << 10

func newRecorder(t *testing.T, d pmem.Domain, look func(*Point)) *Recorder {
	t.Helper()
	return New(NewImage(size, d), Options{Domain: d, Look: look})
}

// flight is what a crash may leave in each unit in flight: the first byte of
// each version, behind that of the durable one.
func flight(r *Recorder) string {
	s := ""
	r.Now(func(p *Point) {
		for _, u := range p.Units {
			s += fmt.Sprintf("%d:%d", u.Off/p.Unit, p.Durable[u.Off])
			for i, v := range u.Versions {
				if s += fmt.Sprintf(",%d", v[0]); u.Torn[i] {
					s += "t"
				}
			}
			s += " "
		}
	})
	return s
}

func want(t *testing.T, r *Recorder, s string) {
	t.Helper()
	if got := flight(r); got != s {
		t.Errorf("in flight: %q, want %q", got, s)
	}
}

// line is one word that differs and 56 bytes that do not, so that it cannot tear.
func line(b byte) []byte { return append(bytes.Repeat([]byte{b}, 8), make([]byte, 56)...) }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A fence makes durable what its own batch has on the way, as it was then.
func TestFence(t *testing.T) {
	r := newRecorder(t, pmem.DomainDAX, nil)
	a, b := r.Begin(), r.Begin()
	ok(t, a.Write(0, line(1)))
	ok(t, b.Write(64, line(2)))
	ok(t, a.Write(0, line(3)))
	want(t, r, "0:0,1,3 1:0,2 ")
	ok(t, a.Fence())
	want(t, r, "1:0,2 ")
	ok(t, a.Fence())
	want(t, r, "1:0,2 ")
	r.Store(64, line(4)[:8])
	ok(t, b.Fence()) // what came behind its flush stays in flight
	want(t, r, "1:2,4 ")
	ok(t, b.Flush(64, 1))
	r.Store(64, line(5)[:8])
	r.Store(64, line(6)[:8])
	ok(t, b.Fence())
	want(t, r, "1:4,5,6 ")
	a.End()
	b.End()
}

// A store that nobody flushes is never certain.
func TestStore(t *testing.T) {
	r := newRecorder(t, pmem.DomainDAX, nil)
	r.Store(128, []byte{7})
	b := r.Begin()
	ok(t, b.Fence())
	want(t, r, "2:0,7 ")
	r.Store(128, []byte{0})
	want(t, r, "2:0,7,0 ")
	ok(t, b.Flush(0, size))
	ok(t, b.Fence())
	want(t, r, "")
	r.Freeze(true)
	ok(t, b.Zero(0, 8))
	r.Freeze(false)
	if got := r.Broken(); len(got) != 1 {
		t.Errorf("%v", got)
	}
	b.End()
}

// Order promises that the next fence, of any batch, covers it (R3).
func TestOrder(t *testing.T) {
	r := newRecorder(t, pmem.DomainDAX, nil)
	a, b := r.Begin(), r.Begin()
	ok(t, a.Write(0, line(1)))
	a.Order()
	ok(t, a.Write(0, line(2)))
	want(t, r, "0:0,1,2 ")
	ok(t, b.Fence())
	want(t, r, "0:1,2 ")
}

// fdatasync covers everything, whoever stored it (R4), and sectors do not tear.
func TestPageCache(t *testing.T) {
	r := newRecorder(t, pmem.DomainPageCache, nil)
	b := r.Begin()
	r.Store(0, line(1))
	ok(t, b.Write(500, bytes.Repeat([]byte{2}, 100)))
	want(t, r, "0:0,1,1 1:0,2 ")
	ok(t, b.Fence())
	want(t, r, "")
}

// A line of many words tears; one of a single changed word does not (R5).
func TestTear(t *testing.T) {
	r := newRecorder(t, pmem.DomainDAX, nil)
	b := r.Begin()
	ok(t, b.Write(0, bytes.Repeat([]byte{1}, 128)))
	want(t, r, "0:0,1t,1 1:0,1t,1 ")
	r.Now(func(p *Point) {
		for _, u := range p.Units {
			torn := u.Versions[0]
			n := bytes.IndexByte(torn, 0)
			if n <= 0 || n%wordBytes != 0 || bytes.ContainsFunc(torn[n:], func(c rune) bool { return c != 0 }) {
				t.Errorf("torn as %v", torn)
			}
		}
	})
}

// On a Region its own code says what it flushes: every edge of every copy.
func TestRegion(t *testing.T) {
	m, err := pmem.CreateMemfd("record", size, pmem.Options{})
	ok(t, err)
	defer m.Close()
	r := New(m, Options{Domain: pmem.DomainDAX})
	if !r.observed {
		t.Fatal("the region does not say what it flushes")
	}
	b := r.Begin()
	defer b.End()
	for _, n := range []int{1, 63, 64, 65, 255, 256, 300, 4096, 5000} {
		for _, off := range []int64{0, 1, 60, 63, 64, 100} {
			ok(t, b.Write(off, bytes.Repeat([]byte{byte(1 + (n+int(off))%250)}, n)))
			if flight(r) == "" {
				t.Fatalf("%d bytes at %d were not seen", n, off)
			}
			ok(t, b.Fence())
			want(t, r, "")
			ok(t, b.Zero(off, int64(n)))
			ok(t, b.Fence())
			want(t, r, "")
		}
	}
}

// Every subset of few units, once each.
func TestStatesOfFew(t *testing.T) {
	r := newRecorder(t, pmem.DomainDAX, nil)
	b := r.Begin()
	for i := range int64(5) {
		ok(t, b.Write(i*64, line(byte(i+1))))
	}
	ok(t, b.Write(0, line(9))) // an earlier version counts as well
	ok(t, b.Write(4096, line(1)))
	ok(t, b.Write(4096+64, line(1))) // nothing leads to these two
	seen := make(map[string]int)
	m := NewImage(size, pmem.DomainDAX)
	r.Now(func(p *Point) {
		m.Load(p.Durable)
		p.States(func(off int64) bool { return off < 4096 }, rand.New(rand.NewPCG(1, 1)), func(s State) bool {
			p.Apply(m, s)
			if HashOf(m.Bytes(0, size), p.Unit) != p.Hash(s) {
				t.Errorf("the hash of %v is not that of its image", s)
			}
			m.Back()
			if HashOf(m.Bytes(0, size), p.Unit) != p.Hash(make(State, len(s))) {
				t.Fatalf("%v was not taken back", s)
			}
			seen[string(s[:5])+"/"+string(s[5:])]++
			return true
		})
	})
	near, far := make(map[string]bool), make(map[string]bool)
	for k := range seen {
		near[k[:5]], far[k[6:]] = true, true
	}
	if len(near) != 3*2*2*2*2 {
		t.Errorf("%d choices of five units, want 48", len(near))
	}
	if !far[string([]byte{0, 0})] || !far[string([]byte{1, 1})] {
		t.Error("what nothing leads to is never all old, or never all new")
	}
}

// Of many units: none, all, each alone, all but each, and earlier versions.
func TestStatesOfMany(t *testing.T) {
	r := newRecorder(t, pmem.DomainDAX, nil)
	b := r.Begin()
	const n = 40
	for i := range int64(n) {
		ok(t, b.Write(i*64, line(1)))
	}
	ok(t, b.Write(0, line(2)))
	var counts []int
	earlier := 0
	r.Now(func(p *Point) {
		p.States(func(int64) bool { return true }, rand.New(rand.NewPCG(2, 2)), func(s State) bool {
			k := 0
			for _, c := range s {
				if c > 0 {
					k++
				}
			}
			if counts = append(counts, k); s[0] == 1 {
				earlier++
			}
			return true
		})
	})
	for _, k := range []int{0, 1, 2, n - 1, n} {
		if !slices.Contains(counts, k) {
			t.Errorf("no image with %d of %d", k, n)
		}
	}
	if earlier < 2 || len(counts) > 1000 {
		t.Errorf("%d images, %d with an earlier version", len(counts), earlier)
	}
}

// Look sees what a crash just before the fence takes effect may leave.
func TestLook(t *testing.T) {
	var got []int
	r := newRecorder(t, pmem.DomainDAX, func(p *Point) { got = append(got, len(p.Units)) })
	b := r.Begin()
	ok(t, b.Write(0, line(1)))
	ok(t, b.Fence())
	ok(t, b.Fence())
	if !slices.Equal(got, []int{1, 0}) || r.Fences() != 2 {
		t.Errorf("%v, %d fences", got, r.Fences())
	}
}

func TestRefusals(t *testing.T) {
	m := NewImage(size, pmem.DomainDAX)
	b := m.Begin()
	if b.Write(size-1, []byte{1, 2}) == nil || b.Zero(-1, 2) == nil || b.Flush(size, 1) == nil || m.Grow(1<<20) == nil {
		t.Error("stores outside the image")
	}
	if _, err := m.ReadAt(make([]byte, 1), size+1); err == nil {
		t.Error("reads outside the image")
	}
	if newRecorder(t, pmem.DomainDAX, nil).Grow(1<<20) == nil {
		t.Error("a recorder grows")
	}
}

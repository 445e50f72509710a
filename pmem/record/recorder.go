package record

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"

	"permafrost/pmem"
)

const (
	lineBytes   = 64
	sectorBytes = 512
	wordBytes   = 8
)

// Options of a Recorder. All fields are immutable once given.
type Options struct {
	// Domain to model: DomainDAX, or DomainPageCache.
	Domain pmem.Domain
	// Look is called just before each Fence takes effect: what a crash there, or
	// anywhere since the last one, may leave. It must not use the recorder, and
	// must not keep the Point.
	Look func(p *Point)
}

// Recorder is a pmem.Medium over another one. Its methods may be called by many
// goroutines at once.
type Recorder struct {
	in       pmem.Medium // immutable
	o        Options     // immutable
	unit     int64       // bytes; immutable
	observed bool        // the medium says what it flushes (R2); immutable

	mu      sync.Mutex
	durable *Image              // guarded by mu: what the medium holds for certain
	hash    uint64              // guarded by mu: of durable
	flight  map[int64]*inFlight // guarded by mu: by unit
	ordered map[int64]uint64    // guarded by mu: R3: unit to the version that Order saw
	seq     uint64              // guarded by mu: versions so far
	flushed []span              // guarded by mu: what the call in progress has flushed
	fences  int                 // guarded by mu
	still   bool                // guarded by mu: nobody may store (Freeze)
	broken  []string            // guarded by mu: stores that came nevertheless
}

// inFlight is a unit whose content on the medium is not certain.
type inFlight struct {
	versions []version // oldest first; the last one is what memory holds
}

type version struct {
	seq  uint64
	data []byte // immutable
	torn bool   // seen in the middle of a store only
}

type span struct{ off, n int64 }

var _ pmem.Medium = (*Recorder)(nil)

// New records what is stored into m from now on. What m holds is durable. If m
// is a pmem.Region it must not have been stored to before.
func New(m pmem.Medium, o Options) *Recorder {
	durable := NewImage(m.Size(), o.Domain)
	durable.Load(m.Bytes(0, m.Size()))
	return Over(m, durable, HashOf(durable.mem, unitOf(o.Domain)), o)
}

// Over is New without the copy: durable is an image that holds what m holds, and
// hash is its HashOf. The recorder stores to durable from then on.
func Over(m pmem.Medium, durable *Image, hash uint64, o Options) *Recorder {
	r := &Recorder{in: m, o: o, unit: unitOf(o.Domain), durable: durable, hash: hash,
		flight: make(map[int64]*inFlight), ordered: make(map[int64]uint64)}
	if v, ok := m.(interface{ Observe(func(off, n int64)) }); ok {
		r.observed = true
		v.Observe(func(off, n int64) { r.flushed = append(r.flushed, span{off, n}) })
	}
	return r
}

// unitOf is how many bytes reach the medium of a domain in one piece.
func unitOf(d pmem.Domain) int64 {
	if d == pmem.DomainPageCache {
		return sectorBytes
	}
	return lineBytes
}

// Size is the medium's.
func (r *Recorder) Size() int64 { return r.in.Size() }

// Domain is the one modelled.
func (r *Recorder) Domain() pmem.Domain { return r.o.Domain }

// Bytes is memory as the processor sees it.
func (r *Recorder) Bytes(off, n int64) []byte { return r.in.Bytes(off, n) }

// ReadAt copies memory as the processor sees it.
func (r *Recorder) ReadAt(p []byte, off int64) (int, error) { return r.in.ReadAt(p, off) }

// Grow is refused: a recording is of one size.
func (r *Recorder) Grow(int64) error {
	return fmt.Errorf("record: grow: %w", pmem.ErrOutOfRange)
}

// Close leaves the medium to its owner.
func (r *Recorder) Close() error { return nil }

// Store is a program's own store to memory that it has mapped: no flush.
func (r *Recorder) Store(off int64, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.in.Bytes(off, int64(len(p))), p)
	r.storedLocked(off, int64(len(p)), false)
}

// Freeze says that nothing may be stored from now on, or that it may again.
func (r *Recorder) Freeze(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.still = on
}

// Broken names the stores that came while nothing was to be stored.
func (r *Recorder) Broken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.broken)
}

// Fences is how many fences there have been.
func (r *Recorder) Fences() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fences
}

// Now calls fn with what a crash at this moment may leave. fn is as Look.
func (r *Recorder) Now(fn func(p *Point)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(r.pointLocked())
}

// storedLocked adds a version to each unit of [off, off+n) that has changed
// (R1). tears: it was a copy of many words, in whose middle lines tear (R5).
func (r *Recorder) storedLocked(off, n int64, tears bool) {
	if r.still && n > 0 {
		r.broken = append(r.broken, fmt.Sprintf("%d bytes at %d", n, off))
	}
	for u := off / r.unit; u*r.unit < off+n; u++ {
		now := r.in.Bytes(u*r.unit, r.unit)
		f := r.flight[u]
		last := r.durable.mem[u*r.unit : (u+1)*r.unit]
		if f != nil {
			last = f.versions[len(f.versions)-1].data
		}
		if bytes.Equal(now, last) {
			continue
		}
		if f == nil {
			f = new(inFlight)
			r.flight[u] = f
		}
		if tears && r.unit == lineBytes {
			if t := tear(last, now); t != nil {
				r.seq++
				f.versions = append(f.versions, version{r.seq, t, true})
			}
		}
		r.seq++
		f.versions = append(f.versions, version{r.seq, bytes.Clone(now), false})
	}
}

// tear is a line in the middle of a store: its first changed words are new. Nil
// if only one word changes. Where it tears depends on the content.
func tear(old, now []byte) []byte {
	var changed []int
	for w := 0; w < lineBytes; w += wordBytes {
		if !bytes.Equal(old[w:w+wordBytes], now[w:w+wordBytes]) {
			changed = append(changed, w)
		}
	}
	if len(changed) < 2 {
		return nil
	}
	t := bytes.Clone(old)
	for _, w := range changed[:1+int(now[changed[0]])%(len(changed)-1)] {
		copy(t[w:w+wordBytes], now[w:w+wordBytes])
	}
	return t
}

// settleLocked makes version seq of a unit durable (R2).
func (r *Recorder) settleLocked(u int64, seq uint64) {
	f := r.flight[u]
	if f == nil {
		return
	}
	i := 0
	for i < len(f.versions) && f.versions[i].seq <= seq {
		i++
	}
	if i == 0 {
		return // a fence in between has seen to it
	}
	now := f.versions[i-1].data
	r.hash ^= unitHash(u, r.durable.mem[u*r.unit:(u+1)*r.unit]) ^ unitHash(u, now)
	r.durable.Put(u*r.unit, now)
	if f.versions = f.versions[i:]; len(f.versions) == 0 {
		delete(r.flight, u)
	}
}

// fenceLocked is the effect of a fence of b.
func (r *Recorder) fenceLocked(b *batch) {
	if r.o.Domain == pmem.DomainPageCache { // R4
		for u := range r.flight {
			r.settleLocked(u, r.seq)
		}
	}
	for u, seq := range b.flushed {
		r.settleLocked(u, seq)
	}
	for u, seq := range r.ordered { // R3
		r.settleLocked(u, seq)
	}
	clear(b.flushed)
	clear(r.ordered)
}

var hashSeed = maphash.MakeSeed()

// unitHash is a unit's part of an image's hash, which is their XOR: so that a
// change of one unit changes it in O(1).
func unitHash(u int64, data []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(hashSeed)
	maphash.WriteComparable(&h, u)
	h.Write(data)
	return h.Sum64()
}

// HashOf is the hash of an image made of units of that many bytes. It is the
// same within one process only.
func HashOf(image []byte, unit int64) (h uint64) {
	for off := int64(0); off < int64(len(image)); off += unit {
		h ^= unitHash(off/unit, image[off:off+unit])
	}
	return h
}

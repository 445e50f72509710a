package record

import "permafrost/pmem"

// batch is a pmem.Batch of a Recorder.
type batch struct {
	r       *Recorder
	in      pmem.Batch
	flushed map[int64]uint64 // unit to the version on its way (R2)
}

var _ pmem.Batch = (*batch)(nil)

// Begin opens a batch.
func (r *Recorder) Begin() pmem.Batch {
	return &batch{r: r, in: r.in.Begin(), flushed: make(map[int64]uint64)}
}

// Write stores p at off.
func (b *batch) Write(off int64, p []byte) error {
	return b.store(off, int64(len(p)), func() error { return b.in.Write(off, p) })
}

// Zero stores n zeros at off.
func (b *batch) Zero(off, n int64) error {
	return b.store(off, n, func() error { return b.in.Zero(off, n) })
}

func (b *batch) store(off, n int64, do func() error) error {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushed = r.flushed[:0]
	if err := do(); err != nil {
		return err
	}
	r.storedLocked(off, n, true)
	b.wayLocked(off, n)
	return nil
}

// Flush puts the lines of [off, off+n) on their way.
func (b *batch) Flush(off, n int64) error {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushed = r.flushed[:0]
	if err := b.in.Flush(off, n); err != nil {
		return err
	}
	b.wayLocked(off, n)
	return nil
}

// wayLocked notes what the call has put on its way: what the medium says, or
// the whole of [off, off+n).
func (b *batch) wayLocked(off, n int64) {
	r := b.r
	if !r.observed {
		r.flushed = append(r.flushed, span{off, n})
	}
	for _, s := range r.flushed {
		for u := s.off / r.unit; u*r.unit < s.off+s.n; u++ {
			if r.flight[u] != nil {
				b.flushed[u] = r.seq
			}
		}
	}
	r.flushed = r.flushed[:0]
}

// Order is R3.
func (b *batch) Order() {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	b.in.Order()
	for u, seq := range b.flushed {
		r.ordered[u] = max(r.ordered[u], seq)
	}
}

// Fence shows what a crash may leave before it, and then is one.
func (b *batch) Fence() error {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fences++
	if r.o.Look != nil {
		r.o.Look(r.pointLocked())
	}
	if err := b.in.Fence(); err != nil {
		return err
	}
	r.fenceLocked(b)
	return nil
}

// End leaves what was not fenced in flight.
func (b *batch) End() { b.in.End() }

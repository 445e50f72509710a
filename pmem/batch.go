package pmem

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"unsafe"

	"permafrost/pmem/plant"
)

// NonTemporalMin is the length in bytes from which Write bypasses the caches.
// Whole lines are faster so at any length (64 B: 122 against 195 ns, 4 KiB: 210
// against 430 ns, 64 KiB: 1.1 against 5.8 us, fence included, by BenchmarkCopy).
// But with unaligned ends, which are stored and flushed anyway, there is nothing
// to win below 256 (BenchmarkWrite), and short ranges are soon read again.
const NonTemporalMin = 256

// batch is a Batch of a Region. It belongs to the goroutine that began it.
type batch struct {
	r   *Region // nil once ended
	err error   // first failed store or flush since Begin (P5)
}

var _ Batch = (*batch)(nil)

// Begin opens a batch and locks the calling goroutine to its thread. It never
// waits. The batch must be ended, and not be used after that: it is reused.
func (r *Region) Begin() Batch {
	runtime.LockOSThread()
	b, _ := r.batches.Get().(*batch)
	if b == nil {
		b = new(batch)
	}
	b.r = r
	return b
}

// End unlocks the thread. Ending twice is harmless.
func (b *batch) End() {
	r := b.r
	if r == nil {
		return
	}
	*b = batch{}
	r.batches.Put(b)
	runtime.UnlockOSThread()
}

// Write copies p to off. It must not overlap its destination. On a *MediaError
// any part of p may have been stored, and no Fence of this batch succeeds.
func (b *batch) Write(off int64, p []byte) (err error) {
	n := int64(len(p))
	if err := b.check("write", off, n); err != nil || n == 0 {
		return err
	}
	prev := CatchFaults()
	defer b.caught(prev, "write", &err)
	b.r.store(off, p)
	return nil
}

// Zero writes n zero bytes at off, with the errors of Write.
func (b *batch) Zero(off, n int64) (err error) {
	if err := b.check("zero", off, n); err != nil || n == 0 {
		return err
	}
	prev := CatchFaults()
	defer b.caught(prev, "zero", &err)
	b.r.storeZeros(off, n)
	return nil
}

// Flush starts writing back the lines of [off, off+n). In the page-cache and
// cpu-cache domains it has nothing to do but check the range.
func (b *batch) Flush(off, n int64) (err error) {
	if err := b.check("flush", off, n); err != nil || n == 0 || b.r.kind == flushNone {
		return err
	}
	prev := CatchFaults()
	defer b.caught(prev, "flush", &err)
	b.r.flush(off, n)
	return nil
}

// Order makes the stores so far reach the domain, or at least every fdatasync
// that starts later: non-temporal stores are not seen by another processor, the
// one that writes back the page cache included, until their fence.
func (b *batch) Order() { storeFence() }

// Fence returns nil when everything written or flushed in this batch is
// durable. It fails if anything in the batch failed (P5), and for good once an
// fdatasync failed (P6): errors.Is(err, ErrFenceFailed).
func (b *batch) Fence() error {
	if b.r == nil {
		return fmt.Errorf("pmem: fence: %w", ErrBatchEnded)
	}
	storeFence()
	if b.err != nil {
		return fmt.Errorf("pmem: fence of a batch that is not whole: %w: %w", ErrFenceFailed, b.err)
	}
	if b.r.fdatasync {
		return b.r.datasync()
	}
	return nil
}

// check says why the batch cannot take [off, off+n).
func (b *batch) check(op string, off, n int64) error {
	if b.r == nil {
		return fmt.Errorf("pmem: %s: %w", op, ErrBatchEnded)
	}
	if !b.r.contains(off, n) {
		return b.fail(b.r.rangeError(op, off, n))
	}
	return nil
}

// fail notes err as the reason why the batch cannot be fenced.
func (b *batch) fail(err error) error {
	if b.err == nil {
		b.err = err
	}
	return err
}

// caught is Caught for the batch's methods: a fault also fails the batch.
func (b *batch) caught(prev bool, op string, err *error) {
	debug.SetPanicOnFault(prev)
	if p := recover(); p != nil {
		*err = b.fail(mediaError(p, b.r, op))
	}
}

// store copies p to off: whole lines past the caches if p is long enough, the
// rest by ordinary stores and flushes (P4).
func (r *Region) store(off int64, p []byte) {
	if !nonTemporal || len(p) < NonTemporalMin {
		r.storeCached(off, p)
		return
	}
	if head := int(-off & (lineBytes - 1)); head > 0 {
		r.storeCached(off, p[:head])
		off, p = off+int64(head), p[head:]
	}
	for len(p) >= lineBytes {
		n := min(len(p)&^(lineBytes-1), chunkBytes)
		if r.trace != nil {
			r.trace(tracedNonTemporal, off, int64(n))
		}
		ntCopy(r.at(off), unsafe.Pointer(unsafe.SliceData(p)), uintptr(n)/lineBytes)
		off, p = off+int64(n), p[n:]
	}
	if len(p) > 0 {
		r.storeCached(off, p)
	}
}

// storeCached copies p to off by ordinary stores and flushes its lines.
func (r *Region) storeCached(off int64, p []byte) {
	for len(p) > 0 {
		n := min(len(p), chunkBytes)
		copy(unsafe.Slice((*byte)(r.at(off)), n), p)
		if !plant.On(plant.EdgeUnflushed) || off%lineBytes == 0 {
			r.flush(off, int64(n))
		}
		off, p = off+int64(n), p[n:]
	}
}

// storeZeros zeroes [off, off+n): whole lines past the caches, the rest by
// ordinary stores and flushes (P4).
func (r *Region) storeZeros(off, n int64) {
	if !nonTemporal {
		r.zeroCached(off, n)
		return
	}
	if head := min(-off&(lineBytes-1), n); head > 0 {
		r.zeroCached(off, head)
		off, n = off+head, n-head
	}
	for n >= lineBytes {
		part := min(n&^(lineBytes-1), chunkBytes)
		if r.trace != nil {
			r.trace(tracedNonTemporal, off, part)
		}
		ntZero(r.at(off), uintptr(part)/lineBytes)
		off, n = off+part, n-part
	}
	if n > 0 {
		r.zeroCached(off, n)
	}
}

// zeroCached zeroes [off, off+n) by ordinary stores and flushes its lines.
func (r *Region) zeroCached(off, n int64) {
	for n > 0 {
		part := min(n, chunkBytes)
		clear(unsafe.Slice((*byte)(r.at(off)), part))
		r.flush(off, part)
		off, n = off+part, n-part
	}
}

// flush starts writing back the lines that [off, off+n) touches, n > 0.
func (r *Region) flush(off, n int64) {
	if r.kind == flushNone {
		return
	}
	first := off &^ (lineBytes - 1)
	end := (off + n + lineBytes - 1) &^ (lineBytes - 1)
	if plant.On(plant.ShortFlush) && end-first > lineBytes {
		end -= lineBytes
	}
	for first < end {
		part := min(end-first, chunkBytes)
		if r.trace != nil {
			r.trace(tracedFlush, first, part)
		}
		flushLines(r.kind, r.at(first), uintptr(part)/lineBytes)
		first += part
	}
}

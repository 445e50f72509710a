package pmem

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// lineBytes is the unit of flushing.
	lineBytes = 64
	// chunkBytes bounds one uninterruptible copy or flush loop: the collector
	// cannot stop a goroutine in the middle of one.
	chunkBytes = 256 << 10
)

// Region is a mapped pmem file. It implements Medium. All methods but Close
// may be called by many goroutines at once.
type Region struct {
	file *os.File // the mapped descriptor; immutable
	lock *os.File // carries the server's lock, never mapped (P7); immutable

	domain    Domain         // immutable
	kind      flushKind      // the domain's line flush; immutable
	fdatasync bool           // a fence is fdatasync; immutable
	base      unsafe.Pointer // start of the reserved addresses (P1); immutable
	reserved  int64          // bytes of addresses reserved at base; immutable
	mapFlags  int            // flags of each file mapping; immutable

	growMu sync.Mutex
	size   atomic.Int64 // mapped bytes (P2), 0 once closed; written under growMu

	// trace, if not nil, is told of each range that is stored past the caches or
	// flushed, before it is: what memory alone cannot show. Set by Observe and by
	// tests before the first batch; immutable from then on.
	trace func(what traced, off, n int64)

	failed  atomic.Pointer[error] // first failed fdatasync (P6); set once
	batches sync.Pool             // of *batch; safe for concurrent use
}

var _ Medium = (*Region)(nil)

// traced says what is done to a range.
type traced uint8

const (
	tracedNonTemporal traced = iota
	tracedFlush
)

// Observe makes f be told of each range of whole lines that a batch stores past
// the caches or flushes, within the call that does. It must be called before
// the first batch. It is for the crash recorder (pmem/record).
func (r *Region) Observe(f func(off, n int64)) {
	r.trace = func(_ traced, off, n int64) { f(off, n) }
}

// Size is the length of the pmem file in bytes, 0 once closed.
func (r *Region) Size() int64 { return r.size.Load() }

// Domain is the persistence domain found at open.
func (r *Region) Domain() Domain { return r.domain }

// Path is the name the pmem file was opened by.
func (r *Region) Path() string { return r.file.Name() }

// Reserved is how far Grow can take the region, in bytes, before the file must
// be opened anew.
func (r *Region) Reserved() int64 { return r.reserved }

// Bytes is the mapped range [off, off+n), or nil if that does not lie inside
// the region. It stays valid, also across Grow, until Close.
func (r *Region) Bytes(off, n int64) []byte {
	if !r.contains(off, n) {
		return nil
	}
	return unsafe.Slice((*byte)(r.at(off)), n)
}

// contains reports whether [off, off+n) lies inside the region.
func (r *Region) contains(off, n int64) bool {
	return off >= 0 && n >= 0 && n <= r.size.Load()-off
}

// at is the address of off, which the caller has checked.
func (r *Region) at(off int64) unsafe.Pointer { return unsafe.Add(r.base, off) }

// rangeError says why [off, off+n) cannot be used.
func (r *Region) rangeError(op string, off, n int64) error {
	size := r.size.Load()
	if size == 0 {
		return fmt.Errorf("pmem: %s: %w", op, ErrClosed)
	}
	return fmt.Errorf("pmem: %s of %d bytes at byte %d: %w of %d bytes", op, n, off, ErrOutOfRange, size)
}

// ReadAt copies out of the region as io.ReaderAt asks: fewer bytes than len(p)
// come with an error, io.EOF at the end of the region. A bad page is a
// *MediaError; what lies a chunk or more before it has been copied.
func (r *Region) ReadAt(p []byte, off int64) (n int, err error) {
	want := len(p)
	size := r.size.Load()
	if off < 0 || size == 0 {
		return 0, r.rangeError("read", off, int64(want))
	}
	if off >= size && want > 0 {
		return 0, io.EOF
	}
	if int64(want) > size-off {
		p = p[:size-off]
	}
	prev := CatchFaults()
	defer r.caught(prev, "read", &err)
	for n < len(p) {
		end := min(n+chunkBytes, len(p))
		copy(p[n:end], unsafe.Slice((*byte)(r.at(off+int64(n))), end-n))
		n = end
	}
	if n < want {
		err = io.EOF
	}
	return n, err
}

// caught is Caught for the region's own methods, which know what they did.
func (r *Region) caught(prev bool, op string, err *error) {
	debug.SetPanicOnFault(prev)
	if p := recover(); p != nil {
		*err = mediaError(p, r, op)
	}
}

// Close unmaps the region and gives up the lock. No batch may be open and
// nothing that Bytes returned may be touched from then on. Unfenced stores are
// not made durable. A second Close returns ErrClosed.
func (r *Region) Close() error {
	r.growMu.Lock()
	defer r.growMu.Unlock()
	if r.size.Swap(0) == 0 {
		return fmt.Errorf("pmem: close %s: %w", r.Path(), ErrClosed)
	}
	return r.release()
}

// release gives back everything the region holds. The lock goes last, so that
// the next server finds nothing of this one.
func (r *Region) release() error {
	err := unix.MunmapPtr(r.base, uintptr(r.reserved))
	if err != nil {
		err = fmt.Errorf("pmem: unmap %s: %w", r.Path(), err)
	}
	if e := r.file.Close(); err == nil && e != nil {
		err = fmt.Errorf("pmem: close: %w", e)
	}
	if e := r.lock.Close(); err == nil && e != nil {
		err = fmt.Errorf("pmem: close the lock: %w", e)
	}
	return err
}

// datasync makes every page of the file durable. Its first failure is final
// (P6): Linux reports a write-back error once and forgets the pages.
func (r *Region) datasync() error {
	if first := r.failed.Load(); first != nil {
		return *first
	}
	var err error
	for {
		err = unix.Fdatasync(int(r.file.Fd()))
		if err != unix.EINTR {
			break
		}
	}
	runtime.KeepAlive(r.file)
	if err == nil {
		// Another fence may have got the report of a failure that lost our pages.
		if first := r.failed.Load(); first != nil {
			return *first
		}
		return nil
	}
	err = fmt.Errorf("pmem: fdatasync %s: %w: %w", r.Path(), ErrFenceFailed, err)
	r.failed.CompareAndSwap(nil, &err)
	return *r.failed.Load()
}

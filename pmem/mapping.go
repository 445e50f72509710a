package pmem

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// hugeBytes aligns the base, so that the kernel may map 2 MiB at a time.
	hugeBytes = 2 << 20
	// The default reservation is reserveFactor times the file, within these.
	reserveFactor   = 64
	reserveMinBytes = 16 << 30
	reserveMaxBytes = 4 << 40

	mapProt = unix.PROT_READ | unix.PROT_WRITE
)

var pageBytes = int64(os.Getpagesize()) // immutable

// roundUp is the next multiple of unit, a power of two.
func roundUp(n, unit int64) int64 { return (n + unit - 1) &^ (unit - 1) }

// reservation is how many bytes of addresses to try for: want, if given, else
// many times the file's size, since addresses cost nothing until mapped.
func reservation(size, want int64) int64 {
	if want == 0 {
		want = reserveMaxBytes
		if size < reserveMaxBytes/reserveFactor {
			want = max(size*reserveFactor, reserveMinBytes)
		}
	}
	return roundUp(max(want, size), hugeBytes)
}

// reserve takes want bytes of addresses that fault until mapped, or fewer
// where the process is limited, but at least size.
func reserve(size, want int64) (base unsafe.Pointer, n int64, err error) {
	const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
	least := roundUp(size, hugeBytes)
	for n = reservation(size, want); ; n = max(n/2&^(hugeBytes-1), least) {
		var raw unsafe.Pointer
		raw, err = unix.MmapPtr(-1, 0, nil, uintptr(n)+hugeBytes, unix.PROT_NONE, flags)
		if err == nil {
			return alignReserved(raw, n), n, nil
		}
		if n == least {
			return nil, 0, fmt.Errorf("%w: %d bytes (%w): raise the limit on virtual memory (ulimit -v) or use a smaller file", ErrNoAddressSpace, size, err)
		}
	}
}

// alignReserved cuts n aligned bytes out of the n+hugeBytes reserved at raw.
func alignReserved(raw unsafe.Pointer, n int64) unsafe.Pointer {
	head := uintptr(-int64(uintptr(raw)) & (hugeBytes - 1))
	base := unsafe.Add(raw, head)
	// Addresses not given back are wasted, nothing more.
	if head > 0 {
		_ = unix.MunmapPtr(raw, head)
	}
	_ = unix.MunmapPtr(unsafe.Add(base, n), hugeBytes-head)
	return base
}

// mapFirst maps size bytes of the file at the base and finds the domain by
// trying, unless it is given.
func (r *Region) mapFirst(size int64, given Domain) error {
	r.domain = given
	volatile, err := isVolatile(r.file)
	if err != nil {
		return err
	}
	synced := false
	if !volatile {
		// The kernel refuses MAP_SYNC where a store may need it to become durable.
		r.mapFlags = unix.MAP_SHARED_VALIDATE | unix.MAP_SYNC
		switch err := r.mapRange(0, size); {
		case err == nil:
			synced = true
		case !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL):
			return err
		}
	}
	if !synced {
		r.mapFlags = unix.MAP_SHARED
		if err := r.mapRange(0, size); err != nil {
			return err
		}
	}
	if given == DomainUnknown {
		if r.domain, err = detectDomain(r.file, volatile, synced); err != nil {
			return err
		}
	}
	r.kind = r.domain.flush()
	r.fdatasync = r.domain.fencesByFdatasync()
	r.size.Store(size)
	return nil
}

// detectDomain draws the conclusion from what was tried.
func detectDomain(f *os.File, volatile, synced bool) (Domain, error) {
	switch {
	case volatile:
		return DomainVolatile, nil
	case !synced:
		return DomainPageCache, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return DomainUnknown, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	durable, err := cachesAreDurable("/sys", st.Dev)
	if err != nil {
		return DomainUnknown, err
	}
	if durable {
		return DomainCPUCache, nil
	}
	return DomainDAX, nil
}

// mapRange maps the file's bytes [from, to) to their reserved addresses. from
// is a multiple of the page size; the last page is mapped whole. A refusal
// leaves the addresses reserved.
func (r *Region) mapRange(from, to int64) error {
	n := roundUp(to, pageBytes) - from
	if n <= 0 {
		return nil
	}
	err := r.tryMap(from)
	if err == nil {
		_, err = unix.MmapPtr(int(r.file.Fd()), from, r.at(from), uintptr(n), mapProt, r.mapFlags|unix.MAP_FIXED)
	}
	if err != nil {
		return fmt.Errorf("map %d bytes of %s: %w", n, r.Path(), err)
	}
	return nil
}

// tryMap maps one page elsewhere for a moment, to hear whether the file system
// takes the flags. Linux asks it only after it has unmapped what MAP_FIXED is to
// replace: refused there, the reserved addresses would be free, another thread's
// memory could move in, and the next MAP_FIXED would put the image in its place,
// or that thread's munmap a hole into the image. Limits of the process are
// looked at before anything is unmapped.
func (r *Region) tryMap(from int64) error {
	p, err := unix.MmapPtr(int(r.file.Fd()), from, nil, uintptr(pageBytes), mapProt, r.mapFlags)
	if err != nil {
		return err
	}
	return unix.MunmapPtr(p, uintptr(pageBytes))
}

// Grow extends the file to size bytes, allocates and maps the new part. It
// waits for the kernel to allocate; nobody else waits for it. Errors:
// ErrShrink, ErrNoSpace, ErrNoAddressSpace, ErrClosed; on each the region is as
// it was.
func (r *Region) Grow(size int64) error {
	r.growMu.Lock()
	defer r.growMu.Unlock()
	old := r.size.Load()
	switch {
	case old == 0:
		return fmt.Errorf("pmem: grow %s: %w", r.Path(), ErrClosed)
	case size == old:
		return nil
	case size < old:
		return fmt.Errorf("pmem: grow %s to %d bytes: %w: it has %d", r.Path(), size, ErrShrink, old)
	case size > r.reserved:
		return fmt.Errorf("pmem: grow %s to %d bytes: %w: %d bytes are reserved: open it anew to go further", r.Path(), size, ErrNoAddressSpace, r.reserved)
	}
	if err := r.growLocked(old, size); err != nil {
		err = fmt.Errorf("pmem: grow %s to %d bytes: %w", r.Path(), size, err)
		// Nothing maps the new part yet.
		if e := r.file.Truncate(old); e != nil {
			err = fmt.Errorf("%w; taking it back: %w", err, e)
		}
		return err
	}
	r.size.Store(size)
	return nil
}

// growLocked allocates and maps [old, size). The file's new length is durable
// before anybody can store there.
func (r *Region) growLocked(old, size int64) error {
	if err := allocate(r.file, old, size); err != nil {
		return err
	}
	if err := r.file.Sync(); err != nil {
		return err
	}
	return r.mapRange(roundUp(old, pageBytes), size)
}

package exercise

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// refused says whether an operation that need not be there was refused clearly.
func refused(err error, must bool) bool {
	return !must && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL))
}

// fallocate calls it; applied is false if it was refused as it may be.
func (r *run) fallocate(h *handle, mode uint32, off, n int64, must bool) (applied bool, err error) {
	began := time.Now()
	switch err := unix.Fallocate(h.fd, mode, off, n); {
	case refused(err, must):
		h.node.exact = false
		r.done()
		return false, r.checkStat(h)
	case err != nil:
		return false, fmt.Errorf("fallocate mode %#x, %d bytes at %d: %w", mode, n, off, err)
	}
	h.node.touched(began)
	// Space that is reserved only is no change of the data.
	h.node.floor = h.node.mtime
	r.done()
	return true, nil
}

func (r *run) allocate() error {
	h, err := r.handle(writable)
	if h == nil {
		return err
	}
	off, n := r.span(int64(len(h.node.data)))
	r.note("allocate %d bytes at %d of %v (size %d)", n, off, h, len(h.node.data))
	if ok, err := r.fallocate(h, 0, off, n, true); !ok {
		return err
	}
	h.node.grow(off + n)
	return r.statSometimes(h)
}

func (r *run) reserve() error {
	h, err := r.handle(writable)
	if h == nil {
		return err
	}
	off, n := r.span(int64(len(h.node.data)))
	r.note("reserve %d bytes at %d of %v (size %d)", n, off, h, len(h.node.data))
	if ok, err := r.fallocate(h, unix.FALLOC_FL_KEEP_SIZE, off, n, true); !ok {
		return err
	}
	h.node.reserved = max(h.node.reserved, off+n)
	return r.statSometimes(h)
}

func (r *run) punch() error {
	h, err := r.handle(writable)
	if h == nil {
		return err
	}
	off, n := r.span(int64(len(h.node.data)))
	r.note("punch %d bytes at %d out of %v (size %d)", n, off, h, len(h.node.data))
	var before, after unix.Stat_t
	if err := unix.Fstat(h.fd, &before); err != nil {
		return err
	}
	if ok, err := r.fallocate(h, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n, true); !ok {
		return err
	}
	h.node.zero(off, n)
	if !r.cfg.Features.Holes || !h.node.stored.IsZero() {
		return r.statSometimes(h)
	}
	if err := unix.Fstat(h.fd, &after); err != nil {
		return err
	}
	if after.Blocks > before.Blocks+blocksSlack {
		return fmt.Errorf("a punch took the file from %d to %d blocks", before.Blocks, after.Blocks)
	}
	first, end := (off+pageSize-1)&^(pageSize-1), min((off+n)&^(pageSize-1), int64(len(h.node.data)))
	if first >= end || !r.cfg.Features.SeekHoles {
		return nil
	}
	got, err := unix.Seek(h.fd, first, unix.SEEK_DATA)
	if err != unix.ENXIO && (err != nil || got < end) {
		return fmt.Errorf("bytes %d to %d were punched out, but there is data at %d (%v)", first, end, got, err)
	}
	return nil
}

func (r *run) zeroRange() error {
	h, err := r.handle(writable)
	if h == nil {
		return err
	}
	off, n := r.span(int64(len(h.node.data)))
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
	if r.chance(2) {
		mode |= unix.FALLOC_FL_KEEP_SIZE
	}
	r.note("zero %d bytes at %d of %v (size %d), mode %#x", n, off, h, len(h.node.data), mode)
	if ok, err := r.fallocate(h, mode, off, n, r.cfg.Features.ZeroRange); !ok {
		return err
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		h.node.grow(off + n)
	}
	h.node.zero(off, n)
	h.node.reserved = max(h.node.reserved, off+n)
	return r.statSometimes(h)
}

// collapse takes whole pages out of the middle of a file.
func (r *run) collapse() error {
	h, err := r.handle(writable)
	if h == nil {
		return err
	}
	size := int64(len(h.node.data))
	off, n := r.span(size)
	off, n = off&^(pageSize-1), (n+pageSize-1)&^(pageSize-1)
	if off+n >= size {
		return nil // that would be a truncate, and EINVAL
	}
	r.note("collapse %d bytes at %d of %v (size %d)", n, off, h, size)
	if ok, err := r.fallocate(h, unix.FALLOC_FL_COLLAPSE_RANGE, off, n, false); !ok {
		return err
	}
	f := h.node
	rest := append([]byte(nil), f.data[off+n:]...)
	f.truncate(off)
	f.write(rest, off)
	f.reserved = max(f.reserved, size) // space beyond the end moves with it
	return r.checkStat(h)
}

// insert puts whole pages of zeros into the middle of a file.
func (r *run) insert() error {
	h, err := r.handle(writable)
	if h == nil {
		return err
	}
	size := int64(len(h.node.data))
	off, n := r.span(size)
	off, n = off&^(pageSize-1), (n+pageSize-1)&^(pageSize-1)
	if off >= size || size+n > r.cfg.MaxSize {
		return nil
	}
	r.note("insert %d bytes at %d of %v (size %d)", n, off, h, size)
	reserved := h.node.reserved
	if ok, err := r.fallocate(h, unix.FALLOC_FL_INSERT_RANGE, off, n, false); !ok {
		return err
	}
	f := h.node
	rest := append([]byte(nil), f.data[off:]...)
	f.truncate(off)
	f.write(rest, off+n)
	f.reserved = max(f.reserved, reserved+n)
	return r.checkStat(h)
}

// seek asks where data and holes are: a hole holds zeros, and no data lies
// before what SEEK_DATA says.
func (r *run) seek() error {
	h, err := r.handle(func(*handle) bool { return true })
	if h == nil {
		return err
	}
	size := int64(len(h.node.data))
	off, _ := r.span(size)
	r.note("seek from %d in %v (size %d)", off, h, size)
	r.done()
	data, err := unix.Seek(h.fd, off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return r.zeros(h.node, off, size)
	case err != nil:
		return fmt.Errorf("SEEK_DATA from %d: %w", off, err)
	case off >= size || data < off || data >= size:
		return fmt.Errorf("SEEK_DATA from %d of %d bytes says %d", off, size, data)
	}
	if err := r.zeros(h.node, off, data); err != nil {
		return err
	}
	hole, err := unix.Seek(h.fd, off, unix.SEEK_HOLE)
	if err != nil || hole < off || hole > size {
		return fmt.Errorf("SEEK_HOLE from %d of %d bytes says %d: %w", off, size, hole, errOr(err, errShort))
	}
	if hole == size {
		return nil
	}
	end, err := unix.Seek(h.fd, hole, unix.SEEK_DATA)
	if err == unix.ENXIO {
		end, err = size, nil
	}
	if err != nil {
		return fmt.Errorf("SEEK_DATA from the hole at %d: %w", hole, err)
	}
	return r.zeros(h.node, hole, end)
}

// zeros: the file system said that the range is a hole.
func (r *run) zeros(f *node, from, to int64) error {
	for i := from; i < to; i++ {
		if f.data[i] != 0 {
			return fmt.Errorf("f%d: bytes %d to %d are a hole, but the model has %#x at %d (dirty through a mapping: %t)", f.id, from, to, f.data[i], i, !f.stored.IsZero())
		}
	}
	return nil
}

package exercise

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// handle is an open descriptor of a file. Immutable but for what it points to.
type handle struct {
	id            int
	fd            int
	node          *node
	reads, writes bool
	appends       bool // O_APPEND
	direct        bool // O_DIRECT
}

func (h *handle) String() string { return fmt.Sprintf("h%d of f%d", h.id, h.node.id) }

func (h *handle) close() error {
	if err := unix.Close(h.fd); err != nil {
		return fmt.Errorf("close %v: %w", h, err)
	}
	return nil
}

// handle draws one that suits; none: it opens a file instead, and nil is returned.
func (r *run) handle(suits func(*handle) bool) (*handle, error) {
	if h := r.anyHandle(suits); h != nil {
		return h, nil
	}
	return nil, r.open()
}

func readable(h *handle) bool { return h.reads }
func writable(h *handle) bool { return h.writes }
func buffered(h *handle) bool { return h.writes && !h.direct && !h.appends }

// aligned narrows a range to whole pages if the handle asks for it.
func (h *handle) aligned(off, n int64) (int64, int64) {
	if !h.direct {
		return off, n
	}
	return off &^ (pageSize - 1), (n + pageSize - 1) &^ (pageSize - 1)
}

// buffer is n bytes that O_DIRECT may use: they begin at a page.
func (r *run) buffer(n int64) ([]byte, func(), error) {
	if n == 0 {
		return nil, func() {}, nil
	}
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, fmt.Errorf("a buffer of %d bytes: %w", n, err)
	}
	return b, func() { _ = unix.Munmap(b) }, nil
}

func (r *run) read() error {
	h, err := r.handle(readable)
	if h == nil {
		return err
	}
	off, n := h.aligned(r.span(int64(len(h.node.data))))
	r.note("read %d bytes at %d through %v (size %d)", n, off, h, len(h.node.data))
	r.done()
	return r.readAt(h, off, n)
}

// readAt compares what a read gives with the model.
func (r *run) readAt(h *handle, off, n int64) error {
	buf, free, err := r.buffer(n)
	if err != nil {
		return err
	}
	defer free()
	got, err := unix.Pread(h.fd, buf, off)
	if err != nil {
		return fmt.Errorf("read of %d bytes at %d: %w", n, off, err)
	}
	return r.compare(h.node, buf[:got], off, n)
}

// compare holds what a read of n bytes at off gave against the model.
func (r *run) compare(f *node, got []byte, off, n int64) error {
	want := f.bytes(off, n)
	r.report.Bytes += int64(len(want))
	if len(got) != len(want) {
		return fmt.Errorf("f%d: a read of %d bytes at %d gave %d, the model has %d (size %d)", f.id, n, off, len(got), len(want), len(f.data))
	}
	return f.differs(got, want, off)
}

// differs names the first byte that is not what it must be. What another process
// stored while frozen may be there or not.
func (f *node) differs(got, want []byte, off int64) error {
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range want {
		if got[i] == want[i] || f.during.covers(off+int64(i), got[i]) {
			continue
		}
		last := i
		for j := i; j < len(want); j++ {
			if got[j] != want[j] {
				last = j
			}
		}
		return fmt.Errorf("f%d differs from byte %d to %d at most: at %d it has %x, the model %x", f.id, off+int64(i), off+int64(last), off+int64(i),
			got[i:min(i+16, len(got))], want[i:min(i+16, len(want))])
	}
	return nil
}

func (r *run) write() error {
	h, err := r.handle(writable)
	if h == nil {
		return err
	}
	off, n := h.aligned(r.span(int64(len(h.node.data))))
	if h.appends {
		if off = int64(len(h.node.data)); off+n > r.cfg.MaxSize || h.direct {
			return nil
		}
	}
	buf, free, err := r.buffer(n)
	if err != nil {
		return err
	}
	defer free()
	fillBytes(buf, r.rng)
	r.note("write %d bytes at %d through %v (size %d, append %t, direct %t)", n, off, h, len(h.node.data), h.appends, h.direct)
	return r.writeAt(h, buf, off)
}

// writeAt writes all of p and applies it. With O_APPEND the kernel does not
// look at the offset: off must be the end.
func (r *run) writeAt(h *handle, p []byte, off int64) error {
	began := time.Now()
	var got int
	var err error
	if h.appends {
		got, err = unix.Write(h.fd, p)
	} else {
		got, err = unix.Pwrite(h.fd, p, off)
	}
	if err != nil || got != len(p) {
		return fmt.Errorf("write of %d bytes at %d gave %d: %w", len(p), off, got, errOr(err, errShort))
	}
	h.node.write(p, off)
	h.node.touched(began)
	r.done()
	return r.statSometimes(h)
}

var errShort = errors.New("short")

func errOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func (r *run) truncate() error {
	size := r.rng.Int64N(r.cfg.MaxSize)
	if r.chance(3) {
		size &^= pageSize - 1
	}
	if r.chance(3) {
		e, ok := r.someOf(kindFile)
		if !ok {
			return nil
		}
		r.note("truncate %q (f%d) from %d to %d", e.path, e.node.id, len(e.node.data), size)
		began := time.Now()
		if err := unix.Truncate(r.path(e.path), size); err != nil {
			return err
		}
		r.truncated(e.node, size, began)
		return nil
	}
	h, err := r.handle(writable)
	if h == nil {
		return err
	}
	if r.chance(4) {
		size = min(max(int64(len(h.node.data))+r.rng.Int64N(200)-100, 0), r.cfg.MaxSize)
	}
	r.note("truncate %v from %d to %d", h, len(h.node.data), size)
	began := time.Now()
	if err := unix.Ftruncate(h.fd, size); err != nil {
		return err
	}
	r.truncated(h.node, size, began)
	return r.statSometimes(h)
}

func (r *run) truncated(f *node, size int64, began time.Time) {
	if size != int64(len(f.data)) {
		f.touched(began)
	}
	f.exact = false // one that changes nothing may stamp the file or not
	f.truncate(size)
	r.done()
}

// copyRange copies with copy_file_range until all is copied that there is.
func (r *run) copyRange() error {
	in, err := r.handle(func(h *handle) bool { return h.reads && !h.direct })
	if in == nil {
		return err
	}
	out, err := r.handle(buffered)
	if out == nil {
		return err
	}
	from, n := r.span(int64(len(in.node.data)))
	to := r.rng.Int64N(r.cfg.MaxSize)
	if r.chance(2) {
		to &^= pageSize - 1
		from &^= pageSize - 1
	}
	n = min(n, r.cfg.MaxSize-to)
	r.note("copy %d bytes from %d of %v (size %d) to %d of %v (size %d)", n, from, in, len(in.node.data), to, out, len(out.node.data))
	want := int64(len(in.node.bytes(from, n)))
	if overlap(in.node, from, out.node, to, want) {
		if _, err := unix.CopyFileRange(in.fd, &from, out.fd, &to, int(n), 0); err != unix.EINVAL {
			return fmt.Errorf("a copy onto itself answers %v", err)
		}
		r.done()
		return nil
	}
	for want > 0 {
		began := time.Now()
		f, t := from, to
		got, err := unix.CopyFileRange(in.fd, &f, out.fd, &t, int(n), 0)
		if err != nil {
			return err
		}
		if got <= 0 || int64(got) > want || f != from+int64(got) || t != to+int64(got) {
			return fmt.Errorf("copied %d of %d bytes, offsets now %d and %d", got, want, f, t)
		}
		out.node.write(in.node.bytes(from, int64(got)), to)
		out.node.touched(began)
		from, to, n, want = f, t, n-int64(got), want-int64(got)
	}
	r.done()
	return r.statSometimes(out)
}

func (r *run) fsync() error {
	h, err := r.handle(func(*handle) bool { return true })
	if h == nil {
		return err
	}
	switch r.rng.IntN(3) {
	case 0:
		r.note("fsync %v", h)
		err = unix.Fsync(h.fd)
	case 1:
		r.note("fdatasync %v", h)
		err = unix.Fdatasync(h.fd)
	default:
		off, n := r.span(int64(len(h.node.data)))
		r.note("sync range %d+%d of %v", off, n, h)
		if err := unix.SyncFileRange(h.fd, off, n, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER); err != nil {
			return err
		}
		h.node.exact = false
		r.done()
		return nil
	}
	if err != nil {
		return err
	}
	r.mappedSynced(h.node)
	h.node.stored = time.Time{}
	r.done()
	return r.checkStat(h)
}

// dropCache makes the kernel forget clean pages, so that the next read asks the
// file system.
func (r *run) dropCache() error {
	h, err := r.handle(readable)
	if h == nil {
		return err
	}
	r.note("drop the cached pages of %v", h)
	r.done()
	return unix.Fadvise(h.fd, 0, 0, unix.FADV_DONTNEED)
}

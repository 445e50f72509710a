package exercise

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// mapping is a shared mapping of a file, which outlives the handle it was made
// from. Immutable but for the memory.
type mapping struct {
	id       int
	mem      []byte
	node     *node
	off      int64
	writable bool
}

const (
	maxMaps     = 6
	maxMapPages = 16
)

// guard runs f with a fault at a mapped address as an error.
func guard(f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			fault, ok := p.(interface{ Addr() uintptr })
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("%w at %#x", errFault, fault.Addr())
		}
	}()
	f()
	return nil
}

var errFault = errors.New("SIGBUS")

// usable is how many bytes of the mapping lie in the file; whole counts the last
// page in full.
func (m *mapping) usable() (usable, whole int64) {
	usable = min(int64(len(m.mem)), max(int64(len(m.node.data))-m.off, 0))
	return usable, (usable + pageSize - 1) &^ (pageSize - 1)
}

func (m *mapping) String() string { return fmt.Sprintf("m%d of f%d at %d", m.id, m.node.id, m.off) }

func (r *run) mapFile() error {
	h, err := r.handle(func(h *handle) bool { return h.reads && !h.direct && len(h.node.data) > 0 })
	if h == nil {
		return err
	}
	if len(r.maps) == maxMaps {
		if err := r.unmap(r.rng.IntN(len(r.maps))); err != nil {
			return err
		}
	}
	m := &mapping{id: r.n, node: h.node, writable: h.writes}
	m.off = r.rng.Int64N(int64(len(h.node.data))) &^ (pageSize - 1)
	n := pageSize * (1 + r.rng.IntN(maxMapPages))
	prot := unix.PROT_READ
	if m.writable {
		prot |= unix.PROT_WRITE
	}
	r.note("map %d bytes as m%d from %d of %v (size %d)", n, m.id, m.off, h, len(h.node.data))
	if m.mem, err = unix.Mmap(h.fd, m.off, n, prot, unix.MAP_SHARED); err != nil {
		return err
	}
	r.maps = append(r.maps, m)
	r.done()
	return nil
}

func (r *run) unmap(i int) error {
	m := r.maps[i]
	r.maps = append(r.maps[:i], r.maps[i+1:]...)
	if err := unix.Munmap(m.mem); err != nil {
		return fmt.Errorf("unmap %v: %w", m, err)
	}
	return nil
}

func (r *run) unmapOne() error {
	if len(r.maps) == 0 {
		return nil
	}
	i := r.rng.IntN(len(r.maps))
	r.note("unmap %v", r.maps[i])
	r.done()
	return r.unmap(i)
}

// someMapping draws one; nil: none suits, and one is made.
func (r *run) someMapping(suits func(*mapping) bool) (*mapping, error) {
	var all []*mapping
	for _, m := range r.maps {
		if usable, _ := m.usable(); usable > 0 && suits(m) {
			all = append(all, m)
		}
	}
	if len(all) == 0 {
		return nil, r.mapFile()
	}
	return all[r.rng.IntN(len(all))], nil
}

// part draws a range of a mapping's first n bytes.
func (r *run) part(n int64) (from, to int64) {
	from = r.rng.Int64N(n)
	switch r.rng.IntN(3) {
	case 0:
		return from, min(from+1+r.rng.Int64N(64), n)
	case 1:
		return from, n
	default:
		return from, from + 1 + r.rng.Int64N(n-from)
	}
}

func (r *run) load() error {
	m, err := r.someMapping(func(*mapping) bool { return true })
	if m == nil {
		return err
	}
	_, whole := m.usable()
	from, to := r.part(whole)
	r.note("load %d bytes at %d of %v (size %d)", to-from, from, m, len(m.node.data))
	r.done()
	return r.loadPart(m, from, to)
}

// loadPart compares bytes of a mapping; those of its last page that are beyond
// the end of the file are zeros (E3).
func (r *run) loadPart(m *mapping, from, to int64) error {
	got := make([]byte, to-from)
	if err := guard(func() { copy(got, m.mem[from:to]) }); err != nil {
		return fmt.Errorf("a load of %d bytes at %d of %v (size %d): %w", to-from, from, m, len(m.node.data), err)
	}
	want := make([]byte, to-from)
	copy(want, m.node.bytes(m.off+from, to-from))
	r.report.Bytes += to - from
	return m.node.differs(got, want, m.off+from)
}

func (r *run) store() error {
	m, err := r.someMapping(func(m *mapping) bool { return m.writable })
	if m == nil {
		return err
	}
	usable, _ := m.usable()
	from, to := r.part(usable)
	p := r.fill(to - from)
	r.note("store %d bytes at %d of %v (size %d)", len(p), from, m, len(m.node.data))
	r.storing(m.node)
	if err := guard(func() { copy(m.mem[from:to], p) }); err != nil {
		return fmt.Errorf("a store of %d bytes at %d of %v (size %d): %w", len(p), from, m, len(m.node.data), err)
	}
	m.node.write(p, m.off+from)
	r.done()
	return nil
}

// storing says that a mapping is about to be stored to.
func (r *run) storing(f *node) {
	if f.stored.IsZero() {
		f.stored = time.Now()
	}
	f.exact = false
}

// mappedSynced says that what mappings stored has been synced: mtime shows it.
func (r *run) mappedSynced(f *node) {
	if r.cfg.Features.MappedMtime && !f.stored.IsZero() {
		f.touched(f.stored)
	}
}

func (r *run) msync() error {
	m, err := r.someMapping(func(m *mapping) bool { return m.writable })
	if m == nil {
		return err
	}
	flags := unix.MS_SYNC
	if r.chance(3) {
		flags = unix.MS_ASYNC
	}
	r.note("msync %v, flags %d", m, flags)
	if err := unix.Msync(m.mem, flags); err != nil {
		return err
	}
	m.node.exact = false
	r.done()
	return nil
}

// forgetPages drops a mapping's page table entries, so that the next access faults.
func (r *run) forgetPages() error {
	m, err := r.someMapping(func(*mapping) bool { return true })
	if m == nil {
		return err
	}
	r.note("forget the pages of %v", m)
	r.done()
	return unix.Madvise(m.mem, unix.MADV_DONTNEED)
}

// private: what is stored to a private mapping is seen there and nowhere else.
func (r *run) private() error {
	h, err := r.handle(func(h *handle) bool { return h.reads && !h.direct && len(h.node.data) > 0 })
	if h == nil {
		return err
	}
	off := r.rng.Int64N(int64(len(h.node.data))) &^ (pageSize - 1)
	n := min(int64(len(h.node.data))-off, int64(pageSize*(1+r.rng.IntN(8))))
	r.note("map %d bytes at %d of %v privately (size %d), store there", n, off, h, len(h.node.data))
	mem, err := unix.Mmap(h.fd, off, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(mem) }()
	m := &mapping{id: r.n, mem: mem, node: h.node, off: off}
	if err := r.loadPart(m, 0, n); err != nil {
		return fmt.Errorf("a private mapping: %w", err)
	}
	from, to := r.part(n)
	own := r.fill(to - from)
	var got []byte
	if err := guard(func() {
		copy(mem[from:to], own)
		got = bytes.Clone(mem[from:to])
	}); err != nil {
		return err
	}
	if !bytes.Equal(own, got) {
		return errors.New("a private mapping lost what was stored to it")
	}
	r.done()
	return r.readAt(h, off, n)
}

// loadBeyond: a page that lies beyond the end of the file altogether is not there.
func (r *run) loadBeyond() error {
	for _, m := range r.maps {
		if _, whole := m.usable(); whole < int64(len(m.mem)) {
			at := whole + r.rng.Int64N(int64(len(m.mem))-whole)
			r.note("load at %d of %v, beyond the end (size %d)", at, m, len(m.node.data))
			var b byte
			if err := guard(func() { b = m.mem[at] }); !errors.Is(err, errFault) {
				return fmt.Errorf("a load at %d of %v, beyond the end at %d, gave %#x where SIGBUS is due (%v)", at, m, len(m.node.data), b, err)
			}
			r.done()
			return nil
		}
	}
	return nil
}

func overlap(a *node, aOff int64, b *node, bOff, n int64) bool {
	return a == b && aOff < bOff+n && bOff < aOff+n
}

// writeFromMapping writes to a file from memory that is a file itself.
func (r *run) writeFromMapping() error {
	m, err := r.someMapping(func(*mapping) bool { return true })
	if m == nil {
		return err
	}
	h, err := r.handle(buffered)
	if h == nil {
		return err
	}
	usable, _ := m.usable()
	from, to := r.part(usable)
	off := r.rng.Int64N(r.cfg.MaxSize - (to - from))
	if overlap(m.node, m.off+from, h.node, off, to-from) {
		return nil
	}
	r.note("write %d bytes at %d of %v to %d of %v (size %d)", to-from, from, m, off, h, len(h.node.data))
	began := time.Now()
	got, err := unix.Pwrite(h.fd, m.mem[from:to], off)
	if err != nil || int64(got) != to-from {
		return fmt.Errorf("gave %d: %w", got, errOr(err, errShort))
	}
	h.node.write(bytes.Clone(m.node.bytes(m.off+from, to-from)), off)
	h.node.touched(began)
	r.done()
	return r.statSometimes(h)
}

// readIntoMapping reads from a file into memory that is a file itself.
func (r *run) readIntoMapping() error {
	m, err := r.someMapping(func(m *mapping) bool { return m.writable })
	if m == nil {
		return err
	}
	h, err := r.handle(func(h *handle) bool { return h.reads && !h.direct && len(h.node.data) > 0 })
	if h == nil {
		return err
	}
	usable, _ := m.usable()
	from, to := r.part(usable)
	off := r.rng.Int64N(int64(len(h.node.data)))
	n := int64(len(h.node.bytes(off, to-from)))
	if overlap(m.node, m.off+from, h.node, off, n) {
		return nil
	}
	r.note("read %d bytes at %d of %v (size %d) to %d of %v", n, off, h, len(h.node.data), from, m)
	r.storing(m.node)
	got, err := unix.Pread(h.fd, m.mem[from:from+n], off)
	if err != nil || int64(got) != n {
		return fmt.Errorf("gave %d: %w", got, errOr(err, errShort))
	}
	m.node.write(bytes.Clone(h.node.bytes(off, n)), m.off+from)
	r.done()
	return r.loadPart(m, from, from+n)
}

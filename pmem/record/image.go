package record

import (
	"fmt"
	"io"
	"sync"

	"permafrost/pmem"
)

// pageBytes is what Image saves at once before it is first stored to.
const pageBytes = 4096

// Image is a pmem.Medium in plain memory, on which the images of a crash are
// made and tried one after the other: what was stored since the last Mark can be
// taken back, at the cost of what was stored.
type Image struct {
	mem    []byte      // stored to under mu
	domain pmem.Domain // immutable

	mu    sync.Mutex
	saved map[int64][]byte // guarded by mu: page to its content at Mark
	free  [][]byte         // guarded by mu: page buffers to reuse
}

var _ pmem.Medium = (*Image)(nil)

// NewImage is an image of size zero bytes.
func NewImage(size int64, d pmem.Domain) *Image {
	return &Image{mem: make([]byte, size), domain: d, saved: make(map[int64][]byte)}
}

// Load makes the image's content that of p, which has its size, for good.
func (m *Image) Load(p []byte) {
	copy(m.mem, p)
	m.Mark()
}

// Mark makes the present content the one that Back goes back to.
func (m *Image) Mark() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.markLocked()
}

func (m *Image) markLocked() {
	for _, p := range m.saved {
		m.free = append(m.free, p)
	}
	clear(m.saved)
}

// Back takes back all that was stored since the last Mark.
func (m *Image) Back() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for page, p := range m.saved {
		copy(m.mem[page*pageBytes:], p)
	}
	m.markLocked()
}

// Follow makes the content that of o, where both held the same at their last Mark
// and this one has been taken Back to it.
func (m *Image) Follow(o *Image) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for page := range o.saved {
		m.Put(page*pageBytes, o.mem[page*pageBytes:(page+1)*pageBytes])
	}
}

// Put stores p at off, as a crash may leave it.
func (m *Image) Put(off int64, p []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saveLocked(off, int64(len(p)))
	copy(m.mem[off:], p)
}

// saveLocked keeps the pages of [off, off+n) before they change.
func (m *Image) saveLocked(off, n int64) {
	for page := off / pageBytes; page*pageBytes < off+n; page++ {
		if _, ok := m.saved[page]; ok {
			continue
		}
		var p []byte
		if k := len(m.free); k > 0 {
			p, m.free = m.free[k-1], m.free[:k-1]
		} else {
			p = make([]byte, pageBytes)
		}
		copy(p, m.mem[page*pageBytes:(page+1)*pageBytes])
		m.saved[page] = p
	}
}

// Size is the length in bytes.
func (m *Image) Size() int64 { return int64(len(m.mem)) }

// Domain is the one it plays.
func (m *Image) Domain() pmem.Domain { return m.domain }

// Bytes is [off, off+n), nil if that is not inside.
func (m *Image) Bytes(off, n int64) []byte {
	if off < 0 || n < 0 || n > int64(len(m.mem))-off {
		return nil
	}
	return m.mem[off : off+n : off+n]
}

// ReadAt is io.ReaderAt.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(m.mem)) {
		return 0, fmt.Errorf("record: read at %d: %w", off, pmem.ErrOutOfRange)
	}
	n := copy(p, m.mem[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Grow is refused: an image is of one size.
func (m *Image) Grow(int64) error { return fmt.Errorf("record: grow: %w", pmem.ErrOutOfRange) }

// Close does nothing.
func (m *Image) Close() error { return nil }

// Begin opens a batch, whose stores are durable at once.
func (m *Image) Begin() pmem.Batch { return imageBatch{m} }

type imageBatch struct{ m *Image }

func (b imageBatch) Write(off int64, p []byte) error {
	if b.m.Bytes(off, int64(len(p))) == nil {
		return fmt.Errorf("record: write at %d: %w", off, pmem.ErrOutOfRange)
	}
	b.m.Put(off, p)
	return nil
}

func (b imageBatch) Zero(off, n int64) error {
	if b.m.Bytes(off, n) == nil {
		return fmt.Errorf("record: zero at %d: %w", off, pmem.ErrOutOfRange)
	}
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	b.m.saveLocked(off, n)
	clear(b.m.mem[off : off+n])
	return nil
}

func (b imageBatch) Flush(off, n int64) error {
	if b.m.Bytes(off, n) == nil {
		return fmt.Errorf("record: flush at %d: %w", off, pmem.ErrOutOfRange)
	}
	return nil
}

func (imageBatch) Order()       {}
func (imageBatch) Fence() error { return nil }
func (imageBatch) End()         {}

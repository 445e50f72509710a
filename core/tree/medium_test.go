package tree

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/pmem"
)

// heapMedium is a Medium on the heap that remembers which lines are durable,
// can fail at a given write or fence, and yields what a crash may leave.
type heapMedium struct {
	mu      sync.Mutex
	data    []byte
	durable []byte             // nil: not kept
	pending map[int64]struct{} // lines written and not fenced
	onWrite func(off int64, p []byte) error
	onRead  func(off int64) error
	onFence func() error
	domain  pmem.Domain
}

const line = 64

func newMedium(size int64) *heapMedium {
	return &heapMedium{data: make([]byte, size), domain: pmem.DomainVolatile}
}

// track begins to remember what is durable.
func (m *heapMedium) track() {
	m.durable = append([]byte(nil), m.data...)
	m.pending = map[int64]struct{}{}
}

func (m *heapMedium) Size() int64               { return int64(len(m.data)) }
func (m *heapMedium) Domain() pmem.Domain       { return m.domain }
func (m *heapMedium) Bytes(off, n int64) []byte { return m.data[off : off+n] }
func (m *heapMedium) Close() error              { return nil }
func (m *heapMedium) Grow(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if int64(cap(m.data)) >= size {
		m.data = m.data[:size]
	} else {
		m.data = append(m.data, make([]byte, size-int64(len(m.data)))...)
	}
	if m.durable != nil {
		m.durable = append(m.durable, make([]byte, size-int64(len(m.durable)))...)
	}
	return nil
}

func (m *heapMedium) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m.data)) {
		return 0, fmt.Errorf("read at %d: %w", off, pmem.ErrOutOfRange)
	}
	if m.onRead != nil {
		if err := m.onRead(off); err != nil {
			return 0, err
		}
	}
	return copy(p, m.data[off:]), nil
}

func (m *heapMedium) Begin() pmem.Batch { return heapBatch{m} }

type heapBatch struct{ m *heapMedium }

func (b heapBatch) Write(off int64, p []byte) error {
	m := b.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.onWrite != nil {
		if err := m.onWrite(off, p); err != nil {
			return err
		}
	}
	if off < 0 || off+int64(len(p)) > int64(len(m.data)) {
		return fmt.Errorf("write at %d: %w", off, pmem.ErrOutOfRange)
	}
	copy(m.data[off:], p)
	if m.durable != nil {
		for l := off / line; l*line < off+int64(len(p)); l++ {
			m.pending[l] = struct{}{}
		}
	}
	return nil
}

func (b heapBatch) Zero(off, n int64) error  { return b.Write(off, make([]byte, n)) }
func (b heapBatch) Flush(off, n int64) error { return nil }
func (b heapBatch) Order()                   {}
func (b heapBatch) End()                     {}

func (b heapBatch) Fence() error {
	m := b.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.onFence != nil {
		if err := m.onFence(); err != nil {
			return err
		}
	}
	if m.durable != nil {
		for l := range m.pending {
			copy(m.durable[l*line:(l+1)*line], m.data[l*line:])
		}
		clear(m.pending)
	}
	return nil
}

// crash is a medium with what a crash now may leave: every durable line, and
// each unfenced one with the probability given.
func (m *heapMedium) crash(rnd *rand.Rand, keep float64) *heapMedium {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &heapMedium{data: append([]byte(nil), m.durable...), domain: m.domain}
	for l := range m.pending {
		if rnd.Float64() < keep {
			copy(c.data[l*line:(l+1)*line], m.data[l*line:])
		}
	}
	return c
}

// clone is a medium with the same bytes.
func (m *heapMedium) clone() *heapMedium {
	return &heapMedium{data: append([]byte(nil), m.data...), domain: m.domain}
}

// kindData marks records whose value begins with a run of blocks: block, count.
const kindData = 9

func testExtents(k Key, v []byte, used func(b format.Block, n uint64)) {
	if k.Kind == kindData {
		used(format.Block(binary.LittleEndian.Uint64(v)), binary.LittleEndian.Uint64(v[8:]))
	}
}

func dataValue(b format.Block, n uint64) []byte {
	var v [16]byte
	binary.LittleEndian.PutUint64(v[:], uint64(b))
	binary.LittleEndian.PutUint64(v[8:], n)
	return v[:]
}

var testTime = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

func testOptions() Options {
	return Options{Extents: testExtents, Now: func() time.Time { return testTime }}
}

// mkfs makes an image of size bytes.
func mkfs(t testing.TB, size int64) *heapMedium {
	t.Helper()
	m := newMedium(size)
	if err := Format(m, FormatOptions{Label: "test", Now: func() time.Time { return testTime }}); err != nil {
		t.Fatal(err)
	}
	return m
}

func mustOpen(t testing.TB, m pmem.Medium, o Options) *Store {
	t.Helper()
	s, err := Open(m, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkStore runs the full check on the open store, after a commit.
func checkStore(t testing.TB, s *Store) {
	t.Helper()
	if _, err := s.Commit(context.Background(), CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Check(context.Background(), CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
}

// checkImage runs the full check on a closed image.
func checkImage(t testing.TB, m pmem.Medium) *Report {
	t.Helper()
	r, err := Check(m, CheckOptions{Extents: testExtents})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return r
}

// finish closes the store and checks the image.
func finish(t testing.TB, s *Store, m pmem.Medium) {
	t.Helper()
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if r := checkImage(t, m); !r.Clean {
		t.Fatal("the last commit is not clean")
	}
}

// update runs fn in a transaction.
func update(t testing.TB, s *Store, r Reserve, fn func(tx *Tx)) {
	t.Helper()
	tx, err := s.Begin(r)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.End()
	fn(tx)
}

func put(t testing.TB, s *Store, k Key, v []byte) {
	t.Helper()
	update(t, s, Reserve{Nodes: s.NodesFor(1)}, func(tx *Tx) {
		if err := tx.Put(k, v); err != nil {
			t.Fatal(err)
		}
	})
}

var errPlanted = errors.New("planted fault")

package tree

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"permafrost/core/format"
	"permafrost/pmem"
)

// maxDamages is how many damaged blocks are kept by name; the rest are counted
// each time they are met.
const maxDamages = 1000

// Damage is a block of metadata that could not be read.
type Damage struct {
	Block format.Block
	What  string    // what is wrong with it
	Since time.Time // when it was met first
}

// harm is the damage met since the store was opened (T14).
type harm struct {
	cause atomic.Pointer[error] // the first one met; set once
	total atomic.Uint64         // blocks met

	mu     sync.Mutex              // a leaf
	blocks map[format.Block]Damage // guarded by mu; nil: none
}

// first is the first damage met, or nil.
func (h *harm) first() error {
	if p := h.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// DamagedBlock tells which block an error of this package, or of one above it,
// is about: one that breaks a rule of the format, or that the processor could
// not reach.
func DamagedBlock(err error) (b format.Block, ok bool) {
	var d *format.DamageError
	if errors.As(err, &d) {
		return d.Block, true
	}
	var m *pmem.MediaError
	if errors.As(err, &m) {
		return format.Block(m.Off / format.BlockSize), true
	}
	return 0, false
}

// met takes note of err if it says that metadata is damaged (T14).
func (s *Store) met(err error) {
	b, ok := DamagedBlock(err)
	if !ok {
		return
	}
	h := &s.harm
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.blocks[b]; known {
		return
	}
	h.total.Add(1)
	cause := fmt.Errorf("the metadata in block %d is damaged: %w", b, err)
	h.cause.CompareAndSwap(nil, &cause)
	if len(h.blocks) == maxDamages {
		return
	}
	if h.blocks == nil {
		h.blocks = make(map[format.Block]Damage)
	}
	h.blocks[b] = Damage{Block: b, What: err.Error(), Since: s.now()}
}

// Damages lists the damaged blocks met since the store was opened, ascending;
// total counts also those beyond the first 1000.
func (s *Store) Damages() (list []Damage, total uint64) {
	h := &s.harm
	h.mu.Lock()
	for _, d := range h.blocks {
		list = append(list, d)
	}
	h.mu.Unlock()
	slices.SortFunc(list, func(a, b Damage) int { return cmp.Compare(a.Block, b.Block) })
	return list, h.total.Load()
}

// DamageCount is how many damaged blocks of metadata were met since the store
// was opened. O(1).
func (s *Store) DamageCount() uint64 { return s.harm.total.Load() }

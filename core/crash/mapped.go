package crash

import (
	"context"
	"encoding/binary"
	"sync"

	"permafrost/core"
	"permafrost/core/format"
)

// mappedFile is a program that has a whole file mapped: its page table, and the
// blocks behind it. It is a stand-in for dax and its clients, whose real page
// tables cannot be part of a recording.
type mappedFile struct {
	core *core.Mapping // set once
	exts []core.Extent // immutable

	mu       sync.Mutex
	writable map[format.Page]bool // guarded by mu
}

var _ core.Protector = (*mappedFile)(nil)

// Protect takes the right to store (core.Protector).
func (m *mappedFile) Protect(_ context.Context, runs []core.PageRun) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range runs {
		for p := r.First; p < r.First+format.Page(r.Count); p++ {
			delete(m.writable, p)
		}
	}
	return nil
}

func (m *mappedFile) grant(r core.PageRun) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := r.First; p < r.First+format.Page(r.Count); p++ {
		m.writable[p] = true
	}
	return nil
}

func (m *mappedFile) canStore(p format.Page) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writable[p]
}

// storeOffsets are where a mapped store puts its words: in two lines.
var storeOffsets = []int64{0, 8, 128}

// word is the i-th word that a mapped store puts; tag tells the operation.
func word(tag byte, i int) []byte {
	var w [8]byte
	binary.LittleEndian.PutUint64(w[:], uint64(tag)<<8|uint64(i+1))
	return w[:]
}

// storeMapped stores three words into a page of a mapped file. The mapping is
// made by the first store, and lasts: also after its file's name is gone.
func (p *player) storeMapped(path string, page format.Page) error {
	m, err := p.mapping(path)
	if err != nil {
		return err
	}
	if !m.canStore(page) {
		if err := m.core.Mkwrite(page, 1, m.grant); err != nil {
			return err
		}
	}
	for _, e := range m.exts {
		if e.Page > page || page >= e.Page+format.Page(e.Count) {
			continue
		}
		at := int64(e.Block+format.Block(page-e.Page)) * format.BlockSize
		for i, off := range storeOffsets {
			p.store(at+off, word(p.fill(1)[0], i))
		}
		return nil
	}
	return errSkip // the mapping does not reach so far
}

// mapping maps the whole of a file, or finds the mapping made of that name.
func (p *player) mapping(path string) (*mappedFile, error) {
	a, err := p.fs.Resolve(ctx, path)
	if err != nil {
		if m := p.maps[p.mapped[path]]; m != nil {
			return m, nil
		}
		return nil, err
	}
	if m := p.maps[a.Ino]; m != nil {
		return m, nil
	}
	if a.Mode&format.TypeMask != format.TypeRegular || a.Size == 0 {
		return nil, errSkip
	}
	m := &mappedFile{writable: make(map[format.Page]bool)}
	length := (a.Size + format.PageSize - 1) / format.PageSize * format.PageSize
	if m.core, m.exts, err = p.fs.Map(ctx, a.Ino, core.MapRequest{Length: length, Writable: true, WayIn: "attach", Protector: m}); err != nil {
		return nil, err
	}
	p.maps[a.Ino], p.mapped[path] = m, a.Ino
	return m, nil
}

func (p *player) unmap(path string) error {
	a, err := p.fs.Resolve(ctx, path)
	if err != nil {
		return err
	}
	m := p.maps[a.Ino]
	if m == nil {
		return errSkip
	}
	delete(p.maps, a.Ino)
	return m.core.Unmap(ctx)
}

package core

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync/atomic"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// Mapping is a program's shared mapping of part of a file. Its blocks stay
// where they are while it lives.
type Mapping struct {
	fs       *FS       // immutable
	id       uint64    // immutable
	in       *inode    // immutable; pinned until the mapping ends
	writable bool      // immutable
	wayIn    string    // immutable
	process  Process   // immutable
	prot     Protector // immutable; nil if read-only
	since    time.Time // immutable
	from     any       // immutable; the watcher that is not told of what it stores

	ranges  atomic.Pointer[[]PageRun] // ascending, not touching; replaced with pages.mapsMu held; nil: ended
	granted atomic.Uint64             // pages un-protected since the last protection: an upper bound
}

// ID numbers the mapping; numbers are not used twice by one mount.
func (m *Mapping) ID() uint64 { return m.id }

// Ino is the mapped inode.
func (m *Mapping) Ino() format.Ino { return m.in.ino }

// Map allocates and zeroes the range durably (writable), pins its blocks and
// the inode, and registers the mapping with the inode's dirty tracking. A range
// that has all its blocks is mapped even while frozen: nothing of the image
// changes. A read-only mapping allocates nothing: its holes are not among the
// extents, and stay holes to the program whatever is written there later.
//
// Errors: ErrInvalid for a range that is empty, not page-aligned or past the
// end of the file; ErrTooBig past 16 TiB; else as Fallocate.
func (fs *FS) Map(ctx context.Context, ino format.Ino, r MapRequest) (*Mapping, []Extent, error) {
	if err := checkRange(r); err != nil {
		return nil, nil, fmt.Errorf("map inode %d: %w", ino, err)
	}
	in, err := fs.get(ino)
	if err != nil {
		return nil, nil, err
	}
	m, exts, gen, err := fs.mapRange(ctx, in, r)
	if err != nil {
		fs.put(in)
		return nil, nil, fmt.Errorf("map %d bytes at %d of inode %d: %w", r.Length, r.Offset, ino, err)
	}
	if !fs.opt.ReadOnly {
		if err := fs.store.WaitDurable(ctx, gen); err != nil {
			if fs.endMapping(m) {
				fs.put(in)
			}
			return nil, nil, fmt.Errorf("map inode %d: %w", ino, fs.waitError(err))
		}
	}
	fs.emitMap(m, false)
	return m, exts, nil
}

func checkRange(r MapRequest) error {
	switch {
	case r.Offset < 0 || r.Length <= 0 || r.Offset%format.PageSize != 0 || r.Length%format.PageSize != 0:
		return fmt.Errorf("%d bytes at %d: offset and length must be multiples of %d: %w", r.Length, r.Offset, format.PageSize, ErrInvalid)
	case r.Length > int64(maxMappedPage)*format.PageSize-r.Offset:
		return fmt.Errorf("%d bytes at %d: past 16 TiB: %w", r.Length, r.Offset, ErrTooBig)
	case r.Writable && r.Protector == nil:
		return fmt.Errorf("a writable mapping needs a protector: %w", ErrInvalid)
	}
	return nil
}

// mapRange allocates a chunk at a time, a pass of the gate each, until it finds
// the range whole under the inode's lock; there it registers the mapping, and
// from then on the blocks are pinned.
func (fs *FS) mapRange(ctx context.Context, in *inode, r MapRequest) (*Mapping, []Extent, format.Generation, error) {
	first, end := pageOf(r.Offset), pageOf(r.Offset+r.Length)
	if r.Writable {
		if err := fs.roomFor(ctx, in, first, end); err != nil {
			return nil, nil, 0, err
		}
	}
	for {
		m, exts, hole, err := fs.tryMap(ctx, in, r, first, end)
		if err != nil {
			return nil, nil, 0, err
		}
		if m != nil {
			in.mu.RLock()
			gen := in.a.Gen
			in.mu.RUnlock()
			return m, exts, gen, nil
		}
		if err := fs.mapAllocate(ctx, in, hole, end); err != nil {
			return nil, nil, 0, err
		}
	}
}

// tryMap registers the mapping if nothing is missing; otherwise it names the
// first page that is, or end if only the file is too short.
func (fs *FS) tryMap(ctx context.Context, in *inode, r MapRequest, first, end format.Page) (*Mapping, []Extent, format.Page, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.fileLocked(); err != nil {
		return nil, nil, 0, err
	}
	short := pagesUp(in.sizeLocked()) < end
	if short && (!r.Writable || !r.Grow) {
		return nil, nil, 0, fmt.Errorf("the file has %d bytes: %w", in.sizeLocked(), ErrInvalid)
	}
	exts, err := fs.extentsLocked(in, first, end, int(end-first))
	if err != nil {
		return nil, nil, 0, err
	}
	if r.Writable {
		at := first
		for _, e := range exts {
			if e.Page != at {
				break
			}
			at = e.end()
		}
		if at < end || short {
			return nil, nil, at, nil
		}
	}
	m := fs.register(in, r, []PageRun{{First: first, Count: uint64(end - first)}}, ctx.Value(watcherKey{}))
	return m, exts, 0, nil
}

// mapAllocate fills the hole that begins at a page, up to a chunk of it. When
// none is left it grows the file: one that finds no space keeps its size.
func (fs *FS) mapAllocate(ctx context.Context, in *inode, hole, end format.Page) error {
	return fs.withSpace(ctx, func() error { return fs.tryMapAllocate(ctx, in, hole, end) })
}

func (fs *FS) tryMapAllocate(ctx context.Context, in *inode, hole, end format.Page) error {
	var touched, bytes int64 // what is new then
	locked := false
	defer func() {
		if locked {
			fs.tellInode(ctx, in.ino, touched, bytes)
		}
	}()
	pass, err := fs.enterWrite(ctx, freeze.OpMap, in.ino)
	if err != nil {
		return err
	}
	defer pass.Exit()
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.fileLocked(); err != nil {
		return err
	}
	locked = true
	if hole < end {
		_, err := fs.allocateLocked(in, hole, min(end, hole+maxAllocate))
		return err
	}
	if size := int64(end) * format.PageSize; size > in.sizeLocked() {
		touched, bytes = in.resizedLocked(size)
		return fs.growLocked(in, size)
	}
	return nil
}

// NewMappingID is a number for a mapping that a way in keeps an account of itself, as
// the mount does, so that no two in one listing have the same.
func (fs *FS) NewMappingID() uint64 { return fs.nextMapping.Add(1) }

// register makes the mapping known. It takes over the caller's pin.
func (fs *FS) register(in *inode, r MapRequest, ranges []PageRun, from any) *Mapping {
	m := &Mapping{fs: fs, id: fs.nextMapping.Add(1), in: in, writable: r.Writable,
		wayIn: r.WayIn, process: r.Process, prot: r.Protector, since: time.Now(), from: from}
	m.ranges.Store(&ranges)
	pg := in.pages.Load()
	for pg == nil {
		in.pages.CompareAndSwap(nil, newPages())
		pg = in.pages.Load()
	}
	pg.mapsMu.Lock()
	list := append(slices.Clip(pg.mappings()), m)
	pg.maps.Store(&list)
	pg.mapsMu.Unlock()
	fs.mappings.mu.Lock()
	fs.mappings.m[m.id] = m
	fs.mappings.mu.Unlock()
	return m
}

// AdoptMapping registers a mapping that survived a restart, with the pages
// that are written now; it passes no gate (nothing is frozen before Adopted) and
// allocates no data. Extents that are missing now are not among those returned.
//
// Errors: ErrStale, ErrInvalid, ErrIO, ErrReadOnly.
func (fs *FS) AdoptMapping(ino format.Ino, r MapRequest, written []PageRun) (*Mapping, []Extent, error) {
	if err := checkRange(r); err != nil {
		return nil, nil, fmt.Errorf("adopt a mapping of inode %d: %w", ino, err)
	}
	in, err := fs.get(ino)
	if err != nil {
		return nil, nil, err
	}
	first, end := pageOf(r.Offset), pageOf(r.Offset+r.Length)
	in.mu.Lock()
	err = in.fileLocked()
	var exts []Extent
	if err == nil {
		exts, err = fs.extentsLocked(in, first, end, int(end-first))
	}
	if err != nil {
		in.mu.Unlock()
		fs.put(in)
		return nil, nil, fmt.Errorf("adopt a mapping of inode %d: %w", ino, err)
	}
	ranges := []PageRun{{First: first, Count: uint64(end - first)}}
	m := fs.register(in, r, ranges, nil)
	in.mu.Unlock()
	written = clipRuns(sortRuns(written), ranges)
	if len(written) > 0 {
		// The stamp of the first of these stores may have died with the server:
		// nothing need have committed it. No later store to them will make one.
		if err := fs.stampStore(in); err != nil {
			if fs.endMapping(m) {
				fs.put(in)
			}
			return nil, nil, fmt.Errorf("adopt a mapping of inode %d: stamp its stores: %w", ino, err)
		}
		now := time.Now()
		pg := in.pages.Load()
		pg.mu.Lock()
		for _, w := range written {
			fs.tagLocked(in, pg, w, now)
		}
		pg.mu.Unlock()
		m.granted.Add(countPages(written))
		for _, w := range written {
			fs.tellRun(nil, ino, w)
		}
	}
	fs.emitMap(m, false)
	return m, exts, nil
}

// SetRanges tells core which pages are still mapped after an unmap or remap;
// nil ends the mapping. Dirty pages are synced in the background (fsync at
// unmap). No lock of core or of the client's events may be held.
func (m *Mapping) SetRanges(runs []PageRun) {
	if len(runs) == 0 {
		if m.fs.endMapping(m) {
			m.fs.unmapped.add(m.in)
		}
		return
	}
	runs = sortRuns(runs)
	pg := m.in.pages.Load()
	pg.mapsMu.Lock()
	defer pg.mapsMu.Unlock()
	if m.ranges.Load() == nil {
		return
	}
	m.ranges.Store(&runs)
	if pg.listed.Load() {
		m.in.refs.Add(1)
		m.fs.unmapped.add(m.in)
	}
}

// sortRuns orders runs and joins those that touch; the argument is left alone.
func sortRuns(runs []PageRun) []PageRun {
	runs = slices.Clone(runs)
	sort.Slice(runs, func(i, j int) bool { return runs[i].First < runs[j].First })
	out := runs[:0]
	for _, r := range runs {
		switch n := len(out); {
		case r.Count == 0:
		case n > 0 && r.First <= out[n-1].end():
			out[n-1].Count = uint64(max(out[n-1].end(), r.end()) - out[n-1].First)
		default:
			out = append(out, r)
		}
	}
	return out
}

// Unmap ends the mapping: its dirty pages are flushed, its inode released.
// While frozen nothing is dirty, so that it does not wait for the thaw. An
// error is of the flush; the mapping has ended all the same.
func (m *Mapping) Unmap(ctx context.Context) error {
	m.in.refs.Add(1)
	defer m.fs.put(m.in)
	if !m.fs.endMapping(m) {
		return nil // it has ended before
	}
	defer m.fs.put(m.in) // the mapping's own pin
	if pg := m.in.pages.Load(); !pg.listed.Load() {
		return nil
	}
	_, err := m.fs.fsync(ctx, m.in, 0, maxPage, "unmap")
	return err
}

// endMapping takes the mapping out of all tables, once; the caller gets its pin.
func (fs *FS) endMapping(m *Mapping) bool {
	pg := m.in.pages.Load()
	last := m.info() // while it has ranges
	pg.mapsMu.Lock()
	if m.ranges.Load() == nil {
		pg.mapsMu.Unlock()
		return false
	}
	m.ranges.Store(nil)
	list := slices.DeleteFunc(slices.Clone(pg.mappings()), func(o *Mapping) bool { return o == m })
	pg.maps.Store(&list)
	pg.mapsMu.Unlock()
	fs.mappings.mu.Lock()
	delete(fs.mappings.m, m.id)
	fs.mappings.mu.Unlock()
	fs.emitMapInfo(last, true)
	return true
}

// mappedWithin reports whether any mapping covers a page of [first, end). The
// inode's lock keeps the answer true: mappings are made under it.
func (in *inode) mappedWithin(first, end format.Page) bool {
	pg := in.pages.Load()
	if pg == nil {
		return false
	}
	for _, m := range pg.mappings() {
		if ranges := m.ranges.Load(); ranges != nil {
			for _, r := range *ranges {
				if r.First < end && r.end() > first {
					return true
				}
			}
		}
	}
	return false
}

func (in *inode) mappedBeyond(p format.Page) bool { return in.mappedWithin(p, maxPage) }

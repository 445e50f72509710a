package core

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"permafrost/core/format"
	"permafrost/core/tree"
)

const (
	// listRuns bounds the dirty runs of one inode in a listing; InodeDetail
	// gives detailRuns.
	listRuns   = 16
	detailRuns = 65536
	// detailExtents bounds the extents of InodeDetail.
	detailExtents = 65536
	// maxListing bounds one listing.
	maxListing = 1000
	// scanBudget bounds the records one listing call looks at when it filters.
	scanBudget = 200_000
	// maxPaths bounds the paths shown of one inode.
	maxPaths = 16
)

// infoLocked copies what is known of a mapping; pg.mu is held.
func (m *Mapping) infoLocked(pg *pages) MappingInfo {
	i := m.infoBare()
	for _, r := range i.Ranges {
		i.DirtyPages += pg.dirty.CardinalityInRange(uint64(r.First), uint64(r.end()))
	}
	return i
}

// infoBare is infoLocked without dirty pages; it needs no lock.
func (m *Mapping) infoBare() MappingInfo {
	i := MappingInfo{ID: m.id, Ino: m.in.ino, WayIn: m.wayIn, Process: m.process, Writable: m.writable, Since: m.since}
	if r := m.ranges.Load(); r != nil {
		i.Ranges = slices.Clone(*r)
	}
	i.WritablePages = min(m.granted.Load(), countPages(i.Ranges))
	return i
}

// info is what is known of a mapping now. It never waits: while a client is
// being write-protected its dirty pages are shown as those it may store to.
func (m *Mapping) info() MappingInfo {
	pg := m.in.pages.Load()
	if !pg.mu.TryLock() {
		i := m.infoBare()
		i.DirtyPages = i.WritablePages
		return i
	}
	defer pg.mu.Unlock()
	return m.infoLocked(pg)
}

// Mappings lists all mappings by number.
func (fs *FS) Mappings() []MappingInfo {
	fs.mappings.mu.Lock()
	list := make([]*Mapping, 0, len(fs.mappings.m))
	for _, m := range fs.mappings.m {
		list = append(list, m)
	}
	fs.mappings.mu.Unlock()
	slices.SortFunc(list, func(a, b *Mapping) int { return cmp.Compare(a.id, b.id) })
	out := make([]MappingInfo, 0, len(list))
	for _, m := range list {
		i := m.info()
		if paths := fs.Paths(i.Ino, 1); len(paths) > 0 {
			i.Path = paths[0]
		}
		out = append(out, i)
	}
	return out
}

// inodeInfo copies what is known of a pinned inode.
func (fs *FS) inodeInfo(in *inode, runs, paths int) (InodeInfo, []*Mapping, error) {
	in.mu.RLock()
	err := in.aliveLocked()
	i := InodeInfo{Attr: in.attrLocked()}
	in.mu.RUnlock()
	if err != nil {
		return i, nil, err
	}
	i.Paths = fs.Paths(in.ino, paths)
	pg := in.pages.Load()
	if pg == nil {
		return i, nil, nil
	}
	maps := pg.mappings()
	i.Mappings = len(maps)
	if !pg.mu.TryLock() { // being write-protected: it is on the list, more is not known
		i.Dirty = pg.listed.Load()
		return i, maps, nil
	}
	defer pg.mu.Unlock()
	i.DirtyPages = pg.tagged + pg.flushing
	i.Dirty = i.DirtyPages > 0
	if i.Dirty {
		i.DirtySince = pg.since
		i.DirtyRuns = appendRuns(nil, pg.dirty, 0, uint64(maxMappedPage), runs)
	}
	return i, maps, nil
}

// InodeDetail is all that is known of one inode: attributes, dirty runs,
// extents and mappings, each list bounded.
//
// Errors: ErrStale, ErrIO.
func (fs *FS) InodeDetail(ctx context.Context, ino format.Ino) (InodeInfo, []Extent, []MappingInfo, error) {
	in, err := fs.get(ino)
	if err != nil {
		return InodeInfo{}, nil, nil, err
	}
	defer fs.put(in)
	i, maps, err := fs.inodeInfo(in, detailRuns, maxPaths)
	if err != nil {
		return InodeInfo{}, nil, nil, err
	}
	exts, err := fs.Extents(ctx, ino, 0, detailExtents)
	if err != nil {
		return InodeInfo{}, nil, nil, err
	}
	infos := make([]MappingInfo, 0, len(maps))
	for _, m := range maps {
		mi := m.info()
		if len(i.Paths) > 0 {
			mi.Path = i.Paths[0]
		}
		infos = append(infos, mi)
	}
	return i, exts, infos, nil
}

// listCursor says where a listing goes on: first the dirty inodes, as they
// were when the listing began, then all inodes by number.
type listCursor struct {
	phase byte       // 'd' or 'a'
	after format.Ino // the last one shown (or looked at) in this phase
}

func (c listCursor) String() string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{c.phase}, strconv.FormatUint(uint64(c.after), 10)...))
}

func parseCursor(s string) (listCursor, error) {
	if s == "" {
		return listCursor{phase: 'd'}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil && len(raw) > 1 && (raw[0] == 'd' || raw[0] == 'a') {
		if n, err := strconv.ParseUint(string(raw[1:]), 10, 64); err == nil && n < math.MaxUint64 {
			return listCursor{phase: raw[0], after: format.Ino(n)}, nil
		}
	}
	return listCursor{}, fmt.Errorf("cursor %q is not one that a listing gave: %w", s, ErrInvalid)
}

// Inodes lists inodes, dirty ones first, then the others by number. No lock is
// held across the walk, so the listing is not a snapshot: an inode that becomes
// dirty meanwhile may be missing among the dirty or be shown twice. next is
// empty at the end; a page may hold fewer than Limit items, even none, before
// it.
//
// Errors: ErrInvalid for a bad cursor, ErrIO.
func (fs *FS) Inodes(ctx context.Context, f InodeFilter) (items []InodeInfo, next string, err error) {
	c, err := parseCursor(f.Cursor)
	if err != nil {
		return nil, "", err
	}
	if f.Limit <= 0 || f.Limit > maxListing {
		f.Limit = maxListing
	}
	if c.phase == 'd' {
		if f.Dirty == nil || *f.Dirty {
			if items, c.after, err = fs.listDirty(ctx, f, c.after); err != nil {
				return nil, "", err
			}
			if len(items) == f.Limit {
				return items, c.String(), nil
			}
		}
		c = listCursor{phase: 'a'}
	}
	if f.Dirty != nil && *f.Dirty {
		return items, "", nil
	}
	if f.Mapped != nil && *f.Mapped {
		return fs.listMapped(ctx, f, c, items)
	}
	return fs.listAll(ctx, f, c, items)
}

// match looks at one inode for a listing. Gone ones are no match.
func (fs *FS) match(ino format.Ino, f *InodeFilter, wantDirty bool) (InodeInfo, bool) {
	in, err := fs.get(ino)
	if err != nil {
		return InodeInfo{}, false
	}
	defer fs.put(in)
	i, _, err := fs.inodeInfo(in, listRuns, maxPaths)
	if err != nil || i.Dirty != wantDirty {
		return i, false
	}
	if f.Mapped != nil && *f.Mapped != (i.Mappings > 0) {
		return i, false
	}
	return i, f.PathPrefix == "" || slices.ContainsFunc(i.Paths, func(p string) bool { return strings.HasPrefix(p, f.PathPrefix) })
}

// listDirty lists dirty inodes by number.
func (fs *FS) listDirty(ctx context.Context, f InodeFilter, after format.Ino) ([]InodeInfo, format.Ino, error) {
	list := fs.dirty.appendTo(nil)
	inos := make([]format.Ino, len(list))
	for i, in := range list {
		inos[i] = in.ino
		fs.put(in)
	}
	return fs.listThese(ctx, f, inos, after, true, nil)
}

// listThese lists those of some inodes that match.
func (fs *FS) listThese(ctx context.Context, f InodeFilter, inos []format.Ino, after format.Ino, dirty bool, items []InodeInfo) ([]InodeInfo, format.Ino, error) {
	slices.Sort(inos)
	for _, ino := range slices.Compact(inos) {
		if ino <= after {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		if i, ok := fs.match(ino, &f, dirty); ok {
			items = append(items, i)
			after = ino
			if len(items) == f.Limit {
				break
			}
		}
	}
	return items, after, nil
}

// listMapped lists clean mapped inodes, from the table of mappings.
func (fs *FS) listMapped(ctx context.Context, f InodeFilter, c listCursor, items []InodeInfo) ([]InodeInfo, string, error) {
	fs.mappings.mu.Lock()
	inos := make([]format.Ino, 0, len(fs.mappings.m))
	for _, m := range fs.mappings.m {
		inos = append(inos, m.in.ino)
	}
	fs.mappings.mu.Unlock()
	items, after, err := fs.listThese(ctx, f, inos, c.after, false, items)
	if err != nil || len(items) < f.Limit {
		return items, "", err
	}
	return items, listCursor{phase: 'a', after: after}.String(), nil
}

// listAll lists clean inodes by walking their records. A filter that finds
// little ends a call after scanBudget records, with a cursor to go on.
func (fs *FS) listAll(ctx context.Context, f InodeFilter, c listCursor, items []InodeInfo) ([]InodeInfo, string, error) {
	at := c.after
	for budget := scanBudget; budget > 0; budget-- {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		ino, ok, err := fs.nextInode(at)
		if err != nil {
			return nil, "", err
		}
		if !ok {
			return items, "", nil
		}
		at = ino
		if i, ok := fs.match(ino, &f, false); ok {
			items = append(items, i)
		}
		if len(items) >= f.Limit {
			break
		}
	}
	return items, listCursor{phase: 'a', after: at}.String(), nil
}

// nextInode is the smallest inode number above one.
func (fs *FS) nextInode(after format.Ino) (next format.Ino, ok bool, err error) {
	err = fs.store.Scan(key(after+1, 0, 0), tree.Key{Ino: format.MaxIno}, func(k tree.Key, _ []byte) bool {
		next, ok = k.Ino, true
		return false
	})
	if err != nil {
		return 0, false, ioError(err, "list inodes")
	}
	return next, ok, nil
}

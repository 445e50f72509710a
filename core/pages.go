package core

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"permafrost/core/format"
)

// A page of a mapped inode is in one of these states; pages.mu guards the moves.
//
//	clean     no mapping can store to it without a fault
//	   |  Mkwrite: tag, then un-protect
//	dirty     in the dirty set: stores land without our knowledge
//	   |  protectPages: untag, then write-protect in every mapping
//	cleaning  in the cleaning set: protected, its lines are being flushed
//	   |  finish: the fence has come
//	clean
//
// A store to a cleaning page faults and makes it dirty as well: the two sets
// are separate. A flush or protection that fails makes cleaning pages dirty
// again.
//
// Invariant P1: a page that any mapping may store to is in the dirty set.
// Invariant P2: an inode with a dirty or cleaning page is on the dirty list.
// Invariant P3: fs.dirty counts the inodes on the list and the pages of both
// sets of all of them.
type pages struct {
	sem chan struct{} // capacity 1, held while the inode is synced: the second fsync answers after the first one's fence

	mu       sync.Mutex      // pagesMu; see doc.go
	dirty    *roaring.Bitmap // guarded by mu; page numbers
	tagged   uint64          // guarded by mu: pages in dirty
	cleaning []PageRun       // guarded by mu; changed only with sem held
	flushing uint64          // guarded by mu: pages in cleaning
	stamped  bool            // guarded by mu: mtime was stamped for the dirty period that begins
	since    time.Time       // guarded by mu: when the dirty period began

	mapsMu sync.Mutex                 // a leaf; never waits for a client
	maps   atomic.Pointer[[]*Mapping] // the slice is immutable; replaced with mapsMu held; nil: none

	listed     atomic.Bool // on the dirty list; changed with mu and dirtyList.mu held
	prev, next *inode      // guarded by dirtyList.mu
}

// maxMappedPage bounds the pages that can be mapped: page sets hold 32-bit
// numbers, which is 16 TiB of a file.
const maxMappedPage = format.Page(1 << 32)

func newPages() *pages {
	return &pages{sem: make(chan struct{}, 1), dirty: roaring.New()}
}

// mappings is the inode's mappings now: not to be changed.
//
// It takes no lock. To miss a mapping that is being made is harmless: that one
// may store to no page before a Mkwrite, which needs mu.
func (pg *pages) mappings() []*Mapping {
	if l := pg.maps.Load(); l != nil {
		return *l
	}
	return nil
}

// dirtyList is the file system's list of inodes with dirty pages: what fsync,
// sync and freeze walk, and all they walk.
type dirtyList struct {
	mu   sync.Mutex // a leaf: nothing is taken under it
	head *inode     // guarded by mu: dirty longest
	tail *inode     // guarded by mu

	inodes atomic.Int64 // on the list
	pages  atomic.Int64 // dirty and cleaning
}

// addLocked puts an inode at the end; needs its pages.mu.
func (d *dirtyList) addLocked(in *inode, pg *pages) {
	if pg.listed.Load() {
		return
	}
	d.mu.Lock()
	pg.listed.Store(true)
	pg.prev, pg.next = d.tail, nil
	if d.tail != nil {
		d.tail.pages.Load().next = in
	} else {
		d.head = in
	}
	d.tail = in
	d.mu.Unlock()
	d.inodes.Add(1)
}

// removeLocked takes an inode off; needs its pages.mu.
func (d *dirtyList) removeLocked(in *inode, pg *pages) {
	if !pg.listed.Load() {
		return
	}
	d.mu.Lock()
	if pg.prev != nil {
		pg.prev.pages.Load().next = pg.next
	} else {
		d.head = pg.next
	}
	if pg.next != nil {
		pg.next.pages.Load().prev = pg.prev
	} else {
		d.tail = pg.prev
	}
	pg.prev, pg.next = nil, nil
	pg.listed.Store(false)
	d.mu.Unlock()
	d.inodes.Add(-1)
}

// appendTo appends the inodes on the list, pinned, in the order in which they
// became dirty.
func (d *dirtyList) appendTo(list []*inode) []*inode {
	d.mu.Lock()
	defer d.mu.Unlock()
	for in := d.head; in != nil; in = in.pages.Load().next {
		in.refs.Add(1)
		list = append(list, in)
	}
	return list
}

// tagLocked makes a run dirty and returns the parts that were not.
func (fs *FS) tagLocked(in *inode, pg *pages, r PageRun, now time.Time) []PageRun {
	had := pg.dirty.CardinalityInRange(uint64(r.First), uint64(r.First)+r.Count)
	if had == r.Count {
		return nil
	}
	fresh := []PageRun{r}
	if had > 0 {
		fresh = missingRuns(pg.dirty, r)
	}
	if pg.tagged == 0 {
		pg.since = now
	}
	pg.dirty.AddRange(uint64(r.First), uint64(r.First)+r.Count)
	pg.tagged += r.Count - had
	fs.dirty.pages.Add(int64(r.Count - had))
	fs.dirty.addLocked(in, pg)
	return fresh
}

// untagLocked takes runs out of the dirty set.
func (fs *FS) untagLocked(in *inode, pg *pages, runs []PageRun) {
	for _, r := range runs {
		pg.dirty.RemoveRange(uint64(r.First), uint64(r.First)+r.Count)
		pg.tagged -= r.Count
		fs.dirty.pages.Add(-int64(r.Count))
	}
	fs.settleLocked(in, pg)
}

// settleLocked takes an inode that has become clean off the list (P2).
func (fs *FS) settleLocked(in *inode, pg *pages) {
	if pg.tagged == 0 && pg.flushing == 0 {
		fs.dirty.removeLocked(in, pg)
	}
}

// missingRuns lists the parts of r that are not in the set.
func missingRuns(set *roaring.Bitmap, r PageRun) []PageRun {
	var out []PageRun
	it := set.UnsetIterator(uint64(r.First), uint64(r.First)+r.Count)
	for it.HasNext() {
		out = appendPage(out, format.Page(it.Next()))
	}
	return out
}

// appendPage adds the next page of an ascending sequence to runs.
func appendPage(runs []PageRun, p format.Page) []PageRun {
	if n := len(runs); n > 0 && runs[n-1].First+format.Page(runs[n-1].Count) == p {
		runs[n-1].Count++
		return runs
	}
	return append(runs, PageRun{First: p, Count: 1})
}

// pageBufs are buffers to read page sets with: a set is behind an interface,
// so that a buffer on the stack would not stay there.
var pageBufs = sync.Pool{New: func() any { return new([1024]uint32) }}

// appendRuns appends the members of [first, end) of a set as runs, at most
// limit of them.
func appendRuns(runs []PageRun, set *roaring.Bitmap, first, end uint64, limit int) []PageRun {
	buf := pageBufs.Get().(*[1024]uint32)
	defer pageBufs.Put(buf)
	for it := set.ManyIterator(); ; {
		n := it.NextMany(buf[:])
		if n == 0 {
			return runs
		}
		if uint64(buf[n-1]) < first {
			continue
		}
		for _, p := range buf[:n] {
			switch {
			case uint64(p) < first:
				continue
			case uint64(p) >= end:
				return runs
			}
			if runs = appendPage(runs, format.Page(p)); len(runs) > limit {
				return runs[:limit]
			}
		}
	}
}

func countPages(runs []PageRun) uint64 {
	n := uint64(0)
	for _, r := range runs {
		n += r.Count
	}
	return n
}

// clipRuns cuts ascending runs to the ranges of a mapping, also ascending.
func clipRuns(runs, ranges []PageRun) []PageRun {
	if len(ranges) == 1 && len(runs) > 0 {
		last := runs[len(runs)-1]
		if ranges[0].First <= runs[0].First && last.First+format.Page(last.Count) <= ranges[0].end() {
			return runs // the common case: the mapping covers them all
		}
	}
	var out []PageRun
	for i, j := 0, 0; i < len(runs) && j < len(ranges); {
		from, to := max(runs[i].First, ranges[j].First), min(runs[i].end(), ranges[j].end())
		if from < to {
			out = append(out, PageRun{First: from, Count: uint64(to - from)})
		}
		if runs[i].end() < ranges[j].end() {
			i++
		} else {
			j++
		}
	}
	return out
}

func (r PageRun) end() format.Page { return r.First + format.Page(r.Count) }

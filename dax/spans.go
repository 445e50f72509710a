package dax

import (
	"sort"

	"permafrost/core"
	"permafrost/core/format"
)

const pageBytes = format.PageSize

// span says that pages [page, page+pages) of a mapping lie at addr and up in
// one process. A copy, immutable.
type span struct {
	addr  uint64 // page aligned
	pages uint64
	page  format.Page
	m     *mapping
}

func (s span) end() uint64 { return s.addr + s.pages*pageBytes }

// pageAt is the page of the mapping's file that addr shows.
func (s span) pageAt(addr uint64) format.Page {
	return s.page + format.Page((addr-s.addr)/pageBytes)
}

// addrOf is the address of a page of the span.
func (s span) addrOf(p format.Page) uint64 { return s.addr + uint64(p-s.page)*pageBytes }

// cut is the part of s in [from, to), which must overlap it.
func (s span) cut(from, to uint64) span {
	from, to = max(from, s.addr), min(to, s.end())
	return span{addr: from, pages: (to - from) / pageBytes, page: s.pageAt(from), m: s.m}
}

// spanTable is a process's view: spans by ascending address, never
// overlapping. Two may show the same pages (a client may map twice).
type spanTable struct {
	list []span
}

// first is the index of the first span that ends after addr.
func (t *spanTable) first(addr uint64) int {
	return sort.Search(len(t.list), func(i int) bool { return t.list[i].end() > addr })
}

// find is the span that holds addr.
func (t *spanTable) find(addr uint64) (span, bool) {
	if i := t.first(addr); i < len(t.list) && t.list[i].addr <= addr {
		return t.list[i], true
	}
	return span{}, false
}

// add puts in a span; what it covers of others is theirs no longer.
func (t *spanTable) add(s span) {
	if s.pages == 0 {
		return
	}
	t.remove(s.addr, s.end())
	i := t.first(s.addr)
	t.list = append(t.list, span{})
	copy(t.list[i+1:], t.list[i:])
	t.list[i] = s
	t.joinAt(i)
}

// joinAt merges the span at i with neighbours that continue it.
func (t *spanTable) joinAt(i int) {
	for _, k := range []int{i, i - 1} { // the right neighbour first, so that i stays right
		if k < 0 || k+1 >= len(t.list) {
			continue
		}
		a, b := t.list[k], t.list[k+1]
		if a.m == b.m && a.end() == b.addr && a.page+format.Page(a.pages) == b.page {
			t.list[k].pages += b.pages
			t.list = append(t.list[:k+1], t.list[k+2:]...)
		}
	}
}

// remove takes [from, to) out and returns what was there, ascending.
func (t *spanTable) remove(from, to uint64) []span {
	if from >= to {
		return nil
	}
	i := t.first(from)
	j := i
	var out, keep []span
	for ; j < len(t.list) && t.list[j].addr < to; j++ {
		s := t.list[j]
		out = append(out, s.cut(from, to))
		if s.addr < from {
			keep = append(keep, s.cut(s.addr, from))
		}
		if s.end() > to {
			keep = append(keep, s.cut(to, s.end()))
		}
	}
	if j == i {
		return nil
	}
	t.list = append(t.list[:i], append(keep, t.list[j:]...)...)
	return out
}

// clone is an independent copy, for a forked process.
func (t *spanTable) clone() spanTable {
	return spanTable{list: append([]span(nil), t.list...)}
}

// unionRuns merges page runs in any order into ascending ones that neither
// overlap nor touch.
func unionRuns(runs []core.PageRun) []core.PageRun {
	sort.Slice(runs, func(i, j int) bool { return runs[i].First < runs[j].First })
	var out []core.PageRun
	for _, r := range runs {
		if k := len(out) - 1; k >= 0 && r.First <= out[k].First+format.Page(out[k].Count) {
			if end := r.First + format.Page(r.Count); end > out[k].First+format.Page(out[k].Count) {
				out[k].Count = uint64(end - out[k].First)
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// equalRuns compares two lists.
func equalRuns(a, b []core.PageRun) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

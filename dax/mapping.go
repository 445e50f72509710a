package dax

import (
	"context"
	"sync"
	"time"

	"permafrost/core"
	"permafrost/core/format"
)

// mapping is one answered map request.
type mapping struct {
	c        *client       // immutable
	id       uint64        // immutable: the protocol's name for it, unique in the server
	core     tracker       // immutable once the map request is answered
	ino      format.Ino    // immutable
	first    format.Page   // immutable: of the file
	pages    uint64        // immutable
	writable bool          // immutable
	pieces   []core.Extent // immutable
	since    time.Time     // immutable

	addr    uint64 // guarded by c.evMu: where the client first put it, 0 until it said so
	views   []view // guarded by c.evMu
	changed bool   // guarded by c.evMu: views differ from what core was told
	ended   bool   // guarded by c.evMu: nothing shows it any more, for good

	pubMu sync.Mutex
	told  []core.PageRun // guarded by pubMu: the ranges that core knows
	over  bool           // guarded by pubMu: core.Unmap was called
}

// view is where one member shows a mapping.
type view struct {
	m     *member
	spans []span
}

// viewLocked brings the mapping's view of a member up to date with its table.
func (c *client) viewLocked(mp *mapping, m *member) {
	var spans []span
	for _, s := range m.spans.list {
		if s.m == mp {
			spans = append(spans, s)
		}
	}
	mp.seeLocked(m, spans)
}

// viewAllLocked does so for all mappings of a list of spans, in one pass.
func (c *client) viewAllLocked(of []span, m *member) {
	by := make(map[*mapping][]span)
	for _, s := range of {
		by[s.m] = nil
	}
	for _, s := range m.spans.list {
		if _, ok := by[s.m]; ok {
			by[s.m] = append(by[s.m], s)
		}
	}
	for mp, spans := range by {
		mp.seeLocked(m, spans)
	}
}

func (mp *mapping) seeLocked(m *member, spans []span) {
	mp.changed = true
	for i := range mp.views {
		if mp.views[i].m == m {
			mp.views[i].spans = spans
			return
		}
	}
	mp.views = append(mp.views, view{m: m, spans: spans})
}

// shownLocked is the union of what all members show, and drops views that are
// over.
func (mp *mapping) shownLocked() []core.PageRun {
	var runs []core.PageRun
	kept := mp.views[:0]
	for _, v := range mp.views {
		if v.m.gone || len(v.spans) == 0 {
			continue
		}
		kept = append(kept, v)
		for _, s := range v.spans {
			runs = append(runs, core.PageRun{First: s.page, Count: s.pages})
		}
	}
	clear(mp.views[len(kept):])
	mp.views = kept
	return unionRuns(runs)
}

// publish tells core what is still mapped (A6), and ends the mapping when
// nothing is. It reports whether the mapping is over.
func (mp *mapping) publish(ctx context.Context) (over bool, err error) {
	mp.pubMu.Lock()
	defer mp.pubMu.Unlock()
	mp.c.evMu.Lock()
	runs := mp.shownLocked()
	mp.changed = false
	if len(runs) == 0 {
		mp.ended = true
	}
	mp.c.evMu.Unlock()
	switch {
	case mp.over:
		return true, nil
	case len(runs) == 0:
		mp.over = true
		return true, mp.core.Unmap(ctx)
	case !equalRuns(runs, mp.told):
		mp.told = runs
		mp.core.SetRanges(runs)
	}
	return false, nil
}

// end gives up a mapping that no member shows: one that was never mapped, or a
// read-only one, which has no spans.
func (mp *mapping) end(ctx context.Context) error {
	mp.pubMu.Lock()
	defer mp.pubMu.Unlock()
	mp.c.evMu.Lock()
	mp.ended = true
	mp.c.evMu.Unlock()
	if mp.over {
		return nil
	}
	mp.over = true
	return mp.core.Unmap(ctx)
}

package dax

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/format"
)

// Runs of pages that lie less than a gap apart are protected by one call:
// protecting a clean page between them again is harmless, and a call costs
// about 1 us on an idle client, about 14 us on one whose threads run (other
// CPUs' translations must be flushed), and 0.1 us a page. So the gap worth
// bridging is about 8 pages, or about 150. Which of the two is measured on the
// first calls of each Protect.
const (
	gapIdle = 8   // pages
	gapBusy = 150 // pages

	sampleCalls  = 4                     // calls measured
	busyCall     = 5 * time.Microsecond  // a call that took longer met running threads ...
	pageCost     = 200 * time.Nanosecond // ... allowing for its pages
	firstPause   = 20 * time.Microsecond // between attempts while the client changes its address space
	triesAtOnce  = 4                     // attempts before the first pause
	longestPause = 2 * time.Millisecond  //
)

// Protect write-protects the given pages wherever the mapping is shown
// (core.Protector; A2). The error names the process that could not be
// protected until ctx was done.
func (mp *mapping) Protect(ctx context.Context, runs []core.PageRun) error {
	if plantSkipMapping(mp) {
		return nil
	}
	return mp.protect(ctx, runs)
}

func (mp *mapping) protect(ctx context.Context, runs []core.PageRun) error {
	c := mp.c
	c.evMu.Lock()
	defer c.evMu.Unlock()
	for wait := firstPause; ; wait = min(2*wait, longestPause) {
		m, err := c.protectLocked(mp, runs)
		if err == nil {
			return nil
		}
		fail := &protectError{who: m.nameLocked(), ino: mp.ino, err: err}
		if !errors.Is(err, errBusy) {
			return fail
		}
		c.evMu.Unlock()
		err = pause(ctx, wait)
		c.evMu.Lock()
		if err != nil {
			fail.err = fmt.Errorf("a fork, munmap or mremap of it does not finish: %w", err)
			return fail
		}
	}
}

// protectError names the process that could not be protected.
type protectError struct {
	who string
	ino format.Ino
	err error
}

func (e *protectError) Error() string {
	return fmt.Sprintf("write-protect inode %d in %s: %v", e.ino, e.who, e.err)
}

func (e *protectError) Unwrap() error { return e.err }

// WaitingFor names whom a freeze waited for (freeze.WaitingForer).
func (e *protectError) WaitingFor() []string { return []string{e.who} }

// protectLocked goes over the mapping's views, which grow when a pending fork
// is found on the way, and names the member it failed at.
func (c *client) protectLocked(mp *mapping, runs []core.PageRun) (*member, error) {
	for i := 0; i < len(mp.views); i++ {
		m := mp.views[i].m
		errno := unix.EAGAIN
		for try := 0; try < triesAtOnce && errno == unix.EAGAIN && !m.gone; try++ {
			if err := m.drainLocked(); err != nil {
				return m, err
			}
			// Whatever the drain changed, the spans are looked up after it.
			if errno = m.settleLocked(); errno == 0 {
				errno = m.protectLocked(mp.views[i].spans, runs)
			}
		}
		m.kickLocked()
		switch {
		case m.gone || errno == 0:
		case errno == unix.ESRCH:
			m.goneLocked()
		case errno == unix.EAGAIN:
			return m, errBusy
		default:
			return m, errno
		}
	}
	return nil, nil
}

// merger joins page runs into address ranges worth one call.
type merger struct {
	m        *member
	gap      format.Page
	calls    int
	spent    time.Duration
	from, to format.Page // pages collected, of the span
}

// protectLocked protects the runs' pages in the spans of one mapping.
func (m *member) protectLocked(spans []span, runs []core.PageRun) unix.Errno {
	g := merger{m: m, gap: gapIdle}
	for _, s := range spans {
		end := s.page + format.Page(s.pages)
		i := sort.Search(len(runs), func(i int) bool { return runs[i].First+format.Page(runs[i].Count) > s.page })
		g.from, g.to = 0, 0
		for ; i < len(runs) && runs[i].First < end; i++ {
			from := max(runs[i].First, s.page)
			to := min(runs[i].First+format.Page(runs[i].Count), end)
			if g.to > g.from && from <= g.to+g.gap {
				g.to = to
				continue
			}
			if errno := g.flush(s); errno != 0 {
				return errno
			}
			g.from, g.to = from, to
		}
		if errno := g.flush(s); errno != 0 {
			return errno
		}
	}
	return 0
}

// flush protects what was collected and learns whether the client is busy.
func (g *merger) flush(s span) unix.Errno {
	if plantShortRun() && g.to > g.from {
		g.to--
	}
	if g.to <= g.from {
		return 0
	}
	from, to := s.addrOf(g.from), s.addrOf(g.to)
	if g.calls >= sampleCalls {
		return g.m.protectRangeLocked(from, to)
	}
	began := time.Now()
	errno := g.m.protectRangeLocked(from, to)
	g.spent += time.Since(began) - time.Duration(g.to-g.from)*pageCost
	if g.calls++; g.calls == sampleCalls && g.spent > sampleCalls*busyCall {
		g.gap = gapBusy
	}
	return errno
}

// protectRangeLocked protects [from, to) of the member. Where the kernel says
// that part of it is not registered any more, that part is found by halves and
// forgotten: the peer took it out by itself, and answers for it.
func (m *member) protectRangeLocked(from, to uint64) unix.Errno {
	errno := m.fd.WriteProtect(from, to-from, true)
	if errno != unix.ENOENT {
		return errno
	}
	if to-from == pageBytes {
		m.lostLocked(from, to)
		return 0
	}
	half := from + (to-from)/(2*pageBytes)*pageBytes
	if errno := m.protectRangeLocked(from, half); errno != 0 {
		return errno
	}
	return m.protectRangeLocked(half, to)
}

// lostLocked forgets a range that the peer unregistered behind our back.
func (m *member) lostLocked(from, to uint64) {
	lost := m.spans.remove(from, to)
	m.c.viewAllLocked(lost, m)
	if len(lost) > 0 && !m.c.warned {
		m.c.warned = true
		m.c.srv.log.Warn("attach: a client unregistered part of its mapping; stores there are not held", "client", m.nameLocked())
	}
	m.c.kickLocked()
}

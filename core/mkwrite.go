package core

import (
	"fmt"
	"sync/atomic"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// Mkwrite is a first store to a clean page. With the gate open it stamps mtime
// on the clean-to-dirty transition, tags up to ahead pages from first on (as
// far as the mapping reaches; at least one) and calls grant with the run, under
// the inode's pagesMu, which un-protects and wakes. If grant fails, what was
// newly tagged is untagged.
//
// Errors: freeze.ErrFrozen with the gate closed: nothing was granted, the caller
// parks the fault (Park) and tries again at the thaw. ErrStale when the page is
// not mapped any more. ErrReadOnly in the ERROR state. grant's own.
func (m *Mapping) Mkwrite(first format.Page, ahead uint64, grant func(PageRun) error) error {
	run, stamped, err := m.mkwrite(first, ahead, grant)
	if err == nil || stamped {
		m.fs.tellRun(m.from, m.in.ino, run)
	}
	return err
}

// mkwrite returns the run that it granted, and whether it stamped the inode,
// which it may have done for nothing.
func (m *Mapping) mkwrite(first format.Page, ahead uint64, grant func(PageRun) error) (run PageRun, stamped bool, err error) {
	fs := m.fs
	if !m.writable {
		return run, false, fmt.Errorf("store to page %d of mapping %d: it is read-only: %w", first, m.id, ErrInvalid)
	}
	if err := fs.writable(); err != nil {
		return run, false, err
	}
	pass, ok := fs.startPageFault.Try(freeze.OpStore, uint64(m.in.ino))
	if !ok {
		return run, false, freeze.ErrFrozen
	}
	defer pass.Exit()
	fs.faults.Add(1)
	pg := m.in.pages.Load()
	for {
		pg.mu.Lock()
		if pg.tagged > 0 || pg.stamped {
			break
		}
		pg.mu.Unlock()
		// The first store of a dirty period. The stamp precedes the tag, and no
		// lock of a lower rank is held meanwhile; should another fault or a sync
		// come between, we look again.
		if err := fs.stampStore(m.in); err != nil {
			return run, false, err
		}
		stamped = true
		pg.mu.Lock()
		pg.stamped = true
		pg.mu.Unlock()
	}
	defer pg.mu.Unlock()
	run, err = m.grantLocked(pg, first, ahead, grant)
	return run, stamped, err
}

// grantLocked tags and grants one run, which it returns; pages.mu is held.
func (m *Mapping) grantLocked(pg *pages, first format.Page, ahead uint64, grant func(PageRun) error) (PageRun, error) {
	began := pg.tagged == 0
	ranges := m.ranges.Load()
	if ranges == nil {
		pg.unstamp(began)
		return PageRun{}, fmt.Errorf("store to page %d: mapping %d has ended: %w", first, m.id, ErrStale)
	}
	run := PageRun{First: first, Count: max(ahead, 1)}
	covered := false
	for _, r := range *ranges {
		if r.First <= first && first < r.end() {
			run.Count = min(run.Count, uint64(r.end()-first))
			covered = true
			break
		}
	}
	if !covered {
		pg.unstamp(began)
		return PageRun{}, fmt.Errorf("store to page %d: mapping %d does not cover it: %w", first, m.id, ErrStale)
	}
	fresh := m.fs.tagLocked(m.in, pg, run, time.Now())
	if err := grant(run); err != nil {
		m.fs.untagLocked(m.in, pg, fresh)
		pg.unstamp(began)
		return PageRun{}, fmt.Errorf("grant page %d of mapping %d: %w", first, m.id, err)
	}
	pg.stamped = false // from here on the tags stand for it
	m.granted.Add(run.Count)
	return run, nil
}

// unstamp gives a stamp up whose store did not come about: the dirty period
// that it was for has not begun, and the next one needs a stamp of its own, be
// it an hour later or after a freeze. Needs mu.
func (pg *pages) unstamp(began bool) {
	if began {
		pg.stamped = false
	}
}

// stampStore sets mtime and ctime for a dirty period that begins. It may use
// the last of the space (T10).
func (fs *FS) stampStore(in *inode) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	t, err := fs.begin(1, 0, true)
	if err != nil {
		return err
	}
	t.stamp(in, nowNS())
	return t.end()
}

// Park queues a refused store until thaw; resume runs on a worker, in arrival
// order per client, and must call Mkwrite again, which may refuse again. It runs
// as well if the gate has opened meanwhile. unpark takes the store out and
// reports whether it did: then resume will not run.
func (m *Mapping) Park(client any, page format.Page, resume func()) (unpark func() bool) {
	return m.ParkAs(m.process, client, page, resume)
}

// ParkAs is Park for a store of another process than the one that mapped: one
// that it forked. It is named in /blocked.
func (m *Mapping) ParkAs(who Process, client any, page format.Page, resume func()) (unpark func() bool) {
	w := freeze.Waiter{Op: freeze.OpStore.String(), Ino: uint64(m.in.ino), WayIn: m.wayIn,
		PID: who.PID, Comm: who.Comm, UID: who.UID, Mapping: m.id, Page: uint64(page)}
	if paths := m.fs.Paths(m.in.ino, 1); len(paths) > 0 {
		w.Path = paths[0]
	}
	unpark, err := m.fs.startPageFault.Park(w, client, resume)
	if err == nil {
		return unpark
	}
	// Too many are held to name this one. The store must not be forgotten: it
	// waits for the end of the freeze by itself.
	return m.AtThaw(resume)
}

// AtThaw runs resume once the gate for first stores has opened, or the file
// system is being unmounted: for what must wait and is nobody's store, so that
// it is neither counted nor named. cancel takes it out and reports whether it
// did: then resume will not run.
func (m *Mapping) AtThaw(resume func()) (cancel func() bool) {
	var fate atomic.Bool
	done := m.fs.startPageFault.Opened()
	go func() {
		select {
		case <-done:
		case <-m.fs.ctx.Done():
		}
		if fate.CompareAndSwap(false, true) {
			resume()
		}
	}()
	return func() bool { return fate.CompareAndSwap(false, true) }
}

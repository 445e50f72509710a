package dax

import (
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
)

// The fault-ahead window: a store to the page that follows the last grant of a
// stream doubles what is granted at once, so that a run of first stores costs
// one fault for many pages. Pages granted but never stored to cost their flush
// only, and no more than the stream has already shown it uses.
const (
	aheadFirst  = 8   // pages at the second fault in a row
	aheadMost   = 256 // pages: 1 MiB. 64 cost 1.1-1.4 us a page, 256 cost 0.8 (bench fault)
	streamCount = 8   // streams followed per process
)

// How long a grant tries while the client changes its address space.
const (
	grantTries = 8
	retryPause = time.Millisecond
	readPause  = time.Second // when a forked child's descriptor cannot be taken, for want of descriptors
)

var (
	errBusy  = errors.New("the client is changing its address space")
	errMoved = errors.New("the address shows something else by now")
	errGone  = errors.New("the client is gone")
)

// fault is a store that waits.
type fault struct {
	tid  int    // 0 if not visible
	addr uint64 // of its page
	mark uint64 // not a store: that many pages from addr on count as written
}

func (f fault) thread() thread {
	if f.tid != 0 {
		return thread{tid: f.tid}
	}
	return thread{page: f.addr}
}

// parking is a store refused by the gate.
type parking struct {
	addr   uint64      // immutable
	unpark func() bool // guarded by evMu: nil until Park has returned
}

// granting is what the worker is doing while core calls grant back.
type granting struct {
	m    *mapping
	page format.Page
	addr uint64
	took uint64 // pages granted
}

// stream is one run of first stores.
type stream struct {
	m    *mapping
	next format.Page
	size uint64
}

type grantFunc func(core.PageRun) error

// work answers the member's queue until it is empty. One at a time (A7): the
// caller has set working.
func (m *member) work() {
	c := m.c
	for {
		c.evMu.Lock()
		if len(m.queue) == 0 || m.gone || c.srv.quiet.Load() {
			m.working = false
			c.idle.Broadcast()
			c.evMu.Unlock()
			return
		}
		f := m.queue[0]
		m.queue = m.queue[1:]
		sp, known := m.spans.find(f.addr)
		proceed := true
		var leave func() bool
		if p := m.parked[f.thread()]; p != nil && f.mark == 0 {
			if proceed = p.addr != f.addr; proceed { // it stored elsewhere since: a signal ended its wait
				leave = p.unpark
				delete(m.parked, f.thread())
			}
		}
		if !known && proceed {
			proceed = m.strayLocked(f)
		}
		if m.pid == 0 && f.tid != 0 {
			c.learn = append(c.learn, learning{m, f.tid})
			c.kickLocked()
		}
		c.evMu.Unlock()
		if leave != nil {
			leave()
		}
		switch {
		case !proceed:
		case !known:
			m.refuse(f, errMoved)
		default:
			m.answer(f, sp)
		}
	}
}

// strayLocked meets a fault at an address that shows nothing of ours. It may be
// an old message of a range that has gone since: wake it once, and whoever
// still stores there faults again. Then it stores to a part that grew outside
// the file, and is refused. True: refuse.
func (m *member) strayLocked(f fault) bool {
	if m.strays[f.thread()] == f.addr {
		delete(m.strays, f.thread())
		return true
	}
	if len(m.strays) > 1024 {
		clear(m.strays)
	}
	m.strays[f.thread()] = f.addr
	m.wake(f.addr, pageBytes)
	return false
}

func (m *member) stray(f fault) {
	m.c.evMu.Lock()
	twice := m.strayLocked(f)
	m.c.evMu.Unlock()
	if twice {
		m.refuse(f, errMoved)
	}
}

// answer asks core for the page and does what core says.
func (m *member) answer(f fault, sp span) {
	page := sp.pageAt(f.addr)
	left := sp.pages - uint64(page-sp.page)
	m.now = granting{m: sp.m, page: page, addr: f.addr}
	var err error
	if f.mark > 0 {
		err = sp.m.core.Mkwrite(page, min(f.mark, left), func(core.PageRun) error { return nil })
	} else {
		s, ahead := m.window(sp.m, page)
		if err = sp.m.core.Mkwrite(page, min(ahead, left), m.grantFn); err == nil {
			*s = stream{m: sp.m, next: page + format.Page(m.now.took), size: ahead}
		}
	}
	switch {
	case err == nil, errors.Is(err, errGone):
	case errors.Is(err, freeze.ErrFrozen) && f.mark > 0: // nobody waits
		sp.m.core.AtThaw(func() { m.requeue(f) })
	case errors.Is(err, freeze.ErrFrozen):
		if planted && plantGrantFrozen() {
			_ = m.grant(core.PageRun{First: page, Count: 1}) // the planted fault
			return
		}
		m.park(f, sp.m, page)
	case errors.Is(err, errMoved):
		m.again(f)
	case errors.Is(err, core.ErrStale): // the mapping has just ended, or has it
		m.stray(f)
	case errors.Is(err, errBusy):
		time.AfterFunc(retryPause, func() { m.requeue(f) })
	default:
		m.refuse(f, err)
	}
}

// window chooses how many pages to ask for and the stream to remember it in.
func (m *member) window(mp *mapping, page format.Page) (*stream, uint64) {
	for i := range m.streams {
		if s := &m.streams[i]; s.m == mp && s.next == page {
			return s, min(max(2*s.size, aheadFirst), aheadMost)
		}
	}
	m.rotor = (m.rotor + 1) % streamCount
	return &m.streams[m.rotor], 1
}

// grant opens a run of pages to stores and wakes who waits there (A3). Core
// calls it inside Mkwrite, on the worker's goroutine.
func (m *member) grant(run core.PageRun) error {
	c := m.c
	c.evMu.Lock()
	defer c.evMu.Unlock()
	for try := range grantTries {
		if m.gone {
			return errGone
		}
		sp, ok := m.spans.find(m.now.addr)
		if !ok || sp.m != m.now.m || sp.pageAt(m.now.addr) != m.now.page {
			return errMoved
		}
		from := max(run.First, sp.page)
		pages := min(uint64(run.First)+run.Count, uint64(sp.page)+sp.pages) - uint64(from)
		if try > 0 {
			from, pages = m.now.page, 1 // the least that helps
		}
		switch errno := m.fd.WriteProtect(sp.addrOf(from), pages*pageBytes, false); errno {
		case 0:
			m.now.took = uint64(from-m.now.page) + pages
			if first := m.now.page + 1; pages > 1 { // the storer sees to its own page when it wakes
				m.populateLocked(sp.addrOf(first), (m.now.took-1)*pageBytes)
			}
			return nil
		case unix.ESRCH:
			m.goneLocked()
			return errGone
		case unix.EAGAIN:
			if err := m.drainLocked(); err != nil {
				return err
			}
			c.evMu.Unlock()
			if try < grantTries/2 {
				runtime.Gosched()
			} else {
				time.Sleep(20 * time.Microsecond)
			}
			c.evMu.Lock()
		case unix.ENOENT:
			if pages == 1 {
				m.lostLocked(m.now.addr, m.now.addr+pageBytes)
				return errMoved
			}
		default:
			return errno
		}
	}
	return errBusy
}

// park hands a refused store to core until the thaw (A4).
func (m *member) park(f fault, mp *mapping, page format.Page) {
	c := m.c
	p := &parking{addr: f.addr}
	c.evMu.Lock()
	if m.gone {
		c.evMu.Unlock()
		return
	}
	m.parked[f.thread()] = p
	who := core.Process{PID: m.pid, UID: c.proc.UID, Comm: m.comm}
	c.evMu.Unlock()
	if who.PID == 0 {
		who = c.forked(f.tid)
	}
	unpark := mp.core.ParkAs(who, c, page, func() {
		c.evMu.Lock()
		if m.parked[f.thread()] == p {
			delete(m.parked, f.thread())
		}
		c.evMu.Unlock()
		m.requeue(f)
	})
	c.evMu.Lock()
	p.unpark = unpark
	gone := m.gone
	c.evMu.Unlock()
	if gone {
		unpark()
	}
}

// forked names the process of a thread that is not known yet: it waits in a
// store, so it is there to be asked about.
func (c *client) forked(tid int) core.Process {
	pid, err := processOf(tid)
	if err != nil {
		return c.proc
	}
	return core.Process{PID: pid, UID: c.proc.UID, Comm: commOf(pid)}
}

// requeue puts a store at the end of the queue.
func (m *member) requeue(f fault) {
	m.c.evMu.Lock()
	defer m.c.evMu.Unlock()
	if !m.gone {
		m.queue = append(m.queue, f)
		m.kickLocked()
	}
}

// again wakes the storer, who faults anew if it still means it.
func (m *member) again(f fault) {
	m.c.evMu.Lock()
	defer m.c.evMu.Unlock()
	m.wake(f.addr, pageBytes)
}

// refuse ends a store that can never be granted: SIGBUS, as for any mapped
// file whose storage fails. The kernel cannot poison a page that is present,
// so the signal is sent.
func (m *member) refuse(f fault, why error) {
	m.c.evMu.Lock()
	pid, name := m.pid, m.nameLocked()
	m.c.evMu.Unlock()
	if pid == 0 && f.tid != 0 {
		pid, _ = processOf(f.tid)
	}
	err := error(unix.ESRCH)
	if pid != 0 && f.tid != 0 {
		err = unix.Tgkill(pid, f.tid, unix.SIGBUS)
	}
	m.c.srv.log.Error("attach: a store was refused", "client", name, "thread", f.tid, "error", why, "signal", err)
}

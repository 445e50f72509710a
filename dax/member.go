package dax

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/dax/uffd"
)

// member is one process (address space) of a client.
type member struct {
	c      *client  // immutable
	fd     *uffd.FD // immutable; used under c.evMu only, and not once gone
	number int      // immutable: descriptor number in the client's own table, -1 for a forked process
	parent *member  // immutable: who forked it, nil for the connected process

	pid     int                 // guarded by c.evMu: 0 while not known (a forked process that has not stored yet)
	comm    string              // guarded by c.evMu
	spans   spanTable           // guarded by c.evMu
	probes  []probe             // guarded by c.evMu: ranges to look at once a remap is over
	queue   []fault             // guarded by c.evMu: stores to answer, in arrival order
	working bool                // guarded by c.evMu: somebody is in work()
	parked  map[thread]*parking // guarded by c.evMu
	strays  map[thread]uint64   // guarded by c.evMu: last unknown address a thread was woken at
	gone    bool                // guarded by c.evMu: the address space has ended
	closed  bool                // owned by the housekeeper: the descriptor is given up
	scratch [32]uffd.Message    // guarded by c.evMu

	now     granting            // owned by the worker (A7)
	streams [streamCount]stream // owned by the worker
	rotor   int                 // owned by the worker: next stream to reuse
	forks   []int               // owned by takeBack: descriptors of children whose fork nobody had read
	stop    func()              // owned by the housekeeper: ends the watch of the process
	grantFn grantFunc           // immutable: grant as a value, made once
}

// thread tells waiting stores apart: by thread id, or by page where the thread
// lives in a pid namespace that we do not see.
type thread struct {
	tid  int
	page uint64 // address of the page if tid is 0
}

// probe is a range whose registration is not known until a remap is over.
type probe struct {
	addr, length uint64
	alias        *span // the old place of a moved range: stays a view of these pages if it is still registered
}

func (c *client) newMember(fd *uffd.FD, number int, parent *member) *member {
	m := &member{c: c, fd: fd, number: number, parent: parent,
		parked: make(map[thread]*parking), strays: make(map[thread]uint64)}
	m.grantFn = m.grant
	return m
}

// name says who this is, for errors and logs.
func (m *member) nameLocked() string {
	switch {
	case m.pid != 0:
		return fmt.Sprintf("process %d (%s)", m.pid, m.comm)
	case m.parent != nil:
		return "a child of " + m.parent.nameLocked()
	}
	return "a process of another pid namespace"
}

// serve reads the descriptor and answers faults until the member is gone.
func (m *member) serve() {
	defer m.c.srv.running.Done()
	poll := poller{turn: &m.c.srv.polling}
	for {
		start, gone := false, false
		read := func() bool {
			m.c.evMu.Lock()
			defer m.c.evMu.Unlock()
			if gone = m.gone; gone {
				return true
			}
			m.readLocked()
			if start = len(m.queue) > 0 && !m.working; start {
				m.working = true
			}
			gone = m.gone
			return start || gone
		}
		began := time.Now()
		err := m.fd.Wait(func() bool {
			return read() || poll.look(m.fd.Pending) && read()
		})
		poll.waited(time.Since(began))
		if start {
			m.work()
		}
		if err != nil || gone {
			m.c.evMu.Lock()
			gone = m.gone // then the descriptor was closed under us
			m.c.evMu.Unlock()
			if !gone {
				m.c.srv.log.Error("attach: cannot wait for events", "error", err)
			}
			return
		}
	}
}

// readLocked drains, and again later if something could not be taken.
func (m *member) readLocked() {
	if err := m.drainLocked(); err != nil {
		m.c.srv.log.Error("attach: cannot read events", "client", m.nameLocked(), "error", err)
		time.AfterFunc(readPause, func() {
			m.c.evMu.Lock()
			m.readLocked()
			m.kickLocked()
			m.c.evMu.Unlock()
		})
	}
}

// drainLocked reads everything pending and applies it (A1). An error means that
// something is still pending: the kernel could not hand over a forked child's
// descriptor.
func (m *member) drainLocked() error {
	for !m.gone {
		n, more, errno := m.fd.Read(m.scratch[:])
		if errno != 0 {
			return fmt.Errorf("read userfaultfd: %w", errno)
		}
		for i := range n {
			m.applyLocked(m.scratch[i])
		}
		if !more {
			break
		}
	}
	return nil
}

func (m *member) applyLocked(e uffd.Message) {
	switch e.Event {
	case uffd.EventFault:
		m.queue = append(m.queue, fault{tid: e.Thread, addr: e.Addr &^ (pageBytes - 1)})
	case uffd.EventFork:
		if !plantLateEvent(m, e) {
			m.applyForkLocked(e.FD)
		}
	case uffd.EventRemap:
		m.applyRemapLocked(e.Addr, e.To, e.Length)
	case uffd.EventUnmap:
		m.applyUnmapLocked(e.Addr, e.To)
	case uffd.EventRemove:
		// Pages that were protected carry markers now, pages that were granted
		// stay granted: nothing changes.
	}
}

// applyForkLocked makes the child a member with a copy of the parent's view.
func (m *member) applyForkLocked(fd int) {
	child, err := uffd.Take(fd)
	if err != nil {
		m.c.srv.log.Error("attach: a forked process cannot be followed", "client", m.nameLocked(), "error", err)
		return
	}
	n := m.c.newMember(child, -1, m)
	n.spans = m.spans.clone()
	n.probes = append([]probe(nil), m.probes...)
	m.c.joinLocked(n)
}

// joinLocked puts a member in and starts its reader.
func (c *client) joinLocked(m *member) {
	c.members = append(c.members, m)
	c.viewAllLocked(m.spans.list, m)
	c.srv.running.Add(1)
	go m.serve()
	c.kickLocked()
}

// applyUnmapLocked: the range is gone already; its author waits for our read.
func (m *member) applyUnmapLocked(from, to uint64) {
	m.c.viewAllLocked(m.spans.remove(from, to), m)
	m.wake(from, to-from) // storers that waited there find out by themselves
	m.c.kickLocked()
}

// applyRemapLocked: the range has moved. length is the old one: what lies
// behind it at the new place may be new, and the old place may still be there
// (MREMAP_DONTUNMAP). Both are looked at when the kernel allows it.
func (m *member) applyRemapLocked(from, to, length uint64) {
	for _, s := range m.spans.remove(from, from+length) {
		moved := s
		moved.addr = to + (s.addr - from)
		m.spans.add(moved)
		m.c.viewLocked(s.m, m)
		m.probes = append(m.probes, probe{addr: s.addr, length: s.pages * pageBytes, alias: &s})
	}
	m.probes = append(m.probes, probe{addr: to + length, length: pageBytes})
	m.wake(from, length)
	m.c.kickLocked()
}

// settleLocked looks at what remaps left behind: EAGAIN while they go on.
func (m *member) settleLocked() unix.Errno {
	for len(m.probes) > 0 && !m.gone {
		p := m.probes[0]
		if i := m.spans.first(p.addr); i < len(m.spans.list) && m.spans.list[i].addr < p.addr+p.length {
			m.probes = m.probes[1:] // something that we know lies there by now
			continue
		}
		switch errno := m.fd.WriteProtect(p.addr, p.length, true); errno {
		case unix.EAGAIN, unix.ESRCH:
			return errno
		case 0:
			m.settledLocked(p)
		}
		m.probes = m.probes[1:]
	}
	return 0
}

// settledLocked: the probed range exists, and is protected now.
func (m *member) settledLocked(p probe) {
	if p.alias == nil {
		// Grown while it moved. Protect all of it: a call that runs into memory
		// that is not registered has protected what lies before. A store there
		// ends in SIGBUS.
		for n := p.length; m.fd.WriteProtect(p.addr, n, true) == 0; {
			n *= 2
		}
		m.c.srv.log.Warn("attach: a mapping grew outside its file's extents; stores there will be refused", "client", m.nameLocked())
		return
	}
	m.spans.add(*p.alias)
	m.c.viewLocked(p.alias.m, m)
	// It was open to stores since the remap: count its pages as written.
	m.queue = append(m.queue, fault{addr: p.addr, mark: p.alias.pages})
}

// wake is fit for ranges that are not mapped any more.
func (m *member) wake(addr, length uint64) {
	if length > 0 && !m.gone {
		m.fd.Wake(addr, length)
	}
}

// goneLocked: the address space has ended. The housekeeper does the rest.
func (m *member) goneLocked() {
	if m.gone {
		return
	}
	m.gone = true
	m.queue, m.probes = nil, nil
	m.c.viewAllLocked(m.spans.remove(0, ^uint64(0)), m)
	m.c.kickLocked()
}

// kickLocked starts a worker if stores wait and nobody is at work.
func (m *member) kickLocked() {
	if len(m.queue) > 0 && !m.working && !m.gone {
		m.working = true
		m.c.srv.running.Add(1)
		go func() {
			defer m.c.srv.running.Done()
			m.work()
		}()
	}
}

// pause waits d or until ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

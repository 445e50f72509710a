package dax

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/dax/uffd"
)

// Survivor is a process that maps the image shared and that this server cannot
// hold: its stores go on whatever the freeze.
type Survivor struct {
	PID  int
	Comm string
	Why  string
}

// Adoption is what became of the clients of a former server.
type Adoption struct {
	Clients   int // taken back
	Mappings  int // of theirs
	Survivors []Survivor
	// Gone is closed when no survivor is left (they end, or are ended).
	Gone <-chan struct{}
}

var errUnmapped = errors.New("the process has unmapped it")

// Adopt takes back the clients of a former server, without their help: they may
// all be waiting in a store. Call it before Start, and before the file system
// may allocate (core's Options.DeferOrphans). surviving is what
// pmem.Region.SurvivingMappings said before the first descriptor was given out;
// where it is false, nothing can be there to take back.
//
// Then nothing is frozen and no client of ours is held by a gate, which is why
// this may read the memory maps of processes.
func (s *Server) Adopt(ctx context.Context, surviving bool) (*Adoption, error) {
	gone := make(chan struct{})
	a := &Adoption{Gone: gone}
	records, err := s.readRecords()
	if err != nil {
		return nil, err
	}
	ours := make(map[int]bool)
	for _, r := range records {
		c, why := s.takeBack(r, surviving)
		if c == nil {
			s.dropRecords(r)
			s.log.Info("attach: a former client is not taken back", "process", r.PID, "reason", why)
			continue
		}
		ours[r.PID] = true
		a.Survivors = append(a.Survivors, c.failed...)
		a.Clients++
		a.Mappings += len(c.mappings)
	}
	if surviving {
		a.Survivors = append(a.Survivors, s.findSurvivors(ctx, ours)...)
	}
	s.mu.Lock()
	s.survivors = a.Survivors
	s.mu.Unlock()
	go s.awaitSurvivors(a.Survivors, ours, gone)
	return a, nil
}

// Survivors lists the processes that cannot be held now.
func (s *Server) Survivors() []Survivor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Survivor(nil), s.survivors...)
}

// takeBack restores one client, or says why there is nothing to restore.
func (s *Server) takeBack(r *record, surviving bool) (*client, error) {
	if !surviving {
		return nil, errors.New("no mapping survived")
	}
	if r.Image.Dev != s.image.Dev || r.Image.Ino != s.image.Ino {
		return nil, errors.New("its record is of another image")
	}
	pidfd, err := unix.PidfdOpen(r.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", r.PID, err)
	}
	keep := false
	defer func() {
		if !keep {
			_ = unix.Close(pidfd)
		}
	}()
	if started, err := startOf(r.PID); err != nil || started != r.Started {
		return nil, fmt.Errorf("process %d has ended", r.PID)
	}
	raw, err := unix.PidfdGetfd(pidfd, r.Uffd, 0)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d of process %d: %w", r.Uffd, r.PID, err)
	}
	fd, err := uffd.Take(raw)
	if err != nil {
		return nil, err
	}
	c, m, err := s.rebuild(r, fd)
	if err != nil {
		_ = fd.Close()
		return nil, err
	}
	keep = true
	s.mu.Lock()
	s.clients[c.id] = c
	s.mu.Unlock()
	c.startMember(m, pidfd)
	c.evMu.Lock()
	for _, fd := range m.forks {
		m.applyForkLocked(fd)
	}
	m.forks = nil
	for _, sp := range m.spans.list {
		m.wake(sp.addr, sp.pages*pageBytes) // blocked stores fault again, and are told to us
	}
	c.evMu.Unlock()
	c.keepRecords(r)
	c.refresh()
	return c, nil
}

// keepRecords brings the records up to date with what was taken back.
func (c *client) keepRecords(old *record) {
	c.evMu.Lock()
	taken := make(map[uint64]*mapping, len(c.mappings))
	for id, mp := range c.mappings {
		taken[id] = mp
	}
	c.evMu.Unlock()
	for _, rm := range old.Mappings {
		mp := taken[rm.ID]
		if mp == nil {
			c.srv.dropRecord(c.id, rm.ID)
		} else if err := c.keepRecord(mp); err != nil {
			c.srv.log.Error("attach: record", "process", c.proc.PID, "error", err)
		}
	}
}

// dropRecords removes the records of a client that is not taken back.
func (s *Server) dropRecords(r *record) {
	id, _ := r.clientID() // checked when it was read
	for _, rm := range r.Mappings {
		s.dropRecord(id, rm.ID)
	}
	s.dropRecord(id, 0)
}

// rebuild makes the client and its mappings from the record and from what the
// process really maps.
func (s *Server) rebuild(r *record, fd *uffd.FD) (c *client, m *member, err error) {
	fresh, err := fd.Handshake()
	if err == nil && fresh {
		err = errors.New("its descriptor was never served")
	}
	if err != nil {
		return nil, nil, err
	}
	// Events that nobody has read: their authors go on now, and what they did
	// shows in the memory map. A fork's child has not run yet, and has the pages
	// of its parent.
	id, _ := r.clientID() // checked when it was read
	c = s.newClient(id, core.Process{PID: r.PID, UID: r.UID, Comm: r.Comm}, r.Started)
	c.adopted, c.awaited = true, true
	m = c.newMember(fd, r.Uffd, nil)
	if err := m.collectForks(); err != nil {
		return nil, nil, err
	}
	vmas, err := imageVMAsWithin(r.PID, s.image, mapsPatience)
	if err != nil {
		return nil, nil, err
	}
	for _, rm := range r.Mappings {
		err := c.adoptMapping(m, &rm, vmas)
		switch {
		case err == nil:
		case errors.Is(err, errUnmapped): // in good order, and the record had not been brought up to date
			s.log.Info("attach: a mapping of a former server has ended", "process", r.PID, "inode", rm.Ino)
		default:
			s.log.Error("attach: a mapping is not taken back", "process", r.PID, "inode", rm.Ino, "error", err)
			c.failed = append(c.failed, Survivor{PID: r.PID, Comm: r.Comm,
				Why: fmt.Sprintf("its mapping of inode %d cannot be taken back (%v): end it", rm.Ino, err)})
		}
	}
	return c, m, nil
}

// collectForks reads what is pending and keeps the descriptors of forked
// processes. Stores that wait are told again once they are woken.
func (m *member) collectForks() error {
	var batch [32]uffd.Message
	for more := true; more; {
		var n int
		var errno unix.Errno
		if n, more, errno = m.fd.Read(batch[:]); errno != 0 {
			return fmt.Errorf("read userfaultfd: %w", errno)
		}
		for _, e := range batch[:n] {
			if e.Event == uffd.EventFork {
				m.forks = append(m.forks, e.FD)
			}
		}
	}
	return nil
}

// protectMoved protects a range that the record does not have, while its
// client may be changing its address space.
func (m *member) protectMoved(sp span) error {
	for wait := firstPause; ; wait *= 2 {
		errno := m.fd.WriteProtect(sp.addr, sp.pages*pageBytes, true)
		switch {
		case errno == 0:
			return nil
		case errno != unix.EAGAIN || wait > mapsPatience:
			return errno
		}
		if err := m.collectForks(); err != nil {
			return err
		}
		if err := pause(m.c.srv.ctx, wait); err != nil {
			return err
		}
	}
}

// adoptMapping gives one mapping back to core, with the pages that may have been
// stored to, and enters it.
func (c *client) adoptMapping(m *member, rm *recordMapping, vmas []vma) error {
	s := c.srv
	for s.mappingIDs.Load() < rm.ID {
		s.mappingIDs.Store(rm.ID) // nobody else is here yet
	}
	mp := &mapping{c: c, id: rm.ID, ino: rm.Ino, since: time.Now(), first: rm.First, pages: rm.Pages,
		writable: rm.Writable, addr: rm.Addr, pieces: rm.Pieces}
	spans, written, err := c.lookAt(m, mp, rm, vmas)
	if err != nil {
		return err
	}
	if mp.writable && len(spans) == 0 {
		return errUnmapped
	}
	req := core.MapRequest{Offset: int64(mp.first) * pageBytes, Length: int64(mp.pages) * pageBytes,
		Writable: mp.writable, WayIn: wayIn, Process: c.proc}
	if mp.writable {
		req.Protector = mp
	}
	c.evMu.Lock()
	for _, sp := range spans {
		m.spans.add(sp)
	}
	c.evMu.Unlock()
	var pieces []core.Extent
	if mp.core, pieces, err = s.vol.Adopt(mp.ino, req, written); err != nil {
		c.forgetSpans(m, spans)
		return err
	}
	if !sameExtents(pieces, mp.pieces) {
		c.forgetSpans(m, spans)
		return errors.Join(errors.New("its file's extents are not those the process has mapped"), mp.core.Unmap(s.ctx))
	}
	mp.told = mp.wholeRun()
	c.evMu.Lock()
	c.mappings[mp.id] = mp
	c.viewLocked(mp, m)
	c.evMu.Unlock()
	return nil
}

func (c *client) forgetSpans(m *member, spans []span) {
	c.evMu.Lock()
	for _, sp := range spans {
		m.spans.remove(sp.addr, sp.end())
	}
	c.evMu.Unlock()
}

// lookAt finds where the process shows the mapping now, and which of its pages
// a store reaches without a fault. The record may be older than the process's
// last munmap or mremap: what counts is what is mapped and registered.
func (c *client) lookAt(m *member, mp *mapping, rm *recordMapping, vmas []vma) (spans []span, written []core.PageRun, err error) {
	if !mp.writable {
		return nil, nil, nil
	}
	for _, v := range vmas {
		for _, sp := range v.show(mp) {
			if !recorded(rm, sp) {
				// Moved since the record was written: ours if it is registered.
				// Protected now, it counts as written whole.
				if err := m.protectMoved(sp); errors.Is(err, unix.ENOENT) {
					continue
				} else if err != nil {
					return nil, nil, fmt.Errorf("write-protect %#x: %w", sp.addr, err)
				}
				spans = append(spans, sp)
				written = append(written, core.PageRun{First: sp.page, Count: sp.pages})
				continue
			}
			open, err := uffd.Unprotected(c.proc.PID, sp.addr, sp.pages*pageBytes)
			if err != nil {
				return nil, nil, err
			}
			spans = append(spans, sp)
			for _, o := range open {
				written = append(written, core.PageRun{First: sp.pageAt(o.Start), Count: (o.End - o.Start) / pageBytes})
			}
		}
	}
	return spans, unionRuns(written), nil
}

// recorded reports whether the record has the span where it is.
func recorded(rm *recordMapping, sp span) bool {
	for _, r := range rm.Spans {
		if r.Addr <= sp.addr && sp.end() <= r.Addr+r.Pages*pageBytes {
			return r.Page+format.Page((sp.addr-r.Addr)/pageBytes) == sp.page
		}
	}
	return false
}

func sameExtents(a, b []core.Extent) bool {
	at := func(list []core.Extent, i int, done uint64) (format.Page, format.Block, uint64) {
		return list[i].Page + format.Page(done), list[i].Block + format.Block(done), list[i].Count - done
	}
	var i, j int
	var di, dj uint64
	for i < len(a) && j < len(b) { // they may be cut differently
		pa, ba, na := at(a, i, di)
		pb, bb, nb := at(b, j, dj)
		if pa != pb || ba != bb {
			return false
		}
		n := min(na, nb)
		if di += n; di == a[i].Count {
			i, di = i+1, 0
		}
		if dj += n; dj == b[j].Count {
			j, dj = j+1, 0
		}
	}
	return i == len(a) && j == len(b)
}

// findSurvivors looks through all processes for shared mappings of the image.
func (s *Server) findSurvivors(ctx context.Context, ours map[int]bool) []Survivor {
	var out []Survivor
	entries, err := os.ReadDir("/proc")
	if err != nil {
		s.log.Error("attach: processes cannot be listed", "error", err)
		return nil
	}
	for _, e := range entries {
		pid := 0
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil || strings.Trim(e.Name(), "0123456789") != "" {
			continue
		}
		if pid == os.Getpid() || ours[pid] || ctx.Err() != nil {
			continue
		}
		vmas, err := imageVMAsWithin(pid, s.image, mapsPatience)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.log.Warn("attach: a process's memory map cannot be read; whether it maps the image is not known", "process", pid)
		case len(vmas) > 0:
			out = append(out, Survivor{PID: pid, Comm: commOf(pid),
				Why: "it maps the image, and its userfaultfd was lost with the former server: end it"})
		}
	}
	return out
}

// awaitSurvivors closes gone when none is left.
func (s *Server) awaitSurvivors(list []Survivor, ours map[int]bool, gone chan struct{}) {
	defer close(gone)
	for len(list) > 0 {
		for _, v := range list {
			pidfd, err := unix.PidfdOpen(v.PID, 0)
			if err != nil {
				continue // ended
			}
			exited := make(chan struct{})
			stop, err := watchExit(pidfd, func() { close(exited) })
			if err != nil {
				s.log.Error("attach: a survivor is not watched", "process", v.PID, "error", err)
				<-s.ctx.Done()
				return
			}
			select {
			case <-exited:
			case <-s.ctx.Done():
				stop()
				return
			}
		}
		list = s.findSurvivors(s.ctx, ours) // those they forked meanwhile; a client that failed has ended
		s.mu.Lock()
		s.survivors = list
		s.mu.Unlock()
	}
}

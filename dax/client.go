package dax

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/dax/uffd"
	"permafrost/dax/wire"
)

// client is one attached process and those it forked.
type client struct {
	srv     *Server       // immutable
	id      wire.ClientID // immutable
	proc    core.Process  // immutable: the process that connected
	started uint64        // immutable: its start time in clock ticks since boot
	since   time.Time     // immutable
	adopted bool          // immutable: taken back after a restart of the server

	failed []Survivor    // immutable once adopted: mappings of a former server that could not be taken back
	kicked chan struct{} // capacity 1: the housekeeper has something to do
	done   chan struct{} // closed when the client has ended or the server quits
	ending sync.Once

	connMu  sync.Mutex
	conn    *wire.Conn // guarded by connMu: nil while not connected
	awaited bool       // guarded by connMu: taken back, and not yet connected again

	evMu     sync.Mutex
	idle     *sync.Cond          // on evMu: a worker has stopped
	members  []*member           // guarded by evMu: the connected process first, then forked ones
	mappings map[uint64]*mapping // guarded by evMu
	learn    []learning          // guarded by evMu: processes to look up
	warned   bool                // guarded by evMu: an unregistered range was logged
	refs     int                 // guarded by evMu: map requests under way

	snapshot atomic.Pointer[ClientInfo]
}

// learning is a forked process's first sign of life.
type learning struct {
	m   *member
	tid int
}

func (s *Server) newClient(id wire.ClientID, proc core.Process, started uint64) *client {
	c := &client{srv: s, id: id, proc: proc, started: started, since: time.Now(),
		kicked: make(chan struct{}, 1), done: make(chan struct{}), mappings: make(map[uint64]*mapping)}
	c.idle = sync.NewCond(&c.evMu)
	return c
}

// start begins to serve the connected process's descriptor.
// It owns the process's pidfd.
func (c *client) start(fd *uffd.FD, number, pidfd int) {
	c.startMember(c.newMember(fd, number, nil), pidfd)
}

func (c *client) startMember(m *member, pidfd int) {
	m.pid, m.comm = c.proc.PID, c.proc.Comm
	var err error
	if m.stop, err = m.watch(pidfd); err != nil {
		c.srv.log.Error("attach: a client is not watched", "process", c.proc.PID, "error", err)
	}
	c.srv.running.Add(1)
	go c.housekeep()
	c.evMu.Lock()
	c.joinLocked(m)
	c.evMu.Unlock()
}

// hush protects and flushes everything the client has mapped, after which its
// stores wait: the server is quiet.
func (c *client) hush(ctx context.Context) error {
	c.evMu.Lock()
	for i := 0; i < len(c.members); i++ {
		for c.members[i].working { // at most until the store it is answering is
			c.idle.Wait()
		}
	}
	list := make([]*mapping, 0, len(c.mappings))
	for _, mp := range c.mappings {
		if mp.writable && mp.addr != 0 && !mp.ended {
			list = append(list, mp)
		}
	}
	c.evMu.Unlock()
	var errs []error
	for _, mp := range list {
		if _, err := mp.core.Sync(ctx, mp.wholeRun()[0]); err != nil {
			errs = append(errs, fmt.Errorf("attach: flush what process %d has mapped of inode %d: %w", c.proc.PID, mp.ino, err))
		}
	}
	return errors.Join(errs...)
}

// let gives up a client's descriptors and leaves its record and its mappings
// to the next server.
func (c *client) let() {
	c.ending.Do(func() { close(c.done) })
	c.disconnect(nil)
	c.evMu.Lock()
	list := append([]*member(nil), c.members...)
	for _, m := range list {
		m.gone = true
	}
	c.evMu.Unlock()
	for _, m := range list {
		if m.stop != nil {
			m.stop()
		}
		_ = m.fd.Close() // the client has its own copy
	}
}

func (c *client) kickLocked() {
	select {
	case c.kicked <- struct{}{}:
	default: // it will look anyway
	}
}

func (c *client) kick() {
	c.evMu.Lock()
	c.kickLocked()
	c.evMu.Unlock()
}

// rootLocked is the connected process, nil before its descriptor came.
func (c *client) rootLocked() *member {
	if len(c.members) == 0 {
		return nil
	}
	return c.members[0]
}

// housekeep does what must not be done under evMu: it tells core of changed
// ranges, ends what is over, keeps the record, and watches processes.
func (c *client) housekeep() {
	defer c.srv.running.Done()
	for {
		select {
		case <-c.kicked:
		case <-c.done:
			return
		}
		if c.srv.quiet.Load() {
			continue
		}
		c.settle()
		c.learnProcesses()
		c.retire()
		c.publishAll()
		c.refresh()
		if c.isOver() {
			c.leave()
			return
		}
	}
}

// settle looks at what remaps left behind, again until they are over.
func (c *client) settle() {
	c.evMu.Lock()
	defer c.evMu.Unlock()
	for _, m := range c.members {
		if len(m.probes) == 0 || m.gone {
			continue
		}
		if err := m.drainLocked(); err != nil || m.settleLocked() == unix.EAGAIN {
			time.AfterFunc(retryPause, c.kick)
		}
		m.kickLocked()
	}
}

// publishAll tells core of every mapping whose views changed, and keeps their
// records.
func (c *client) publishAll() {
	c.evMu.Lock()
	var todo []*mapping
	for _, mp := range c.mappings {
		if mp.changed {
			todo = append(todo, mp)
		}
	}
	c.evMu.Unlock()
	for _, mp := range todo {
		over, err := mp.publish(c.srv.ctx)
		if err != nil {
			c.srv.log.Error("attach: a mapping did not end well", "process", c.proc.PID, "inode", mp.ino, "error", err)
		}
		if over {
			c.forget(mp)
		} else if err := c.keepRecord(mp); err != nil {
			c.srv.log.Error("attach: record", "process", c.proc.PID, "error", err)
		}
	}
}

// isOver reports whether the client has nothing left: every process of it is
// gone, or the connection ended with nothing mapped.
func (c *client) isOver() bool {
	c.connMu.Lock()
	connected := c.conn != nil || c.awaited
	c.connMu.Unlock()
	c.evMu.Lock()
	defer c.evMu.Unlock()
	if c.refs > 0 {
		return false
	}
	for _, m := range c.members {
		if !m.gone && (connected || len(c.mappings) > 0) {
			return false
		}
	}
	return true
}

// forget takes a mapping that has ended out of the tables.
func (c *client) forget(mp *mapping) {
	c.evMu.Lock()
	delete(c.mappings, mp.id)
	c.evMu.Unlock()
	c.srv.dropRecord(c.id, mp.id)
}

// retire gives up the descriptors of members that are gone and lets go what
// they had parked. If the connected process is gone, so are the mappings that
// no table shows: read-only ones and those never completed.
func (c *client) retire() {
	c.evMu.Lock()
	var leave []func() bool
	var closing []*member
	kept := c.members[:0:0]
	for i, m := range c.members {
		if !m.gone {
			kept = append(kept, m)
			continue
		}
		for k, p := range m.parked {
			if p.unpark != nil {
				leave = append(leave, p.unpark)
			}
			delete(m.parked, k)
		}
		if !m.closed {
			m.closed = true
			closing = append(closing, m)
		}
		if i == 0 {
			kept = append(kept, m) // the root keeps its place
		}
	}
	c.members = kept
	var unseen []*mapping
	if root := c.rootLocked(); root != nil && root.gone {
		for _, mp := range c.mappings {
			if !mp.writable || mp.addr == 0 {
				unseen = append(unseen, mp)
			}
		}
	}
	c.evMu.Unlock()
	for _, unpark := range leave {
		unpark()
	}
	for _, m := range closing {
		if m.stop != nil {
			m.stop()
		}
		_ = m.fd.Close() // it owed nobody anything
	}
	c.endAll(unseen)
}

// leave ends a client that has nothing left.
func (c *client) leave() {
	c.ending.Do(func() { close(c.done) })
	c.disconnect(nil)
	c.evMu.Lock()
	var fds []*member
	for _, m := range c.members {
		m.gone = true
		if !m.closed {
			m.closed = true
			fds = append(fds, m)
		}
	}
	c.evMu.Unlock()
	for _, m := range fds {
		if m.stop != nil {
			m.stop()
		}
		_ = m.fd.Close() // nothing is mapped through it
	}
	c.srv.dropRecord(c.id, 0)
	c.srv.remove(c)
}

// disconnect closes the connection if it is still conn (nil: whichever).
func (c *client) disconnect(conn *wire.Conn) {
	c.connMu.Lock()
	if c.conn != nil && (conn == nil || c.conn == conn) {
		_ = c.conn.Close() // nothing more is to be said
		c.conn = nil
	}
	c.connMu.Unlock()
	c.kick()
}

// serveConn answers a client's requests until the connection ends. Requests
// run beside one another, so that none waits for another that is held.
func (c *client) serveConn(conn *wire.Conn) {
	ctx, cancel := context.WithCancelCause(c.srv.ctx)
	var busy sync.WaitGroup
	// Only map requests wait for a thaw. They have slots of their own, more than
	// a client may have mappings: those beyond are refused at once. So however
	// many are held, what only reads is answered, and that the client has left
	// is noticed.
	quick, maps := make(chan struct{}, maxInFlight), make(chan struct{}, c.srv.opt.MaxMappings+1)
	for {
		f, err := conn.Receive(0)
		if err != nil {
			c.srv.explain(conn, err)
			break
		}
		slots := quick
		if f.Type == wire.TypeMap {
			slots = maps
		}
		slots <- struct{}{}
		if f.Type == wire.TypeBye {
			f.CloseFDs()
			_ = conn.Send(wire.Pack(&wire.OK{}, f.Seq)) // it is leaving anyway
			break
		}
		busy.Add(1)
		go func() {
			defer busy.Done()
			defer f.CloseFDs()
			if err := c.request(ctx, conn, f); err != nil {
				_ = conn.Send(wire.Pack(c.srv.refusal(err), f.Seq)) // if it cannot be told, it has left
				if errors.Is(err, wire.ErrProtocol) {
					_ = conn.Close() // ends the loop
				}
			}
			<-slots
		}()
	}
	cancel(errGone)
	busy.Wait()
	c.disconnect(conn)
	c.abandon()
	c.probeAlive() // a process that called execve has closed its socket, and tells nobody else
}

// abandon ends the mappings that the client asked for and never completed.
func (c *client) abandon() {
	c.evMu.Lock()
	var unseen []*mapping
	for _, mp := range c.mappings {
		if mp.addr == 0 {
			unseen = append(unseen, mp)
		}
	}
	c.evMu.Unlock()
	c.endAll(unseen)
	c.kick()
}

func (c *client) endAll(list []*mapping) {
	for _, mp := range list {
		if err := mp.end(c.srv.ctx); err != nil {
			c.srv.log.Error("attach: a mapping did not end well", "process", c.proc.PID, "inode", mp.ino, "error", err)
		}
		c.forget(mp)
	}
}

// explain answers bytes that were no frame.
func (s *Server) explain(conn *wire.Conn, err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
		return
	}
	if errors.Is(err, wire.ErrProtocol) || wire.IsTimeout(err) {
		_ = conn.Send(wire.Pack(refuse(wire.CodeProtocol, unix.EPROTO,
			"%v; the connection is closed: see docs/ATTACH.md for the protocol", err), 0)) // best effort
	}
	s.log.Warn("attach: connection ended", "error", err)
}

package dax

import (
	"encoding/hex"
	"sort"
	"time"
)

// ClientInfo is a copy of what is known of one client.
type ClientInfo struct {
	ID        string
	PID       int
	UID       uint32
	Comm      string
	Connected bool
	Adopted   bool // taken back after a restart of the server
	Since     time.Time
	Mappings  int
	Parked    int // stores held now
	Processes []ProcessInfo
}

// ProcessInfo is one process of a client: the one that attached, or one that it
// forked.
type ProcessInfo struct {
	PID    int    // 0: forked, and not yet known because it has not stored anything
	Comm   string // "" if PID is 0
	Forked bool
	Parked int
	Pages  uint64 // that it shows
}

// Clients lists the clients, oldest first. It never waits for a client: of one
// that is busy it tells what was known last.
func (s *Server) Clients() []ClientInfo {
	var out []ClientInfo
	for _, c := range s.allClients() {
		out = append(out, c.info())
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Since.Before(out[j].Since) })
	return out
}

// Socket is the path that clients connect to.
func (s *Server) Socket() string { return s.opt.Socket }

func (c *client) info() ClientInfo {
	if c.evMu.TryLock() {
		i := c.infoLocked()
		c.evMu.Unlock()
		c.snapshot.Store(&i)
	}
	i := ClientInfo{ID: hex.EncodeToString(c.id[:]), PID: c.proc.PID, UID: c.proc.UID, Comm: c.proc.Comm, Since: c.since}
	if p := c.snapshot.Load(); p != nil {
		i = *p
	}
	c.connMu.Lock()
	i.Connected = c.conn != nil
	c.connMu.Unlock()
	return i
}

func (c *client) refresh() {
	c.evMu.Lock()
	i := c.infoLocked()
	c.evMu.Unlock()
	c.snapshot.Store(&i)
}

func (c *client) infoLocked() ClientInfo {
	i := ClientInfo{ID: hex.EncodeToString(c.id[:]), PID: c.proc.PID, UID: c.proc.UID, Comm: c.proc.Comm,
		Adopted: c.adopted, Since: c.since, Mappings: len(c.mappings)}
	for _, m := range c.members {
		if m.gone {
			continue
		}
		p := ProcessInfo{PID: m.pid, Comm: m.comm, Forked: m.parent != nil, Parked: len(m.parked)}
		for _, s := range m.spans.list {
			p.Pages += s.pages
		}
		i.Parked += p.Parked
		i.Processes = append(i.Processes, p)
	}
	return i
}

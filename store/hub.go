package store

import (
	"fmt"
	"sync"
)

// hub hands committed events to subscribers. It never waits for one.
type hub struct {
	maxSubs, buffer int // immutable

	mu     sync.Mutex
	subs   map[*Subscription]struct{} // guarded by mu
	lastID int64                      // of the newest event published with an id; guarded by mu
	cut    uint64                     // guarded by mu
	closed bool                       // guarded by mu
}

// Subscription is a listener's place at the event log.
type Subscription struct {
	// C gives events as they become durable, and closes when the subscription
	// ends: see Err. An event with ID 0 could not be written yet (the ledger is
	// Degraded): it can be shown, but not resumed from.
	C <-chan LedgerEvent
	// Start is the id of the newest event published before the subscription.
	// To replay without a gap: Subscribe, read EventsAfter up to the end, then
	// take from C what has ID 0 or an ID above the last one read.
	Start int64 // immutable

	h   *hub // immutable
	c   chan LedgerEvent
	err error // guarded by hub.mu
}

func newHub(maxSubs, buffer int) *hub {
	return &hub{maxSubs: maxSubs, buffer: buffer, subs: make(map[*Subscription]struct{})}
}

// Subscribe begins to listen. Errors: ErrTooMany, ErrClosed.
func (l *Ledger) Subscribe() (*Subscription, error) {
	h := l.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, fmt.Errorf("subscribe to events: %w", ErrClosed)
	}
	if len(h.subs) >= h.maxSubs {
		return nil, fmt.Errorf("subscribe to events: %w: %d are connected; close one", ErrTooMany, len(h.subs))
	}
	c := make(chan LedgerEvent, h.buffer)
	s := &Subscription{C: c, c: c, Start: h.lastID, h: h}
	h.subs[s] = struct{}{}
	return s, nil
}

// Close ends the subscription; C closes. It may be called more than once.
func (s *Subscription) Close() {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.endLocked(s, nil)
}

// Err says why C closed: ErrSlow, ErrClosed, or nil after Close.
func (s *Subscription) Err() error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return s.err
}

func (h *hub) endLocked(s *Subscription, err error) {
	if _, ok := h.subs[s]; !ok {
		return
	}
	delete(h.subs, s)
	s.err = err
	close(s.c)
}

// publish gives e to everybody who keeps up and cuts those who do not.
func (h *hub) publish(e LedgerEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.ID > h.lastID {
		h.lastID = e.ID
	}
	for s := range h.subs {
		select {
		case s.c <- e:
		default:
			h.cut++
			h.endLocked(s, ErrSlow)
		}
	}
}

// startFrom sets the id from which subscriptions begin, at open.
func (h *hub) startFrom(id int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastID = max(h.lastID, id)
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.subs {
		h.endLocked(s, ErrClosed)
	}
}

func (h *hub) fill(s *Stats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Subscribers, s.Cut = len(h.subs), h.cut
}

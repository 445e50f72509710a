package freeze

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// lobby is where callers are while a gate is closed: blocked goroutines and
// parked requests, one list in arrival order for all gates.
//
// Why no wake-up is lost (F6): a caller joins the list under mu only after
// seeing, under mu, the gate closed. A thaw opens the gates first and takes the
// list under mu second. So the caller either is on the list the thaw takes, or
// sees the gate open, or sees a later freeze's gate closed, and then that
// freeze's thaw takes it.
type lobby struct {
	clock Clock       // immutable
	max   int         // immutable: most callers held at once
	rel   *releaser   // immutable
	emit  func(Event) // immutable

	total   atomic.Uint64 // callers ever held
	refused atomic.Uint64 // callers refused because max were held

	mu       sync.Mutex
	head     *held         // guarded by mu: oldest
	tail     *held         // guarded by mu
	count    int           // guarded by mu
	era      uint64        // guarded by mu: counts takeAll
	nextID   uint64        // guarded by mu
	freezeID uint64        // guarded by mu: the freeze callers wait for
	arrived  uint64        // guarded by mu: callers held by this freeze
	longest  time.Duration // guarded by mu: longest wait among those of this freeze that left by themselves
	opened   chan struct{} // guarded by mu: closed when this freeze's gates have opened; nil without one
}

// Why a held caller is not held any more; zero while it is.
const (
	heldReleased = 1 // the gates opened
	heldLeft     = 2 // it left by itself
)

// held is one caller in the lobby.
type held struct {
	Blocked                // immutable
	freezeID uint64        // immutable
	client   any           // immutable: nil for a blocked goroutine
	resume   func()        // immutable: nil for a blocked goroutine
	wake     chan struct{} // immutable: closed at release; nil for a parked one
	fate     atomic.Int32  // 0, heldReleased, heldLeft: moves once

	// The list: guarded by lobby.mu while era is the lobby's; then next belongs
	// to the releaser alone.
	prev, next *held
	era        uint64 // immutable once linked
}

// newHeldLocked links a caller at the end of the list, or refuses.
func (l *lobby) newHeldLocked(g *Gate, w Waiter) (*held, error) {
	if l.count >= l.max {
		l.refused.Add(1)
		return nil, &Refusal{Err: ErrTooManyHeld, FreezeID: l.freezeID,
			Detail: "try again after the thaw"}
	}
	l.nextID++
	h := &held{Blocked: g.blockedAt(l.nextID, w, l.clock.Now()), freezeID: l.freezeID, era: l.era, prev: l.tail}
	if l.tail != nil {
		l.tail.next = h
	} else {
		l.head = h
	}
	l.tail = h
	l.count++
	l.arrived++
	l.total.Add(1)
	return h, nil
}

// wait blocks until the gates open. nil: look again.
func (l *lobby) wait(ctx context.Context, g *Gate, w Waiter) error {
	if ctx.Err() != nil {
		return l.frozen(ctx)
	}
	l.mu.Lock()
	if !g.Closed() {
		l.mu.Unlock()
		return nil
	}
	h, err := l.newHeldLocked(g, w)
	if err != nil {
		l.mu.Unlock()
		return err
	}
	h.wake = make(chan struct{})
	l.mu.Unlock()
	select {
	case <-h.wake:
		return nil
	case <-ctx.Done():
		if !l.leave(h) {
			return nil // released at the same moment: let the gate decide
		}
		return l.frozen(ctx)
	}
}

// frozen is what a caller hears whose context ended first.
func (l *lobby) frozen(ctx context.Context) error {
	l.mu.Lock()
	id := l.freezeID
	l.mu.Unlock()
	cause := context.Cause(ctx)
	detail := "the wait was given up; try again after the thaw"
	if errors.Is(cause, context.DeadlineExceeded) {
		detail = "still frozen when the time to wait was over; try again after the thaw"
	}
	return &Refusal{Err: ErrFrozen, Cause: cause, FreezeID: id, Detail: detail}
}

// park is Gate.Park.
func (l *lobby) park(g *Gate, w Waiter, client any, resume func()) (func() bool, error) {
	l.mu.Lock()
	if !g.Closed() {
		// Opened between the refusal and now: straight to the client's worker,
		// behind those of the same client that are being released.
		l.nextID++
		h := &held{Blocked: g.blockedAt(l.nextID, w, l.clock.Now()), client: client, resume: resume, era: l.era - 1}
		l.mu.Unlock()
		l.rel.all(h) // a list of one
		return func() bool { return h.fate.CompareAndSwap(0, heldLeft) }, nil
	}
	h, err := l.newHeldLocked(g, w)
	if err != nil {
		l.mu.Unlock()
		return nil, err
	}
	h.client, h.resume = client, resume
	l.mu.Unlock()
	return func() bool { return l.leave(h) }, nil
}

// leave takes a caller out that goes by itself; false if it was released.
func (l *lobby) leave(h *held) bool {
	if !h.fate.CompareAndSwap(0, heldLeft) {
		return false
	}
	waited := l.clock.Now().Sub(h.Since)
	l.mu.Lock()
	if h.era == l.era { // else a thaw has taken the list: the releaser passes over us
		l.unlinkLocked(h)
		if waited > l.longest {
			l.longest = waited
		}
	}
	l.mu.Unlock()
	if h.freezeID != 0 {
		l.emit(released(h, waited, true))
	}
	return true
}

func (l *lobby) unlinkLocked(h *held) {
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		l.head = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		l.tail = h.prev
	}
	h.prev, h.next = nil, nil
	l.count--
}

func released(h *held, waited time.Duration, left bool) Event {
	return Event{Kind: EventReleased, Time: h.Since.Add(waited), Wait: &BlockedDone{
		Blocked: h.Blocked, FreezeID: h.freezeID, Waited: waited, Cancelled: left}}
}

// begin starts a freeze's account, before its first gate closes.
func (l *lobby) begin(freezeID uint64) {
	l.mu.Lock()
	l.freezeID, l.arrived, l.longest, l.opened = freezeID, 0, 0, make(chan struct{})
	l.mu.Unlock()
}

// whenOpen is Gate.Opened.
func (l *lobby) whenOpen(g *Gate) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !g.Closed() {
		return closedChan
	}
	return l.opened // set: begin comes before the first gate closes
}

// account is what the callers of the current freeze have suffered so far. O(1):
// the head of the list has waited longest of those still here.
func (l *lobby) account(freezeID uint64, now time.Time) (arrived uint64, longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.freezeID != freezeID {
		return 0, 0
	}
	return l.arrived, l.longestLocked(now)
}

func (l *lobby) longestLocked(now time.Time) time.Duration {
	if l.head != nil {
		if d := now.Sub(l.head.Since); d > l.longest {
			return d
		}
	}
	return l.longest
}

// letGo hands everybody to the releaser in O(1), after the gates have opened,
// and returns the freeze's account.
func (l *lobby) letGo(freezeID uint64, now time.Time) (arrived uint64, longest time.Duration) {
	l.mu.Lock()
	if l.freezeID == freezeID {
		arrived, longest = l.arrived, l.longestLocked(now)
		l.freezeID = 0
		close(l.opened)
	}
	list := l.head
	l.head, l.tail, l.count = nil, nil, 0
	l.era++
	l.mu.Unlock()
	if list != nil {
		l.rel.all(list)
	}
	return arrived, longest
}

// held counts the callers held now.
func (l *lobby) heldNow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// list copies up to limit held callers with an id above after, oldest first;
// limit <= 0 means all.
func (l *lobby) list(after uint64, limit int) []Blocked {
	l.mu.Lock()
	defer l.mu.Unlock()
	if limit <= 0 || limit > l.count {
		limit = l.count
	}
	out := make([]Blocked, 0, limit)
	for h := l.head; h != nil && len(out) < limit; h = h.next {
		if h.ID > after {
			out = append(out, h.Blocked)
		}
	}
	return out
}

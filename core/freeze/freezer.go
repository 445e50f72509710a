package freeze

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults and limits.
const (
	DefaultPatience   = 10 * time.Second
	DefaultMaxLease   = time.Hour
	DefaultIntentWait = 500 * time.Millisecond
	DefaultMaxBlocked = 100_000
	DefaultMaxQueued  = 1_000  // freezes waiting for their turn
	DefaultMaxHolds   = 1_000  // holds of one freeze
	DefaultMaxPast    = 10_000 // ended holds remembered
	MaxWait           = 24 * time.Hour

	maxHolder = 255 // bytes
	maxReason = 1024
	maxKey    = 255

	// abortGrace is how long after its patience a target that does not come
	// back keeps the gates closed.
	abortGrace = time.Second
)

// Config makes a Freezer. Zero values mean the defaults above.
type Config struct {
	Target Target // required
	Clock  Clock  // SystemClock

	// Observer is told every event, in order, outside the window and with no
	// lock held. It must not block for long and must not call the Freezer's
	// Freeze, Thaw or Renew.
	Observer func(Event)

	// Intent records that a freeze is about to happen, before a gate closes.
	// The freeze waits for it at most IntentWait (and half its patience); ctx
	// ends then. An error or lateness marks the freeze Degraded, no more.
	Intent     func(ctx context.Context, r Record) error
	IntentWait time.Duration

	MaxLease   time.Duration // longest a freeze may last, from frozen_at
	MaxBlocked int
	MaxQueued  int
	MaxHolds   int
	MaxPast    int
	NextID     uint64     // no freeze gets a smaller id
	Past       []PastHold // of earlier lives of the process, oldest first
}

// Freezer is the freeze state machine of one file system. See the package
// comment for states, invariants and locks.
type Freezer struct {
	cfg   Config   // immutable
	clock Clock    // immutable
	box   box      // the state; moved only through box.move
	lobby lobby    // has its own lock
	rel   releaser // has its own lock
	out   outbox   // has its own lock

	startWrite     *Gate // immutable
	startPageFault *Gate // immutable
	startInternal  *Gate // immutable

	freezes atomic.Uint64 // freezes that reached Complete

	mu     sync.Mutex
	nextID uint64               // guarded by mu
	cur    *freeze              // guarded by mu: being reached or standing; nil if neither
	queue  []*ticket            // guarded by mu: requests waiting for their turn; empty if cur is nil
	keys   map[string]*keyEntry // guarded by mu: idempotency keys
	book   book                 // guarded by mu: holds by name
	last   *freeze              // guarded by mu: the freeze that ended most recently
	since  time.Time            // guarded by mu: when the present state began
	timer  Timer                // guarded by mu: runs out at the earliest expiry; nil unless frozen
	closed bool                 // guarded by mu
	ending chan struct{}        // closed when Close begins
}

// freeze is one freeze from its request to its end.
type freeze struct {
	id     uint64                  // immutable
	req    Request                 // immutable
	token  string                  // immutable: of its first hold
	ctx    context.Context         // immutable: the requester's, cancelled too by patience, thaw and shutdown
	cancel context.CancelCauseFunc // immutable

	done    chan struct{} // closed before the gates open again
	settled chan struct{} // closed when it is Complete or rolled back

	rec      Record  // guarded by Freezer.mu; Holds is left empty, see record
	holds    []*hold // guarded by Freezer.mu: all it ever had
	standing int     // guarded by Freezer.mu: holds that have not ended
	failure  error   // guarded by Freezer.mu: why it was rolled back

	readers map[string]*reader // guarded by Freezer.mu: of its image, by name; nil once it has ended
}

// New makes a Freezer with all gates open.
func New(cfg Config) (*Freezer, error) {
	if cfg.Target == nil {
		return nil, errors.New("freeze: no target")
	}
	if cfg.Clock == nil {
		cfg.Clock = SystemClock{}
	}
	setDefault(&cfg.IntentWait, DefaultIntentWait)
	setDefault(&cfg.MaxLease, DefaultMaxLease)
	setDefault(&cfg.MaxBlocked, DefaultMaxBlocked)
	setDefault(&cfg.MaxQueued, DefaultMaxQueued)
	setDefault(&cfg.MaxHolds, DefaultMaxHolds)
	setDefault(&cfg.MaxPast, DefaultMaxPast)
	f := &Freezer{cfg: cfg, clock: cfg.Clock, ending: make(chan struct{}), nextID: max(cfg.NextID, 1), since: cfg.Clock.Now(),
		keys: make(map[string]*keyEntry), book: newBook(cfg.MaxPast)}
	f.out.observer = cfg.Observer
	f.rel.clock, f.rel.emit, f.rel.clients = f.clock, f.out.send, make(map[any]*workers)
	f.lobby.clock, f.lobby.max, f.lobby.rel, f.lobby.emit = f.clock, cfg.MaxBlocked, &f.rel, f.out.send
	f.startWrite = newGate("startWrite", Write, &f.box, &f.lobby)
	f.startPageFault = newGate("startPageFault", PageFault, &f.box, &f.lobby)
	f.startInternal = newGate("startInternal", FS, &f.box, &f.lobby)
	f.restore(cfg.Past)
	return f, nil
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// StartWrite is the gate of modifications.
func (f *Freezer) StartWrite() *Gate { return f.startWrite }

// StartPageFault is the gate of write faults.
func (f *Freezer) StartPageFault() *Gate { return f.startPageFault }

// StartInternal is the gate of the file system's own work.
func (f *Freezer) StartInternal() *Gate { return f.startInternal }

// Closing is closed when Close begins: whoever waits for something else before a
// gate or a freeze must wait no longer.
func (f *Freezer) Closing() <-chan struct{} { return f.ending }

// Level is who is held now.
func (f *Freezer) Level() Level { return f.box.level() }

// Status is a copy of where the machine stands.
type Status struct {
	Level     Level
	State     string // unfrozen, freezing, frozen, thawing
	Since     time.Time
	Freeze    *Record // being reached or standing
	Last      *Record // the one that ended most recently
	Queued    int     // freezes waiting for their turn
	Blocked   int     // callers held now
	HeldTotal uint64  // callers ever held
	Refused   uint64  // callers refused because too many were held
	Freezes   uint64  // freezes that reached Complete
	Dropped   uint64  // events the observer was too slow for
}

// Status tells the truth at this moment: a lease that is over is ended first.
func (f *Freezer) Status() Status {
	f.mu.Lock()
	f.expireLocked(f.clock.Now())
	s := Status{Level: f.box.level(), State: "unfrozen", Since: f.since, Queued: len(f.queue),
		Blocked: f.lobby.heldNow(), HeldTotal: f.lobby.total.Load(), Refused: f.lobby.refused.Load(),
		Freezes: f.freezes.Load(), Dropped: f.out.lost()}
	if f.cur != nil {
		s.State = string(f.cur.rec.State)
		r := f.recordLocked(f.cur)
		s.Freeze = &r
	} else if f.rel.busy() {
		s.State = "thawing"
	}
	if f.last != nil {
		r := f.recordLocked(f.last)
		s.Last = &r
	}
	f.mu.Unlock()
	f.out.flush()
	return s
}

// Blocked copies up to limit held callers with ids above after, oldest first;
// limit <= 0 means all.
func (f *Freezer) Blocked(after uint64, limit int) []Blocked { return f.lobby.list(after, limit) }

// BlockedCount is how many callers are held now.
func (f *Freezer) BlockedCount() int { return f.lobby.heldNow() }

// recordLocked copies a freeze for the outside.
func (f *Freezer) recordLocked(fr *freeze) Record {
	r := fr.rec
	if fr == f.cur {
		r.BlockedTotal, r.LongestWait = f.lobby.account(fr.id, f.clock.Now())
	}
	if r.State == StateFreezing { // the hold it will be
		r.Holds = []Hold{{ID: holdID(fr.id, 1), FreezeID: fr.id, Holder: fr.req.Holder, Reason: fr.req.Reason,
			Since: r.RequestedAt, Lease: fr.req.Lease, HasToken: fr.req.RequireToken, Key: fr.req.Key}}
		return r
	}
	r.Holds = make([]Hold, len(fr.holds))
	for i, h := range fr.holds {
		r.Holds[i] = h.Hold
		if (h.stands() || fr.standing == 0) && h.ExpiresAt.After(r.ExpiresAt) {
			r.ExpiresAt = h.ExpiresAt
		}
	}
	return r
}

// eventLocked queues an event about a freeze and, if it is about one, a hold.
func (f *Freezer) eventLocked(kind EventKind, fr *freeze, h *hold, now time.Time) {
	if f.cfg.Observer == nil {
		return
	}
	r := f.recordLocked(fr)
	e := Event{Kind: kind, Time: now, Freeze: &r}
	if h != nil {
		c := h.Hold
		e.Hold = &c
	}
	f.out.push(e)
}

// readsEventLocked queues an event about what a reader read of the image.
func (f *Freezer) readsEventLocked(fr *freeze, u ImageReads, now time.Time) {
	if f.cfg.Observer == nil {
		return
	}
	r := f.recordLocked(fr)
	f.out.push(Event{Kind: EventImageRead, Time: now, Freeze: &r, Reads: &u})
}

// Close ends what stands (as interrupted), rolls back what is being reached,
// refuses what is queued and waits until every held caller was let go; ctx
// bounds the wait. Afterwards the gates stay open and Freeze gives ErrClosed.
func (f *Freezer) Close(ctx context.Context) error {
	f.mu.Lock()
	if !f.closed {
		close(f.ending)
	}
	f.closed = true
	for _, t := range f.queue {
		close(t.turn) // t.fr is nil: the request sees that we are closed
	}
	f.queue = nil // before anything ends, so that nobody gets a turn
	now := f.clock.Now()
	f.expireLocked(now)
	fr := f.cur
	if fr != nil && fr.rec.State == StateFrozen {
		f.endAllLocked(fr, StateInterrupted, "", now)
	}
	if fr != nil {
		fr.cancel(ErrClosed)
	}
	f.mu.Unlock()
	f.out.flush()
	if fr != nil {
		select {
		case <-fr.settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case <-f.rel.idle():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

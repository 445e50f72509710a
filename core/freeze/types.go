package freeze

import (
	"context"
	"errors"
	"time"
)

// Level says who is held. Levels are reached in order; thaw and roll-back go
// straight back to Unfrozen.
type Level int32

const (
	Unfrozen  Level = iota // nobody is held
	Write                  // new modifications are held at startWrite
	PageFault              // and new write faults, at startPageFault
	FS                     // and internal work, at startInternal
	Complete               // all of that; the image is consistent and still
)

// String is the level's name, as REST and the ledger have it.
func (l Level) String() string {
	switch l {
	case Unfrozen:
		return "unfrozen"
	case Write:
		return "write"
	case PageFault:
		return "page_fault"
	case FS:
		return "fs"
	}
	return "complete"
}

// State is the life of one freeze.
type State string

const (
	StateFreezing    State = "freezing"
	StateFrozen      State = "frozen"
	StateThawed      State = "thawed"
	StateExpired     State = "expired"
	StateForced      State = "forced"
	StateInterrupted State = "interrupted"
	StateRolledBack  State = "rolled_back"
)

// Errors of Freeze, Thaw and Renew. They are wrapped in *Refusal, which carries
// what a script needs to decide what to do next.
var (
	ErrAlreadyFrozen = errors.New("already frozen")
	ErrTimedOut      = errors.New("freeze did not complete within its patience")
	ErrFreezeLost    = errors.New("the freeze was lost")
	ErrHoldEnded     = errors.New("the hold has ended by its own thaw") // a renewal; nothing was lost
	ErrNotTheHolder  = errors.New("not the holder")
	ErrUnknownHold   = errors.New("no such hold")
	ErrWhichHold     = errors.New("several holds stand: name one")
	ErrOverCap       = errors.New("lease would exceed the longest a freeze may last")
	ErrBadRequest    = errors.New("bad freeze request")
	ErrKeyReused     = errors.New("idempotency key was used with other parameters")
	ErrTooManyHeld   = errors.New("too many callers are held already")
	ErrFrozen        = errors.New("the file system is frozen") // a Try at a closed gate
	ErrClosed        = errors.New("shutting down")
)

// Refusal is an error of this package with the facts behind it.
type Refusal struct {
	Err        error // one of the sentinels above
	Cause      error // what led to it, if that is an error of its own (a context's, the target's)
	FreezeID   uint64
	Holders    []string
	Since      time.Time
	ExpiresAt  time.Time
	Hold       string   // the hold meant, if known
	HoldEnd    string   // how it ended: expired, forced, interrupted
	WaitingFor []string // whom a timed-out freeze waited for
	Parameter  string   // a bad request: what of it is bad, such as lease
	Detail     string   // one sentence that says what to do
}

func (r *Refusal) Error() string {
	if r.Detail != "" {
		return r.Err.Error() + ": " + r.Detail
	}
	return r.Err.Error()
}

// Unwrap gives errors.Is and errors.As both the sentinel and the cause.
func (r *Refusal) Unwrap() []error {
	if r.Cause != nil {
		return []error{r.Err, r.Cause}
	}
	return []error{r.Err}
}

// Flushed counts what the sync path made durable.
type Flushed struct {
	Inodes, Pages, Bytes uint64
}

// Add sums two counts.
func (f *Flushed) Add(g Flushed) { f.Inodes += g.Inodes; f.Pages += g.Pages; f.Bytes += g.Bytes }

// Target is what a freeze acts on: the file system's one sync path.
type Target interface {
	// Dirty is how many inodes and pages the sync path would walk now, counting
	// inodes whose last change is not durable yet. O(1).
	Dirty() (inodes, pages uint64)
	// SyncDirty runs the sync path over everything dirty: write-protect,
	// flush, fence, clear tags. With commit it also makes the metadata durable
	// (pre-clean); without, the freeze's own final commit does it.
	SyncDirty(ctx context.Context, o SyncOptions) (Flushed, error)
	// FinalCommit makes the metadata durable under a commit record that is
	// marked with the freeze id, and returns its generation.
	FinalCommit(ctx context.Context, freezeID uint64) (uint64, error)
}

// Collector is implemented by a target with a way in whose stores wait in a
// cache of its own (the page cache behind a mount) until they are brought in.
type Collector interface {
	// Collects says whether there is such a way in now.
	Collects() bool
	// Preclean begins to bring them in, with the gates open. It does not fail:
	// what it leaves is left to Collect.
	Preclean(ctx context.Context, freezeID uint64)
	// Collect brings them in at level Write: who modifies is held, and what the
	// cache writes back enters by startPageFault, which is closed next. ctx's
	// deadline is the end of the freeze's patience. Nil: all that the freeze
	// promises of it is in.
	Collect(ctx context.Context, freezeID uint64) error
}

// SyncOptions directs one pass of the sync path.
type SyncOptions struct {
	FreezeID uint64 // 0 outside a freeze
	Commit   bool
	InWindow bool // gates are closed: found inodes are reported as the window's
	WalkAll  bool // the rival strategy: visit every cached inode, clean or not
}

// Phase is one timed step on the way to Complete.
type Phase struct {
	Name     string // intent, preclean, write, collect, pagefault, sync, fs, complete
	Duration time.Duration
}

// Record is one freeze as callers and the ledger see it: a copy, immutable.
type Record struct {
	ID             uint64
	State          State
	Generation     uint64
	RequestedAt    time.Time
	FrozenAt       time.Time     // zero until Complete
	EndedAt        time.Time     // zero while it lasts
	ExpiresAt      time.Time     // latest expiry of its holds
	Patience       time.Duration // how long it may take to reach Complete
	Holds          []Hold
	Window         time.Duration // first caller can be held .. Complete
	Total          time.Duration // request .. Complete
	Phases         []Phase
	PrecleanPasses int
	Flushed        Flushed // pre-clean and window together
	WindowFlushed  Flushed
	Strategy       string            // dirty or walk-all
	Modes          map[string]string // way in -> how its mappings were stopped
	LongestWait    time.Duration
	BlockedTotal   uint64
	ImageReads     uint64
	WaitingFor     []string // rolled back: whom it waited for
	Error          string   // rolled back: why
	Degraded       bool     // its intent could not be recorded in time
}

// Hold is one caller's lease on a freeze: a copy, immutable.
type Hold struct {
	ID        string // "12.1"
	FreezeID  uint64
	Holder    string
	Reason    string
	Since     time.Time
	ExpiresAt time.Time
	Lease     time.Duration // as last asked for; 0: of an earlier life
	Renewals  int
	EndedAt   time.Time // zero while it stands
	End       string    // thawed, expired, forced, interrupted, rolled_back; "" while it stands
	EndedBy   string    // who forced it
	Token     string    // only in the answer to the request that made it
	HasToken  bool      // nobody ends or renews it without its token
	Key       string    // idempotency key of the request that made it, "" for none
}

// Request asks for a freeze.
type Request struct {
	Holder       string
	Reason       string
	Lease        time.Duration // 0 is refused; the api fills in the default
	Patience     time.Duration // 0: 10 s
	Wait         time.Duration // how long to queue behind a standing freeze
	Join         bool
	RequireToken bool
	Key          string // idempotency key, "" for none
	WalkAll      bool   // strategy walk-all, for the benchmark
}

// ThawRequest names the hold to end.
type ThawRequest struct {
	Hold   string
	Holder string
	Token  string
	Force  bool
	By     string // who asks, for the record of a forced thaw
}

// ThawResult is the truth about a hold that was kept.
type ThawResult struct {
	FreezeID uint64
	Hold     string
	Changed  bool // this call ended it
	Held     bool // it stood without a gap from frozen_at until it was ended
	Frozen   time.Duration
	Thawed   bool // nobody holds the file system any more
}

// RenewRequest prolongs a hold: expiry becomes now + Lease.
type RenewRequest struct {
	Hold   string
	Holder string
	Token  string
	Lease  time.Duration
}

// Waiter names a caller that is held at a gate.
type Waiter struct {
	Op      string // write, create, store, ...
	Ino     uint64
	Path    string // "" if not known cheaply
	WayIn   string // rest, attach, mount
	PID     int
	Comm    string
	UID     uint32
	Remote  string // address of a REST caller
	Mapping uint64 // mapping id of a parked store, else 0
	Page    uint64 // page of a parked store
}

// Blocked is a waiter with its place in time: a copy.
type Blocked struct {
	Waiter
	ID    uint64
	Gate  Level
	Since time.Time
}

// Event is what the machine tells its observer. Which fields besides Time and
// Kind are set depends on Kind.
type Event struct {
	Kind   EventKind
	Time   time.Time
	Freeze *Record      // every event but released: the freeze as it is now
	Hold   *Hold        // hold events, and reported
	Reads  *ImageReads  // image_read
	Wait   *BlockedDone // a caller was let go
}

// EventKind enumerates the machine's events.
type EventKind string

const (
	EventFreezing   EventKind = "freezing"
	EventFrozen     EventKind = "frozen"
	EventRolledBack EventKind = "rolled_back"
	EventThawed     EventKind = "thawed" // last hold gone, however it ended: see Freeze.State
	EventHoldBegin  EventKind = "hold_begin"
	EventHoldRenew  EventKind = "hold_renew"
	EventHoldEnd    EventKind = "hold_end"
	EventImageRead  EventKind = "image_read" // a reader read of its image
	EventReported   EventKind = "reported"   // it has ended, and somebody was told of all it lost
	EventReleased   EventKind = "released"   // a held caller went on, or left
)

// BlockedDone is a held caller's story, told when it ends.
type BlockedDone struct {
	Blocked
	FreezeID  uint64
	Waited    time.Duration
	Cancelled bool // it left before the thaw
}

// PastHold is a hold of an earlier life of the process, read from the ledger.
type PastHold struct {
	Hold
	State    State // of its freeze
	FrozenAt time.Time
	FreezeAt time.Time // requested_at of its freeze
	Reported bool      // a lost freeze somebody was told of
	Key      string    // idempotency key
}

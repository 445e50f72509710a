package store

import (
	"errors"
	"time"
)

// ErrNotFound is returned for a row that is not there.
var ErrNotFound = errors.New("not in the ledger")

// Health of the ledger.
type Health string

const (
	OK       Health = "ok"
	Degraded Health = "degraded" // events are kept in memory and written when it can
)

// Freeze is one freeze with its holds and phases. Zero times mean "not yet".
type Freeze struct {
	ID             int64
	State          string // as core/freeze.State
	Generation     int64
	RequestedAt    time.Time
	FrozenAt       time.Time
	EndedAt        time.Time
	ExpiresAt      time.Time
	PatienceUS     float64 // how long it was allowed to take; 0: not on record
	WindowUS       float64
	TotalUS        float64
	PrecleanPasses int
	Inodes         int64
	Pages          int64
	Bytes          int64
	WindowInodes   int64
	WindowPages    int64
	WindowBytes    int64
	Strategy       string
	Modes          map[string]string
	LongestWaitUS  float64
	BlockedTotal   int64
	ImageReads     int64
	WaitingFor     []string
	Error          string
	Degraded       bool
	Reported       bool // somebody was told that it was lost
	IdempotencyKey string
	Holds          []Hold
	Phases         []Phase
}

// Hold is one caller's lease. Tokens are stored hashed and never come back.
type Hold struct {
	Hold      string // "12.1"
	FreezeID  int64
	Holder    string
	Reason    string
	Since     time.Time
	ExpiresAt time.Time
	EndedAt   time.Time
	End       string
	Renewals  int
	HasToken  bool
	LeaseUS   float64 // as last asked for; 0: not on record
}

// Renewal is one moment a hold was prolonged (for the drawing of one freeze).
type Renewal struct {
	Hold      string
	At        time.Time
	ExpiresAt time.Time
}

// Phase is one timed step of a freeze, in order.
type Phase struct {
	Name       string
	DurationUS float64
}

// FoundInode is a dirty inode that a freeze or a large sync found.
type FoundInode struct {
	ID         int64 // row, for cursors
	FreezeID   int64 // 0: a sync
	SyncID     int64 // 0: a freeze
	Ino        int64
	Path       string
	Pages      int64
	Bytes      int64
	DirtySince time.Time
	FoundAt    time.Time
	Window     bool // found with the gates closed
}

// Blocked is a caller that was held during a freeze.
type Blocked struct {
	ID        int64
	FreezeID  int64
	Gate      string
	Op        string
	Ino       int64
	Path      string
	WayIn     string
	PID       int
	Comm      string
	UID       int64
	Remote    string
	Since     time.Time
	WaitedUS  float64
	Cancelled bool
}

// Sync is one recorded sync (large ones, or any that failed to be small).
type Sync struct {
	ID         int64
	At         time.Time
	Kind       string
	Ino        int64
	Generation int64
	Inodes     int64
	Pages      int64
	Bytes      int64
	DurationUS float64
}

// FsyncStats sums the syncs of one minute.
type FsyncStats struct {
	Minute  time.Time
	Count   int64
	Pages   int64
	Bytes   int64
	TotalUS float64
	MaxUS   float64
}

// Sample is the state of things at one moment, or over one step of a query (means, Blocked and Ops: see each).
type Sample struct {
	At          time.Time
	DirtyInodes int64
	DirtyPages  int64
	UsedBytes   int64
	FreeBytes   int64
	OpsTotal    int64 // since start of the process; rates are differences
	Blocked     int64 // largest of the step
	Frozen      bool  // at any moment of the step
}

// LedgerEvent is one row of the event log that /events replays.
type LedgerEvent struct {
	ID   int64
	At   time.Time
	Kind string // freezing, frozen, thawed, hold_begin, ..., image_read, sync, mapped, unmapped
	Data []byte // JSON
}

// ImageRead is what one reader read of a freeze's image in one stretch. The sums
// over a freeze are its requests and bytes, but for what no event told.
type ImageRead struct {
	Reader       string // uid:N or an address; "" in rows of the first ledgers
	Since, Until time.Time
	Requests     int64 // begun in the stretch; 0 when an earlier one went on
	Bytes        int64
}

// FreezeQuery selects freezes, newest first.
type FreezeQuery struct {
	State, Holder string
	Since         time.Time
	Before        int64 // id cursor: only smaller ids; 0: from the newest
	Limit         int
}

// InodeHistory is one time a freeze or sync found this inode dirty.
type InodeHistory = FoundInode

// PastHold is a hold of an earlier life of the process, with what the freeze
// machine needs to answer for it.
type PastHold struct {
	Hold
	State       string // of its freeze
	RequestedAt time.Time
	FrozenAt    time.Time
	Reported    bool   // somebody was told that its freeze was lost
	Key         string // idempotency key of its freeze
}

// Stats says how much the ledger holds and what it lost.
type Stats struct {
	Path      string
	FileBytes int64 // the database and its write-ahead log
	Freezes   int64
	Renewals  int64
	Blocked   int64
	Found     int64
	Syncs     int64
	Minutes   int64
	Samples   int64
	Events    int64
	// Waiting rows are in memory, not yet written.
	Waiting      int64
	WaitingBytes int64
	// Dropped rows were lost because the memory for their kind was full, or
	// because the ledger closed before it could write them. By kind.
	Dropped map[string]uint64
	// Rejected rows were refused by the database for what they said.
	Rejected    uint64
	Subscribers int
	// Cut subscribers were too slow and were told so.
	Cut uint64
}

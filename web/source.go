package web

import (
	"context"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/store"
)

// FS is what the dashboard uses of a mounted file system; *core.FS is one.
type FS interface {
	Status() core.Status
	// Blocked lists held callers, oldest first.
	Blocked() []freeze.Blocked
	Mappings() []core.MappingInfo
	Inodes(ctx context.Context, f core.InodeFilter) (items []core.InodeInfo, next string, err error)
	// InodeDetail returns core.ErrNotFound or core.ErrStale for a number that names nothing.
	InodeDetail(ctx context.Context, ino format.Ino) (core.InodeInfo, []core.Extent, []core.MappingInfo, error)

	// Freeze, Thaw and Renew refuse with a *freeze.Refusal.
	Freeze(ctx context.Context, r freeze.Request) (freeze.Record, freeze.Hold, error)
	Thaw(ctx context.Context, r freeze.ThawRequest) (freeze.ThawResult, error)
	Renew(ctx context.Context, r freeze.RenewRequest) (freeze.Record, freeze.Hold, error)
	// Abandon takes back a hold whose requester could not be told of it.
	Abandon(holdID string)
}

// Ledger is what the dashboard reads of the history. A page is shown without
// its history, and says so, when one of these fails.
type Ledger interface {
	Freezes(ctx context.Context, q store.FreezeQuery) ([]store.Freeze, error)
	// Freeze returns store.ErrNotFound for an id that names nothing.
	Freeze(ctx context.Context, id int64) (store.Freeze, error)
	FreezeInodes(ctx context.Context, id, after int64, limit int) ([]store.FoundInode, error)
	FreezeBlocked(ctx context.Context, id, after int64, limit int) ([]store.Blocked, error)
	FreezeRenewals(ctx context.Context, id int64) ([]store.Renewal, error)
	// ImageReads tells what was read of a freeze's image, as far as it was told in [from, to].
	ImageReads(ctx context.Context, id int64, from, to time.Time, limit int) ([]store.ImageRead, error)
	InodeHistory(ctx context.Context, ino, after int64, limit int) ([]store.InodeHistory, error)
	Samples(ctx context.Context, from, to time.Time, step time.Duration) ([]store.Sample, error)
	Health() (store.Health, string)
}

// AttachStatus says how programs can map files directly.
type AttachStatus struct {
	Socket  string // path of the Unix socket
	Clients int    // programs connected now
	Refused string // why mappings are refused, "" when they are not
}

// Mount is what the dashboard shows of the FUSE mount.
type Mount interface {
	Status() core.MountStatus
	// Mappings lists the files that may be mapped through it: of one inode, or all for 0.
	Mappings(ino format.Ino) []core.MappingInfo
}

// snapshot is everything of the present moment that one render shows (W1).
type snapshot struct {
	Now       time.Time
	Status    core.Status
	Blocked   []freeze.Blocked
	Health    store.Health
	HealthWhy string
	Attach    *AttachStatus     // nil: not offered
	Mount     *core.MountStatus // nil: there is none
	Version   string
	Server    string // host:port, for command lines
	LeaseMax  time.Duration
}

// snapshotTries bounds the reads that look for a status and a list of held
// callers that agree while callers come and go.
const snapshotTries = 3

// snap takes one snapshot. The status is read after the list of held callers
// and both again if they disagree; should they go on disagreeing, the list
// wins, because it is what the page shows line by line.
func (u *UI) snap() snapshot {
	s := snapshot{
		Now: u.o.Now(), Version: u.o.Version, Server: u.o.Server, LeaseMax: u.o.LeaseMax,
	}
	for range snapshotTries {
		s.Blocked = u.o.FS.Blocked()
		s.Status = u.o.FS.Status()
		if s.Status.Blocked == uint64(len(s.Blocked)) {
			break
		}
	}
	s.Status.Blocked = uint64(len(s.Blocked))
	if u.o.Ledger != nil {
		s.Health, s.HealthWhy = u.o.Ledger.Health()
	} else {
		s.Health, s.HealthWhy = store.Degraded, "no ledger is open"
	}
	if u.o.Attach != nil {
		s.Attach = u.o.Attach()
	}
	if u.o.Mount != nil {
		m := u.o.Mount.Status()
		s.Mount = &m
	}
	return s
}

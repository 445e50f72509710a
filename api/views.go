package api

import (
	"time"

	"permafrost/core/freeze"
	"permafrost/store"
)

// This file holds what freezes look like on the surface, whether they come from
// the machine (core/freeze) or from the ledger (store).

// FreezeView is one freeze. It is exported, like InodeView, because the schema of
// a struct that embeds it needs that.
type FreezeView struct {
	ID              uint64            `json:"id" doc:"Ascends, never used twice."`
	State           string            `json:"state" enum:"freezing,frozen,thawed,expired,forced,interrupted,rolled_back" doc:"Where it is in its life."`
	Generation      uint64            `json:"generation" doc:"The commit that holds its point in time; 0 until it is complete."`
	RequestedAt     stamp             `json:"requested_at" doc:"When it was asked for."`
	FrozenAt        stamp             `json:"frozen_at" doc:"When it became complete."`
	EndedAt         stamp             `json:"ended_at" doc:"When it ended."`
	ExpiresAt       stamp             `json:"expires_at" doc:"When the last of its leases ends."`
	Holds           []holdView        `json:"holds" doc:"The leases on it, oldest first."`
	PatienceUS      float64           `json:"patience_us" doc:"How long it was allowed to take until complete; 0 if that is not on record."`
	WindowUS        float64           `json:"window_us" doc:"From the first caller that could be held until complete: what writers feel."`
	TotalUS         float64           `json:"total_us" doc:"From the request until complete."`
	Phases          []phaseView       `json:"phases" doc:"Timed steps on the way to complete, in order."`
	PrecleanPasses  int               `json:"preclean_passes" doc:"Passes of the sync path before the gates closed."`
	Flushed         flushedView       `json:"flushed" doc:"What was made durable, before and in the window."`
	WindowFlushed   flushedView       `json:"window_flushed" doc:"What was made durable in the window."`
	Strategy        string            `json:"strategy" enum:"dirty,walk-all" doc:"How dirty pages were found."`
	Modes           map[string]string `json:"modes" doc:"How the mappings of each way in were stopped: protect (attach), collect or notify (mount), none. notify: the image is still and consistent, but stores through the mount may be missing that were made before others it has."`
	LongestWaitUS   float64           `json:"longest_wait_us" doc:"The longest that anybody was held."`
	BlockedTotal    uint64            `json:"blocked_total" doc:"Callers that were held."`
	ImageReadsTotal uint64            `json:"image_reads_total" doc:"Reads of its image that were begun."`
	WaitingFor      []string          `json:"waiting_for" doc:"Rolled back: whom it waited for."`
	Error           string            `json:"error" doc:"Rolled back: why."`
	Degraded        bool              `json:"degraded" doc:"Its intent could not be recorded in time."`
}

// holdView is one caller's lease.
type holdView struct {
	Hold          string  `json:"hold" example:"12.1" doc:"Names it to thaw and renew."`
	Holder        string  `json:"holder" doc:"Who asked for it."`
	Reason        string  `json:"reason" doc:"Why, in the holder's words."`
	Since         stamp   `json:"since" doc:"When it began."`
	ExpiresAt     stamp   `json:"expires_at" doc:"When its lease ends, or would have."`
	LeaseUS       float64 `json:"lease_us" doc:"The lease as last asked for; 0 if that is not on record."`
	EndedAt       stamp   `json:"ended_at" doc:"When it ended."`
	End           string  `json:"end" enum:",thawed,expired,forced,interrupted,rolled_back" doc:"How it ended; empty while it stands."`
	RenewalsTotal int     `json:"renewals_total" doc:"How often its lease was renewed."`
	RequireToken  bool    `json:"require_token" doc:"Only its token ends or renews it."`
}

// phaseView is one step.
type phaseView struct {
	Name       string  `json:"name" enum:"intent,preclean,write,collect,pagefault,sync,fs,complete" doc:"Which step."`
	DurationUS float64 `json:"duration_us" doc:"How long it took."`
}

// flushedView counts what the sync path made durable.
type flushedView struct {
	Inodes uint64 `json:"inodes" doc:"Inodes."`
	Pages  uint64 `json:"pages" doc:"Pages of 4096 bytes."`
	Bytes  uint64 `json:"bytes" doc:"Bytes."`
}

// viewRecord shows a freeze of the machine.
func viewRecord(r *freeze.Record) *FreezeView {
	v := &FreezeView{
		ID: r.ID, State: string(r.State), Generation: r.Generation,
		RequestedAt: stamp(r.RequestedAt), FrozenAt: stamp(r.FrozenAt), EndedAt: stamp(r.EndedAt), ExpiresAt: stamp(r.ExpiresAt),
		Holds: []holdView{}, PatienceUS: microseconds(r.Patience), WindowUS: microseconds(r.Window), TotalUS: microseconds(r.Total), Phases: []phaseView{},
		PrecleanPasses: r.PrecleanPasses, Flushed: flushedView(r.Flushed), WindowFlushed: flushedView(r.WindowFlushed),
		Strategy: strategy(r.Strategy), Modes: modes(r.Modes), LongestWaitUS: microseconds(r.LongestWait), BlockedTotal: r.BlockedTotal,
		ImageReadsTotal: r.ImageReads, WaitingFor: nonNil(r.WaitingFor), Error: r.Error, Degraded: r.Degraded,
	}
	for i := range r.Holds {
		h := &r.Holds[i]
		v.Holds = append(v.Holds, holdView{Hold: h.ID, Holder: h.Holder, Reason: h.Reason, Since: stamp(h.Since),
			ExpiresAt: stamp(h.ExpiresAt), LeaseUS: microseconds(h.Lease), EndedAt: stamp(h.EndedAt), End: h.End, RenewalsTotal: h.Renewals, RequireToken: h.HasToken})
	}
	for _, p := range r.Phases {
		v.Phases = append(v.Phases, phaseView{Name: p.Name, DurationUS: microseconds(p.Duration)})
	}
	return v
}

// viewRow shows a freeze of the ledger.
func viewRow(r *store.Freeze) *FreezeView {
	v := &FreezeView{
		ID: uint64(r.ID), State: r.State, Generation: uint64(r.Generation),
		RequestedAt: stamp(r.RequestedAt), FrozenAt: stamp(r.FrozenAt), EndedAt: stamp(r.EndedAt), ExpiresAt: stamp(r.ExpiresAt),
		Holds: []holdView{}, PatienceUS: r.PatienceUS, WindowUS: r.WindowUS, TotalUS: r.TotalUS, Phases: []phaseView{},
		PrecleanPasses:  r.PrecleanPasses,
		Flushed:         flushedView{uint64(r.Inodes), uint64(r.Pages), uint64(r.Bytes)},
		WindowFlushed:   flushedView{uint64(r.WindowInodes), uint64(r.WindowPages), uint64(r.WindowBytes)},
		Strategy:        strategy(r.Strategy),
		Modes:           modes(r.Modes),
		LongestWaitUS:   r.LongestWaitUS,
		BlockedTotal:    uint64(r.BlockedTotal),
		ImageReadsTotal: uint64(r.ImageReads),
		WaitingFor:      nonNil(r.WaitingFor), Error: r.Error, Degraded: r.Degraded,
	}
	for i := range r.Holds {
		h := &r.Holds[i]
		v.Holds = append(v.Holds, holdView{Hold: h.Hold, Holder: h.Holder, Reason: h.Reason, Since: stamp(h.Since),
			ExpiresAt: stamp(h.ExpiresAt), LeaseUS: h.LeaseUS, EndedAt: stamp(h.EndedAt), End: h.End, RenewalsTotal: h.Renewals, RequireToken: h.HasToken})
	}
	for _, p := range r.Phases {
		v.Phases = append(v.Phases, phaseView{Name: p.Name, DurationUS: p.DurationUS})
	}
	return v
}

func strategy(s string) string {
	if s == "" {
		return "dirty"
	}
	return s
}

func modes(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// blockedView is a caller that is held, or was.
type blockedView struct {
	ID        uint64  `json:"id" doc:"Ascends in the order of arrival."`
	Gate      string  `json:"gate" enum:"write,page_fault,fs" doc:"The gate it waits at."`
	Op        string  `json:"op" doc:"What it wants to do."`
	Ino       uint64  `json:"ino" doc:"Inode; 0 if it has none yet."`
	Path      string  `json:"path" doc:"Path, if known."`
	WayIn     string  `json:"way_in" doc:"rest, attach, mount."`
	PID       int     `json:"pid" doc:"Process; 0 for a caller from elsewhere."`
	Command   string  `json:"command" doc:"The process's name when it connected."`
	UID       int64   `json:"uid" doc:"The process's user; -1 for a caller from elsewhere."`
	Remote    string  `json:"remote" doc:"Address of a caller over HTTP."`
	Page      uint64  `json:"page" doc:"Page of a held store."`
	Since     stamp   `json:"since" doc:"When it arrived."`
	WaitedUS  float64 `json:"waited_us" doc:"How long it has been held, or was."`
	Cancelled bool    `json:"cancelled" doc:"It left before the thaw."`
}

// viewBlocked shows a caller that is held now.
func viewBlocked(b *freeze.Blocked, now time.Time) blockedView {
	uid := int64(b.UID)
	if b.PID == 0 {
		uid = -1
	}
	return blockedView{ID: b.ID, Gate: b.Gate.String(), Op: b.Op, Ino: b.Ino, Path: utf8Path(b.Path), WayIn: b.WayIn, PID: b.PID,
		Command: b.Comm, UID: uid, Remote: b.Remote, Page: b.Page, Since: stamp(b.Since), WaitedUS: microseconds(now.Sub(b.Since))}
}

// viewBlockedRow shows a caller that was held during a freeze.
func viewBlockedRow(b *store.Blocked) blockedView {
	uid := b.UID
	if b.PID == 0 {
		uid = -1
	}
	return blockedView{ID: uint64(b.ID), Gate: b.Gate, Op: b.Op, Ino: uint64(b.Ino), Path: utf8Path(b.Path), WayIn: b.WayIn, PID: b.PID,
		Command: b.Comm, UID: uid, Remote: b.Remote, Since: stamp(b.Since), WaitedUS: b.WaitedUS, Cancelled: b.Cancelled}
}

// foundView is a dirty inode that a freeze or a large sync found.
type foundView struct {
	Ino        uint64 `json:"ino" doc:"Inode."`
	Path       string `json:"path" doc:"Its path then."`
	Href       string `json:"href" doc:"Where its bytes are served, if it still has that path."`
	Pages      uint64 `json:"pages" doc:"Dirty pages flushed."`
	Bytes      uint64 `json:"bytes" doc:"Bytes flushed."`
	DirtySince stamp  `json:"dirty_since" doc:"First store of its dirty period."`
	FoundAt    stamp  `json:"found_at" doc:"When it was found."`
	FreezeID   uint64 `json:"freeze_id" doc:"The freeze that found it; 0 for a sync."`
	SyncID     uint64 `json:"sync_id" doc:"The sync that found it; 0 for a freeze."`
	InWindow   bool   `json:"in_window" doc:"Found with the gates closed."`
}

func viewFound(f *store.FoundInode) foundView {
	return foundView{Ino: uint64(f.Ino), Path: utf8Path(f.Path), Href: fileHref(f.Path), Pages: uint64(f.Pages), Bytes: uint64(f.Bytes),
		DirtySince: stamp(f.DirtySince), FoundAt: stamp(f.FoundAt), FreezeID: uint64(f.FreezeID), SyncID: uint64(f.SyncID), InWindow: f.Window}
}

// pageRange is a run of pages of a file, in pages of 4096 bytes.
type pageRange struct {
	First uint64 `json:"first" doc:"First page."`
	Count uint64 `json:"count" doc:"Number of pages."`
}

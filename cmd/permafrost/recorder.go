package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"permafrost/core"
	"permafrost/core/freeze"
	"permafrost/store"
)

// recorder turns core's events into rows of the ledger. It is the only
// consumer of the event stream and never waits for the disk: the ledger queues.
type recorder struct {
	fs      *core.FS
	ledger  *store.Ledger
	log     *slog.Logger
	quit    chan struct{} // closed by stop
	done    chan struct{} // closed when the last event is recorded
	once    sync.Once     // guards the closing of quit
	minute  store.FsyncStats
	dropped uint64 // events missed so far, by their sequence numbers
	seq     uint64 // of the newest event seen

	degraded  bool   // it was said that nothing can be changed; owned by run
	badBlocks uint64 // of how many it was said that they are bad; owned by run
}

const (
	// samplePeriod is how often the state of things is sampled.
	samplePeriod = 2 * time.Second
	// largeSyncPages is from how many pages on a sync has a row of its own.
	largeSyncPages = 256
)

func startRecorder(fs *core.FS, ledger *store.Ledger, log *slog.Logger) *recorder {
	r := &recorder{fs: fs, ledger: ledger, log: log, quit: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

// stop returns when everything emitted so far is with the ledger. The file
// system must have ended: nothing is emitted any more.
func (r *recorder) stop() {
	r.once.Do(func() { close(r.quit) })
	<-r.done
}

func (r *recorder) run() {
	defer close(r.done)
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	events := r.fs.Events()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				r.flushMinute(time.Time{})
				return
			}
			r.record(e)
		case now := <-tick.C:
			r.sample(now)
			r.flushMinute(now)
		case <-r.quit:
			for {
				select {
				case e, ok := <-events:
					if ok {
						r.record(e)
						continue
					}
				default:
				}
				r.flushMinute(time.Time{})
				return
			}
		}
	}
}

// tellDamage logs what has become bad since the last look.
func (r *recorder) tellDamage(st *core.Status) {
	if st.Degraded != nil && !r.degraded {
		r.degraded = true
		r.log.Error("the file system is read-only from now on", "cause", st.Degraded)
	}
	if n := st.BadBlocks + st.BadBlocksPending; n > r.badBlocks {
		r.log.Warn("the image has bad blocks: permafrost badblocks names the files", "blocks", n)
		r.badBlocks = n
	}
}

func (r *recorder) sample(now time.Time) {
	st := r.fs.Status()
	r.tellDamage(&st)
	var ops uint64
	for _, n := range st.OpsTotal {
		ops += n
	}
	r.ledger.RecordSample(store.Sample{At: now, DirtyInodes: int64(st.InodesDirty), DirtyPages: int64(st.DirtyPages),
		UsedBytes: int64(st.Space.Used), FreeBytes: int64(st.Space.Free), OpsTotal: int64(ops), Blocked: int64(st.Blocked),
		Frozen: st.Level == freeze.Complete})
}

// flushMinute records the fsync statistics of a minute that is over; the zero
// time means now is the end.
func (r *recorder) flushMinute(now time.Time) {
	// Not After: a clock that was set back would keep the minute back for as long.
	if r.minute.Count > 0 && (now.IsZero() || !now.Truncate(time.Minute).Equal(r.minute.Minute)) {
		r.ledger.RecordFsyncStats(r.minute)
		r.minute = store.FsyncStats{}
	}
}

func (r *recorder) record(e core.Event) {
	if r.seq != 0 && e.Seq > r.seq+1 {
		r.dropped += e.Seq - r.seq - 1
		r.log.Warn("events were dropped: history has a gap", "missing", e.Seq-r.seq-1)
	}
	r.seq = e.Seq
	switch {
	case e.Freeze != nil:
		r.freezeEvent(e.Freeze)
	case e.Sync != nil:
		r.syncEvent(e.Time, e.Sync)
	case e.Found != nil:
		r.foundEvent(e.Time, e.Found)
	case e.Map != nil:
		kind := "mapped"
		if e.Map.Ended {
			kind = "unmapped"
		}
		r.event(e.Time, kind, map[string]any{"mapping": e.Map.ID, "ino": e.Map.Ino, "path": e.Map.Path, "way_in": e.Map.WayIn,
			"pid": e.Map.Process.PID, "command": e.Map.Process.Comm, "writable": e.Map.Writable})
	}
}

func (r *recorder) freezeEvent(e *freeze.Event) {
	if e.Wait != nil {
		r.ledger.RecordBlocked([]store.Blocked{blockedRow(e.Wait)})
		return
	}
	if e.Kind == freeze.EventReported {
		if e.Freeze != nil {
			r.ledger.MarkReported(int64(e.Freeze.ID))
		}
		return
	}
	data := map[string]any{}
	if e.Freeze != nil {
		r.ledger.RecordFreeze(freezeRow(*e.Freeze))
		data["freeze_id"], data["state"] = e.Freeze.ID, e.Freeze.State
	}
	if h := e.Hold; h != nil {
		data["hold"], data["holder"], data["expires_at"] = h.ID, h.Holder, h.ExpiresAt.UTC()
		if h.End != "" {
			data["end"] = h.End
		}
		if e.Kind == freeze.EventHoldRenew {
			r.ledger.RecordRenewal(store.Renewal{Hold: h.ID, At: e.Time, ExpiresAt: h.ExpiresAt})
		}
	}
	if u := e.Reads; u != nil {
		data["reader"], data["requests"], data["bytes"] = u.Reader, u.Requests, u.Bytes
		data["since"], data["until"] = u.Since.UTC(), u.Until.UTC()
	}
	r.event(e.Time, string(e.Kind), data)
}

func (r *recorder) syncEvent(at time.Time, e *core.SyncEvent) {
	us := float64(e.Duration.Nanoseconds()) / 1e3
	minute := at.Truncate(time.Minute)
	if minute != r.minute.Minute {
		r.flushMinute(time.Time{})
		r.minute.Minute = minute
	}
	r.minute.Count++
	r.minute.Pages += int64(e.Pages)
	r.minute.Bytes += int64(e.Bytes)
	r.minute.TotalUS += us
	r.minute.MaxUS = max(r.minute.MaxUS, us)
	if e.Pages >= largeSyncPages && e.FreezeID == 0 {
		r.ledger.RecordSync(store.Sync{At: at, Kind: e.Kind, Ino: int64(e.Ino), Generation: int64(e.Generation), Inodes: int64(e.Inodes),
			Pages: int64(e.Pages), Bytes: int64(e.Bytes), DurationUS: us}, nil)
		r.event(at, "sync", map[string]any{"kind": e.Kind, "ino": e.Ino, "inodes": e.Inodes, "pages": e.Pages, "duration_us": us})
	}
}

func (r *recorder) foundEvent(at time.Time, e *core.FoundEvent) {
	rows := make([]store.FoundInode, 0, len(e.Inodes))
	var pages, bytes int64
	for _, f := range e.Inodes {
		rows = append(rows, store.FoundInode{FreezeID: int64(e.FreezeID), Ino: int64(f.Ino), Path: f.Path, Pages: int64(f.Pages),
			Bytes: int64(f.Bytes), DirtySince: f.DirtySince, FoundAt: at, Window: e.Window})
		pages, bytes = pages+int64(f.Pages), bytes+int64(f.Bytes)
	}
	if e.FreezeID != 0 {
		r.ledger.RecordFound(rows)
		return
	}
	r.ledger.RecordSync(store.Sync{At: at, Kind: "sync", Inodes: int64(len(rows)), Pages: pages, Bytes: bytes}, rows)
}

func (r *recorder) event(at time.Time, kind string, data map[string]any) {
	text, err := json.Marshal(data)
	if err == nil {
		err = r.ledger.RecordEvent(store.LedgerEvent{At: at, Kind: kind, Data: text})
	}
	if err != nil {
		r.log.Error("an event could not be recorded", "kind", kind, "error", err)
	}
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func freezeRow(f freeze.Record) store.Freeze {
	row := store.Freeze{ID: int64(f.ID), State: string(f.State), Generation: int64(f.Generation), RequestedAt: f.RequestedAt, FrozenAt: f.FrozenAt,
		EndedAt: f.EndedAt, ExpiresAt: f.ExpiresAt, WindowUS: us(f.Window), TotalUS: us(f.Total), PrecleanPasses: f.PrecleanPasses,
		Inodes: int64(f.Flushed.Inodes), Pages: int64(f.Flushed.Pages), Bytes: int64(f.Flushed.Bytes),
		WindowInodes: int64(f.WindowFlushed.Inodes), WindowPages: int64(f.WindowFlushed.Pages), WindowBytes: int64(f.WindowFlushed.Bytes),
		PatienceUS: us(f.Patience), Strategy: f.Strategy, Modes: f.Modes, LongestWaitUS: us(f.LongestWait), BlockedTotal: int64(f.BlockedTotal), ImageReads: int64(f.ImageReads),
		WaitingFor: f.WaitingFor, Error: f.Error, Degraded: f.Degraded}
	for _, h := range f.Holds {
		if row.IdempotencyKey == "" {
			row.IdempotencyKey = h.Key
		}
		row.Holds = append(row.Holds, store.Hold{Hold: h.ID, FreezeID: int64(h.FreezeID), Holder: h.Holder, Reason: h.Reason, Since: h.Since,
			ExpiresAt: h.ExpiresAt, EndedAt: h.EndedAt, End: h.End, Renewals: h.Renewals, HasToken: h.HasToken,
			LeaseUS: us(h.Lease)})
	}
	for _, p := range f.Phases {
		row.Phases = append(row.Phases, store.Phase{Name: p.Name, DurationUS: us(p.Duration)})
	}
	return row
}

func blockedRow(b *freeze.BlockedDone) store.Blocked {
	return store.Blocked{FreezeID: int64(b.FreezeID), Gate: b.Gate.String(), Op: b.Op, Ino: int64(b.Ino), Path: b.Path, WayIn: b.WayIn,
		PID: b.PID, Comm: b.Comm, UID: int64(b.UID), Remote: b.Remote, Since: b.Since, WaitedUS: us(b.Waited), Cancelled: b.Cancelled}
}

// recordIntent is core's hook before the first gate closes; core bounds ctx.
func (a *appliance) recordIntent(ctx context.Context, f freeze.Record) error {
	return a.ledger.Intent(ctx, freezeRow(f))
}

// pastFreezes reads what an earlier life of this process left: holds whose
// thaw must be answered truthfully, and the first freeze id that is free.
func (a *appliance) pastFreezes(ctx context.Context) ([]freeze.PastHold, uint64) {
	const newest = 10_000
	newestID, err := a.ledger.MaxFreezeID(ctx)
	if err != nil {
		a.log.Error("the ledger does not tell the newest freeze id; the image's own counts", "error", err)
	}
	rows, err := a.ledger.PastHolds(ctx, newest)
	if err != nil {
		a.log.Error("the ledger does not tell past freezes: a thaw of one is answered 404", "error", err)
	}
	var past []freeze.PastHold
	for _, h := range rows {
		past = append(past, freeze.PastHold{
			Hold: freeze.Hold{ID: h.Hold.Hold, FreezeID: uint64(h.FreezeID), Holder: h.Holder, Reason: h.Reason, Since: h.Since,
				ExpiresAt: h.ExpiresAt, Renewals: h.Renewals, EndedAt: h.EndedAt, End: h.End, HasToken: h.HasToken},
			State: freeze.State(h.State), FrozenAt: h.FrozenAt, FreezeAt: h.RequestedAt, Reported: h.Reported, Key: h.Key,
		})
	}
	return past, uint64(newestID) + 1
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"permafrost/store/internal/ledgerdb"
)

// table numbers the tables whose rows are counted.
type table int

const (
	tableFreezes table = iota
	tableRenewals
	tableBlocked
	tableFound
	tableSyncs
	tableMinutes
	tableSamples
	tableEvents
	tables
)

// txn is one open transaction of the writer.
type txn struct {
	*ledgerdb.Queries
	delta [tables]int64 // rows added less rows deleted
}

// record is something the writer can write. write may run again after a
// transaction that failed.
type record interface {
	write(ctx context.Context, t *txn) error
}

type (
	freezeRec   struct{ f Freeze } // immutable: readers share it
	reportedRec struct{ id int64 }
	renewalRec  struct{ r Renewal }
	blockedRec  struct{ rows []Blocked }
	foundRec    struct {
		rows []FoundInode
		sync *syncRef // nil: the rows name their freeze
	}
	syncRec struct {
		s   Sync
		ref *syncRef
	}
	minuteRec struct{ s FsyncStats }
	sampleRec struct{ s Sample }
	eventRec  struct {
		e         LedgerEvent // its ID is set by write; owned by the writer once taken
		published bool        // guarded by queue.mu, the writer's once taken
	}
)

// syncRef carries the row id of a sync to the inodes it found. Owned by the
// writer goroutine.
type syncRef struct{ id int64 }

func (r *freezeRec) write(ctx context.Context, t *txn) error {
	f := &r.f
	switch at, err := t.FreezeRequestedAt(ctx, f.ID); {
	case errors.Is(err, sql.ErrNoRows):
		t.delta[tableFreezes]++
	case err != nil:
		return err
	case at != nanos(f.RequestedAt): // L4
		return fmt.Errorf("%w: id %d was requested at %s in the ledger, now %s", ErrConflict, f.ID,
			instant(at).Format(time.RFC3339Nano), f.RequestedAt.UTC().Format(time.RFC3339Nano))
	}
	p, err := freezeParams(f)
	if err != nil {
		return err
	}
	if err := t.PutFreeze(ctx, p); err != nil {
		return err
	}
	for i := range f.Holds {
		h := &f.Holds[i]
		if err := t.PutHold(ctx, ledgerdb.PutHoldParams{
			Hold: h.Hold, FreezeID: f.ID, Holder: h.Holder, Reason: h.Reason,
			Since: nanos(h.Since), ExpiresAt: nullNanos(h.ExpiresAt), EndedAt: nullNanos(h.EndedAt),
			Ending: h.End, Renewals: int64(h.Renewals), HasToken: bit(h.HasToken),
			LeaseUs: finite(h.LeaseUS),
		}); err != nil {
			return err
		}
	}
	for i, ph := range f.Phases {
		if err := t.PutPhase(ctx, ledgerdb.PutPhaseParams{
			FreezeID: f.ID, N: int64(i), Name: ph.Name, DurationUs: finite(ph.DurationUS),
		}); err != nil {
			return err
		}
	}
	return nil
}

func (r *reportedRec) write(ctx context.Context, t *txn) error {
	n, err := t.SetReported(ctx, r.id)
	if err == nil && n == 0 {
		return fmt.Errorf("mark freeze %d reported: %w", r.id, errOrphan)
	}
	return err
}

func (r *renewalRec) write(ctx context.Context, t *txn) error {
	n, err := t.AddRenewal(ctx, ledgerdb.AddRenewalParams{
		Hold: r.r.Hold, At: nanos(r.r.At), ExpiresAt: nanos(r.r.ExpiresAt),
	})
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("renewal of hold %s: %w", r.r.Hold, errOrphan)
	}
	t.delta[tableRenewals]++
	return t.ProlongHold(ctx, ledgerdb.ProlongHoldParams{Hold: r.r.Hold, ExpiresAt: nullNanos(r.r.ExpiresAt)})
}

func (r *blockedRec) write(ctx context.Context, t *txn) error {
	for i := range r.rows {
		b := &r.rows[i]
		if err := t.AddBlocked(ctx, ledgerdb.AddBlockedParams{
			FreezeID: b.FreezeID, Gate: b.Gate, Op: b.Op, Ino: b.Ino, Path: b.Path, WayIn: b.WayIn,
			Pid: int64(b.PID), Comm: b.Comm, Uid: b.UID, Remote: b.Remote,
			Since: nanos(b.Since), WaitedUs: finite(b.WaitedUS), Cancelled: bit(b.Cancelled),
		}); err != nil {
			return err
		}
		t.delta[tableBlocked]++
	}
	return nil
}

func (r *foundRec) write(ctx context.Context, t *txn) error {
	for i := range r.rows {
		f := &r.rows[i]
		freeze, sync := f.FreezeID, int64(0)
		if r.sync != nil {
			freeze, sync = 0, r.sync.id
		}
		if freeze == 0 && sync == 0 {
			return fmt.Errorf("inode %d found dirty: %w", f.Ino, errOrphan)
		}
		if err := t.AddFound(ctx, ledgerdb.AddFoundParams{
			FreezeID: sql.NullInt64{Int64: freeze, Valid: freeze != 0},
			SyncID:   sql.NullInt64{Int64: sync, Valid: sync != 0},
			Ino:      f.Ino, Path: f.Path, Pages: f.Pages, Bytes: f.Bytes,
			DirtySince: nullNanos(f.DirtySince), FoundAt: nanos(f.FoundAt), InWindow: bit(f.Window),
		}); err != nil {
			return err
		}
		t.delta[tableFound]++
	}
	return nil
}

func (r *syncRec) write(ctx context.Context, t *txn) error {
	s := &r.s
	id, err := t.AddSync(ctx, ledgerdb.AddSyncParams{
		At: nanos(s.At), Kind: s.Kind, Ino: s.Ino, Generation: s.Generation,
		Inodes: s.Inodes, Pages: s.Pages, Bytes: s.Bytes, DurationUs: finite(s.DurationUS),
	})
	if err != nil {
		return err
	}
	r.ref.id = id
	t.delta[tableSyncs]++
	return nil
}

func (r *minuteRec) write(ctx context.Context, t *txn) error {
	s := &r.s
	minute := nanos(s.Minute.Truncate(time.Minute))
	n, err := t.BumpMinute(ctx, ledgerdb.BumpMinuteParams{
		Minute: minute, Syncs: s.Count, Pages: s.Pages, Bytes: s.Bytes,
		TotalUs: finite(s.TotalUS), MaxUs: finite(s.MaxUS),
	})
	if err != nil || n > 0 {
		return err
	}
	t.delta[tableMinutes]++
	return t.AddMinute(ctx, ledgerdb.AddMinuteParams{
		Minute: minute, Syncs: s.Count, Pages: s.Pages, Bytes: s.Bytes,
		TotalUs: finite(s.TotalUS), MaxUs: finite(s.MaxUS),
	})
}

func (r *sampleRec) write(ctx context.Context, t *txn) error {
	s := &r.s
	n, err := t.AddSample(ctx, ledgerdb.AddSampleParams{
		At: nanos(s.At), DirtyInodes: s.DirtyInodes, DirtyPages: s.DirtyPages,
		UsedBytes: s.UsedBytes, FreeBytes: s.FreeBytes, OpsTotal: s.OpsTotal,
		Blocked: s.Blocked, Frozen: bit(s.Frozen),
	})
	t.delta[tableSamples] += n
	return err
}

func (r *eventRec) write(ctx context.Context, t *txn) error {
	id, err := t.AddEvent(ctx, ledgerdb.AddEventParams{
		At: nanos(r.e.At), Kind: r.e.Kind, Data: string(r.e.Data),
	})
	if err != nil {
		return err
	}
	r.e.ID = id
	t.delta[tableEvents]++
	return nil
}

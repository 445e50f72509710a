package store

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"permafrost/store/internal/ledgerdb"
)

// nanos is t as the ledger keeps it: nanoseconds since 1970 UTC, 0 for the zero
// time. Times that do not fit are moved to the nearest that does.
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Year() < 1678:
		return math.MinInt64
	case t.Year() > 2261:
		return math.MaxInt64
	}
	return t.UnixNano()
}

func nullNanos(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: nanos(t), Valid: !t.IsZero()}
}

func instant(ns int64) time.Time { return time.Unix(0, ns).UTC() }

func nullInstant(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return instant(n.Int64)
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// finite keeps the database free of NaN, which SQLite would store as NULL.
func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}

func freezeParams(f *Freeze) (ledgerdb.PutFreezeParams, error) {
	modes, waiting := []byte("{}"), []byte("[]")
	var err error
	if len(f.Modes) > 0 {
		if modes, err = json.Marshal(f.Modes); err != nil {
			return ledgerdb.PutFreezeParams{}, fmt.Errorf("%w: modes of freeze %d: %w", ErrBadRecord, f.ID, err)
		}
	}
	if len(f.WaitingFor) > 0 {
		if waiting, err = json.Marshal(f.WaitingFor); err != nil {
			return ledgerdb.PutFreezeParams{}, fmt.Errorf("%w: waiting_for of freeze %d: %w", ErrBadRecord, f.ID, err)
		}
	}
	return ledgerdb.PutFreezeParams{
		ID: f.ID, State: f.State, Generation: f.Generation,
		RequestedAt: nanos(f.RequestedAt), FrozenAt: nullNanos(f.FrozenAt),
		EndedAt: nullNanos(f.EndedAt), ExpiresAt: nullNanos(f.ExpiresAt),
		WindowUs: finite(f.WindowUS), TotalUs: finite(f.TotalUS),
		PrecleanPasses: int64(f.PrecleanPasses),
		Inodes:         f.Inodes, Pages: f.Pages, Bytes: f.Bytes,
		WindowInodes: f.WindowInodes, WindowPages: f.WindowPages, WindowBytes: f.WindowBytes,
		Strategy: f.Strategy, Modes: string(modes), LongestWaitUs: finite(f.LongestWaitUS),
		BlockedTotal: f.BlockedTotal, ImageReads: f.ImageReads,
		WaitingFor: string(waiting), Error: f.Error,
		Degraded: bit(f.Degraded), Reported: bit(f.Reported), IdempotencyKey: f.IdempotencyKey,
		PatienceUs: finite(f.PatienceUS),
	}, nil
}

func freezeOf(r ledgerdb.Freeze) (Freeze, error) {
	f := Freeze{
		ID: r.ID, State: r.State, Generation: r.Generation,
		RequestedAt: instant(r.RequestedAt), FrozenAt: nullInstant(r.FrozenAt),
		EndedAt: nullInstant(r.EndedAt), ExpiresAt: nullInstant(r.ExpiresAt),
		WindowUS: r.WindowUs, TotalUS: r.TotalUs, PrecleanPasses: int(r.PrecleanPasses),
		Inodes: r.Inodes, Pages: r.Pages, Bytes: r.Bytes,
		WindowInodes: r.WindowInodes, WindowPages: r.WindowPages, WindowBytes: r.WindowBytes,
		Strategy: r.Strategy, LongestWaitUS: r.LongestWaitUs,
		BlockedTotal: r.BlockedTotal, ImageReads: r.ImageReads, Error: r.Error,
		Degraded: r.Degraded != 0, Reported: r.Reported != 0, IdempotencyKey: r.IdempotencyKey,
		PatienceUS: r.PatienceUs,
	}
	if r.Modes != "{}" {
		if err := json.Unmarshal([]byte(r.Modes), &f.Modes); err != nil {
			return f, fmt.Errorf("modes of freeze %d: %w", r.ID, err)
		}
	}
	if r.WaitingFor != "[]" {
		if err := json.Unmarshal([]byte(r.WaitingFor), &f.WaitingFor); err != nil {
			return f, fmt.Errorf("waiting_for of freeze %d: %w", r.ID, err)
		}
	}
	return f, nil
}

func holdOf(r ledgerdb.Hold) Hold {
	return Hold{
		Hold: r.Hold, FreezeID: r.FreezeID, Holder: r.Holder, Reason: r.Reason,
		Since: instant(r.Since), ExpiresAt: nullInstant(r.ExpiresAt), EndedAt: nullInstant(r.EndedAt),
		End: r.Ending, Renewals: int(r.Renewals), HasToken: r.HasToken != 0,
		LeaseUS: r.LeaseUs,
	}
}

func foundOf(r ledgerdb.FoundInode) FoundInode {
	return FoundInode{
		ID: r.ID, FreezeID: r.FreezeID.Int64, SyncID: r.SyncID.Int64, Ino: r.Ino, Path: r.Path,
		Pages: r.Pages, Bytes: r.Bytes, DirtySince: nullInstant(r.DirtySince),
		FoundAt: instant(r.FoundAt), Window: r.InWindow != 0,
	}
}

func blockedOf(r ledgerdb.Blocked) Blocked {
	return Blocked{
		ID: r.ID, FreezeID: r.FreezeID, Gate: r.Gate, Op: r.Op, Ino: r.Ino, Path: r.Path,
		WayIn: r.WayIn, PID: int(r.Pid), Comm: r.Comm, UID: r.Uid, Remote: r.Remote,
		Since: instant(r.Since), WaitedUS: r.WaitedUs, Cancelled: r.Cancelled != 0,
	}
}

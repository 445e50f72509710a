package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"time"

	"permafrost/store/internal/ledgerdb"
)

// open takes the lock file, opens the database and makes it the ledger's. What
// was open before stays in use for reading until it succeeds.
func (w *writer) open(ctx context.Context) error {
	l := w.l
	if w.lock == nil {
		// A foreign file gets no lock file beside it. Where there is one, it
		// comes first: the file may be in use, and probe opens it (see connect).
		if _, err := os.Stat(lockName(l.path)); err != nil {
			if _, err := probe(l.path); err != nil {
				return err
			}
		}
		lock, err := takeLock(l.path)
		if err != nil {
			return err
		}
		w.lock = lock
	}
	err := w.openLocked(ctx)
	if err != nil && w.conn == nil {
		w.lock.release()
		w.lock = nil
	}
	return err
}

func (w *writer) openLocked(ctx context.Context) error {
	l := w.l
	c, err := connect(ctx, l.path, l.migrations, w.conn)
	if err != nil {
		return err
	}
	counts, err := c.rq.CountRows(ctx)
	if err != nil {
		c.close()
		return explain(l.path, err)
	}
	last, err := c.rq.LastEvent(ctx)
	if err != nil {
		c.close()
		return explain(l.path, err)
	}
	if !w.settled {
		interrupted, err := interrupt(ctx, c, l.o.Now())
		if err != nil {
			c.close()
			return explain(l.path, err)
		}
		w.settled = true
		l.mu.Lock()
		l.interrupted = interrupted
		l.mu.Unlock()
		for _, f := range interrupted {
			l.o.Logger.Warn("ledger: a freeze was interrupted by the end of the process that held it", "freeze", f.ID)
		}
	}
	l.mu.Lock()
	l.counts = [tables]int64{
		tableFreezes: counts.Freezes, tableRenewals: counts.Renewals, tableBlocked: counts.Blocked,
		tableFound: counts.Found, tableSyncs: counts.Syncs, tableMinutes: counts.Minutes,
		tableSamples: counts.Samples, tableEvents: counts.Events,
	}
	l.mu.Unlock()
	l.hub.startFrom(last)
	w.conn, w.reopen, w.due = c, false, true
	return l.setConn(c)
}

// interrupt closes the freezes and holds that an earlier life left open (L8)
// and returns them.
func interrupt(ctx context.Context, c *conn, now time.Time) ([]Freeze, error) {
	open, err := c.rq.OpenFreezes(ctx)
	if err != nil || len(open) == 0 {
		return nil, err
	}
	seen, err := lastSign(ctx, c.rq)
	if err != nil {
		return nil, err
	}
	tx, err := c.w.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	t := ledgerdb.New(tx)
	for _, f := range open {
		end := sql.NullInt64{Int64: deathOf(f, seen, nanos(now)), Valid: true}
		if err := t.InterruptFreeze(ctx, ledgerdb.InterruptFreezeParams{ID: f.ID, EndedAt: end}); err != nil {
			return nil, err
		}
		if err := t.InterruptHolds(ctx, ledgerdb.InterruptHoldsParams{FreezeID: f.ID, EndedAt: end}); err != nil {
			return nil, err
		}
	}
	if err := tx.Commit(); err != nil {
		return nil, err
	}
	out := make([]Freeze, 0, len(open))
	for _, f := range open {
		full, err := loadFreeze(ctx, c.rq, f.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, full)
	}
	return out, nil
}

// lastSign is when the earlier life last wrote something, in nanoseconds, or 0.
func lastSign(ctx context.Context, q *ledgerdb.Queries) (int64, error) {
	var newest int64
	for _, ask := range []func(context.Context) (int64, error){q.LastEventAt, q.LastSampleAt} {
		at, err := ask(ctx)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
		newest = max(newest, at)
	}
	return newest, nil
}

// deathOf is the best that is known of when an interrupted freeze ended: the
// last sign of life of its process, but not after its lease or now, nor before
// the freeze's own last step.
func deathOf(f ledgerdb.Freeze, seen, now int64) int64 {
	end := seen
	if f.ExpiresAt.Valid {
		end = min(end, f.ExpiresAt.Int64)
	}
	return max(min(end, now), f.RequestedAt, f.FrozenAt.Int64)
}

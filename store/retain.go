package store

import (
	"context"
	"database/sql"
	"math"

	"permafrost/store/internal/ledgerdb"
)

// retainRows is how many rows one step of retention deletes or looks at.
const retainRows = 256

// aged is a row with the time that its age counts from, in nanoseconds.
type aged struct {
	ID int64
	At int64
}

// rule is the retention of one table. expel deletes one row with what refers to
// it, at most about retainRows rows at once; it returns false while more of
// them are left.
type rule struct {
	table  table
	keep   int64
	oldest func(*ledgerdb.Queries, context.Context, int64) ([]aged, error)
	expel  func(context.Context, *txn, int64) (bool, error)
}

// rules of all tables: those that rows refer to come last.
func (r Retention) rules() []rule {
	type q = *ledgerdb.Queries
	return []rule{
		{tableRenewals, r.Renewals, agedBy(q.OldestRenewals), alone(tableRenewals, q.DeleteRenewal)},
		{tableBlocked, r.Blocked, agedBy(q.OldestBlocked), alone(tableBlocked, q.DeleteBlocked)},
		{tableFound, r.Found, agedBy(q.OldestFound), alone(tableFound, q.DeleteFound)},
		{tableMinutes, r.Minutes, agedBy(q.OldestMinutes), alone(tableMinutes, q.DeleteMinute)},
		{tableSamples, r.Samples, agedBy(q.OldestSamples), alone(tableSamples, q.DeleteSample)},
		{tableEvents, r.Events, agedBy(q.OldestEvents), alone(tableEvents, q.DeleteEvent)},
		{tableSyncs, r.Syncs, agedBy(q.OldestSyncs), expelSync},
		{tableFreezes, r.Freezes, oldestEnded, expelFreeze},
	}
}

func agedBy[R ~struct {
	ID int64
	At int64
}](list func(*ledgerdb.Queries, context.Context, int64) ([]R, error)) func(*ledgerdb.Queries, context.Context, int64) ([]aged, error) {
	return func(q *ledgerdb.Queries, ctx context.Context, n int64) ([]aged, error) {
		rows, err := list(q, ctx, n)
		out := make([]aged, len(rows))
		for i, r := range rows {
			out[i] = aged(r)
		}
		return out, err
	}
}

// oldestEnded leaves out what is open (L9).
func oldestEnded(q *ledgerdb.Queries, ctx context.Context, n int64) ([]aged, error) {
	rows, err := q.OldestFreezes(ctx, n)
	var out []aged
	for _, r := range rows {
		if !isOpen(r.State) {
			out = append(out, aged{r.ID, r.RequestedAt})
		}
	}
	return out, err
}

func alone(tb table, del func(*ledgerdb.Queries, context.Context, int64) (int64, error)) func(context.Context, *txn, int64) (bool, error) {
	return func(ctx context.Context, t *txn, id int64) (bool, error) {
		n, err := del(t.Queries, ctx, id)
		t.delta[tb] -= n
		return true, err
	}
}

func expelSync(ctx context.Context, t *txn, id int64) (bool, error) {
	n, err := t.DeleteFoundOfSync(ctx, ledgerdb.DeleteFoundOfSyncParams{
		SyncID: sql.NullInt64{Int64: id, Valid: true}, Limit: retainRows})
	t.delta[tableFound] -= n
	if err != nil || n == retainRows {
		return false, err
	}
	n, err = t.DeleteSync(ctx, id)
	t.delta[tableSyncs] -= n
	return true, err
}

func expelFreeze(ctx context.Context, t *txn, id int64) (bool, error) {
	for _, child := range []struct {
		table table
		del   func() (int64, error)
	}{
		{tableFound, func() (int64, error) {
			return t.DeleteFoundOfFreeze(ctx, ledgerdb.DeleteFoundOfFreezeParams{
				FreezeID: sql.NullInt64{Int64: id, Valid: true}, Limit: retainRows})
		}},
		{tableBlocked, func() (int64, error) {
			return t.DeleteBlockedOf(ctx, ledgerdb.DeleteBlockedOfParams{FreezeID: id, Limit: retainRows})
		}},
		{tableRenewals, func() (int64, error) {
			return t.DeleteRenewalsOf(ctx, ledgerdb.DeleteRenewalsOfParams{FreezeID: id, Limit: retainRows})
		}},
	} {
		n, err := child.del()
		t.delta[child.table] -= n
		if err != nil || n == retainRows {
			return false, err
		}
	}
	if err := t.DeletePhasesOf(ctx, id); err != nil {
		return false, err
	}
	if err := t.DeleteHoldsOf(ctx, id); err != nil {
		return false, err
	}
	n, err := t.DeleteFreeze(ctx, id)
	t.delta[tableFreezes] -= n
	return true, err
}

// retainStep deletes one small lot of rows that are too old or too many (L9).
// It returns false when there is nothing to do until the next tick.
func (w *writer) retainStep() bool {
	if !w.due {
		return false
	}
	for _, r := range w.l.o.Retention.rules() {
		more, err := w.retainTable(r)
		if err != nil {
			w.due = false
			if rejected(err) {
				w.l.o.Logger.Error("ledger: retention could not delete", "err", err)
			} else {
				w.degrade(err)
			}
			return false
		}
		if more {
			return true
		}
	}
	w.due = false
	return false
}

func (w *writer) retainTable(r rule) (more bool, err error) {
	l := w.l
	cutoff, excess := int64(math.MinInt64), int64(0)
	if age := l.o.Retention.MaxAge; age > 0 {
		cutoff = nanos(l.o.Now().Add(-age))
	}
	if r.keep > 0 {
		l.mu.Lock()
		excess = l.counts[r.table] - r.keep
		l.mu.Unlock()
	}
	rows, err := r.oldest(w.conn.rq, l.life, retainRows)
	if err != nil {
		return false, explain(l.path, err)
	}
	var old []int64
	for i, row := range rows {
		if int64(i) < excess || row.At < cutoff {
			old = append(old, row.ID)
		}
	}
	if len(old) == 0 {
		return false, nil
	}
	err = w.inTx(func(ctx context.Context, t *txn) error {
		for _, id := range old {
			whole, err := r.expel(ctx, t, id)
			if err != nil || !whole || deleted(&t.delta) >= retainRows {
				return err
			}
		}
		return nil
	})
	return true, err
}

// deleted is how many rows the transaction removed.
func deleted(delta *[tables]int64) (n int64) {
	for _, d := range delta {
		n -= d
	}
	return n
}

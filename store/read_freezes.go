package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"permafrost/store/internal/ledgerdb"
)

// Freezes are the freezes that q selects, newest first, with holds and phases,
// those that are not written yet among them. While the ledger is not open it
// gives only those, without an error: Health tells.
func (l *Ledger) Freezes(ctx context.Context, q FreezeQuery) ([]Freeze, error) {
	// Memory first: what is written in between is then found in the database.
	waiting := l.q.unwritten()
	rows, err := read(ctx, l, "freezes", func(c *conn) ([]Freeze, error) {
		rows, err := listFreezes(ctx, c.rq, q)
		if err != nil {
			return nil, err
		}
		return withChildren(ctx, c.rq, rows)
	})
	if err != nil && !errors.Is(err, ErrUnavailable) {
		return nil, err
	}
	if len(waiting) == 0 {
		return rows, nil
	}
	rows = slices.DeleteFunc(rows, func(f Freeze) bool { _, ok := waiting[f.ID]; return ok })
	for _, f := range waiting {
		if selects(q, f) {
			rows = append(rows, cloneFreeze(f))
		}
	}
	slices.SortFunc(rows, func(a, b Freeze) int { return cmp.Compare(b.ID, a.ID) })
	return rows[:min(len(rows), clampLimit(q.Limit))], nil
}

// listFreezes asks the query that has an index for the filters given.
func listFreezes(ctx context.Context, db *ledgerdb.Queries, q FreezeQuery) ([]ledgerdb.Freeze, error) {
	before, since, limit := beforeID(q.Before), nanos(q.Since), int64(clampLimit(q.Limit))
	switch {
	case q.Holder != "" && q.State != "":
		return db.ListFreezesByHolderAndState(ctx, ledgerdb.ListFreezesByHolderAndStateParams{
			Holder: q.Holder, State: q.State, Before: before, Since: since, Max: limit})
	case q.Holder != "":
		return db.ListFreezesByHolder(ctx, ledgerdb.ListFreezesByHolderParams{
			Holder: q.Holder, Before: before, Since: since, Max: limit})
	case q.State != "":
		return db.ListFreezesByState(ctx, ledgerdb.ListFreezesByStateParams{
			State: q.State, Before: before, Since: since, Max: limit})
	}
	return db.ListFreezes(ctx, ledgerdb.ListFreezesParams{Before: before, Since: since, Max: limit})
}

// selects applies q's filters to a freeze in memory.
func selects(q FreezeQuery, f Freeze) bool {
	return (q.State == "" || q.State == f.State) &&
		(q.Holder == "" || slices.ContainsFunc(f.Holds, func(h Hold) bool { return h.Holder == q.Holder })) &&
		(q.Since.IsZero() || !f.RequestedAt.Before(q.Since)) &&
		(q.Before <= 0 || f.ID < q.Before)
}

// withChildren adds holds and phases, with two queries for all.
func withChildren(ctx context.Context, db *ledgerdb.Queries, rows []ledgerdb.Freeze) ([]Freeze, error) {
	out := make([]Freeze, len(rows))
	ids := make([]int64, len(rows))
	at := make(map[int64]*Freeze, len(rows))
	for i, r := range rows {
		f, err := freezeOf(r)
		if err != nil {
			return nil, err
		}
		out[i], ids[i] = f, r.ID
		at[r.ID] = &out[i]
	}
	if len(ids) == 0 {
		return out, nil
	}
	holds, err := db.HoldsOf(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, h := range holds {
		f := at[h.FreezeID]
		f.Holds = append(f.Holds, holdOf(h))
	}
	phases, err := db.PhasesOf(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, p := range phases {
		f := at[p.FreezeID]
		f.Phases = append(f.Phases, Phase{Name: p.Name, DurationUS: p.DurationUs})
	}
	return out, nil
}

func loadFreeze(ctx context.Context, db *ledgerdb.Queries, id int64) (Freeze, error) {
	row, err := db.GetFreeze(ctx, id)
	if err != nil {
		return Freeze{}, err
	}
	fs, err := withChildren(ctx, db, []ledgerdb.Freeze{row})
	if err != nil {
		return Freeze{}, err
	}
	return fs[0], nil
}

// Freeze is one freeze with holds and phases, written or not. Errors:
// ErrNotFound, ErrUnavailable.
func (l *Ledger) Freeze(ctx context.Context, id int64) (Freeze, error) {
	if f, ok := l.q.unwritten()[id]; ok {
		return cloneFreeze(f), nil
	}
	return read(ctx, l, fmt.Sprintf("freeze %d", id), func(c *conn) (Freeze, error) {
		return loadFreeze(ctx, c.rq, id)
	})
}

// PastHolds are the newest n holds in the database, newest first: what the
// freeze machine has to answer for after a restart.
func (l *Ledger) PastHolds(ctx context.Context, n int) ([]PastHold, error) {
	return read(ctx, l, "past holds", func(c *conn) ([]PastHold, error) {
		rows, err := c.rq.LastHolds(ctx, int64(max(n, 0)))
		return each(rows, err, func(r ledgerdb.LastHoldsRow) PastHold {
			return PastHold{
				Hold: holdOf(r.Hold), State: r.State, RequestedAt: instant(r.RequestedAt),
				FrozenAt: nullInstant(r.FrozenAt), Reported: r.Reported != 0, Key: r.IdempotencyKey,
			}
		})
	})
}

// MaxFreezeID is the largest freeze id known, 0 if there is none. A new freeze
// takes one above it.
func (l *Ledger) MaxFreezeID(ctx context.Context) (int64, error) {
	var newest int64
	for id := range l.q.unwritten() {
		newest = max(newest, id)
	}
	id, err := read(ctx, l, "the largest freeze id", func(c *conn) (int64, error) { return c.rq.MaxFreezeID(ctx) })
	return max(newest, id), err
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"

	"permafrost/store/internal/ledgerdb"
)

// Lists give defaultLimit rows when none is asked for, and maxLimit at most.
const (
	defaultLimit = 100
	maxLimit     = 1001 // a page of a thousand, and whether there is a next one
)

func clampLimit(n int) int {
	switch {
	case n <= 0:
		return defaultLimit
	case n > maxLimit:
		return maxLimit
	}
	return n
}

// beforeID turns the cursor of a newest-first list into a bound.
func beforeID(id int64) int64 {
	if id <= 0 {
		return math.MaxInt64
	}
	return id
}

// read runs f on the read-only pool. Errors: ErrUnavailable, ErrNotFound, ctx's,
// or SQLite's explained; all say what was read.
func read[T any](ctx context.Context, l *Ledger, what string, f func(*conn) (T, error)) (T, error) {
	l.connMu.RLock()
	defer l.connMu.RUnlock()
	var v T
	if l.conn == nil {
		return v, fmt.Errorf("read %s: %w", what, l.errNotOpen())
	}
	v, err := f(l.conn)
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, sql.ErrNoRows):
		return v, fmt.Errorf("%s: %w", what, ErrNotFound)
	case ctx.Err() != nil:
		return v, fmt.Errorf("read %s: %w", what, ctx.Err())
	}
	return v, fmt.Errorf("read %s: %w", what, explain(l.path, err))
}

// each converts the rows of a query.
func each[R, V any](rows []R, err error, f func(R) V) ([]V, error) {
	if err != nil {
		return nil, err
	}
	out := make([]V, len(rows))
	for i, r := range rows {
		out[i] = f(r)
	}
	return out, nil
}

// FreezeInodes are the dirty inodes a freeze found, in the order they were
// found. The cursor is the last ID seen, 0 to begin.
func (l *Ledger) FreezeInodes(ctx context.Context, freezeID, after int64, limit int) ([]FoundInode, error) {
	return read(ctx, l, fmt.Sprintf("inodes of freeze %d", freezeID), func(c *conn) ([]FoundInode, error) {
		rows, err := c.rq.FoundOfFreeze(ctx, ledgerdb.FoundOfFreezeParams{
			FreezeID: sql.NullInt64{Int64: freezeID, Valid: true}, After: after, Max: int64(clampLimit(limit))})
		return each(rows, err, foundOf)
	})
}

// SyncInodes are the dirty inodes a sync found, as FreezeInodes.
func (l *Ledger) SyncInodes(ctx context.Context, syncID, after int64, limit int) ([]FoundInode, error) {
	return read(ctx, l, fmt.Sprintf("inodes of sync %d", syncID), func(c *conn) ([]FoundInode, error) {
		rows, err := c.rq.FoundOfSync(ctx, ledgerdb.FoundOfSyncParams{
			SyncID: sql.NullInt64{Int64: syncID, Valid: true}, After: after, Max: int64(clampLimit(limit))})
		return each(rows, err, foundOf)
	})
}

// InodeHistory is when freezes and syncs found this inode dirty, newest first.
// The cursor is the last ID seen (smaller ones follow), 0 to begin.
func (l *Ledger) InodeHistory(ctx context.Context, ino, after int64, limit int) ([]InodeHistory, error) {
	return read(ctx, l, fmt.Sprintf("history of inode %d", ino), func(c *conn) ([]InodeHistory, error) {
		rows, err := c.rq.FoundOfInode(ctx, ledgerdb.FoundOfInodeParams{
			Ino: ino, Before: beforeID(after), Max: int64(clampLimit(limit))})
		return each(rows, err, foundOf)
	})
}

// FreezeBlocked are the callers a freeze held, in the order they were let go.
// The cursor is the last ID seen, 0 to begin.
func (l *Ledger) FreezeBlocked(ctx context.Context, freezeID, after int64, limit int) ([]Blocked, error) {
	return read(ctx, l, fmt.Sprintf("callers held by freeze %d", freezeID), func(c *conn) ([]Blocked, error) {
		rows, err := c.rq.BlockedOf(ctx, ledgerdb.BlockedOfParams{
			FreezeID: freezeID, After: after, Max: int64(clampLimit(limit))})
		return each(rows, err, blockedOf)
	})
}

// FreezeRenewals are the last thousand renewals of a freeze's holds, oldest
// first.
func (l *Ledger) FreezeRenewals(ctx context.Context, freezeID int64) ([]Renewal, error) {
	return read(ctx, l, fmt.Sprintf("renewals of freeze %d", freezeID), func(c *conn) ([]Renewal, error) {
		rows, err := c.rq.RenewalsOf(ctx, ledgerdb.RenewalsOfParams{FreezeID: freezeID, Max: maxLimit})
		out := make([]Renewal, len(rows))
		for i, r := range rows {
			out[len(rows)-1-i] = Renewal{Hold: r.Hold, At: instant(r.At), ExpiresAt: instant(r.ExpiresAt)}
		}
		return out, err
	})
}

// Syncs are the recorded syncs, newest first. The cursor is the last ID seen
// (smaller ones follow), 0 to begin.
func (l *Ledger) Syncs(ctx context.Context, before int64, limit int) ([]Sync, error) {
	return read(ctx, l, "syncs", func(c *conn) ([]Sync, error) {
		rows, err := c.rq.ListSyncs(ctx, ledgerdb.ListSyncsParams{Before: beforeID(before), Max: int64(clampLimit(limit))})
		return each(rows, err, func(r ledgerdb.Sync) Sync {
			return Sync{ID: r.ID, At: instant(r.At), Kind: r.Kind, Ino: r.Ino, Generation: r.Generation,
				Inodes: r.Inodes, Pages: r.Pages, Bytes: r.Bytes, DurationUS: r.DurationUs}
		})
	})
}

// EventsAfter are the events with an id above this one, oldest first. Events
// that retention deleted are not there: a listener that was away for longer
// begins with the oldest kept.
func (l *Ledger) EventsAfter(ctx context.Context, id int64, limit int) ([]LedgerEvent, error) {
	return read(ctx, l, fmt.Sprintf("events after %d", id), func(c *conn) ([]LedgerEvent, error) {
		rows, err := c.rq.EventsAfter(ctx, ledgerdb.EventsAfterParams{After: id, Max: int64(clampLimit(limit))})
		return each(rows, err, func(r ledgerdb.Event) LedgerEvent {
			return LedgerEvent{ID: r.ID, At: instant(r.At), Kind: r.Kind, Data: []byte(r.Data)}
		})
	})
}

// LastEventID is the id of the newest event, 0 if there is none.
func (l *Ledger) LastEventID(ctx context.Context) (int64, error) {
	return read(ctx, l, "the newest event", func(c *conn) (int64, error) { return c.rq.LastEvent(ctx) })
}

package store

import (
	"context"
	"fmt"
)

// intent is a freeze whose caller waits until it is durable.
type intent struct {
	f    Freeze     // immutable
	done chan error // capacity 1
}

// Intent commits the freeze's first record durably before it returns nil. It
// goes before everything that waits (L2). If ctx ends first, or the ledger
// cannot write, it returns an error at once; the record then waits in memory
// like any other, and the freeze may go on without it. Errors: ctx's,
// ErrConflict (the id is taken: choose one above MaxFreezeID), ErrBadRecord,
// ErrClosed, or why the ledger is Degraded.
func (l *Ledger) Intent(ctx context.Context, f Freeze) error {
	if f.ID <= 0 || f.State == "" || f.RequestedAt.IsZero() {
		return fmt.Errorf("%w: a freeze needs an id above 0, a state and the time of its request (id %d, state %q)",
			ErrBadRecord, f.ID, f.State)
	}
	in := &intent{f: cloneFreeze(f), done: make(chan error, 1)}
	if !l.q.pushIntent(in) {
		return fmt.Errorf("intent of freeze %d: %w", f.ID, ErrClosed)
	}
	l.enqueued()
	select {
	case err := <-in.done:
		if err != nil {
			return fmt.Errorf("intent of freeze %d: %w", f.ID, err)
		}
		return nil
	case <-ctx.Done():
		l.q.abandonIntent(in)
		return fmt.Errorf("intent of freeze %d is not in the ledger yet: %w", f.ID, ctx.Err())
	}
}

// tryIntent writes an intent by itself. One that fails for reasons of the
// database becomes an ordinary record.
func (w *writer) tryIntent(in *intent) error {
	if w.conn == nil || w.reopen {
		w.l.q.keepIntent(in)
		return w.l.errNotOpen()
	}
	err := w.inTx((&freezeRec{in.f}).write)
	if err == nil || rejected(err) {
		return err
	}
	w.l.q.keepIntent(in)
	if w.healthy() {
		w.degrade(err)
	}
	return err
}

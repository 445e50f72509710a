package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"permafrost/store/internal/ledgerdb"
)

// batchRows bounds one transaction (L2).
const batchRows = 256

// writer is the one goroutine that changes the database. Its fields are its own.
type writer struct {
	l       *Ledger
	lock    *lockFile // nil until the ledger was opened once
	conn    *conn     // the same as l.conn, which only the writer sets
	reopen  bool      // the connection is not to be trusted
	settled bool      // rows of earlier lives were closed (L8)
	backoff time.Duration
	retry   *time.Timer // runs while Degraded
	retain  *time.Ticker
	due     bool // retention has work
}

// run serves until Close: intents first, then records, then retention.
func (w *writer) run() {
	defer close(w.l.ended)
	w.retain = time.NewTicker(w.l.o.RetainEvery)
	defer w.retain.Stop()
	for {
		select {
		case <-w.l.closed:
			w.finish()
			return
		default:
		}
		if in := w.l.q.nextIntent(); in != nil {
			in.done <- w.tryIntent(in)
			continue
		}
		if w.healthy() {
			if w.writeBatch() || w.retainStep() {
				continue
			}
		}
		w.wait()
	}
}

func (w *writer) healthy() bool { return w.retry == nil }

// wait sleeps until there is something to do. While Degraded only an intent,
// the next attempt or Close count.
func (w *writer) wait() {
	var again <-chan time.Time
	if w.retry != nil {
		again = w.retry.C
	}
	select {
	case <-w.l.wake:
	case <-again:
		w.attempt()
	case <-w.retain.C:
		w.due = true
	case <-w.l.closed:
	}
}

// attempt is one try to leave Degraded: open if need be, then the oldest batch.
func (w *writer) attempt() {
	if w.conn == nil || w.reopen {
		if err := w.open(w.l.life); err != nil {
			w.degrade(err)
			return
		}
	}
	if err := w.write(w.l.q.take(batchRows)); err != nil {
		w.degrade(err)
		return
	}
	w.recover()
}

// writeBatch writes what is oldest. It returns false if nothing waited.
func (w *writer) writeBatch() bool {
	batch := w.l.q.take(batchRows)
	if len(batch) == 0 {
		return false
	}
	if err := w.write(batch); err != nil {
		w.degrade(err)
	}
	return true
}

// write commits the batch, or as much of it as the database takes. An error
// leaves the rest of it as the queue's batch.
func (w *writer) write(batch []*op) error {
	if len(batch) == 0 {
		return nil
	}
	err := w.commit(batch)
	if err == nil {
		w.l.q.settle(len(batch))
		return nil
	}
	if !rejected(err) {
		return err
	}
	// One of them is to blame: find it by writing each alone (L7).
	for len(batch) > 0 {
		o := batch[0]
		if err := w.commit(batch[:1]); err != nil {
			if !rejected(err) {
				return err
			}
			w.reject(o, err)
		}
		batch = w.l.q.settle(1)
	}
	return nil
}

func (w *writer) reject(o *op, err error) {
	w.l.mu.Lock()
	w.l.rejected += uint64(o.rows)
	w.l.mu.Unlock()
	w.l.o.Logger.Error("ledger: rows refused and dropped", "kind", o.kind.String(), "rows", o.rows, "err", err)
}

// commit writes ops in one durable transaction and publishes their events.
func (w *writer) commit(ops []*op) error {
	err := w.inTx(func(ctx context.Context, t *txn) error {
		for _, o := range ops {
			if err := o.rec.write(ctx, t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, o := range ops {
		if rec, ok := o.rec.(*eventRec); ok && !rec.published {
			w.l.hub.publish(rec.e)
		}
	}
	return nil
}

// inTx runs f in a transaction. It uses a context without end: an interrupted
// commit would leave it unknown whether the rows are there.
func (w *writer) inTx(f func(context.Context, *txn) error) error {
	l := w.l
	if err := w.sameFile(); err != nil {
		return err
	}
	l.mu.Lock()
	l.writingFrom = l.o.Now()
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.writingFrom = time.Time{}
		l.mu.Unlock()
	}()
	ctx := context.Background()
	tx, err := w.conn.w.BeginTx(ctx, nil)
	if err != nil {
		return explain(l.path, err)
	}
	t := &txn{Queries: ledgerdb.New(tx)}
	if err := f(ctx, t); err != nil {
		tx.Rollback() // its own error says nothing more: SQLite may have rolled back already
		return explain(l.path, err)
	}
	if err := tx.Commit(); err != nil {
		tx.Rollback()
		return explain(l.path, err)
	}
	l.mu.Lock()
	for i, d := range t.delta {
		l.counts[i] += d
	}
	l.mu.Unlock()
	return nil
}

// sameFile refuses to write into a file that no longer has our name: SQLite
// would go on filling the deleted one.
func (w *writer) sameFile() error {
	st, err := os.Stat(w.l.path)
	if err == nil && os.SameFile(st, w.conn.ident) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return explain(w.l.path, err)
	}
	return fmt.Errorf("%w: %s: a new one is begun as soon as that is possible", ErrReplaced, w.l.path)
}

// degrade notes that the database does not take what it is given, and sets the
// next attempt.
func (w *writer) degrade(err error) {
	l := w.l
	if w.conn == nil || needsReopen(err) {
		w.reopen = true
	}
	l.mu.Lock()
	first := l.reason == nil
	l.reason = err
	if first {
		l.since = l.o.Now()
	}
	l.mu.Unlock()
	if first {
		w.backoff = l.o.RetryMin
		l.q.setLive(true)
		l.o.Logger.Warn("ledger degraded: freezes go on, their records wait in memory", "err", err)
	}
	if w.retry != nil {
		w.retry.Stop()
	}
	w.retry = time.NewTimer(w.backoff)
	w.backoff = min(2*w.backoff, l.o.RetryMax)
}

// recover ends Degraded after a batch was written.
func (w *writer) recover() {
	l := w.l
	w.retry.Stop()
	w.retry = nil
	l.mu.Lock()
	since := l.since
	l.reason, l.since = nil, time.Time{}
	l.mu.Unlock()
	l.q.setLive(false)
	l.o.Logger.Info("ledger well again", "degraded_for", l.o.Now().Sub(since).Round(time.Millisecond).String())
}

// finish writes what is left once, without waiting for better times, and ends.
func (w *writer) finish() {
	l := w.l
	var err error
	if w.conn == nil || w.reopen {
		err = w.open(l.life)
	}
	for err == nil && l.life.Err() == nil {
		batch := l.q.take(batchRows)
		if len(batch) == 0 {
			break
		}
		err = w.write(batch)
	}
	if w.retry != nil {
		w.retry.Stop()
	}
	if lost := l.q.abandon(); lost > 0 {
		err = fmt.Errorf("close the ledger: %d rows could not be written: %w", lost, errors.Join(err, l.life.Err()))
	} else {
		err = nil
	}
	l.hub.close()
	err = errors.Join(err, l.setConn(nil))
	if w.lock != nil {
		err = errors.Join(err, w.lock.release())
	}
	l.kill()
	l.closeErr = err
}

package store

import (
	"sync"
)

// kind groups records that share a memory limit.
type kind int

const (
	kindFreeze kind = iota
	kindRenewal
	kindBlocked
	kindFound
	kindSync
	kindSample
	kindEvent
	kinds
)

func (k kind) String() string {
	return [kinds]string{"freezes", "renewals", "blocked", "found", "syncs", "samples", "events"}[k]
}

// op is one record on its way to the database. Its fields belong to the queue
// (queue.mu) until take, then to the writer goroutine; rec of a freeze is
// replaced, never changed, so that readers may keep it.
type op struct {
	seq   uint64 // order of arrival; immutable
	kind  kind   // immutable
	rows  int
	bytes int
	rec   record
	taken bool // guarded by queue.mu
}

// lane is the waiting records of one kind, oldest first.
type lane struct {
	ops   []*op
	rows  int
	bytes int
	limit Limit // immutable
	lost  uint64
}

// queue holds what is not written yet. Everything is guarded by mu.
type queue struct {
	hub *hub // immutable; its lock is inside mu

	mu      sync.Mutex
	lanes   [kinds]lane
	seq     uint64        // of the newest op
	batch   []*op         // taken by the writer, not yet settled
	latest  map[int64]*op // newest unwritten record of each freeze, waiting or taken
	intents []*intent     // not yet tried
	flushes []flush       // callers waiting for everything up to a seq
	live    bool          // Degraded: events are published before they are written
	closed  bool          // nothing is accepted any more
}

type flush struct {
	seq  uint64
	done chan struct{}
}

func newQueue(l Limits, h *hub) *queue {
	q := &queue{hub: h, latest: make(map[int64]*op)}
	for k, limit := range [kinds]Limit{l.Freezes, l.Renewals, l.Blocked, l.Found, l.Syncs, l.Samples, l.Events} {
		q.lanes[k].limit = limit
	}
	return q
}

// put appends a record and calls wake.
func (q *queue) put(k kind, rows, bytes int, rec record, wake func()) {
	q.mu.Lock()
	q.putLocked(k, rows, bytes, rec)
	q.mu.Unlock()
	wake()
}

func (q *queue) putLocked(k kind, rows, bytes int, rec record) {
	if q.closed {
		q.lanes[k].lost += uint64(rows)
		return
	}
	q.seq++
	o := &op{seq: q.seq, kind: k, rows: rows, bytes: bytes, rec: rec}
	if f, ok := rec.(*freezeRec); ok {
		q.latest[f.f.ID] = o
	}
	ln := &q.lanes[k]
	ln.ops = append(ln.ops, o)
	ln.rows += rows
	ln.bytes += bytes
	for (ln.rows > ln.limit.Rows || ln.bytes > ln.limit.Bytes) && len(ln.ops) > 1 {
		q.dropLocked(ln, victim(ln, k))
	}
}

// victim is the index of the record that a full lane loses (L6).
func victim(ln *lane, k kind) int {
	if k != kindFreeze {
		return 0
	}
	for i, o := range ln.ops {
		if f, ok := o.rec.(*freezeRec); !ok || !isOpen(f.f.State) {
			return i
		}
	}
	return 0
}

func (q *queue) dropLocked(ln *lane, i int) {
	o := ln.ops[i]
	ln.remove(i)
	ln.lost += uint64(o.rows)
	q.forgetLocked(o)
	q.settleLocked()
}

func (ln *lane) remove(i int) {
	o := ln.ops[i]
	ln.rows -= o.rows
	ln.bytes -= o.bytes
	if i == 0 {
		ln.ops[0] = nil // the array behind must not keep it
		ln.ops = ln.ops[1:]
		return
	}
	ln.ops = append(ln.ops[:i], ln.ops[i+1:]...)
}

// forgetLocked takes a freeze that is written or lost out of what readers see.
func (q *queue) forgetLocked(o *op) {
	if f, ok := o.rec.(*freezeRec); ok && q.latest[f.f.ID] == o {
		delete(q.latest, f.f.ID)
	}
}

// putFreeze appends a freeze, or replaces its waiting record in place (L3).
func (q *queue) putFreeze(f Freeze, wake func()) {
	q.mu.Lock()
	q.putFreezeLocked(f)
	q.mu.Unlock()
	wake()
}

func (q *queue) putFreezeLocked(f Freeze) {
	bytes := freezeCost(&f)
	if o := q.latest[f.ID]; o != nil && !o.taken {
		old := o.rec.(*freezeRec).f
		if old.RequestedAt.Equal(f.RequestedAt) {
			f.Reported = f.Reported || old.Reported
			q.lanes[kindFreeze].bytes += bytes - o.bytes
			o.bytes, o.rec = bytes, &freezeRec{f}
			return
		}
	}
	q.putLocked(kindFreeze, 1, bytes, &freezeRec{f})
}

// putFailedIntentLocked queues an intent that could not be written in time, unless
// something newer of the same freeze waits already.
func (q *queue) putFailedIntentLocked(f Freeze) {
	if q.latest[f.ID] == nil {
		q.putFreezeLocked(f)
	}
}

// putEvent appends an event; while the ledger is Degraded it is published now
// (L5).
func (q *queue) putEvent(e LedgerEvent, wake func()) {
	q.mu.Lock()
	rec := &eventRec{e: e}
	if q.live && !q.closed {
		q.hub.publish(e)
		rec.published = true
	}
	q.putLocked(kindEvent, 1, rowBytes+len(e.Kind)+len(e.Data), rec)
	q.mu.Unlock()
	wake()
}

// setLive switches between publishing events when they are written and at once.
// What waits unpublished is published in order.
func (q *queue) setLive(live bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if live && !q.live {
		for _, ops := range [][]*op{q.batch, q.lanes[kindEvent].ops} {
			for _, o := range ops {
				if rec, ok := o.rec.(*eventRec); ok && !rec.published {
					e := rec.e
					e.ID = 0 // a transaction that failed may have left one
					q.hub.publish(e)
					rec.published = true
				}
			}
		}
	}
	q.live = live
}

// take gives the writer the oldest records of all kinds, at most maxRows rows
// but at least one record, in order of arrival. They stay the queue's batch
// until settle, and are what take gives again until then.
func (q *queue) take(maxRows int) []*op {
	q.mu.Lock()
	defer q.mu.Unlock()
	rows := 0
	for len(q.batch) == 0 || rows > 0 {
		var oldest *lane
		for k := range q.lanes {
			ln := &q.lanes[k]
			if len(ln.ops) > 0 && (oldest == nil || ln.ops[0].seq < oldest.ops[0].seq) {
				oldest = ln
			}
		}
		if oldest == nil {
			break
		}
		o := oldest.ops[0]
		if rows > 0 && rows+o.rows > maxRows {
			break
		}
		rows += o.rows
		oldest.remove(0)
		o.taken = true
		q.batch = append(q.batch, o)
	}
	return q.batch
}

// settle ends the first n records of the batch: they are written, or lost and
// counted by the caller.
func (q *queue) settle(n int) []*op {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, o := range q.batch[:n] {
		q.forgetLocked(o)
	}
	q.batch = q.batch[n:]
	if len(q.batch) == 0 {
		q.batch = nil
	}
	q.settleLocked()
	return q.batch
}

// settleLocked answers the flushes that have nothing left to wait for.
func (q *queue) settleLocked() {
	if len(q.flushes) == 0 {
		return
	}
	oldest := q.seq + 1
	if len(q.batch) > 0 {
		oldest = q.batch[0].seq
	}
	for k := range q.lanes {
		if ops := q.lanes[k].ops; len(ops) > 0 && ops[0].seq < oldest {
			oldest = ops[0].seq
		}
	}
	keep := q.flushes[:0]
	for _, f := range q.flushes {
		if f.seq < oldest {
			close(f.done)
		} else {
			keep = append(keep, f)
		}
	}
	q.flushes = keep
}

// flushed returns a channel that closes when everything queued so far is
// written or lost.
func (q *queue) flushed() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := flush{q.seq, make(chan struct{})}
	q.flushes = append(q.flushes, f)
	q.settleLocked()
	return f.done
}

// forgetFlush withdraws a flush whose caller went away.
func (q *queue) forgetFlush(done <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, f := range q.flushes {
		if f.done == done {
			q.flushes = append(q.flushes[:i], q.flushes[i+1:]...)
			return
		}
	}
}

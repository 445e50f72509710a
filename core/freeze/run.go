package freeze

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	errPatience = errors.New("its patience ran out")
	errAborted  = errors.New("it was rolled back by its timer while the target did not answer")
	errPanicked = errors.New("the target panicked")
)

// Pre-clean goes on while it is worth a pass.
const (
	maxPasses   = 8
	worthAPass  = 16 // inodes and pages; fewer are left to the window
	shrinkRatio = 2  // a further pass must find at most 1/2 of the last one's work
)

// WaitingForer is implemented by a target's error that knows whom it waited for.
type WaitingForer interface{ WaitingFor() []string }

// Moder is implemented by a target that knows how each way in stopped its
// mappings in the last freeze. It is asked after the window.
type Moder interface{ Modes() map[string]string }

// run is one attempt to reach Complete, owned by the freezing goroutine. What
// it finds is published into the freeze's record after the window.
type run struct {
	f  *Freezer
	fr *freeze

	mark        time.Time // when the present phase began
	windowStart time.Time
	frozenAt    time.Time
	phases      [8]Phase
	n           int    // phases finished
	phase       string // the present one
	passes      int
	flushed     Flushed // pre-clean
	inWindow    Flushed
	generation  uint64
	degraded    bool
	waitingFor  []string
}

// reach runs a freeze to Complete or rolls it back. Should the target panic,
// the gates open again before the panic goes on.
func (f *Freezer) reach(fr *freeze) (Record, Hold, error) {
	r := run{f: f, fr: fr}
	stop := f.limit(fr)
	finished := false
	defer func() {
		if !finished {
			stop()
			f.abort(fr, errPanicked)
		}
	}()
	f.out.flush()
	err := r.steps()
	finished = true
	stop()
	f.mu.Lock()
	rec, h, err := r.settleLocked(err)
	f.mu.Unlock()
	f.out.flush()
	return rec, h, err
}

// limit cancels a freeze when its patience is over, and a grace later opens the
// gates even if the target has not come back (F9).
func (f *Freezer) limit(fr *freeze) (stop func()) {
	soft := f.clock.AfterFunc(fr.req.Patience, func() { fr.cancel(errPatience) })
	hard := f.clock.AfterFunc(fr.req.Patience+abortGrace, func() { f.abort(fr, errPatience) })
	return func() {
		soft.Stop()
		hard.Stop()
	}
}

// abort rolls back a freeze whose goroutine does not.
func (f *Freezer) abort(fr *freeze, cause error) {
	f.mu.Lock()
	if fr.rec.State == StateFreezing {
		f.rollbackLocked(fr, cause, []string{"the file system's sync path, which does not answer"}, f.clock.Now())
	}
	f.mu.Unlock()
	f.out.flush()
}

// steps is the order of freeze.md.
func (r *run) steps() error {
	f := r.f
	r.begin("intent")
	if err := r.intent(); err != nil {
		return err
	}
	r.lap("preclean")
	if err := r.preclean(); err != nil {
		return err
	}
	f.lobby.begin(r.fr.id)
	r.lap("write")
	r.windowStart = r.mark
	if err := r.shut(f.startWrite); err != nil {
		return err
	}
	if err := r.collect(); err != nil {
		return err
	}
	r.lap("pagefault")
	if err := r.shut(f.startPageFault); err != nil {
		return err
	}
	r.lap("sync")
	if err := r.sync(); err != nil {
		return err
	}
	r.lap("fs")
	if err := r.shut(f.startInternal); err != nil {
		return err
	}
	if err := r.commit(); err != nil {
		return err
	}
	r.lap("complete")
	return r.complete()
}

// begin and lap keep the account of phases, in nanoseconds of the monotonic clock.
func (r *run) begin(phase string) { r.mark, r.phase = r.f.clock.Now(), phase }

func (r *run) lap(next string) {
	now := r.f.clock.Now()
	r.phases[r.n] = Phase{Name: r.phase, Duration: now.Sub(r.mark)}
	r.n++
	r.mark, r.phase = now, next
}

// intent lets the freeze be recorded before anything is held. It waits a
// bounded time and never fails for it.
func (r *run) intent() error {
	f, fr := r.f, r.fr
	if f.cfg.Intent == nil {
		return nil
	}
	f.mu.Lock()
	rec := f.recordLocked(fr)
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(context.WithoutCancel(fr.ctx))
	defer cancel()
	late, stop := f.alarm(min(f.cfg.IntentWait, fr.req.Patience/2))
	defer stop()
	recorded := make(chan error, 1)
	go func() { recorded <- f.cfg.Intent(ctx, rec) }()
	select {
	case err := <-recorded:
		r.degraded = err != nil
	case <-late:
		r.degraded = true
	case <-fr.ctx.Done():
		r.waitingFor = []string{"the record of its intent"}
		return context.Cause(fr.ctx)
	}
	return nil
}

// preclean runs the sync path with the gates open while a pass is worthwhile.
func (r *run) preclean() error {
	if c, ok := r.f.cfg.Target.(Collector); ok && c.Collects() {
		c.Preclean(r.fr.ctx, r.fr.id)
	}
	last := ^uint64(0)
	for r.passes < maxPasses && r.fr.ctx.Err() == nil {
		inodes, pages := r.f.cfg.Target.Dirty()
		work := inodes + pages
		if work <= worthAPass || work > last/shrinkRatio {
			break
		}
		done, err := r.f.cfg.Target.SyncDirty(r.fr.ctx, SyncOptions{FreezeID: r.fr.id, Commit: true})
		r.flushed.Add(done)
		if err != nil {
			return r.targetFailed("the pre-clean", err)
		}
		r.passes++
		last = work
	}
	return context.Cause(r.fr.ctx)
}

// shut closes a gate (transitions 1 to 3) and waits for those inside.
func (r *run) shut(g *Gate) error {
	if !r.f.box.move(r.fr.id, g.at-1, g.at) {
		return errAborted
	}
	err := g.drain(r.fr.ctx)
	if err != nil {
		_, r.waitingFor = g.Inside()
	}
	return err
}

// collect brings in what waits in caches in front of the file system: first
// stores that were made before the freeze was requested belong to it.
func (r *run) collect() error {
	c, ok := r.f.cfg.Target.(Collector)
	if !ok || !c.Collects() {
		return nil
	}
	r.lap("collect")
	// The deadline is for the cache to know what it may take; what ends the
	// freeze is its timer.
	ctx, cancel := context.WithTimeout(r.fr.ctx, r.fr.req.Patience-r.mark.Sub(r.fr.rec.RequestedAt))
	defer cancel()
	if err := c.Collect(ctx, r.fr.id); err != nil {
		if ctx.Err() != nil {
			<-r.fr.ctx.Done() // the patience is over: its timer says so
		}
		return r.targetFailed("the mount's write-back", err)
	}
	return nil
}

// sync is the sync path over what was dirtied since the pre-clean; the level is
// PageFault, so nothing is dirtied meanwhile.
func (r *run) sync() error {
	done, err := r.f.cfg.Target.SyncDirty(r.fr.ctx, SyncOptions{FreezeID: r.fr.id, InWindow: true, WalkAll: r.fr.req.WalkAll})
	r.inWindow = done
	if err != nil {
		return r.targetFailed("the sync path", err)
	}
	return nil
}

// commit makes the metadata durable under the freeze's id.
func (r *run) commit() error {
	gen, err := r.f.cfg.Target.FinalCommit(r.fr.ctx, r.fr.id)
	r.generation = gen
	if err != nil {
		return r.targetFailed("the final commit", err)
	}
	return nil
}

// complete is transition 4: the image is still from here on.
func (r *run) complete() error {
	if !r.f.box.move(r.fr.id, FS, Complete) {
		return errAborted
	}
	r.lap("")
	r.frozenAt = r.mark
	return nil
}

func (r *run) targetFailed(what string, err error) error {
	var w WaitingForer
	if errors.As(err, &w) {
		r.waitingFor = w.WaitingFor()
	}
	if len(r.waitingFor) == 0 {
		r.waitingFor = []string{what}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// settleLocked turns the outcome of a run into a standing freeze or a
// roll-back, and into the answer.
func (r *run) settleLocked(err error) (Record, Hold, error) {
	f, fr := r.f, r.fr
	if fr.rec.State != StateFreezing { // rolled back by abort
		return Record{}, Hold{}, f.failedLocked(fr)
	}
	r.publishLocked()
	if cause := context.Cause(fr.ctx); cause != nil {
		err = cause // also when the target noticed first, in its own words
	}
	if err != nil {
		f.rollbackLocked(fr, err, r.waitingFor, f.clock.Now())
		return Record{}, Hold{}, f.failedLocked(fr)
	}
	fr.rec.State, fr.rec.FrozenAt, f.since = StateFrozen, r.frozenAt, r.frozenAt
	fr.rec.Window, fr.rec.Total = r.frozenAt.Sub(r.windowStart), r.frozenAt.Sub(fr.rec.RequestedAt)
	if m, ok := f.cfg.Target.(Moder); ok {
		fr.rec.Modes = m.Modes()
	}
	h := f.addHoldLocked(fr, &fr.req, fr.token, r.frozenAt)
	f.keyMadeLocked(h)
	f.armLocked(fr, f.clock.Now())
	f.freezes.Add(1)
	close(fr.settled)
	f.eventLocked(EventFrozen, fr, nil, r.frozenAt)
	f.eventLocked(EventHoldBegin, fr, h, r.frozenAt)
	return f.recordLocked(fr), h.answer(), nil
}

// publishLocked writes what the run found into the record.
func (r *run) publishLocked() {
	rec := &r.fr.rec
	rec.Phases = append([]Phase(nil), r.phases[:r.n]...)
	rec.PrecleanPasses, rec.Generation, rec.Degraded = r.passes, r.generation, r.degraded
	rec.WindowFlushed, rec.Flushed = r.inWindow, r.flushed
	rec.Flushed.Add(r.inWindow)
}

// rollbackLocked is transition 5: the gates open, everybody goes on, and the
// record says why and whom it waited for. The hold that was asked for is
// remembered as rolled back, so that a thaw of it hears the truth.
func (f *Freezer) rollbackLocked(fr *freeze, cause error, waitingFor []string, now time.Time) {
	close(fr.done) // F5
	f.box.open(fr.id)
	fr.rec.BlockedTotal, fr.rec.LongestWait = f.lobby.letGo(fr.id, now)
	fr.rec.State, fr.rec.EndedAt = StateRolledBack, now
	fr.rec.Error, fr.rec.WaitingFor, fr.failure = cause.Error(), waitingFor, cause
	r := fr.req
	r.Lease, r.Key = 0, ""
	h := f.addHoldLocked(fr, &r, fr.token, now)
	h.End, h.EndedAt, h.Lease = endRolledBack, now, fr.req.Lease
	fr.standing--
	fr.cancel(nil)
	close(fr.settled)
	f.retireLocked(fr, now)
	f.eventLocked(EventRolledBack, fr, nil, now)
	f.grantLocked()
}

// failedLocked is the answer to the requester of a freeze that was rolled back.
func (f *Freezer) failedLocked(fr *freeze) error {
	cause := fr.failure
	ref := &Refusal{Cause: cause, FreezeID: fr.id, Holders: []string{fr.req.Holder}, Since: fr.rec.RequestedAt,
		Hold: holdID(fr.id, 1), HoldEnd: endRolledBack, WaitingFor: fr.rec.WaitingFor}
	switch {
	case errors.Is(cause, errPatience):
		ref.Err = ErrTimedOut
		ref.Detail = fmt.Sprintf("rolled back after %v; see waiting_for, and try again or with more patience", fr.req.Patience)
	case errors.Is(cause, errCancelled):
		ref.Err, ref.Detail = ErrFreezeLost, "given up by a thaw before it was reached; nothing was held"
	case errors.Is(cause, ErrClosed):
		ref.Err, ref.Cause, ref.Detail = ErrClosed, nil, "rolled back: the appliance is stopping"
	default:
		return fmt.Errorf("freeze %d was rolled back: %w", fr.id, cause)
	}
	return ref
}

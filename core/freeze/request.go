package freeze

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// keyEntry is an idempotency key and what became of its request.
type keyEntry struct {
	params   Request       // immutable
	restored bool          // immutable: of an earlier life: only holder and reason are known
	settled  chan struct{} // closed when the request was answered
	hold     *hold         // guarded by Freezer.mu: what it made; nil while in flight
}

// ticket is a request's place in the queue. Both fields but turn are guarded
// by Freezer.mu.
type ticket struct {
	ctx   context.Context // immutable
	req   *Request        // immutable
	token string          // immutable
	turn  chan struct{}   // closed when fr is set, or at shutdown
	fr    *freeze         // the freeze it may reach now
}

// Freeze brings the file system to Complete and returns the freeze and a hold
// on it, with its token, or rolls everything back. It runs on the caller's
// goroutine. If ctx is done before the answer, the freeze is rolled back; an
// answer that cannot be delivered is taken back by Abandon.
//
// Errors: *Refusal with ErrBadRequest, ErrOverCap, ErrAlreadyFrozen (also after
// Wait), ErrTimedOut, ErrKeyReused, ErrFreezeLost (a replayed key whose hold was
// lost, or a freeze given up by a thaw), ErrTooManyHeld (queue or holds full),
// ErrClosed; or an error of ctx or the target, wrapped.
func (f *Freezer) Freeze(ctx context.Context, r Request) (Record, Hold, error) {
	if err := f.check(&r); err != nil {
		return Record{}, Hold{}, err
	}
	if r.Key == "" {
		return f.freeze(ctx, &r)
	}
	rec, h, replayed, err := f.claimKey(ctx, &r)
	if replayed || err != nil {
		return rec, h, err
	}
	defer f.releaseKey(r.Key)
	return f.freeze(ctx, &r)
}

// check refuses what cannot be meant and fills in defaults.
func (f *Freezer) check(r *Request) error {
	if r.Patience == 0 {
		r.Patience = DefaultPatience
	}
	switch {
	case r.Lease <= 0:
		return bad("lease", "lease must be longer than 0")
	case r.Lease > f.cfg.MaxLease:
		return &Refusal{Err: ErrOverCap, Detail: "lease may be at most " + f.cfg.MaxLease.String()}
	case r.Patience < 0 || r.Patience > f.cfg.MaxLease:
		return bad("patience", "patience must be between 0 and "+f.cfg.MaxLease.String())
	case r.Wait < 0 || r.Wait > MaxWait:
		return bad("wait", "wait must be between 0 and "+MaxWait.String())
	case r.Holder == "":
		return bad("holder", "holder must not be empty")
	}
	for _, t := range [...]struct {
		name, value string
		max         int
	}{{"holder", r.Holder, maxHolder}, {"reason", r.Reason, maxReason}, {"idempotency key", r.Key, maxKey}} {
		if len(t.value) > t.max {
			return bad(t.name, fmt.Sprintf("%s may be at most %d bytes", t.name, t.max))
		}
		if !utf8.ValidString(t.value) || strings.ContainsFunc(t.value, unicode.IsControl) {
			return bad(t.name, t.name+" must be text without control characters")
		}
	}
	return nil
}

func bad(parameter, detail string) error {
	return &Refusal{Err: ErrBadRequest, Parameter: parameter, Detail: detail}
}

// claimKey makes this request the one that answers for its key, or replays the
// answer there is, waiting for it if the first request is still in flight.
func (f *Freezer) claimKey(ctx context.Context, r *Request) (rec Record, h Hold, replayed bool, err error) {
	f.mu.Lock()
	defer func() {
		f.mu.Unlock()
		f.out.flush()
	}()
	for {
		f.expireLocked(f.clock.Now())
		e := f.keys[r.Key]
		switch {
		case e == nil:
			f.keys[r.Key] = &keyEntry{params: *r, settled: make(chan struct{})}
			return Record{}, Hold{}, false, nil
		case !e.matches(r):
			return Record{}, Hold{}, false, &Refusal{Err: ErrKeyReused, Detail: "use a new key for a new freeze, or repeat the same parameters"}
		case e.hold != nil && (e.hold.stands() || e.hold.End == endThawed):
			e.hold.told++
			return f.recordLocked(e.hold.fr), e.hold.answer(), true, nil
		case e.hold != nil:
			return Record{}, Hold{}, false, f.lostLocked(e.hold, f.clock.Now())
		}
		f.mu.Unlock()
		select {
		case <-e.settled:
		case <-ctx.Done():
			err = fmt.Errorf("freeze: waiting for the first request with the same key: %w", context.Cause(ctx))
		}
		f.mu.Lock()
		if err != nil {
			return Record{}, Hold{}, false, err
		}
	}
}

func (e *keyEntry) matches(r *Request) bool {
	if e.restored {
		return e.params.Holder == r.Holder && e.params.Reason == r.Reason
	}
	return e.params == *r
}

// releaseKey forgets a key whose request made no hold, so that it may be tried
// again, and wakes its replays.
func (f *Freezer) releaseKey(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.keys[key]; e != nil && e.hold == nil {
		delete(f.keys, key)
		close(e.settled)
	}
}

func (f *Freezer) forgetKeyLocked(key string) {
	if key != "" {
		delete(f.keys, key)
	}
}

// freeze joins what stands, queues, or reaches a freeze of its own.
func (f *Freezer) freeze(ctx context.Context, r *Request) (Record, Hold, error) {
	token := newToken()
	f.mu.Lock()
	if r.Join {
		joined, rec, h, err := f.joinLocked(ctx, r, token)
		if joined || err != nil {
			f.mu.Unlock()
			f.out.flush()
			return rec, h, err
		}
	}
	f.expireLocked(f.clock.Now())
	switch {
	case f.closed:
		f.mu.Unlock()
		return Record{}, Hold{}, closedRefusal()
	case f.cur == nil: // then nobody queues
		fr := f.beginLocked(ctx, r, token)
		f.mu.Unlock()
		return f.reach(fr)
	case r.Wait <= 0:
		err := f.alreadyLocked()
		f.mu.Unlock()
		f.out.flush()
		return Record{}, Hold{}, err
	case len(f.queue) >= f.cfg.MaxQueued:
		f.mu.Unlock()
		f.out.flush()
		return Record{}, Hold{}, &Refusal{Err: ErrTooManyHeld, Detail: fmt.Sprintf("%d freezes wait for their turn already", f.cfg.MaxQueued)}
	}
	t := &ticket{ctx: ctx, req: r, token: token, turn: make(chan struct{})}
	f.queue = append(f.queue, t)
	f.mu.Unlock()
	f.out.flush()
	fr, err := f.await(t)
	if err != nil {
		return Record{}, Hold{}, err
	}
	return f.reach(fr)
}

// await waits for a ticket's turn, first come first served.
func (f *Freezer) await(t *ticket) (*freeze, error) {
	late, stop := f.alarm(t.req.Wait)
	defer stop()
	select {
	case <-t.turn:
	case <-late:
	case <-t.ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.fr != nil { // even if we are late or gone: reach rolls it back if so
		return t.fr, nil
	}
	if f.closed {
		return nil, closedRefusal()
	}
	for i, q := range f.queue {
		if q == t {
			f.queue = append(f.queue[:i:i], f.queue[i+1:]...)
			break
		}
	}
	if t.ctx.Err() != nil {
		return nil, fmt.Errorf("freeze: waiting for its turn: %w", context.Cause(t.ctx))
	}
	return nil, f.alreadyLocked()
}

// alarm is a channel that closes after d, on the machine's clock.
func (f *Freezer) alarm(d time.Duration) (rings <-chan struct{}, stop func() bool) {
	c := make(chan struct{})
	return c, f.clock.AfterFunc(d, func() { close(c) }).Stop
}

// grantLocked gives the first of the queue its turn when nothing is frozen.
func (f *Freezer) grantLocked() {
	if f.cur != nil || len(f.queue) == 0 {
		return
	}
	t := f.queue[0]
	f.queue[0] = nil
	f.queue = f.queue[1:]
	t.fr = f.beginLocked(t.ctx, t.req, t.token)
	close(t.turn)
}

// beginLocked makes a freeze that somebody is about to reach.
func (f *Freezer) beginLocked(ctx context.Context, r *Request, token string) *freeze {
	now := f.clock.Now()
	fr := &freeze{id: f.nextID, req: *r, token: token, done: make(chan struct{}), settled: make(chan struct{})}
	fr.ctx, fr.cancel = context.WithCancelCause(ctx)
	fr.rec = Record{ID: fr.id, State: StateFreezing, RequestedAt: now, Patience: r.Patience, Strategy: "dirty"}
	if r.WalkAll {
		fr.rec.Strategy = "walk-all"
	}
	f.nextID++ // F8
	f.cur, f.since = fr, now
	f.eventLocked(EventFreezing, fr, nil, now)
	return fr
}

// joinLocked adds a hold to the freeze that stands. One that is being reached
// is waited for; mu is released meanwhile. Not joined without an error: there is
// nothing to join.
func (f *Freezer) joinLocked(ctx context.Context, r *Request, token string) (bool, Record, Hold, error) {
	var late <-chan struct{}
	for {
		now := f.clock.Now()
		f.expireLocked(now)
		fr := f.cur
		switch {
		case fr == nil || f.closed:
			return false, Record{}, Hold{}, nil
		case fr.rec.State == StateFrozen:
			rec, h, err := f.joinStandingLocked(fr, r, token, now)
			return true, rec, h, err
		}
		if late == nil {
			rings, stop := f.alarm(max(r.Patience, r.Wait))
			defer stop()
			late = rings
		}
		f.mu.Unlock()
		var err error
		timedOut := false
		select {
		case <-fr.settled:
		case <-late:
			timedOut = true
		case <-ctx.Done():
			err = fmt.Errorf("freeze: waiting to join: %w", context.Cause(ctx))
		}
		f.mu.Lock()
		if err == nil && timedOut && f.cur != nil {
			err = f.alreadyLocked()
		}
		if err != nil {
			return false, Record{}, Hold{}, err
		}
	}
}

func (f *Freezer) joinStandingLocked(fr *freeze, r *Request, token string, now time.Time) (Record, Hold, error) {
	if len(fr.holds) >= f.cfg.MaxHolds {
		return Record{}, Hold{}, &Refusal{Err: ErrTooManyHeld, FreezeID: fr.id,
			Detail: fmt.Sprintf("a freeze has at most %d holds; wait for its end", f.cfg.MaxHolds)}
	}
	if now.Add(r.Lease).After(fr.rec.FrozenAt.Add(f.cfg.MaxLease)) {
		return Record{}, Hold{}, f.overCapLocked(fr, "", now)
	}
	h := f.addHoldLocked(fr, r, token, now)
	f.keyMadeLocked(h)
	f.armLocked(fr, now)
	f.eventLocked(EventHoldBegin, fr, h, now)
	return f.recordLocked(fr), h.answer(), nil
}

// keyMadeLocked ties a new hold to its request's key.
func (f *Freezer) keyMadeLocked(h *hold) {
	if e := f.keys[h.Key]; e != nil && h.Key != "" {
		e.hold = h
		close(e.settled)
	}
}

// alreadyLocked says who stands in the way, since when and until when. For a
// freeze that is still being reached the end is an upper bound.
func (f *Freezer) alreadyLocked() error {
	fr := f.cur
	if fr == nil { // ended this moment
		return &Refusal{Err: ErrAlreadyFrozen, Detail: "it ended just now: try again"}
	}
	r := &Refusal{Err: ErrAlreadyFrozen, FreezeID: fr.id}
	if fr.rec.State == StateFreezing {
		r.Holders, r.Since = []string{fr.req.Holder}, fr.rec.RequestedAt
		r.ExpiresAt = fr.rec.RequestedAt.Add(fr.req.Patience + fr.req.Lease)
		r.Detail = "another freeze is being reached: wait in line (wait), or hold the same point in time (join)"
		return r
	}
	r.Holders, r.Since = fr.holders(), fr.rec.FrozenAt
	for _, h := range fr.holds {
		if h.stands() && h.ExpiresAt.After(r.ExpiresAt) {
			r.ExpiresAt = h.ExpiresAt
		}
	}
	r.Detail = "another freeze stands: wait in line for its end (wait), or hold the same point in time (join)"
	return r
}

func closedRefusal() error { return &Refusal{Err: ErrClosed, Detail: "the appliance is stopping"} }

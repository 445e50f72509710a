package freeze

import "time"

// clockStep is from how far on a step of the wall clock is followed in what is
// shown. Below it a clock is merely being disciplined.
const clockStep = time.Second

// onWall is the instant t as the wall clock reads now. Instants are compared by
// their monotonic readings, which no step moves; but a time that was worked out
// before the wall clock was set shows what the old clock would have read.
func onWall(t, now time.Time) time.Time {
	s := now.Add(t.Sub(now))
	if d := s.Round(0).Sub(t.Round(0)); d < clockStep && d > -clockStep {
		return t
	}
	return s
}

// expireLocked ends the holds whose expiry has come, whether their timer has
// run or not (F7), and the freeze with the last of them. Every request calls it
// before it judges anything. The expiry of those that stand follows the wall
// clock: it is the same instant, under its present name.
func (f *Freezer) expireLocked(now time.Time) {
	fr := f.cur
	if fr == nil || fr.rec.State != StateFrozen {
		return
	}
	ended := false
	for _, h := range fr.holds {
		if !h.stands() {
			continue
		}
		h.ExpiresAt = onWall(h.ExpiresAt, now)
		if !now.Before(h.ExpiresAt) {
			f.endHoldLocked(h, endExpired, "", h.ExpiresAt, now)
			ended = true
		}
	}
	if fr.standing == 0 {
		f.endLocked(fr, StateExpired, now)
	} else if ended {
		f.armLocked(fr, now)
	}
}

// armLocked sets the timer to the earliest expiry of a standing freeze (F4).
func (f *Freezer) armLocked(fr *freeze, now time.Time) {
	var first time.Time
	for _, h := range fr.holds {
		if h.stands() && (first.IsZero() || h.ExpiresAt.Before(first)) {
			first = h.ExpiresAt
		}
	}
	f.disarmLocked()
	f.timer = f.clock.AfterFunc(first.Sub(now), f.lapse)
}

func (f *Freezer) disarmLocked() {
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
}

// lapse is the timer's function. It needs nobody but the machine itself, so a
// lease ends whatever else is stuck. A timer that ran early or for a freeze that
// is gone changes nothing.
func (f *Freezer) lapse() {
	f.mu.Lock()
	now := f.clock.Now()
	f.expireLocked(now)
	if fr := f.cur; fr != nil && fr.rec.State == StateFrozen {
		f.armLocked(fr, now)
	}
	f.mu.Unlock()
	f.out.flush()
}

// Renew sets a hold's expiry to now plus r.Lease; it may bring it nearer. The
// hold is found as by Thaw; without a name the only one standing is meant.
//
// Errors, as *Refusal: ErrBadRequest, ErrUnknownHold, ErrWhichHold,
// ErrNotTheHolder, ErrFreezeLost, ErrHoldEnded, ErrOverCap (the freeze would outlast MaxLease
// from its frozen time; nothing is changed).
func (f *Freezer) Renew(r RenewRequest) (Record, Hold, error) {
	f.mu.Lock()
	rec, h, err := f.renewLocked(r)
	f.mu.Unlock()
	f.out.flush()
	return rec, h, err
}

func (f *Freezer) renewLocked(r RenewRequest) (Record, Hold, error) {
	now := f.clock.Now()
	f.expireLocked(now)
	if r.Lease <= 0 {
		return Record{}, Hold{}, bad("lease", "lease must be longer than 0")
	}
	h, err := f.standingHoldLocked(r.Hold, r.Holder, r.Token, now)
	if err != nil {
		return Record{}, Hold{}, err
	}
	until := now.Add(r.Lease)
	if last := h.fr.rec.FrozenAt.Add(f.cfg.MaxLease); until.After(last) {
		return Record{}, Hold{}, f.overCapLocked(h.fr, h.ID, now)
	}
	h.Lease = r.Lease
	f.prolongLocked(h, until, now)
	return f.recordLocked(h.fr), h.Hold, nil
}

// standingHoldLocked finds the hold that a renewal means.
func (f *Freezer) standingHoldLocked(id, holder, token string, now time.Time) (*hold, error) {
	var h *hold
	if id == "" && holder == "" {
		fr := f.cur
		if fr == nil || fr.rec.State != StateFrozen {
			return nil, &Refusal{Err: ErrUnknownHold, Detail: "nothing is frozen"}
		}
		if fr.standing > 1 {
			return nil, f.whichLocked(fr)
		}
		h = fr.onlyHold()
	} else {
		var err error
		if h, err = f.findLocked(id, holder); err != nil {
			return nil, err
		}
	}
	if !h.admits(token) {
		return nil, f.notTheHolder(h, "give the token of the freeze in the header Freeze-Token")
	}
	switch {
	case h.stands():
	case h.End == endThawed:
		return nil, &Refusal{Err: ErrHoldEnded, FreezeID: h.FreezeID, Holders: []string{h.Holder}, Since: h.fr.rec.FrozenAt, Hold: h.ID, HoldEnd: h.End,
			Detail: "it was kept until it was thawed at " + h.EndedAt.UTC().Format(time.RFC3339Nano) + ", and cannot be renewed: freeze again"}
	default:
		return nil, f.lostLocked(h, now)
	}
	return h, nil
}

func (f *Freezer) prolongLocked(h *hold, until, now time.Time) {
	h.ExpiresAt = until
	h.Renewals++
	f.armLocked(h.fr, now)
	f.eventLocked(EventHoldRenew, h.fr, h, now)
}

// overCapLocked says how much longer a standing freeze may last.
func (f *Freezer) overCapLocked(fr *freeze, holdID string, now time.Time) error {
	last := onWall(fr.rec.FrozenAt.Add(f.cfg.MaxLease), now)
	return &Refusal{Err: ErrOverCap, FreezeID: fr.id, Since: fr.rec.FrozenAt, ExpiresAt: last, Hold: holdID,
		Detail: "at most " + last.Sub(now).Truncate(time.Second).String() + " are left of " +
			f.cfg.MaxLease.String() + " from the time it was frozen: ask for less"}
}

// onlyHold is the one standing hold of a freeze that has exactly one.
func (fr *freeze) onlyHold() *hold {
	for _, h := range fr.holds {
		if h.stands() {
			return h
		}
	}
	return nil
}

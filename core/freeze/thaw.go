package freeze

import (
	"errors"
	"fmt"
	"time"
)

// errCancelled is why a freeze that is being reached was given up on request.
var errCancelled = errors.New("given up by a thaw before it was reached")

// Thaw ends a hold and answers whether it was kept without a gap from its
// frozen time until it ended. The last hold's end opens the gates before Thaw
// returns; held callers go on a moment later.
//
//	Hold, Holder   that hold, or that holder's newest; both must agree
//	neither        the only hold standing; with Force all of them
//	Force          ends it as forced, whoever it belongs to: its holder will
//	               be told that it was lost
//
// A freeze that is still being reached is given up if its holder names it (or
// anybody forces); its requester and this caller learn that it was lost.
//
// Errors, as *Refusal: ErrFreezeLost (the copy is not consistent),
// ErrNotTheHolder, ErrUnknownHold, ErrWhichHold.
func (f *Freezer) Thaw(r ThawRequest) (ThawResult, error) {
	f.mu.Lock()
	now := f.clock.Now()
	f.expireLocked(now)
	var res ThawResult
	var err error
	switch fr := f.cur; {
	case fr != nil && fr.rec.State == StateFreezing && r.means(fr):
		res, err = f.giveUpLocked(fr, r)
	case r.Hold == "" && r.Holder == "":
		res, err = f.thawBareLocked(r, now)
	default:
		res, err = f.thawNamedLocked(r, now)
	}
	f.mu.Unlock()
	f.out.flush()
	return res, err
}

// means says whether the request is about a freeze that is being reached: its
// holder's, its hold's to be, or forced upon whatever there is.
func (r *ThawRequest) means(fr *freeze) bool {
	switch {
	case r.Hold != "":
		return r.Hold == holdID(fr.id, 1) && (r.Holder == "" || r.Holder == fr.req.Holder)
	case r.Holder != "":
		return r.Holder == fr.req.Holder
	}
	return r.Force
}

// giveUpLocked cancels a freeze that is being reached. The freezing goroutine
// rolls it back; it can no longer succeed.
func (f *Freezer) giveUpLocked(fr *freeze, r ThawRequest) (ThawResult, error) {
	fr.cancel(errCancelled)
	if r.Force {
		return ThawResult{FreezeID: fr.id, Hold: holdID(fr.id, 1), Changed: true, Thawed: true}, nil
	}
	return ThawResult{}, &Refusal{Err: ErrFreezeLost, Cause: errCancelled, FreezeID: fr.id, Hold: holdID(fr.id, 1),
		HoldEnd: endRolledBack, Holders: []string{fr.req.Holder}, Detail: "it was still being reached and is rolled back: nothing was held"}
}

// thawBareLocked ends the only hold there is, unless somebody must first be
// told of a freeze that was lost (oldest first, each once).
func (f *Freezer) thawBareLocked(r ThawRequest, now time.Time) (ThawResult, error) {
	if h := f.book.nextLost(); h != nil && !r.Force {
		return ThawResult{}, f.lostLocked(h, now)
	}
	fr := f.cur
	if fr == nil || fr.rec.State != StateFrozen {
		return ThawResult{Thawed: true}, nil
	}
	if r.Force {
		n, h := fr.standing, fr.onlyHold()
		f.endAllLocked(fr, StateForced, r.By, now)
		res := ThawResult{FreezeID: fr.id, Changed: true, Held: true, Frozen: now.Sub(fr.rec.FrozenAt), Thawed: true}
		if n == 1 {
			res.Hold = h.ID
		}
		return res, nil
	}
	if fr.standing > 1 {
		return ThawResult{}, f.whichLocked(fr)
	}
	h := fr.onlyHold()
	if !h.admits(r.Token) {
		return ThawResult{}, f.notTheHolder(h, "give the token of the freeze in the header Freeze-Token")
	}
	return f.thawHoldLocked(h, endThawed, "", now), nil
}

// thawNamedLocked ends the hold that is named, or tells the truth about it.
func (f *Freezer) thawNamedLocked(r ThawRequest, now time.Time) (ThawResult, error) {
	h, err := f.findLocked(r.Hold, r.Holder)
	if err != nil {
		return ThawResult{}, err
	}
	if !r.Force && !h.admits(r.Token) {
		return ThawResult{}, f.notTheHolder(h, "give the token of the freeze in the header Freeze-Token")
	}
	switch {
	case !h.stands() && h.End == endThawed:
		return ThawResult{FreezeID: h.FreezeID, Hold: h.ID, Held: true,
			Frozen: max(0, h.EndedAt.Sub(h.fr.rec.FrozenAt)), Thawed: !f.frozenLocked()}, nil // of an earlier life: by the wall clock
	case !h.stands():
		return ThawResult{}, f.lostLocked(h, now)
	case r.Force:
		return f.thawHoldLocked(h, endForced, r.By, now), nil
	}
	return f.thawHoldLocked(h, endThawed, "", now), nil
}

// thawHoldLocked ends a standing hold, and its freeze if it was the last.
func (f *Freezer) thawHoldLocked(h *hold, end, by string, now time.Time) ThawResult {
	fr := h.fr
	f.endHoldLocked(h, end, by, now, now)
	if fr.standing == 0 {
		f.endLocked(fr, State(end), now)
	} else {
		f.armLocked(fr, now)
	}
	return ThawResult{FreezeID: fr.id, Hold: h.ID, Changed: true, Held: true,
		Frozen: now.Sub(fr.rec.FrozenAt), Thawed: fr.standing == 0}
}

// Abandon takes back a hold whose requester could not be given the answer: to
// it the freeze never was. A hold that has ended is left as it is, and so is one
// that another request with the same idempotency key was given: Abandon is
// called once for each answer of Freeze that was lost.
func (f *Freezer) Abandon(holdID string) {
	f.mu.Lock()
	now := f.clock.Now()
	f.expireLocked(now)
	if h := f.book.byID[holdID]; h != nil && h.stands() {
		if h.told--; h.told <= 0 {
			f.forgetKeyLocked(h.Key)
			f.thawHoldLocked(h, endRolledBack, "", now)
		}
	}
	f.mu.Unlock()
	f.out.flush()
}

func (f *Freezer) frozenLocked() bool { return f.cur != nil && f.cur.rec.State == StateFrozen }

// findLocked finds a hold by its id, or a holder's newest.
func (f *Freezer) findLocked(id, holder string) (*hold, error) {
	if id == "" {
		if h := f.book.byHolder[holder]; h != nil {
			return h, nil
		}
		return nil, &Refusal{Err: ErrUnknownHold, Detail: fmt.Sprintf("%q has held nothing that is remembered; GET /freezes lists what there was", holder)}
	}
	h := f.book.byID[id]
	if h == nil {
		return nil, &Refusal{Err: ErrUnknownHold, Detail: fmt.Sprintf("%q is no hold that is remembered; GET /freezes lists what there was", id)}
	}
	if holder != "" && holder != h.Holder {
		return nil, f.notTheHolder(h, "name the holder the freeze was made with, or only the hold")
	}
	return h, nil
}

func (f *Freezer) notTheHolder(h *hold, detail string) error {
	return &Refusal{Err: ErrNotTheHolder, FreezeID: h.FreezeID, Hold: h.ID, Detail: detail}
}

func (f *Freezer) whichLocked(fr *freeze) error {
	return &Refusal{Err: ErrWhichHold, FreezeID: fr.id, Holders: fr.holders(), Since: fr.rec.FrozenAt,
		Detail: fmt.Sprintf("%d holds stand: name yours by its id (hold) or your name (holder)", fr.standing)}
}

// lostLocked is the truth about a hold that was not kept. Somebody was told of
// its freeze then, so no bare thaw is told of what that freeze has lost so far.
func (f *Freezer) lostLocked(h *hold, now time.Time) error {
	if h.lost() && !h.reported {
		for _, other := range h.fr.holds {
			other.reported = other.reported || other.lost()
		}
		f.reportedLocked(h.fr, h, now)
	}
	detail := "what was copied since is not consistent: freeze and copy again"
	switch h.End {
	case endExpired:
		detail = "its lease ended at " + h.EndedAt.UTC().Format(time.RFC3339Nano) + "; " + detail + ", with a longer lease or renewals"
	case endForced:
		detail = "it was thawed by force; " + detail
	case endInterrupted:
		detail = "the appliance stopped; " + detail
	case endRolledBack:
		detail = "it was rolled back: nothing was held"
	}
	return &Refusal{Err: ErrFreezeLost, FreezeID: h.FreezeID, Holders: []string{h.Holder}, Since: h.fr.rec.FrozenAt,
		ExpiresAt: h.ExpiresAt, Hold: h.ID, HoldEnd: h.End, Detail: detail}
}

// reportedLocked says that somebody knows of all that a freeze has lost. It
// waits for the freeze's end: what is lost after a report is untold again.
func (f *Freezer) reportedLocked(fr *freeze, h *hold, now time.Time) {
	lost := false
	for _, other := range fr.holds {
		if other.stands() || other.lost() && !other.reported {
			return
		}
		lost = lost || other.lost()
	}
	if lost {
		f.eventLocked(EventReported, fr, h, now)
	}
}

// holders names those whose holds stand, in the order they came.
func (fr *freeze) holders() []string {
	names := make([]string, 0, fr.standing)
	for _, h := range fr.holds {
		if h.stands() {
			names = append(names, h.Holder)
		}
	}
	return names
}

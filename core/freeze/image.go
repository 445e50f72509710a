package freeze

import (
	"fmt"
	"time"
)

// Epoch is the id of the freeze that stands, 0 if the image may change.
func (f *Freezer) Epoch() uint64 {
	if id, l := f.box.load(); l == Complete {
		return id
	}
	return 0
}

// StillHeld reports whether freeze id has stood without a gap until now. What
// was copied from the image before a true answer is of the freeze: ids are
// never reused, and the gates open only after the answer has become false.
func (f *Freezer) StillHeld(id uint64) bool { return id != 0 && f.box.stands(id) }

// closedChan is what Done gives for a freeze that does not stand.
var closedChan = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Done is closed when freeze id ends, before its gates open; closed already if
// it does not stand.
func (f *Freezer) Done(id uint64) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cur != nil && f.cur.id == id && f.cur.rec.State == StateFrozen {
		return f.cur.done
	}
	return closedChan
}

// Over is closed when freeze id ends, before its gates open, also if it is still
// being reached and is then rolled back; closed already if it is neither.
func (f *Freezer) Over(id uint64) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cur != nil && f.cur.id == id {
		return f.cur.done
	}
	return closedChan
}

// BeginImageRead counts a request of a reader for the image of freeze id. What
// it reads is told by Add. The observer hears of it as readers.go says.
//
// Errors, as *Refusal: ErrFreezeLost when the freeze does not stand any more,
// ErrUnknownHold when there never was one of that id.
func (f *Freezer) BeginImageRead(id uint64, reader string) (*ImageRead, error) {
	f.mu.Lock()
	now := f.clock.Now()
	f.expireLocked(now)
	r, err := f.imageReadLocked(id, reader, now)
	f.mu.Unlock()
	f.out.flush()
	return r, err
}

func (f *Freezer) imageReadLocked(id uint64, reader string, now time.Time) (*ImageRead, error) {
	fr := f.cur
	switch {
	case id == 0 || id >= f.nextID:
		return nil, &Refusal{Err: ErrUnknownHold, FreezeID: id, Detail: fmt.Sprintf("there was no freeze %d; GET /freezes lists what there was", id)}
	case fr == nil || fr.id != id || fr.rec.State != StateFrozen:
		return nil, &Refusal{Err: ErrFreezeLost, FreezeID: id, Detail: "its image can be read only while it stands: freeze again"}
	}
	fr.rec.ImageReads++
	r := &ImageRead{f: f, fr: fr, by: fr.reader(reader)}
	f.noteReadLocked(fr, r.by, 1, 0, now)
	return r, nil
}

// RenewByReading prolongs a hold because its image is being read: to now plus
// the lease it last asked for, but not over the cap and never nearer. It costs a
// lock and changes nothing while three quarters of the lease are left, so a
// reader may call it after every chunk. holdID "" means the only hold of the
// freeze.
//
// Errors, as *Refusal: as Renew, without ErrOverCap.
func (f *Freezer) RenewByReading(freezeID uint64, holdID, token string) error {
	f.mu.Lock()
	err := f.renewByReadingLocked(freezeID, holdID, token)
	f.mu.Unlock()
	f.out.flush()
	return err
}

func (f *Freezer) renewByReadingLocked(freezeID uint64, holdID, token string) error {
	now := f.clock.Now()
	f.expireLocked(now)
	h, err := f.standingHoldLocked(holdID, "", token, now)
	if err != nil {
		return err
	}
	if h.FreezeID != freezeID {
		return &Refusal{Err: ErrFreezeLost, FreezeID: freezeID, Hold: h.ID, Detail: "another freeze stands by now: freeze and read again"}
	}
	until, capped := now.Add(h.Lease), false
	if last := h.fr.rec.FrozenAt.Add(f.cfg.MaxLease); until.After(last) {
		until, capped = last, true
	}
	gain := until.Sub(h.ExpiresAt)
	if gain <= 0 || !capped && gain < min(h.Lease/4, time.Minute) {
		return nil
	}
	f.prolongLocked(h, until, now)
	return nil
}

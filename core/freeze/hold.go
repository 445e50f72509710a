package freeze

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"strconv"
	"time"
)

// hold is one caller's lease on one freeze. All fields are guarded by
// Freezer.mu; Hold.Token is always empty, the secret is in token.
type hold struct {
	Hold
	fr       *freeze // immutable
	token    string  // immutable; "" for a hold of an earlier life: its secret is not on record
	told     int     // requesters that were given it and have not abandoned it: replays of its key count
	reported bool    // lost, and somebody was told since of its freeze
}

// Ends of a hold, as Hold.End.
const (
	endThawed      = string(StateThawed)
	endExpired     = string(StateExpired)
	endForced      = string(StateForced)
	endInterrupted = string(StateInterrupted)
	endRolledBack  = string(StateRolledBack)
)

func (h *hold) stands() bool { return h.End == "" }

// lost says that the hold ended otherwise than its holder wanted, after it was
// told that it stood.
func (h *hold) lost() bool {
	return h.End == endExpired || h.End == endForced || h.End == endInterrupted
}

// answer is the hold as its own requester sees it, with the token.
func (h *hold) answer() Hold {
	a := h.Hold
	a.Token = h.token
	return a
}

// admits compares a token in constant time. A hold that was not made to need
// one accepts none, but never a wrong one.
func (h *hold) admits(token string) bool {
	if token == "" {
		return !h.HasToken
	}
	if h.token == "" { // of an earlier life: it can only be told that it was lost
		return true
	}
	return subtle.ConstantTimeCompare([]byte(token), []byte(h.token)) == 1
}

// newToken makes 32 random bytes in hexadecimal.
func newToken() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// holdID names the n-th hold of a freeze, counted from 1: "12.1".
func holdID(freezeID uint64, n int) string {
	b := make([]byte, 0, 24)
	b = strconv.AppendUint(b, freezeID, 10)
	b = append(b, '.')
	return string(strconv.AppendInt(b, int64(n), 10))
}

// addHoldLocked makes the next hold of a freeze that stands, from now on.
func (f *Freezer) addHoldLocked(fr *freeze, r *Request, token string, now time.Time) *hold {
	h := &hold{fr: fr, token: token, told: 1, Hold: Hold{
		ID: holdID(fr.id, len(fr.holds)+1), FreezeID: fr.id, Holder: r.Holder, Reason: r.Reason,
		Since: now, ExpiresAt: now.Add(r.Lease), Lease: r.Lease, HasToken: r.RequireToken, Key: r.Key}}
	fr.holds = append(fr.holds, h)
	fr.standing++
	f.rememberLocked(h)
	return h
}

// rememberLocked puts a hold into the book and forgets the oldest beyond the bound.
func (f *Freezer) rememberLocked(h *hold) {
	f.book.add(h)
	for gone := f.book.forget(); gone != nil; gone = f.book.forget() {
		if k := f.keys[gone.Key]; k != nil && k.hold == gone {
			delete(f.keys, gone.Key)
		}
	}
}

// endHoldLocked ends a standing hold at the time given. The caller ends the
// freeze if it was the last.
func (f *Freezer) endHoldLocked(h *hold, end, by string, at, now time.Time) {
	h.End, h.EndedAt, h.EndedBy = end, at, by
	h.fr.standing--
	if h.lost() {
		f.book.lost = append(f.book.lost, h)
		f.book.nextLost() // keeps the list as short as the book
	}
	f.eventLocked(EventHoldEnd, h.fr, h, now)
}

// endAllLocked ends every standing hold of a freeze and with them the freeze.
func (f *Freezer) endAllLocked(fr *freeze, s State, by string, now time.Time) {
	for _, h := range fr.holds {
		if h.stands() {
			f.endHoldLocked(h, string(s), by, now, now)
		}
	}
	f.endLocked(fr, s, now)
}

// endLocked is the thaw (transition 6): the last hold is gone. O(1) until the
// gates are open; what was held is let go by others.
func (f *Freezer) endLocked(fr *freeze, s State, now time.Time) {
	close(fr.done) // F5
	f.box.open(fr.id)
	f.disarmLocked()
	fr.rec.State, fr.rec.EndedAt = s, now
	fr.rec.BlockedTotal, fr.rec.LongestWait = f.lobby.letGo(fr.id, now)
	fr.cancel(nil)
	f.retireLocked(fr, now)
	f.tellAllReadsLocked(fr, now)
	f.eventLocked(EventThawed, fr, nil, now)
	f.reportedLocked(fr, nil, now)
	f.grantLocked()
}

// retireLocked makes room for the next freeze.
func (f *Freezer) retireLocked(fr *freeze, now time.Time) {
	f.cur, f.last, f.since = nil, fr, now
}

// book finds holds by their id and by holder, and remembers which were lost
// without anybody being told. It is bounded: the oldest ended holds go first.
// Guarded by Freezer.mu.
type book struct {
	max      int
	byID     map[string]*hold
	byHolder map[string]*hold // the newest of each
	order    []*hold          // oldest first
	lost     []*hold          // ended, lost; those reported are skipped
}

func newBook(max int) book {
	return book{max: max, byID: make(map[string]*hold), byHolder: make(map[string]*hold)}
}

// add remembers a hold as its holder's newest.
func (b *book) add(h *hold) {
	b.byID[h.ID] = h
	b.byHolder[h.Holder] = h
	b.order = append(b.order, h)
}

// forget drops the oldest hold if there are too many, nil if there are not.
// Standing holds are never forgotten (there are at most MaxHolds).
func (b *book) forget() (gone *hold) {
	if len(b.order) <= b.max || b.order[0].stands() {
		return nil
	}
	gone = b.order[0]
	b.order[0] = nil
	b.order = b.order[1:]
	delete(b.byID, gone.ID)
	if b.byHolder[gone.Holder] == gone {
		delete(b.byHolder, gone.Holder)
	}
	gone.reported = true // too old to be told of
	return gone
}

// nextLost is the oldest lost hold nobody was told of, nil if there is none.
func (b *book) nextLost() *hold {
	for len(b.lost) > 0 {
		if h := b.lost[0]; !h.reported {
			return h
		}
		b.lost[0] = nil
		b.lost = b.lost[1:]
	}
	return nil
}

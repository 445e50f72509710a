package freeze

import (
	"sort"
	"strconv"
	"strings"
)

// restore remembers the holds of earlier lives of the process, so that a thaw
// after a restart hears the truth. Whatever the ledger left open was ended by
// the restart: a hold that stood is interrupted, one never reached rolled back.
// Called by New before anybody else knows the Freezer.
func (f *Freezer) restore(past []PastHold) {
	past = append([]PastHold(nil), past...)
	sort.SliceStable(past, func(i, j int) bool {
		a, b := &past[i], &past[j]
		if a.FreezeID != b.FreezeID {
			return a.FreezeID < b.FreezeID
		}
		return holdNumber(a.ID) < holdNumber(b.ID) // not by time: the clock may have been set back between two
	})
	var fr *freeze
	for i := range past {
		p := &past[i]
		f.nextID = max(f.nextID, p.FreezeID+1) // F8
		if i < len(past)-f.cfg.MaxPast {
			continue
		}
		if fr == nil || fr.id != p.FreezeID {
			fr = p.freeze()
		}
		f.restoreHold(fr, p)
	}
}

// holdNumber is the n of "12.n", 0 for an id that is not of that form.
func holdNumber(id string) int {
	_, n, _ := strings.Cut(id, ".")
	v, _ := strconv.Atoi(n) // 0: it sorts first
	return v
}

// freeze rebuilds what a thaw needs to know of a past freeze.
func (p *PastHold) freeze() *freeze {
	fr := &freeze{id: p.FreezeID, done: closedChan, settled: closedChan}
	fr.rec = Record{ID: p.FreezeID, State: p.State, RequestedAt: p.FreezeAt, FrozenAt: p.FrozenAt}
	switch {
	case p.State == StateFreezing || p.State == StateFrozen && p.FrozenAt.IsZero():
		fr.rec.State = StateRolledBack
	case p.State == StateFrozen:
		fr.rec.State = StateInterrupted
	}
	return fr
}

func (f *Freezer) restoreHold(fr *freeze, p *PastHold) {
	h := &hold{Hold: p.Hold, fr: fr, reported: p.Reported}
	h.Token = ""
	if p.Key != "" {
		h.Key = p.Key
	}
	if h.End == "" {
		h.End = endInterrupted
		if p.FrozenAt.IsZero() {
			h.End = endRolledBack
		}
	}
	fr.holds = append(fr.holds, h)
	f.rememberLocked(h)
	if h.lost() && !h.reported {
		f.book.lost = append(f.book.lost, h)
	}
	if h.Key != "" && h.End != endRolledBack {
		f.keys[h.Key] = &keyEntry{params: Request{Holder: h.Holder, Reason: h.Reason}, restored: true, settled: closedChan, hold: h}
	}
}

package web

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"permafrost/core/freeze"
	"permafrost/store"
)

// outcome is how a freeze stands or ended, in words, in colour and as a glyph
// (never in colour alone).
type outcome struct {
	Word     string // badge
	Class    string // held, lost, rolled-back, standing
	Glyph    string
	Sentence string // what it means for a copy taken meanwhile
}

var outcomes = map[string]outcome{
	string(freeze.StateFreezing): {"freezing", "standing", "…",
		"The gates are closing; the image is not still yet."},
	string(freeze.StateFrozen): {"frozen", "standing", "❄",
		"The image holds still now."},
	string(freeze.StateThawed): {"held", "held", "✓",
		"It stood without a gap until it was thawed: a copy taken meanwhile is consistent."},
	string(freeze.StateExpired): {"lost: expired", "lost", "✕",
		"Its lease ran out before anybody thawed it: a copy still being read then is not consistent."},
	string(freeze.StateForced): {"lost: forced", "lost", "✕",
		"Somebody ended it by force: a copy still being read then is not consistent."},
	string(freeze.StateInterrupted): {"lost: interrupted", "lost", "✕",
		"The appliance stopped while it stood: a copy taken meanwhile is not consistent."},
	string(freeze.StateRolledBack): {"rolled back", "rolled-back", "↩",
		"It never became frozen: everything it had stopped went on."},
}

func outcomeOf(state string) outcome {
	if o, ok := outcomes[state]; ok {
		return o
	}
	return outcome{Word: state, Class: "rolled-back", Glyph: "?", Sentence: "The ledger holds a state this page does not know."}
}

// fromRecord is core's record of a freeze in the ledger's shape, for freezes
// the recorder has not written yet.
func fromRecord(r *freeze.Record) store.Freeze {
	f := store.Freeze{
		ID: int64(r.ID), State: string(r.State), Generation: int64(r.Generation),
		RequestedAt: r.RequestedAt, FrozenAt: r.FrozenAt, EndedAt: r.EndedAt, ExpiresAt: r.ExpiresAt,
		WindowUS: micros(r.Window), TotalUS: micros(r.Total), PrecleanPasses: r.PrecleanPasses,
		Inodes: int64(r.Flushed.Inodes), Pages: int64(r.Flushed.Pages), Bytes: int64(r.Flushed.Bytes),
		WindowInodes: int64(r.WindowFlushed.Inodes), WindowPages: int64(r.WindowFlushed.Pages),
		WindowBytes: int64(r.WindowFlushed.Bytes), Strategy: r.Strategy, Modes: r.Modes,
		LongestWaitUS: micros(r.LongestWait), BlockedTotal: int64(r.BlockedTotal),
		ImageReads: int64(r.ImageReads), WaitingFor: r.WaitingFor, Error: r.Error, Degraded: r.Degraded,
	}
	for _, h := range r.Holds {
		f.Holds = append(f.Holds, store.Hold{
			Hold: h.ID, FreezeID: int64(h.FreezeID), Holder: h.Holder, Reason: h.Reason, Since: h.Since,
			ExpiresAt: h.ExpiresAt, EndedAt: h.EndedAt, End: h.End, Renewals: h.Renewals, HasToken: h.HasToken,
		})
	}
	for _, p := range r.Phases {
		f.Phases = append(f.Phases, store.Phase{Name: p.Name, DurationUS: micros(p.Duration)})
	}
	return f
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// withPresent lays core's current and last freeze over the ledger's rows: the
// recorder writes a moment later, and core is right. Newest first.
func withPresent(rows []store.Freeze, s snapshot) []store.Freeze {
	out := append([]store.Freeze(nil), rows...)
	for _, r := range []*freeze.Record{s.Status.LastFreeze, s.Status.Freeze} {
		if r == nil {
			continue
		}
		f := fromRecord(r)
		at := -1
		for i := range out {
			if out[i].ID == f.ID {
				at = i
			}
		}
		if at < 0 {
			out = append(out, f)
			continue
		}
		f.Reported = out[at].Reported
		out[at] = f
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].ID > out[j].ID })
	return out
}

// freezeRow is one freeze in a list.
type freezeRow struct {
	ID          int64
	Href        string
	Outcome     outcome
	Requested   moment
	Frozen      moment
	Holders     string
	Window      string // what writers felt
	Total       string // request to complete
	Held        string // how long it stood
	Flushed     string
	Waiters     string
	LongestWait string
}

func freezeRowOf(f store.Freeze, now time.Time) freezeRow {
	r := freezeRow{
		ID: f.ID, Href: fmt.Sprintf("/ui/freezes/%d", f.ID), Outcome: outcomeOf(f.State),
		Requested: momentOf(f.RequestedAt, now), Frozen: momentOf(f.FrozenAt, now),
		Holders: elide(holderNames(f.Holds), holdersShown), Window: dash, Total: dash, Held: dash,
		Flushed: plural(f.Pages, "page", "pages"), Waiters: count(f.BlockedTotal), LongestWait: "",
	}
	if !f.FrozenAt.IsZero() {
		r.Window, r.Total = microsText(f.WindowUS), microsText(f.TotalUS)
		// A standing freeze has no length yet; a number would be stale at once.
		r.Held = "stands"
		if !f.EndedAt.IsZero() {
			r.Held = spanText(f.EndedAt.Sub(f.FrozenAt))
		}
	}
	if f.LongestWaitUS > 0 {
		r.LongestWait = "up to " + microsText(f.LongestWaitUS)
	}
	return r
}

func endOr(end, now time.Time) time.Time {
	if end.IsZero() {
		return now
	}
	return end
}

// holderNames lists the holders of a freeze, each once.
func holderNames(holds []store.Hold) string {
	var names []string
	seen := map[string]bool{}
	for _, h := range holds {
		if !seen[h.Holder] {
			seen[h.Holder] = true
			names = append(names, h.Holder)
		}
	}
	if len(names) == 0 {
		return dash
	}
	return strings.Join(names, ", ")
}

package web

import (
	"fmt"
	"math"
	"sort"
	"strings"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/store"
)

// banner is the state, to be read from across the room.
type banner struct {
	Class    string // unfrozen, freezing, frozen, thawing
	Word     string
	Meaning  string
	Since    moment
	Holders  string // "" when nobody holds it
	FreezeID uint64
	Href     string
	Lease    *lease // nil unless frozen
	Last     *freezeRow
	Announce string // for screen readers; changes only when the state does
}

// lease is a countdown.
type lease struct {
	Expires moment
	Left    string
	// LeftPart is how much of the time from frozen to expiry is left, in thousandths.
	LeftPart int
	From     string // RFC 3339: where the bar is full
}

var banners = map[string]struct{ word, meaning string }{
	"unfrozen": {"Unfrozen", "Programs store freely; the image changes."},
	"freezing": {"Freezing", "The gates are closing; the image is not still yet."},
	"frozen":   {"Frozen", "The image is consistent, durable and still: copy it now."},
	"thawing":  {"Thawing", "Everything that was held is going on."},
}

func bannerOf(s snapshot) banner {
	st := s.Status
	text, ok := banners[st.State]
	if !ok {
		text.word, text.meaning = st.State, ""
	}
	b := banner{Class: st.State, Word: text.word, Meaning: text.meaning, Since: momentOf(st.Since, s.Now)}
	if st.Freeze != nil {
		f := st.Freeze
		b.FreezeID, b.Href = f.ID, fmt.Sprintf("/ui/freezes/%d", f.ID)
		b.Holders = holderNames(fromRecord(f).Holds)
		if !f.FrozenAt.IsZero() {
			b.Lease = leaseOf(f.FrozenAt, f.ExpiresAt, s.Now)
		}
	}
	if st.LastFreeze != nil {
		row := freezeRowOf(fromRecord(st.LastFreeze), s.Now)
		b.Last = &row
	}
	b.Announce = b.Word + "."
	if b.Holders != "" {
		b.Announce = b.Word + ", held by " + b.Holders + "."
	}
	return b
}

func leaseOf(from, expires, now time.Time) *lease {
	l := &lease{Expires: momentOf(expires, now), Left: countdownText(expires.Sub(now)), From: from.UTC().Format(time.RFC3339Nano)}
	if whole := expires.Sub(from); whole > 0 {
		part := float64(expires.Sub(now)) / float64(whole)
		l.LeftPart = int(math.Round(1000 * math.Min(1, math.Max(0, part))))
	}
	return l
}

// holdRow is one standing hold with what can be done about it here.
type holdRow struct {
	ID, Holder, Reason string
	Since, Expires     moment
	Left               string
	Renewals           int
	Own                bool // made at a dashboard: ending it spoils nobody else's copy
	HasToken           bool // only its token, or force, ends it
}

func holdRows(s snapshot) []holdRow {
	if s.Status.Freeze == nil || s.Status.State != "frozen" {
		return nil
	}
	var rows []holdRow
	for _, h := range s.Status.Freeze.Holds {
		if !h.EndedAt.IsZero() {
			continue
		}
		rows = append(rows, holdRow{
			ID: h.ID, Holder: h.Holder, Reason: h.Reason, Since: momentOf(h.Since, s.Now),
			Expires: momentOf(h.ExpiresAt, s.Now), Left: countdownText(h.ExpiresAt.Sub(s.Now)),
			Renewals: h.Renewals, Own: isOwnHolder(h.Holder), HasToken: h.HasToken,
		})
	}
	return rows
}

// cost is what a freeze would have to do if it were asked for now.
type cost struct {
	Still    bool // already frozen: nothing can be dirty
	Unseen   bool // programs may have stored through the mount what is not counted yet
	Inodes   string
	Pages    string
	Bytes    string
	Estimate estimate
}

// estimate is a forecast from freezes that had about as much to do.
type estimate struct {
	N               int // how many freezes it rests on; 0: no forecast
	Window          string
	WindowFrom      string
	WindowTo        string
	Total           string
	LeastPg, MostPg string // the range of pages those freezes flushed
}

// Comparable freezes flushed between a quarter and four times as many pages.
const (
	comparableFactor = 4
	estimateLeast    = 3 // fewer are an anecdote
)

func costOf(s snapshot, recent []store.Freeze) cost {
	return cost{
		Still:    s.Status.State == "frozen",
		Unseen:   s.Mount != nil && !s.Mount.Ended && s.Mount.Writable > 0,
		Inodes:   plural(s.Status.InodesDirty, "dirty inode", "dirty inodes"),
		Pages:    plural(s.Status.DirtyPages, "dirty page", "dirty pages"),
		Bytes:    sizeText(s.Status.DirtyPages * format.PageSize),
		Estimate: estimateOf(s.Status.DirtyPages, recent),
	}
}

// estimateOf gives the median and the range of comparable freezes, or nothing.
func estimateOf(dirtyPages uint64, recent []store.Freeze) estimate {
	var e estimate
	var windows, totals []float64
	least, most := int64(math.MaxInt64), int64(0)
	for _, f := range recent {
		ratio := float64(f.Pages+1) / float64(dirtyPages+1)
		if f.FrozenAt.IsZero() || f.Strategy == "walk-all" || ratio > comparableFactor || ratio < 1.0/comparableFactor {
			continue
		}
		windows, totals = append(windows, f.WindowUS), append(totals, f.TotalUS)
		least, most = min(least, f.Pages), max(most, f.Pages)
	}
	if len(windows) < estimateLeast {
		return e
	}
	sort.Float64s(windows)
	sort.Float64s(totals)
	e.N = len(windows)
	e.Window, e.Total = microsText(median(windows)), microsText(median(totals))
	e.WindowFrom, e.WindowTo = microsText(windows[0]), microsText(windows[len(windows)-1])
	e.LeastPg, e.MostPg = count(least), plural(most, "page", "pages")
	return e
}

// median of ascending values; there is at least one.
func median(v []float64) float64 {
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// waiter is one held caller.
type waiter struct {
	Op, Gate, Target, Href, WayIn, Who string
	Since                              moment
	Page                               string // "" if it is not a store
}

// waitersShown bounds the list on a page; the count above it is complete.
const waitersShown = 100

func waitersOf(s snapshot) []waiter {
	list := s.Blocked
	if len(list) > waitersShown {
		list = list[:waitersShown]
	}
	rows := make([]waiter, 0, len(list))
	for _, b := range list {
		w := waiter{
			Op: b.Op, Gate: gateName(b.Gate), WayIn: b.WayIn, Since: momentOf(b.Since, s.Now),
			Target: dash, Who: whoText(b.PID, b.Comm, int64(b.UID), b.Remote),
		}
		if b.Ino != 0 {
			w.Target = listPath(b.Path, format.Ino(b.Ino))
			w.Href = inodeHref(b.Ino)
		} else if b.Path != "" {
			w.Target = listPath(b.Path, 0)
		}
		if b.Op == "store" {
			w.Page = count(b.Page)
		}
		rows = append(rows, w)
	}
	return rows
}

func gateName(l freeze.Level) string {
	switch l {
	case freeze.Write:
		return "write"
	case freeze.PageFault:
		return "page fault"
	case freeze.FS:
		return "internal"
	}
	return dash
}

func whoText(pid int, comm string, uid int64, remote string) string {
	if pid != 0 {
		return processText(core.Process{PID: pid, UID: uint32(uid), Comm: comm})
	}
	if remote != "" {
		return remote
	}
	return dash
}

func inodeHref(ino uint64) string { return fmt.Sprintf("/ui/inodes/%d", ino) }

// alert is something that is not fine.
type alert struct {
	Class string // warn, bad
	Title string
	Text  string
	Do    string // a command, "" for none
}

const (
	spaceWarnPart = 0.10
	spaceBadPart  = 0.03
)

func alertsOf(s snapshot, ledgerErr error) []alert {
	var out []alert
	st := s.Status
	if st.MetadataErrors > 0 && st.Degraded != nil {
		out = append(out, alert{"bad", "The metadata is damaged; the file system is read-only",
			plural(st.MetadataErrors, "block", "blocks") + " of it cannot be read: " + st.Degraded.Error() +
				". Everything that does not need them is served. Copy what matters, stop the appliance, repair the image.",
			"permafrost check --repair " + st.Medium.Path})
	} else if st.Degraded != nil {
		out = append(out, alert{"bad", "The file system is read-only",
			"A write to the medium failed: " + st.Degraded.Error() +
				". What was durable before is safe. Stop the appliance, check the image, start it again.",
			"permafrost check " + st.Medium.Path})
	}
	if n := st.BadBlocks + st.BadBlocksPending; n > 0 {
		out = append(out, alert{"bad", plural(n, "bad block", "bad blocks"),
			"They are never allocated again. Reads of the pages that files have in them fail with an input/output error; nothing else is affected. The list names the files.",
			"permafrost badblocks"})
	}
	out = append(out, mountAlerts(s)...)
	if total := st.Space.Total; total > 0 {
		part := float64(st.Space.Free) / float64(total)
		if part < spaceWarnPart {
			class := "warn"
			if part < spaceBadPart {
				class = "bad"
			}
			out = append(out, alert{class, "Space is short: " + sizeText(st.Space.Free) + " free",
				fmt.Sprintf("%s of %s are used (%.0f %%). Delete files, or grow the image.",
					sizeText(st.Space.Used), sizeText(total), 100*(1-part)), ""})
		}
	}
	if s.Health == store.Degraded || ledgerErr != nil {
		why := s.HealthWhy
		if why == "" && ledgerErr != nil {
			why = ledgerErr.Error()
		}
		out = append(out, alert{"warn", "The ledger is degraded",
			"Freeze and thaw work as ever; their history is kept in memory and written when it can be. Reason: " + why + ".", ""})
	}
	if st.EventsDropped > 0 {
		out = append(out, alert{"warn", plural(st.EventsDropped, "event was dropped", "events were dropped"),
			"The history of syncs and inodes has gaps since the appliance started. Freezes are recorded all the same.", ""})
	}
	return out
}

// fact is one line of a list of facts: a value, or a moment.
type fact struct {
	Name, Value, Note string
	At                moment
}

func factsOf(s snapshot) []fact {
	st := s.Status
	survives := "survives a power loss"
	if !st.Medium.SurvivesPowerLoss {
		survives = "does not survive a power loss"
	}
	out := []fact{
		said("Image", st.Medium.Path, sizeText(st.Medium.SizeBytes)),
		said("Persistence", st.Medium.Domain, survives+flushNote(st.Medium.FlushInstruction)),
		said("Space", sizeText(st.Space.Used)+" used", "of "+sizeText(st.Space.Total)+", "+sizeText(st.Space.Free)+" free"),
		said("Generation", count(st.Generation), "newest durable"),
		said("Inodes", count(st.InodesTotal), count(st.InodesCached)+" cached"),
		said("Mappings", count(st.Mappings), "of attached programs; a freeze holds the writable ones"),
		scrubFact(st.Scrub, s.Now),
	}
	if s.Mount != nil && !s.Mount.Ended {
		out = append(out, said("Mount", listPath(s.Mount.Dir, 0), mountNote(s.Mount)))
	}
	if s.Attach != nil {
		out = append(out, said("Attach", plural(s.Attach.Clients, "program", "programs"), attachNote(s.Attach)))
	}
	return append(out, fact{Name: "Running since", At: momentOf(st.StartedAt, s.Now), Note: "version " + s.Version})
}

func said(name, value, note string) fact { return fact{Name: name, Value: value, Note: note} }

// scrubFact says how far the background check of the metadata is.
func scrubFact(st core.ScrubStatus, now time.Time) fact {
	f := fact{Name: "Scrub", Value: st.State}
	switch {
	case st.State != core.ScrubIdle:
		f.Value = fmt.Sprintf("%s, %d %%", st.State, st.Nodes*100/max(st.Of, 1))
		f.Note = fmt.Sprintf("%s of %s metadata nodes read", count(st.Nodes), count(st.Of))
	case st.EndedAt.IsZero():
		f.Value, f.Note = "none yet", "reads and verifies all metadata"
	default:
		f.Value = ""
		f.At, f.Note = momentOf(st.EndedAt, now), fmt.Sprintf("%s metadata nodes read, %s damaged", count(st.Nodes), count(st.Found))
	}
	return f
}

func flushNote(instruction string) string {
	if instruction == "" {
		return ""
	}
	return "; lines flushed by " + strings.ToUpper(instruction)
}

func attachNote(a *AttachStatus) string {
	if a.Refused != "" {
		return "refused: " + a.Refused
	}
	return a.Socket
}

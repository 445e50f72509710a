package web

import (
	"fmt"
	"math"
	"sort"
	"strings"
	"time"

	"permafrost/core/format"
	"permafrost/store"
)

// freezeData is what one freeze's page is made from.
type freezeData struct {
	Freeze   store.Freeze
	Renewals []store.Renewal
	Reads    []store.ImageRead  // what was read of the image, in order of its beginning
	Waited   []store.Blocked    // let go already
	Found    []store.FoundInode // one page of them
	After    int64              // cursor of that page
	More     bool               // there are more behind it
}

// freezeView is the page of one freeze.
type freezeView struct {
	Row     freezeRow
	Facts   []fact
	Reach   []lane
	ReachX  axis
	Window  []lane
	WinX    axis
	Phases  []phaseRow
	Hold    holdView
	Waits   []waitRow
	Unseen  int64 // waiters beyond those listed
	Found   []foundRow
	Next    string // href of the next page of inodes found, "" at the end
	First   string // href of the first page, "" on it
	NoFound string // why the list is empty
	Error   string
	Caveat  string   // what a copy may lack though the freeze was kept
	For     []string // rolled back: whom it waited for
}

type phaseRow struct {
	Name, What, Duration string
	InWindow             bool
}

// holdView draws the time the image stood still.
type holdView struct {
	Lanes []lane
	X     axis
	Rows  []pastHold
	Reads []readRow
	Notes []string
}

type pastHold struct {
	ID, Holder, Reason, End, Class string
	Since, Ended, Expires          moment
	Renewals                       int
}

type readRow struct {
	Reader, Requests, Bytes string
	At                      moment
	After                   string // since it was complete
	Lasted                  string
}

type waitRow struct {
	Op, Gate, Target, Href, WayIn, Who, Waited string
	Since                                      moment
	Cancelled, Still                           bool
	since                                      time.Time // for the lane
	waited                                     time.Duration
}

type foundRow struct {
	Path, Href, Pages, Bytes string
	Dirty                    moment
	Window                   bool
}

// phases says what each step on the way to Complete does, and whether callers
// can be held while it runs.
var phases = map[string]struct {
	what   string
	window bool
}{
	"intent":    {"the ledger records who asks and why", false},
	"preclean":  {"dirty pages are flushed while the gates are open", false},
	"write":     {"new writes are held; those inside finish", true},
	"collect":   {"the mount's page cache is written back; its stores are held", true},
	"pagefault": {"new first stores are held; faults inside finish", true},
	"sync":      {"pages dirtied since are write-protected and flushed", true},
	"fs":        {"internal work stops; the final commit makes the image mountable", true},
	"complete":  {"the image is still", true},
}

func freezeViewOf(d freezeData, s snapshot) freezeView {
	f := d.Freeze
	v := freezeView{Row: freezeRowOf(f, s.Now), Facts: freezeFacts(f, s.Now), Error: f.Error, For: f.WaitingFor}
	if f.Modes["mount"] == modeNotify && !f.FrozenAt.IsZero() {
		v.Caveat = notifyText
	}
	v.reach(f)
	v.Waits = waitRows(d, s)
	if n := f.BlockedTotal - int64(len(v.Waits)); n > 0 {
		v.Unseen = n
	}
	v.Hold = holdViewOf(d, v.Waits, s.Now)
	self := fmt.Sprintf("/ui/freezes/%d", f.ID)
	for _, i := range d.Found {
		v.Found = append(v.Found, foundRow{
			Path: listPath(i.Path, format.Ino(i.Ino)), Href: inodeHref(uint64(i.Ino)), Pages: count(i.Pages),
			Bytes: sizeText(i.Bytes), Dirty: momentOf(i.DirtySince, s.Now), Window: i.Window,
		})
	}
	if d.More && len(d.Found) > 0 {
		v.Next = withQuery(self, "after", fmt.Sprint(d.Found[len(d.Found)-1].ID))
	}
	if d.After > 0 {
		v.First = self
	}
	v.NoFound = "No inode was dirty when it came: nothing had to be flushed."
	if f.Inodes > 0 {
		v.NoFound = plural(f.Inodes, "inode was", "inodes were") + " flushed; the ledger has not listed them (yet)."
	}
	return v
}

func freezeFacts(f store.Freeze, now time.Time) []fact {
	out := []fact{
		{Name: "Requested", At: momentOf(f.RequestedAt, now)},
	}
	if !f.FrozenAt.IsZero() {
		out = append(out,
			said("Window", microsText(f.WindowUS), "what writers felt"),
			said("Request to complete", microsText(f.TotalUS), passesText(f.PrecleanPasses)),
			said("Stood still", spanText(endOr(f.EndedAt, now).Sub(f.FrozenAt)), stillNote(f)),
			said("Generation", count(f.Generation), "the commit the image holds"))
	}
	out = append(out,
		said("Flushed", pagesText(f.Pages), plural(f.Inodes, "inode", "inodes")),
		said("of that in the window", pagesText(f.WindowPages), plural(f.WindowInodes, "inode", "inodes")),
		said("Held callers", count(f.BlockedTotal), longestText(f)),
		said("Image reads", count(f.ImageReads), ""))
	if f.Strategy != "" {
		out = append(out, said("Strategy", f.Strategy, "how dirty pages were found"))
	}
	out = append(out, modeFacts(f.Modes)...)
	if f.Degraded {
		out = append(out, said("Ledger", "degraded", "its intent could not be recorded in time"))
	}
	return out
}

func stillNote(f store.Freeze) string {
	if f.EndedAt.IsZero() {
		return "so far"
	}
	return ""
}

func passesText(n int) string { return plural(n, "pre-clean pass", "pre-clean passes") }

func longestText(f store.Freeze) string {
	if f.LongestWaitUS <= 0 {
		return ""
	}
	return "the longest for " + microsText(f.LongestWaitUS)
}

// modeTexts says how a freeze stopped the mapped stores of each way in.
var modeTexts = map[string]struct{ word, note string }{
	"protect":  {"protect", "their pages were write-protected; stores are held in program order"},
	"collect":  {"collect", "the kernel wrote back what was stored; stores are held in program order"},
	modeNotify: {modeNotify, "the kernel was not done in time: still and consistent, but not in program order"},
}

// modeFacts leaves out ways in that nobody could store by.
func modeFacts(modes map[string]string) (out []fact) {
	for _, way := range []struct{ key, name string }{{"attach", "Attached programs"}, {"mount", "Mount"}} {
		if mode := modes[way.key]; mode != "" && mode != "none" {
			text, ok := modeTexts[mode]
			if !ok {
				text.word = mode
			}
			out = append(out, said(way.name, text.word, text.note))
		}
	}
	return out
}

// reach draws the way to Complete twice: all of it, and the window enlarged.
func (v *freezeView) reach(f store.Freeze) {
	var whole, window float64
	for _, p := range f.Phases {
		whole += p.DurationUS
		if phases[p.Name].window {
			window += p.DurationUS
		}
	}
	if whole <= 0 {
		return
	}
	// What the total has beyond its phases passed before the first of them.
	before := f.TotalUS - whole
	if before < f.TotalUS/200 {
		before = 0
	}
	v.ReachX = microsAxis(whole + before)
	if window > 0 {
		v.WinX = microsAxis(window)
	}
	if before > 0 {
		row := phaseRow{Name: "start", What: "from the request to the first phase", Duration: microsText(before)}
		v.Phases = append(v.Phases, row)
		v.Reach = append(v.Reach, lane{Label: row.Name, Value: row.Duration,
			Rects: []rect{bar(0, before, v.ReachX.Max, "phase", "start: "+row.Duration)}})
	}
	at, winAt := before, 0.0
	for _, p := range f.Phases {
		ph := phases[p.Name]
		row := phaseRow{p.Name, ph.what, microsText(p.DurationUS), ph.window}
		v.Phases = append(v.Phases, row)
		class := "phase"
		if ph.window {
			class = "phase in-window"
		}
		title := p.Name + ": " + row.Duration
		v.Reach = append(v.Reach, lane{Label: p.Name, Value: row.Duration,
			Rects: []rect{bar(at, p.DurationUS, v.ReachX.Max, class, title)}})
		at += p.DurationUS
		if ph.window && window > 0 {
			v.Window = append(v.Window, lane{Label: p.Name, Value: row.Duration,
				Rects: []rect{bar(winAt, p.DurationUS, v.WinX.Max, class, title)}})
			winAt += p.DurationUS
		}
	}
}

// bar is [at, at+length) on a scale of max, at least two units wide.
func bar(at, length, max float64, class, title string) rect {
	r := rect{X: boxW * at / max, W: math.Max(2, boxW*length/max), Class: class, Title: title}
	r.X = math.Max(0, math.Min(r.X, boxW-2))
	r.W = math.Min(r.W, boxW-r.X)
	return r
}

// waitRows joins the callers that still wait (if this freeze stands) and those
// that were let go, in the order they came.
func waitRows(d freezeData, s snapshot) []waitRow {
	var rows []waitRow
	if s.Status.Freeze != nil && int64(s.Status.Freeze.ID) == d.Freeze.ID {
		for i, w := range waitersOf(s) {
			b := s.Blocked[i]
			rows = append(rows, waitRow{
				Op: w.Op, Gate: w.Gate, Target: w.Target, Href: w.Href, WayIn: w.WayIn, Who: w.Who, Since: w.Since,
				Waited: "still waits", Still: true, since: b.Since, waited: s.Now.Sub(b.Since),
			})
		}
	}
	for _, b := range d.Waited {
		r := waitRow{
			Op: b.Op, Gate: strings.ReplaceAll(b.Gate, "_", " "), Target: dash, WayIn: b.WayIn, Who: whoText(b.PID, b.Comm, b.UID, b.Remote),
			Since: momentOf(b.Since, s.Now), Waited: microsText(b.WaitedUS), Cancelled: b.Cancelled,
			since: b.Since, waited: time.Duration(b.WaitedUS * 1e3),
		}
		if b.Ino != 0 {
			r.Target, r.Href = listPath(b.Path, format.Ino(b.Ino)), inodeHref(uint64(b.Ino))
		} else if b.Path != "" {
			r.Target = listPath(b.Path, 0)
		}
		rows = append(rows, r)
	}
	sort.SliceStable(rows, func(i, j int) bool { return rows[i].since.Before(rows[j].since) })
	return rows
}

// lanesShown bounds the lanes drawn for waiters; the table lists them all.
const lanesShown = 40

// holdViewOf draws holds, renewals, lease ends, image reads and waiters from the
// moment the freeze was complete. A standing freeze's axis runs to the end of its lease.
func holdViewOf(d freezeData, waits []waitRow, now time.Time) holdView {
	var v holdView
	f := d.Freeze
	for _, h := range f.Holds {
		v.Rows = append(v.Rows, pastHoldOf(h, now))
	}
	if f.FrozenAt.IsZero() {
		return v
	}
	end := f.EndedAt
	if end.IsZero() {
		end = f.ExpiresAt
		if end.Before(now) {
			end = now
		}
	}
	v.X = spanAxis(end.Sub(f.FrozenAt))
	at := func(t time.Time) float64 { return micros(t.Sub(f.FrozenAt)) }
	for _, h := range f.Holds {
		since, until := at(h.Since), at(endOr(h.EndedAt, now))
		since = math.Max(0, since)
		past := pastHoldOf(h, now)
		l := lane{Label: h.Hold + " " + h.Holder, Value: past.End}
		l.Rects = append(l.Rects, bar(since, until-since, v.X.Max, "hold "+past.Class, h.Holder))
		for _, r := range d.Renewals {
			if r.Hold == h.Hold {
				l.Rects = append(l.Rects, bar(at(r.At), 0, v.X.Max, "renewal", "renewed until "+momentOf(r.ExpiresAt, now).Text))
			}
		}
		if x := at(h.ExpiresAt); x <= v.X.Max {
			l.Rects = append(l.Rects, bar(x, 0, v.X.Max, "lease-end", "lease ends "+momentOf(h.ExpiresAt, now).Text))
		}
		v.Lanes = append(v.Lanes, l)
	}
	v.reads(d, at, now)
	for i, w := range waits {
		if i == lanesShown {
			v.Notes = append(v.Notes, plural(len(waits)-lanesShown, "more waiter is", "more waiters are")+" in the table below.")
			break
		}
		class := "wait"
		if w.Cancelled {
			class = "wait cancelled"
		}
		v.Lanes = append(v.Lanes, lane{Label: w.Op + " " + w.Target, Href: w.Href, Value: w.Waited,
			Rects: []rect{bar(math.Max(0, at(w.since)), micros(w.waited), v.X.Max, class, w.Who)}})
	}
	return v
}

func pastHoldOf(h store.Hold, now time.Time) pastHold {
	p := pastHold{
		ID: h.Hold, Holder: h.Holder, Reason: h.Reason, End: h.End, Class: "lost", Since: momentOf(h.Since, now),
		Ended: momentOf(h.EndedAt, now), Expires: momentOf(h.ExpiresAt, now), Renewals: h.Renewals,
	}
	switch h.End {
	case "":
		p.End, p.Class = "stands", "standing"
	case "thawed":
		p.Class = "held"
	case "rolled_back":
		p.End, p.Class = "rolled back", "rolled-back"
	}
	return p
}

func sorted(v []float64) []float64 {
	out := append([]float64(nil), v...)
	sort.Float64s(out)
	return out
}

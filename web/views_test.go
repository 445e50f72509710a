package web

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/store"
)

func TestUnits(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{microsText(0), "0 µs"},
		{microsText(0.42), "0.42 µs"},
		{microsText(84.44), "84.4 µs"},
		{microsText(999.4), "999 µs"},
		{microsText(999.6), "1.00 ms"},
		{microsText(1240), "1.24 ms"},
		{microsText(2.31e6), "2.31 s"},
		{microsText(61e6), "1 min 01 s"},
		{microsText(math.NaN()), dash},
		{spanText(2*time.Hour + 3*time.Minute), "2 h 03 min"},
		{spanText(time.Hour), "1 h"},
		{spanText(5 * time.Minute), "5 min"},
		{spanText(76 * time.Hour), "3 d 04 h"},
		{countdownText(41*time.Second + 1), "0:42"},
		{countdownText(time.Hour + 62*time.Second), "1:01:02"},
		{countdownText(-time.Second), "0:00"},
		{agoText(epoch.Add(-12*time.Second), epoch), "12 s ago"},
		{agoText(epoch.Add(42*time.Second), epoch), "in 42 s"},
		{agoText(epoch, epoch), "just now"},
		{agoText(epoch.Add(-3*time.Hour), epoch), "3 h 0 min ago"},
		{plural(1, "page", "pages"), "1 page"},
		{plural(1234567, "page", "pages"), "1,234,567 pages"},
		{pagesText(2), "2 pages (8.0 KiB)"},
		{modeText(0o100640), "-rw-r-----"},
		{modeText(0o41777), "drwxrwxrwt"},
		{modeText(0o104755), "-rwsr-xr-x"},
		{modeText(0o102644), "-rw-r-Sr--"},
		{kindText(0o120777), "symbolic link"},
		{pathText("/caf\xe9", 3), `"/caf\xe9"`},
		{pathText("", 3), "inode 3 (no name)"},
		{listPath("", 3), "inode 3 (no name)"},
		{listPath("/"+strings.Repeat("é", pathShown-1), 3), "/" + strings.Repeat("é", pathShown-1)},
		{listPath("/"+strings.Repeat("a", 4000)+strings.Repeat("z", 90), 3), "/" + strings.Repeat("a", 52) + " … " + strings.Repeat("a", 14) + strings.Repeat("z", 90)},
		{runText([]core.PageRun{{First: 3, Count: 1}, {First: 9, Count: 4}}, 9), "3, 9–12"},
		{runText([]core.PageRun{{First: 3, Count: 1}, {First: 9, Count: 4}}, 1), "3 and 1 more"},
		{momentOf(epoch, epoch).Text, "22:30:00 UTC"},
		{momentOf(epoch.Add(-24*time.Hour), epoch).Text, "21 Nov 22:30:00 UTC"},
		{momentOf(epoch.Add(-400*24*time.Hour), epoch).Text, "18 Oct 2024 22:30:00 UTC"},
		{momentOf(time.Time{}, epoch).Text, dash},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

// TestOutcomes: every state of a freeze has words, and what was lost never
// looks like what was held.
func TestOutcomes(t *testing.T) {
	want := map[freeze.State]string{
		freeze.StateFreezing: "standing", freeze.StateFrozen: "standing", freeze.StateThawed: "held", freeze.StateExpired: "lost",
		freeze.StateForced: "lost", freeze.StateInterrupted: "lost", freeze.StateRolledBack: "rolled-back",
	}
	for state, class := range want {
		o, ok := outcomes[string(state)]
		if !ok || o.Class != class || o.Word == "" || o.Glyph == "" || o.Sentence == "" {
			t.Errorf("state %s: %+v, want class %s", state, o, class)
		}
	}
	if len(outcomes) != len(want) {
		t.Errorf("%d outcomes, %d states", len(outcomes), len(want))
	}
}

func TestCoreOverridesTheLedger(t *testing.T) {
	fs, l := fullFS(epoch)
	freezeNow(fs, epoch)
	u := newUI(t, fs, l, fixed(epoch))
	last := freeze.Record{ID: 40, State: freeze.StateExpired, RequestedAt: epoch, FrozenAt: epoch, EndedAt: epoch}
	fs.status.LastFreeze = &last
	l.freezes[0].Reported = true
	rows := withPresent(l.freezes, u.snap())
	if rows[0].ID != 41 || rows[0].State != "frozen" || len(rows[0].Holds) != 2 {
		t.Errorf("the standing freeze is missing: %+v", rows[0])
	}
	if rows[1].ID != 40 || rows[1].State != "expired" || !rows[1].Reported {
		t.Errorf("core's last freeze did not win, or lost what only the ledger knows: %+v", rows[1])
	}
	if len(rows) != 41 {
		t.Errorf("%d rows, want 41", len(rows))
	}
	if l.freezes[0].State != "thawed" {
		t.Error("the ledger's own rows were changed")
	}
}

func TestEstimate(t *testing.T) {
	at := func(pages int64, window float64, state string) store.Freeze {
		return store.Freeze{State: state, FrozenAt: epoch, Pages: pages, WindowUS: window, TotalUS: 10 * window}
	}
	near := []store.Freeze{at(100, 80, "thawed"), at(120, 100, "expired"), at(90, 60, "thawed")}
	e := estimateOf(100, near)
	if e.N != 3 || e.Window != "80.0 µs" || e.WindowFrom != "60.0 µs" || e.WindowTo != "100 µs" || e.Total != "800 µs" {
		t.Errorf("estimate %+v", e)
	}
	if e.LeastPg != "90" || e.MostPg != "120 pages" {
		t.Errorf("basis %+v", e)
	}
	far := []store.Freeze{at(10_000, 9000, "thawed"), at(1, 3, "thawed")}
	if got := estimateOf(100, append(far, near...)); got != (estimate{N: 3, Window: e.Window, WindowFrom: e.WindowFrom,
		WindowTo: e.WindowTo, Total: e.Total, LeastPg: "90", MostPg: "120 pages"}) {
		t.Errorf("freezes with another load count: %+v", got)
	}
	if got := estimateOf(100, near[:2]); got.N != 0 {
		t.Errorf("two freezes make a forecast: %+v", got)
	}
	never := at(100, 0, "rolled_back")
	never.FrozenAt = time.Time{}
	walk := at(100, 1, "thawed")
	walk.Strategy = "walk-all"
	if got := estimateOf(100, append([]store.Freeze{never, walk}, near[:2]...)); got.N != 0 {
		t.Errorf("a rolled back or a walk-all freeze counts: %+v", got)
	}
}

func TestMarks(t *testing.T) {
	_, l := fullFS(epoch)
	for i := range l.freezes {
		l.freezes[i].WindowUS = min(l.freezes[i].WindowUS, 1000)
	}
	l.freezes[0].WindowUS, l.freezes[1].WindowUS = 1000, 10
	v := marksOf(l.freezes, epoch)
	if len(v.Marks) != marksShown || v.Marks[len(v.Marks)-1].Row.ID != 40 || v.Marks[0].Row.ID != 11 {
		t.Fatalf("not the last %d, oldest first: %d marks", marksShown, len(v.Marks))
	}
	newest, second := v.Marks[len(v.Marks)-1], v.Marks[len(v.Marks)-2]
	if newest.Height != boxH || second.Height != 2 {
		t.Errorf("heights %v and %v, want the whole scale %v and the least 2", newest.Height, second.Height, boxH)
	}
	if strings.Join(v.Scale, " ") != "1 ms 100 µs 10 µs" {
		t.Errorf("scale %v", v.Scale)
	}
	for _, m := range v.Marks {
		if m.Row.ID == 28 && m.Height != 0 {
			t.Errorf("a freeze that was rolled back has a height: %v", m.Height)
		}
	}
	if v.Held != 27 || v.Lost != 2 {
		t.Errorf("held %d lost %d", v.Held, v.Lost)
	}
	if got := marksOf(nil, epoch); len(got.Marks) != 0 || len(got.Scale) != 0 {
		t.Errorf("marks of nothing: %+v", got)
	}
}

func TestSamples(t *testing.T) {
	s := func(sec int, pages int64, frozen bool) store.Sample {
		return store.Sample{At: epoch.Add(time.Duration(sec) * time.Second), DirtyPages: pages, DirtyInodes: 1, Frozen: frozen}
	}
	v := samplesOf([]store.Sample{s(0, 0, false), s(10, 50, false), s(20, 100, true), s(30, 0, true)}, epoch)
	if v.Series[0].Line != "M0 100L333.33 50L666.67 0L1000 100" {
		t.Errorf("line %q", v.Series[0].Line)
	}
	if v.Series[0].Max != "100" || v.Series[0].Now != "0" {
		t.Errorf("series %+v", v.Series[0])
	}
	if len(v.Frozen) != 1 || math.Abs(v.Frozen[0].X-333.33) > .01 || math.Abs(v.Frozen[0].W-666.67) > .01 {
		t.Errorf("frozen bands %+v", v.Frozen)
	}
	gap := samplesOf([]store.Sample{s(0, 1, false), s(1, 1, false), s(2, 1, false), s(100, 1, false), s(101, 1, false)}, epoch)
	if n := strings.Count(gap.Series[0].Line, "M"); n != 2 {
		t.Errorf("a gap is drawn over: %d strokes in %q", n, gap.Series[0].Line)
	}
	if len(samplesOf([]store.Sample{s(0, 1, false)}, epoch).Series) != 0 {
		t.Error("one sample makes a line")
	}
}

// TestPackRuns: strips stay in their box, in order, and show every dirty page.
func TestPackRuns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Uint64Range(1, 1<<40).Draw(t, "total")
		var runs []core.PageRun
		var at uint64
		for range rapid.IntRange(0, 50).Draw(t, "runs") {
			at += rapid.Uint64Range(0, total/20+1).Draw(t, "skip")
			n := rapid.Uint64Range(1, total/30+1).Draw(t, "count")
			if at+n > total {
				break
			}
			runs = append(runs, core.PageRun{First: format.Page(at), Count: n})
			at += n
		}
		rects := packRuns(runs, total, "dirty")
		end := 0.0
		for _, r := range rects {
			if r.X < end-1 || r.W < 0.99 || r.X+r.W > boxW+0.01 {
				t.Fatalf("rect %+v after %v", r, end)
			}
			end = r.X + r.W
		}
		for _, run := range runs {
			mid := boxW * (float64(run.First) + float64(run.Count)/2) / float64(total)
			seen := false
			for _, r := range rects {
				seen = seen || mid >= r.X-1 && mid <= r.X+r.W+1
			}
			if !seen {
				t.Fatalf("run %+v of %d is not drawn", run, total)
			}
		}
	})
}

// TestLastPageIsSeen: one page at the end of a large file is as wide as any.
func TestLastPageIsSeen(t *testing.T) {
	if r := packRuns([]core.PageRun{{First: 999_999, Count: 1}}, 1_000_000, "dirty"); len(r) != 1 || r[0].W != 1 || r[0].X != boxW-1 {
		t.Errorf("drawn as %+v", r)
	}
}

func TestAxes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Float64Range(0.01, 1e10).Draw(t, "us")
		a := microsAxis(us)
		if a.Max < us*(1-1e-9) || a.Max > 2*us+1e-9 || len(a.Ticks) < 2 || len(a.Ticks) > 7 {
			t.Fatalf("axis of %v: %+v", us, a)
		}
		d := time.Duration(rapid.Int64Range(1, int64(100*time.Hour)).Draw(t, "d"))
		b := spanAxis(d)
		if b.Max < micros(d)-1e-6 || len(b.Ticks) < 2 || len(b.Ticks) > 7 {
			t.Fatalf("axis of %v: %+v", d, b)
		}
	})
	if a := microsAxis(113); strings.Join(a.Ticks, " ") != "0 50 µs 100 µs 150 µs" {
		t.Errorf("ticks %v", a.Ticks)
	}
	if a := spanAxis(100 * time.Second); strings.Join(a.Ticks, ", ") != "0, 30 s, 1 min, 1:30 min, 2 min" {
		t.Errorf("ticks %v", a.Ticks)
	}
}

// TestAlerts: nothing when all is fine, and each trouble by itself.
func TestAlerts(t *testing.T) {
	fs, l := fullFS(epoch)
	fine := newUI(t, fs, l, fixed(epoch)).snap()
	if a := alertsOf(fine, nil); len(a) != 0 {
		t.Fatalf("alerts while all is fine: %+v", a)
	}
	for _, c := range []struct {
		name, class, says string
		err               error
		plant             func(*snapshot)
	}{
		{"error state", "bad", "read-only", nil, func(s *snapshot) { s.Status.Degraded = errPlanted }},
		{"damage", "bad", "metadata is damaged", nil, func(s *snapshot) { s.Status.Degraded, s.Status.MetadataErrors = errPlanted, 1 }},
		{"bad block of a freeze", "bad", "2 bad blocks", nil, func(s *snapshot) { s.Status.BadBlocks, s.Status.BadBlocksPending = 1, 1 }},
		{"bad block", "bad", "1 bad block", nil, func(s *snapshot) { s.Status.BadBlocks = 1 }},
		{"little space", "warn", "Space is short", nil, func(s *snapshot) { s.Status.Space = core.Space{Total: 1000, Used: 920, Free: 80} }},
		{"no space", "bad", "Space is short", nil, func(s *snapshot) { s.Status.Space = core.Space{Total: 1000, Used: 999, Free: 1} }},
		{"ledger degraded", "warn", "ledger is degraded", nil, func(s *snapshot) { s.Health, s.HealthWhy = store.Degraded, "disk full" }},
		{"ledger unreadable", "warn", "ledger is degraded", errPlanted, func(*snapshot) {}},
		{"mount ended", "warn", "mount at /mnt/permafrost has ended", nil, func(s *snapshot) { m := *s.Mount; m.Ended = true; s.Mount = &m }},
		{"requests refused", "warn", "3 requests of the mount were refused", nil, func(s *snapshot) { m := *s.Mount; m.Refused = 3; s.Mount = &m }},
		{"frozen by notify", "warn", "order of mapped stores", nil, func(s *snapshot) {
			s.Status.Freeze = &freeze.Record{State: freeze.StateFrozen, Modes: map[string]string{"mount": "notify"}}
		}},
		{"events dropped", "warn", "2 events were dropped", nil, func(s *snapshot) { s.Status.EventsDropped = 2 }},
	} {
		s := fine
		c.plant(&s)
		a := alertsOf(s, c.err)
		if len(a) != 1 || a[0].Class != c.class || !strings.Contains(a[0].Title, c.says) {
			t.Errorf("%s: %+v", c.name, a)
		}
	}
}

func TestInodeView(t *testing.T) {
	fs, l := fullFS(epoch)
	s := newUI(t, fs, l, fixed(epoch)).snap()
	i, ext, maps, err := fs.InodeDetail(t.Context(), 13)
	if err != nil {
		t.Fatal(err)
	}
	hist, _ := l.InodeHistory(t.Context(), 13, 0, 10)
	v := inodeViewOf(i, ext, maps, hist, s)
	if v.Pages != 1536 || len(v.Strips) != 3 || len(v.Strips[1].Rects) != 120 || len(v.Extents) != 3 || len(v.History) != 1 {
		t.Errorf("pages %d, strips %d, dirty marks %d, extents %d, history %d", v.Pages, len(v.Strips),
			len(v.Strips[1].Rects), len(v.Extents), len(v.History))
	}
	if v.Row.DirtyPages != "120" || v.Strips[1].Value != "120 pages" {
		t.Errorf("dirty pages %q and %q", v.Row.DirtyPages, v.Strips[1].Value)
	}
	// A mapping past the end of the file is drawn, not cut off.
	maps[0].Ranges = []core.PageRun{{First: 0, Count: 3000}}
	if v = inodeViewOf(i, ext, maps, nil, s); v.Pages != 3000 {
		t.Errorf("pages %d, want the mapping's 3000", v.Pages)
	}
	if v = inodeViewOf(core.InodeInfo{Attr: core.Attr{Ino: 9, Mode: 0o40755}}, nil, nil, nil, s); len(v.Strips) != 0 {
		t.Errorf("a directory has pages: %+v", v.Strips)
	}
}

// TestSignature: whatever a page shows of the present wakes the hub.
func TestSignature(t *testing.T) {
	fs, l := fullFS(epoch)
	freezeNow(fs, epoch)
	base := newUI(t, fs, l, fixed(epoch)).snap()
	changed := func(name string, change func(*snapshot)) {
		s := base
		rec := *base.Status.Freeze
		rec.Holds = append([]freeze.Hold(nil), rec.Holds...)
		s.Status.Freeze = &rec
		s.Blocked = append([]freeze.Blocked(nil), base.Blocked...)
		change(&s)
		if signature(s) == signature(base) {
			t.Errorf("%s does not wake the hub", name)
		}
	}
	changed("state", func(s *snapshot) { s.Status.State = "thawing" })
	changed("dirty pages", func(s *snapshot) { s.Status.DirtyPages++ })
	changed("dirty inodes", func(s *snapshot) { s.Status.InodesDirty++ })
	changed("a renewal", func(s *snapshot) { h := &s.Status.Freeze.Holds[0]; h.ExpiresAt = h.ExpiresAt.Add(1) })
	changed("a hold's end", func(s *snapshot) { s.Status.Freeze.Holds[1].End = "expired" })
	changed("another waiter", func(s *snapshot) { s.Blocked[len(s.Blocked)-1].ID = 99 })
	changed("a mapping", func(s *snapshot) { s.Status.Mappings++ })
	changed("an image read", func(s *snapshot) { s.Status.Freeze.ImageReads++ })
	changed("a last freeze", func(s *snapshot) { s.Status.LastFreeze = &freeze.Record{ID: 40} })
	changed("space", func(s *snapshot) { s.Status.Space.Used++ })
	changed("the error state", func(s *snapshot) { s.Status.Degraded = errors.New("x") })
	changed("damage", func(s *snapshot) { s.Status.MetadataErrors = 9 })
	changed("a scrub", func(s *snapshot) { s.Status.Scrub.State = core.ScrubRunning })
	changed("its progress", func(s *snapshot) { s.Status.Scrub.Nodes, s.Status.Scrub.Of = 50, 100 })
	changed("the ledger", func(s *snapshot) { s.Health = store.Degraded })
	changed("attach", func(s *snapshot) { s.Attach = &AttachStatus{Clients: 9} })
	for name, change := range map[string]func(*core.MountStatus){
		"an open through the mount": func(m *core.MountStatus) { m.Open++ },
		"one for writing":           func(m *core.MountStatus) { m.Writable++ },
		"a held request":            func(m *core.MountStatus) { m.Held++ },
		"a refused one":             func(m *core.MountStatus) { m.Refused++ },
		"the end of the mount":      func(m *core.MountStatus) { m.Ended = true },
		"a request": func(m *core.MountStatus) {
			m.Ops = append([]core.MountOp(nil), m.Ops...)
			m.Ops[0].Buckets[9]++
		},
	} {
		changed(name, func(s *snapshot) {
			m := *s.Mount
			change(&m)
			s.Mount = &m
		})
	}
	same := base
	same.Now = base.Now.Add(time.Hour)
	if signature(same) != signature(base) {
		t.Error("time alone wakes the hub")
	}
}

package web

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"permafrost/store"
)

func TestFreezeView(t *testing.T) {
	fs, l := fullFS(epoch)
	freezeNow(fs, epoch)
	u := newUI(t, fs, l, fixed(epoch))
	s := u.snap()
	v := freezeViewOf(freezeData{Freeze: fromRecord(s.Status.Freeze)}, s)
	if len(v.Reach) != 8 || len(v.Window) != 6 {
		t.Fatalf("%d phases, %d in the window", len(v.Reach), len(v.Window))
	}
	var end float64
	for _, l := range v.Window {
		r := l.Rects[0]
		if math.Abs(r.X-end) > 0.01 {
			t.Errorf("phase %s begins at %v, the one before ended at %v", l.Label, r.X, end)
		}
		end = r.X + r.W
	}
	if want := boxW * 813 / v.WinX.Max; math.Abs(end-want) > 0.01 {
		t.Errorf("the window ends at %v, want %v", end, want)
	}
	if len(v.Waits) != 5 || !v.Waits[0].Still || v.Waits[0].Who != "orderd (pid 4100, uid 1000)" {
		t.Errorf("waits %+v", v.Waits)
	}
	if len(v.Hold.Lanes) != 7 || v.Hold.X.Max != 120e6 {
		t.Errorf("%d lanes on a scale of %v µs", len(v.Hold.Lanes), v.Hold.X.Max)
	}
	// 23 s of 120 s
	if got, want := v.Hold.Lanes[0].Rects[0].W, boxW*23/120; math.Abs(got-want) > 0.01 {
		t.Errorf("hold is %v wide, want %v", got, want)
	}
	if !strings.Contains(v.NoFound, "3 inodes were flushed") {
		t.Errorf("a list that is not there yet says %q", v.NoFound)
	}

	if got, want := v.Reach[1].Rects[0].X, boxW*2100/v.ReachX.Max; math.Abs(got-want) > 0.01 {
		t.Errorf("the second phase begins at %v, want %v", got, want)
	}
	slow := fromRecord(s.Status.Freeze)
	slow.TotalUS += 1000
	if v = freezeViewOf(freezeData{Freeze: slow}, s); len(v.Reach) != 9 || v.Reach[0].Label != "start" || v.Reach[0].Value != "987 µs" {
		t.Errorf("time before the first phase is not shown: %+v", v.Reach[0])
	}

	past := l.freezes[0]
	v = freezeViewOf(freezeData{Freeze: past, Renewals: l.renewals, Waited: l.blocked}, s)
	classes := map[string]int{}
	for _, lane := range v.Hold.Lanes {
		for _, r := range lane.Rects {
			classes[r.Class]++
		}
	}
	if classes["hold held"] != 1 || classes["renewal"] != 1 || classes["read"] != 0 || classes["wait"] != 3 || classes["wait cancelled"] != 1 {
		t.Errorf("drawn: %v", classes)
	}

	testImageReads(t, past, s)

	past.BlockedTotal = 900
	if v = freezeViewOf(freezeData{Freeze: past, Waited: l.blocked}, s); v.Unseen != 896 {
		t.Errorf("unseen waiters %d, want 896", v.Unseen)
	}
	var rolled store.Freeze
	for _, f := range l.freezes {
		if f.State == "rolled_back" {
			rolled = f
		}
	}
	v = freezeViewOf(freezeData{Freeze: rolled}, s)
	if len(v.Hold.Lanes) != 0 || v.Row.Window != dash || len(v.For) != 1 {
		t.Errorf("a freeze that never was stands still: %+v", v.Hold)
	}
}

// testImageReads: a lane for each reader, each stretch in place and as long as it
// lasted, all listed, and what is left out is said.
func testImageReads(t *testing.T, f store.Freeze, s snapshot) {
	t.Helper()
	f.ImageReads = 515
	reads := []store.ImageRead{
		{Reader: "uid:0", Since: f.FrozenAt, Until: f.FrozenAt, Requests: 1},
		{Reader: "127.0.0.1", Since: f.FrozenAt.Add(2 * time.Second), Until: f.FrozenAt.Add(2 * time.Second), Requests: 1},
		{Reader: "uid:0", Since: f.FrozenAt.Add(3 * time.Second), Until: f.EndedAt.Add(-time.Millisecond), Requests: 512, Bytes: 5 << 20},
		{Since: f.FrozenAt.Add(4 * time.Second), Until: f.FrozenAt.Add(4 * time.Second), Requests: 1}, // of a first ledger
	}
	v := freezeViewOf(freezeData{Freeze: f, Reads: reads}, s).Hold
	if len(v.Lanes) != 4 || len(v.Notes) != 0 {
		t.Fatalf("lanes %+v, notes %q", v.Lanes, v.Notes)
	}
	for i, want := range []struct {
		label, value string
		reads        []int
	}{{"read by uid:0", "5.0 MiB", []int{0, 2}}, {"read by 127.0.0.1", "0 B", []int{1}}, {"image reads", "0 B", []int{3}}} {
		l := v.Lanes[1+i]
		if l.Label != want.label || l.Value != want.value || len(l.Rects) != len(want.reads) {
			t.Fatalf("lane %d: %+v", i, l)
		}
		for j, n := range want.reads {
			r, x := l.Rects[j], boxW*micros(reads[n].Since.Sub(f.FrozenAt))/v.X.Max
			w := math.Max(2, boxW*micros(reads[n].Until.Sub(reads[n].Since))/v.X.Max)
			if math.Abs(r.X-x) > 0.01 || math.Abs(r.W-w) > 0.01 || r.Class != "read" {
				t.Errorf("read %d is drawn at %v, %v wide, as %q, want %v and %v", n, r.X, r.W, r.Class, x, w)
			}
		}
	}
	if r := v.Lanes[1].Rects[1]; !strings.HasPrefix(r.Title, "uid:0 read 5.0 MiB (requests: 512) from 3.00 s after it was complete, for ") {
		t.Errorf("title %q", r.Title)
	}
	if len(v.Reads) != 4 || v.Reads[2].At != momentOf(reads[2].Since, s.Now) || v.Reads[2].Requests != "512" {
		t.Errorf("table %+v", v.Reads)
	}
	note := func(says string) {
		t.Helper()
		if v := freezeViewOf(freezeData{Freeze: f, Reads: reads}, s).Hold; len(v.Notes) != 1 || !strings.Contains(v.Notes[0], says) {
			t.Errorf("notes %q, want %q", v.Notes, says)
		}
	}
	f.ImageReads = 520
	note("5 image reads are not drawn: the ledger")
	f.EndedAt = time.Time{}
	note("5 more image reads are drawn within a minute")
	f.ImageReads = readsLimit + 7
	reads = make([]store.ImageRead, readsLimit)
	for i := range reads {
		reads[i] = store.ImageRead{Reader: fmt.Sprint("192.0.2.", i%20), Since: f.FrozenAt, Until: f.FrozenAt, Requests: 1}
	}
	note("7 later image reads")
	if v := freezeViewOf(freezeData{Freeze: f, Reads: reads}, s).Hold; len(v.Lanes) != 1+readLanes || v.Lanes[readLanes].Label != "read by others" ||
		len(v.Lanes[readLanes].Rects) != readsLimit/20*(20-readLanes+1) {
		t.Errorf("%d lanes of 20 readers", len(v.Lanes)-1)
	}
}

// TestImageReadsOnThePage: of the freeze asked for, until it ended or until now.
func TestImageReadsOnThePage(t *testing.T) {
	fs, l := fullFS(epoch)
	freezeNow(fs, epoch)
	u := newUI(t, fs, l, fixed(epoch))
	for id, want := range map[int64]int{39: 0, 40: 1, 41: 1} {
		v, err := loadFreeze(t.Context(), u, u.snap(), id, 0)
		if err != nil {
			t.Fatal(err)
		}
		var page strings.Builder
		for _, r := range v.Regions {
			if err := r.Body.Render(t.Context(), &page); err != nil {
				t.Fatal(err)
			}
		}
		if n := strings.Count(page.String(), `<rect class="read"`); n != want {
			t.Errorf("freeze %d: %d reads drawn, want %d", id, n, want)
		}
		if has := strings.Contains(page.String(), `id="reads-table"`); has != (want > 0) {
			t.Errorf("freeze %d: table of reads: %v", id, has)
		}
	}
}

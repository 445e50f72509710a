package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		crashChild()
		return
	}
	goleak.VerifyTestMain(m)
}

// t0 has nanoseconds that a lossy conversion would drop.
var t0 = time.Date(2026, 3, 4, 5, 6, 7, 891011121, time.UTC)

// shm is a test directory in memory, on machines that have one.
func shm(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ledger")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// patient is a context that fails the test's waiting instead of hanging it.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// quick retries and retains soon, at a time when t0 is not old.
func quick() Options {
	return Options{Now: func() time.Time { return t0.Add(time.Hour) },
		RetryMin: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond, RetainEvery: 10 * time.Millisecond}
}

func mustOpen(t testing.TB, path string, o Options) *Ledger {
	t.Helper()
	l, err := Open(patient(t), path, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		l.Close(ctx)
	})
	return l
}

func newTestLedger(t testing.TB) *Ledger {
	return mustOpen(t, filepath.Join(shm(t), "ledger.db"), quick())
}

func mustFlush(t testing.TB, l *Ledger) {
	t.Helper()
	if err := l.Flush(patient(t)); err != nil {
		t.Fatalf("Flush: %v", err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// fullFreeze has every field set.
func fullFreeze(id int64) Freeze {
	at := t0.Add(time.Duration(id) * time.Minute)
	return Freeze{
		ID: id, State: "thawed", Generation: 40 + id, RequestedAt: at, FrozenAt: at.Add(3 * time.Millisecond),
		EndedAt: at.Add(time.Second), ExpiresAt: at.Add(time.Minute), PatienceUS: 1e7, WindowUS: 101.25, TotalUS: 3000.5,
		PrecleanPasses: 2, Inodes: 11, Pages: 12, Bytes: 13, WindowInodes: 1, WindowPages: 2, WindowBytes: 3,
		Strategy: "dirty", Modes: map[string]string{"attach": "collect"}, LongestWaitUS: 7.5, BlockedTotal: 5,
		ImageReads: 6, WaitingFor: []string{"pid 7", "pid 9"}, Error: "none", Degraded: true, Reported: true,
		IdempotencyKey: "k",
		Holds: []Hold{
			{Hold: fmt.Sprintf("%d.1", id), FreezeID: id, Holder: "nightly", Reason: "copy", Since: at,
				ExpiresAt: at.Add(time.Minute), EndedAt: at.Add(time.Second), End: "thawed", Renewals: 3, HasToken: true, LeaseUS: 6e7},
			{Hold: fmt.Sprintf("%d.2", id), FreezeID: id, Holder: "hand", Since: at, ExpiresAt: at.Add(time.Minute)},
		},
		Phases: []Phase{{"intent", 900}, {"preclean", 2.5}, {"write", 0.25}},
	}
}

func openFreeze(id int64) Freeze {
	at := t0.Add(time.Duration(id) * time.Minute)
	return Freeze{ID: id, State: "frozen", RequestedAt: at, FrozenAt: at.Add(time.Millisecond), ExpiresAt: at.Add(time.Hour),
		Holds: []Hold{{Hold: fmt.Sprintf("%d.1", id), FreezeID: id, Holder: "h", Since: at, ExpiresAt: at.Add(time.Hour)}}}
}

func TestFreezeComesBackWhole(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	want := fullFreeze(12)
	first := want
	first.State, first.Holds, first.Phases = "freezing", nil, nil
	if err := l.Intent(ctx, first); err != nil {
		t.Fatal(err)
	}
	l.RecordFreeze(want)
	mustFlush(t, l)
	got := must(l.Freeze(ctx, 12))(t)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	list := must(l.Freezes(ctx, FreezeQuery{}))(t)
	if len(list) != 1 || !reflect.DeepEqual(list[0], want) {
		t.Errorf("list: %+v", list)
	}
	if id := must(l.MaxFreezeID(ctx))(t); id != 12 {
		t.Errorf("MaxFreezeID = %d", id)
	}
	if _, err := l.Freeze(ctx, 13); !errors.Is(err, ErrNotFound) {
		t.Errorf("freeze 13: %v", err)
	}
}

// TestIntentIsDurable reads the row through a connection of its own.
func TestIntentIsDurable(t *testing.T) {
	l := newTestLedger(t)
	if err := l.Intent(patient(t), openFreeze(1)); err != nil {
		t.Fatal(err)
	}
	c, err := openPool(l.Path(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var state string
	if err := c.QueryRow("SELECT state FROM freezes WHERE id = 1").Scan(&state); err != nil || state != "frozen" {
		t.Fatalf("state %q, %v", state, err)
	}
}

func TestIntentRefusesBadAndUsedIDs(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	if err := l.Intent(ctx, Freeze{State: "freezing", RequestedAt: t0}); !errors.Is(err, ErrBadRecord) {
		t.Errorf("id 0: %v", err)
	}
	if err := l.Intent(ctx, openFreeze(4)); err != nil {
		t.Fatal(err)
	}
	other := openFreeze(4)
	other.RequestedAt = other.RequestedAt.Add(1)
	other.State = "thawed"
	if err := l.Intent(ctx, other); !errors.Is(err, ErrConflict) {
		t.Errorf("used id: %v", err)
	}
	l.RecordFreeze(other)
	mustFlush(t, l)
	if f := must(l.Freeze(ctx, 4))(t); f.State != "frozen" {
		t.Errorf("L4: history was overwritten: %+v", f)
	}
	if s := l.Stats(); s.Rejected != 1 {
		t.Errorf("rejected %d", s.Rejected)
	}
	if h, why := l.Health(); h != OK {
		t.Errorf("a refused row made the ledger %s: %s", h, why)
	}
}

// TestReadsSeeWhatWaits records without waiting for the writer.
func TestReadsSeeWhatWaits(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	for id := int64(1); id <= 50; id++ {
		f := openFreeze(id)
		l.RecordFreeze(f)
		f.State = "thawed"
		l.RecordFreeze(f)
		if got := must(l.Freeze(ctx, id))(t); got.State != "thawed" {
			t.Fatalf("freeze %d: %s", id, got.State)
		}
		list := must(l.Freezes(ctx, FreezeQuery{Limit: 3}))(t)
		if list[0].ID != id || list[0].State != "thawed" || len(list) != int(min(id, 3)) {
			t.Fatalf("after %d: %+v", id, list)
		}
	}
}

func TestFreezeQueries(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	states := []string{"thawed", "expired", "forced"}
	for id := int64(1); id <= 30; id++ {
		f := fullFreeze(id)
		f.State = states[id%3]
		f.Holds[0].Holder = fmt.Sprintf("h%d", id%2)
		l.RecordFreeze(f)
	}
	mustFlush(t, l)
	ids := func(q FreezeQuery) (out []int64) {
		for _, f := range must(l.Freezes(ctx, q))(t) {
			out = append(out, f.ID)
		}
		return out
	}
	for _, c := range []struct {
		q    FreezeQuery
		want []int64
	}{
		{FreezeQuery{Limit: 3}, []int64{30, 29, 28}},
		{FreezeQuery{Limit: 3, Before: 28}, []int64{27, 26, 25}},
		{FreezeQuery{State: "expired", Limit: 2}, []int64{28, 25}},
		{FreezeQuery{State: "expired", Limit: 2, Before: 25}, []int64{22, 19}},
		{FreezeQuery{Holder: "h0", Limit: 2, Before: 30}, []int64{28, 26}},
		{FreezeQuery{Holder: "h1", State: "thawed", Limit: 2, Before: 27}, []int64{21, 15}},
		{FreezeQuery{Since: fullFreeze(29).RequestedAt}, []int64{30, 29}},
		{FreezeQuery{Since: fullFreeze(20).RequestedAt, State: "forced"}, []int64{29, 26, 23, 20}},
		{FreezeQuery{Holder: "nobody"}, nil},
	} {
		if got := ids(c.q); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: got %v, want %v", c.q, got, c.want)
		}
	}
}

// TestPagingSeesEachRowOnce walks every cursor.
func TestPagingSeesEachRowOnce(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	l.RecordFreeze(openFreeze(1))
	l.RecordFreeze(openFreeze(2))
	const n = 300
	found, blocked := make([]FoundInode, n), make([]Blocked, n)
	for i := range n {
		found[i] = FoundInode{FreezeID: 1 + int64(i%2), Ino: int64(i % 3), Path: fmt.Sprint("/f", i), FoundAt: t0, Window: i%5 == 0}
		blocked[i] = Blocked{FreezeID: 1 + int64(i%2), Op: "write", Path: fmt.Sprint("/f", i), Since: t0}
		l.RecordSync(Sync{At: t0, Kind: "sync", Inodes: int64(i)}, []FoundInode{{Ino: 77, FoundAt: t0}})
	}
	l.RecordFound(found)
	l.RecordBlocked(blocked)
	mustFlush(t, l)
	walk := func(name string, want int, page func(cursor int64) (ids []int64)) {
		t.Helper()
		seen := map[int64]bool{}
		for cursor := int64(0); ; {
			ids := page(cursor)
			if len(ids) == 0 {
				break
			}
			for _, id := range ids {
				if seen[id] {
					t.Fatalf("%s: row %d twice", name, id)
				}
				seen[id] = true
			}
			cursor = ids[len(ids)-1]
		}
		if len(seen) != want {
			t.Errorf("%s: saw %d rows, want %d", name, len(seen), want)
		}
	}
	foundIDs := func(rows []FoundInode, err error) (ids []int64) {
		for _, r := range must(rows, err)(t) {
			ids = append(ids, r.ID)
		}
		return ids
	}
	walk("FreezeInodes", n/2, func(c int64) []int64 { return foundIDs(l.FreezeInodes(ctx, 2, c, 7)) })
	walk("InodeHistory", n/3, func(c int64) []int64 { return foundIDs(l.InodeHistory(ctx, 2, c, 7)) })
	walk("InodeHistory of syncs", n, func(c int64) []int64 { return foundIDs(l.InodeHistory(ctx, 77, c, 11)) })
	walk("FreezeBlocked", n/2, func(c int64) (ids []int64) {
		for _, r := range must(l.FreezeBlocked(ctx, 1, c, 13))(t) {
			ids = append(ids, r.ID)
		}
		return ids
	})
	walk("Syncs", n, func(c int64) (ids []int64) {
		for _, r := range must(l.Syncs(ctx, c, 17))(t) {
			ids = append(ids, r.ID)
		}
		return ids
	})
	for _, s := range must(l.Syncs(ctx, 0, 5))(t) {
		rows := must(l.SyncInodes(ctx, s.ID, 0, 5))(t)
		if len(rows) != 1 || rows[0].Ino != 77 || rows[0].SyncID != s.ID || rows[0].FreezeID != 0 {
			t.Errorf("inodes of sync %d: %+v", s.ID, rows)
		}
	}
	if st := l.Stats(); st.Found != 2*n || st.Blocked != n || st.Syncs != n || st.Freezes != 2 || st.Waiting != 0 || st.FileBytes == 0 {
		t.Errorf("stats: %+v", st)
	}
}

func TestRowsComeBackWhole(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	l.RecordFreeze(openFreeze(3))
	fi := FoundInode{FreezeID: 3, Ino: 9, Path: "/a\xff\x00b", Pages: 4, Bytes: 16384, DirtySince: t0, FoundAt: t0.Add(1), Window: true}
	bl := Blocked{FreezeID: 3, Gate: "write", Op: "create", Ino: 5, Path: "/p", WayIn: "rest", PID: 7, Comm: "cp", UID: 4294967294,
		Remote: "127.0.0.1:9", Since: t0, WaitedUS: 12.5, Cancelled: true}
	sy := Sync{At: t0, Kind: "fsync", Ino: 8, Generation: 7, Inodes: 1, Pages: 2, Bytes: 3, DurationUS: 4.5}
	l.RecordFound([]FoundInode{fi})
	l.RecordBlocked([]Blocked{bl})
	l.RecordSync(sy, nil)
	r1 := Renewal{"3.1", t0, t0.Add(2 * time.Hour)}
	r2 := Renewal{"3.1", t0.Add(1), t0.Add(3 * time.Hour)}
	l.RecordRenewal(r1)
	l.RecordRenewal(r2)
	mustFlush(t, l)
	fi.ID, bl.ID, sy.ID = 1, 1, 1
	if got := must(l.FreezeInodes(ctx, 3, 0, 0))(t); !reflect.DeepEqual(got, []FoundInode{fi}) {
		t.Errorf("found: %+v", got)
	}
	if got := must(l.FreezeBlocked(ctx, 3, 0, 0))(t); !reflect.DeepEqual(got, []Blocked{bl}) {
		t.Errorf("blocked: %+v", got)
	}
	if got := must(l.Syncs(ctx, 0, 0))(t); !reflect.DeepEqual(got, []Sync{sy}) {
		t.Errorf("syncs: %+v", got)
	}
	if got := must(l.FreezeRenewals(ctx, 3))(t); !reflect.DeepEqual(got, []Renewal{r1, r2}) {
		t.Errorf("renewals: %+v", got)
	}
	if f := must(l.Freeze(ctx, 3))(t); !f.Holds[0].ExpiresAt.Equal(r2.ExpiresAt) {
		t.Errorf("the hold expires at %s", f.Holds[0].ExpiresAt)
	}
}

func TestPastHoldsAndReported(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	for id := int64(1); id <= 3; id++ {
		f := openFreeze(id)
		f.State, f.IdempotencyKey = "expired", fmt.Sprint("k", id)
		l.RecordFreeze(f)
	}
	l.MarkReported(2)
	l.MarkReported(99) // unknown: refused, not stuck
	again := openFreeze(2)
	again.State = "expired" // a later record without the mark does not take it away
	l.RecordFreeze(again)
	mustFlush(t, l)
	hs := must(l.PastHolds(ctx, 2))(t)
	if len(hs) != 2 || hs[0].Hold.Hold != "3.1" || hs[1].Hold.Hold != "2.1" {
		t.Fatalf("%+v", hs)
	}
	if hs[0].Reported || !hs[1].Reported || hs[0].Key != "k3" || hs[0].State != "expired" || !hs[0].FrozenAt.Equal(openFreeze(3).FrozenAt) {
		t.Errorf("%+v", hs)
	}
	if s := l.Stats(); s.Rejected != 1 {
		t.Errorf("rejected %d", s.Rejected)
	}
}

func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

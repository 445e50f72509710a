package web

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/store"
)

// epoch is the now of tests that compare text.
var epoch = time.Date(2025, 11, 22, 22, 30, 0, 0, time.UTC)

// testFS is a file system of values: what a test puts in is what pages show.
type testFS struct {
	mu      sync.Mutex
	status  core.Status
	blocked []freeze.Blocked
	maps    []core.MappingInfo
	inodes  []core.InodeInfo
	extents map[format.Ino][]core.Extent
	refuse  error              // of the next verb
	asked   []any              // requests of the verbs
	lost    context.CancelFunc // called inside Freeze: the browser leaves
}

func (f *testFS) Status() core.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *testFS) Blocked() []freeze.Blocked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]freeze.Blocked(nil), f.blocked...)
}

func (f *testFS) Mappings() []core.MappingInfo { return f.maps }

func (f *testFS) Inodes(_ context.Context, q core.InodeFilter) ([]core.InodeInfo, string, error) {
	start := 0
	if q.Cursor != "" {
		if _, err := fmt.Sscanf(q.Cursor, "at-%d", &start); err != nil {
			return nil, "", fmt.Errorf("cursor %q: %w", q.Cursor, core.ErrInvalid)
		}
	}
	var match []core.InodeInfo
	for _, i := range f.inodes {
		if q.Dirty != nil && i.Dirty != *q.Dirty || q.Mapped != nil && (i.Mappings > 0) != *q.Mapped {
			continue
		}
		if !strings.HasPrefix(firstPath(i.Paths), q.PathPrefix) {
			continue
		}
		match = append(match, i)
	}
	sort.SliceStable(match, func(a, b int) bool { return match[a].Dirty && !match[b].Dirty })
	if start > len(match) {
		start = len(match)
	}
	match = match[start:]
	if len(match) > q.Limit {
		return match[:q.Limit], fmt.Sprintf("at-%d", start+q.Limit), nil
	}
	return match, "", nil
}

func (f *testFS) InodeDetail(_ context.Context, ino format.Ino) (core.InodeInfo, []core.Extent, []core.MappingInfo, error) {
	for _, i := range f.inodes {
		if i.Ino != ino {
			continue
		}
		var maps []core.MappingInfo
		for _, m := range f.maps {
			if m.Ino == ino {
				maps = append(maps, m)
			}
		}
		return i, f.extents[ino], maps, nil
	}
	return core.InodeInfo{}, nil, nil, fmt.Errorf("inode %d: %w", ino, core.ErrNotFound)
}

func (f *testFS) verb(r any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r)
	return f.refuse
}

func (f *testFS) Freeze(_ context.Context, r freeze.Request) (freeze.Record, freeze.Hold, error) {
	if err := f.verb(r); err != nil {
		return freeze.Record{}, freeze.Hold{}, err
	}
	now := time.Now()
	h := freeze.Hold{ID: "41.1", FreezeID: 41, Holder: r.Holder, Reason: r.Reason, Since: now, ExpiresAt: now.Add(r.Lease), Token: "secret"}
	rec := freeze.Record{ID: 41, State: freeze.StateFrozen, RequestedAt: now, FrozenAt: now, ExpiresAt: h.ExpiresAt,
		Holds: []freeze.Hold{h}, Window: 84 * time.Microsecond, Total: 5 * time.Millisecond}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.State, f.status.Level, f.status.Since, f.status.Freeze = "frozen", freeze.Complete, now, &rec
	if f.lost != nil {
		f.lost()
	}
	return rec, h, nil
}

func (f *testFS) Thaw(_ context.Context, r freeze.ThawRequest) (freeze.ThawResult, error) {
	if err := f.verb(r); err != nil {
		return freeze.ThawResult{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status.Freeze != nil {
		rec := *f.status.Freeze
		rec.State, rec.EndedAt = freeze.StateThawed, time.Now()
		f.status.LastFreeze, f.status.Freeze = &rec, nil
	}
	f.status.State, f.status.Level, f.status.Since = "unfrozen", freeze.Unfrozen, time.Now()
	return freeze.ThawResult{FreezeID: 41, Hold: r.Hold, Changed: true, Held: true, Frozen: 12300 * time.Millisecond, Thawed: true}, nil
}

func (f *testFS) Abandon(holdID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, "abandon "+holdID)
	f.status.State, f.status.Level, f.status.Freeze = "unfrozen", freeze.Unfrozen, nil
}

func (f *testFS) Renew(_ context.Context, r freeze.RenewRequest) (freeze.Record, freeze.Hold, error) {
	if err := f.verb(r); err != nil {
		return freeze.Record{}, freeze.Hold{}, err
	}
	return freeze.Record{ID: 41}, freeze.Hold{ID: r.Hold, Holder: ownHolder, ExpiresAt: time.Now().Add(r.Lease)}, nil
}

// testLedger answers from values.
type testLedger struct {
	mu         sync.Mutex
	err        error // of every read
	freezes    []store.Freeze
	found      []store.FoundInode
	blocked    []store.Blocked
	renewals   []store.Renewal
	imageReads map[int64][]time.Time // of images, by freeze
	samples    []store.Sample
	health     store.Health
	reads      int
}

func (l *testLedger) fail() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	return l.err
}

func (l *testLedger) Freezes(_ context.Context, q store.FreezeQuery) ([]store.Freeze, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	var out []store.Freeze
	for _, f := range l.freezes {
		if q.Before > 0 && f.ID >= q.Before || q.State != "" && f.State != q.State {
			continue
		}
		if q.Holder != "" && !strings.Contains(holderNames(f.Holds), q.Holder) {
			continue
		}
		if len(out) < q.Limit {
			out = append(out, f)
		}
	}
	return out, nil
}

func (l *testLedger) Freeze(_ context.Context, id int64) (store.Freeze, error) {
	if err := l.fail(); err != nil {
		return store.Freeze{}, err
	}
	for _, f := range l.freezes {
		if f.ID == id {
			return f, nil
		}
	}
	return store.Freeze{}, store.ErrNotFound
}

func (l *testLedger) FreezeInodes(_ context.Context, id, after int64, limit int) ([]store.FoundInode, error) {
	var out []store.FoundInode
	for _, f := range l.found {
		if f.FreezeID == id && f.ID > after && len(out) < limit {
			out = append(out, f)
		}
	}
	return out, l.fail()
}

func (l *testLedger) FreezeBlocked(_ context.Context, id, after int64, limit int) ([]store.Blocked, error) {
	var out []store.Blocked
	for _, b := range l.blocked {
		if b.FreezeID == id && b.ID > after && len(out) < limit {
			out = append(out, b)
		}
	}
	return out, l.fail()
}

func (l *testLedger) FreezeRenewals(_ context.Context, id int64) ([]store.Renewal, error) {
	var out []store.Renewal
	for _, r := range l.renewals {
		if strings.HasPrefix(r.Hold, fmt.Sprintf("%d.", id)) {
			out = append(out, r)
		}
	}
	return out, l.fail()
}

func (l *testLedger) ImageReads(_ context.Context, id int64, from, to time.Time, limit int) ([]time.Time, error) {
	var out []time.Time
	for _, at := range l.imageReads[id] {
		if !at.Before(from) && at.Before(to) && len(out) < limit {
			out = append(out, at)
		}
	}
	return out, l.fail()
}

func (l *testLedger) InodeHistory(_ context.Context, ino, _ int64, limit int) ([]store.InodeHistory, error) {
	var out []store.InodeHistory
	for _, f := range l.found {
		if f.Ino == ino && len(out) < limit {
			out = append(out, f)
		}
	}
	return out, l.fail()
}

func (l *testLedger) Samples(_ context.Context, from, to time.Time, _ time.Duration) ([]store.Sample, error) {
	var out []store.Sample
	for _, s := range l.samples {
		if !s.At.Before(from) && !s.At.After(to) {
			out = append(out, s)
		}
	}
	return out, l.fail()
}

func (l *testLedger) Health() (store.Health, string) {
	if l.health == "" {
		return store.OK, ""
	}
	return l.health, "disk full"
}

// emptyFS is an appliance just started, with nothing in it.
func emptyFS(now time.Time) (*testFS, *testLedger) {
	fs := &testFS{status: core.Status{
		State: "unfrozen", Since: now.Add(-20 * time.Second), StartedAt: now.Add(-20 * time.Second), Generation: 1,
		Medium: core.MediumInfo{Path: "/var/lib/permafrost/fs.pmem", SizeBytes: 1 << 30, Domain: "page-cache", SurvivesPowerLoss: true},
		Space:  core.Space{Total: 1 << 30, Used: 1 << 20, Free: 1<<30 - 1<<20}, InodesTotal: 1,
	}}
	return fs, &testLedger{}
}

// fullFS is a busy appliance with a past. Every number in it is fixed.
func fullFS(now time.Time) (*testFS, *testLedger) {
	rng := rand.New(rand.NewPCG(7, 7))
	fs, l := emptyFS(now)
	fs.status.StartedAt = now.Add(-26 * time.Hour)
	fs.status.Since = now.Add(-7 * time.Minute)
	fs.status.Generation, fs.status.InodesTotal, fs.status.InodesCached = 18231, 1204, 1204
	fs.status.InodesDirty, fs.status.DirtyPages, fs.status.Mappings = 3, 158, 3
	fs.status.Medium = core.MediumInfo{Path: "/dev/shm/permafrost/fs.pmem", SizeBytes: 256 << 20, Domain: "volatile", FlushInstruction: "clwb"}
	fs.status.Space = core.Space{Total: 256 << 20, Used: 97 << 20, Free: 159 << 20}
	fillInodes(fs, now)
	fillFreezes(l, now, rng)
	for i := range 90 {
		at := now.Add(-time.Hour).Add(time.Duration(i) * 40 * time.Second)
		frozen := i%30 > 25
		s := store.Sample{At: at, DirtyInodes: int64(2 + rng.IntN(6)), DirtyPages: int64(80 + rng.IntN(400)), Frozen: frozen}
		if frozen {
			s.DirtyInodes, s.DirtyPages = 0, 0
		}
		l.samples = append(l.samples, s)
	}
	return fs, l
}

func fillInodes(fs *testFS, now time.Time) {
	fs.extents = map[format.Ino][]core.Extent{}
	add := func(ino format.Ino, path string, mode uint32, size int64, dirty uint64, maps int) {
		i := core.InodeInfo{Attr: core.Attr{Ino: ino, Mode: mode, UID: 1000, GID: 1000, Nlink: 1, Size: size,
			Blocks: uint64(size+4095) / 4096, Mtime: now.Add(-time.Duration(ino) * time.Minute), Ctime: now.Add(-time.Hour),
			Atime: now.Add(-time.Minute), Btime: now.Add(-25 * time.Hour), Generation: 18000}, Paths: []string{path}, Mappings: maps}
		if dirty > 0 {
			i.Dirty, i.DirtyPages, i.DirtySince = true, dirty, now.Add(-3*time.Second)
			for p := uint64(0); p < dirty; p++ {
				i.DirtyRuns = append(i.DirtyRuns, core.PageRun{First: format.Page(p * 9), Count: 1})
			}
		}
		fs.inodes = append(fs.inodes, i)
		if size > 0 {
			n := i.Blocks
			fs.extents[ino] = []core.Extent{{Page: 0, Block: 5120, Count: n / 2}, {Page: format.Page(n / 2), Block: 9216, Count: n / 4},
				{Page: format.Page(n/2 + n/4), Block: 20480, Count: n - n/2 - n/4}}
		}
	}
	add(1, "/", 0o40755, 0, 0, 0)
	add(12, "/db", 0o40755, 0, 0, 0)
	add(13, "/db/orders.tbl", 0o100640, 6<<20, 120, 1)
	add(14, "/db/orders.wal", 0o100640, 2<<20, 37, 1)
	add(15, "/log/appliance-with-a-rather-long-name-so-that-tables-must-wrap.log", 0o100644, 900_000, 1, 1)
	add(16, "/caf\xe9", 0o100644, 12, 0, 0)
	for n := range 60 {
		add(format.Ino(100+n), fmt.Sprintf("/archive/%03d.dat", n), 0o100600, int64(n)*70_000, 0, 0)
	}
	for n, ino := range []format.Ino{13, 14, 15} {
		i := fs.inodes[2+n]
		m := core.MappingInfo{ID: uint64(n + 1), Ino: ino, Path: i.Paths[0], WayIn: "attach", Since: now.Add(-2 * time.Hour),
			Process: core.Process{PID: 4100 + n, UID: 1000, Comm: "orderd"}, Writable: n < 2,
			Ranges: []core.PageRun{{First: 0, Count: i.Blocks}}, DirtyPages: i.DirtyPages}
		if m.Writable {
			m.WritablePages = i.DirtyPages + 16
		}
		fs.maps = append(fs.maps, m)
	}
}

func fillFreezes(l *testLedger, now time.Time, rng *rand.Rand) {
	states := map[int64]string{7: "expired", 19: "interrupted", 28: "rolled_back", 33: "forced"}
	for id := int64(40); id >= 1; id-- {
		at := now.Add(-time.Duration(41-id) * 17 * time.Minute)
		f := store.Freeze{ID: id, State: "thawed", Generation: 17000 + id*20, RequestedAt: at, FrozenAt: at.Add(5 * time.Millisecond),
			EndedAt: at.Add(time.Duration(8+rng.IntN(90)) * time.Second), ExpiresAt: at.Add(2 * time.Minute),
			PrecleanPasses: 2, Inodes: int64(3 + rng.IntN(5)), Pages: int64(60 + rng.IntN(300)), WindowInodes: 2,
			WindowPages: int64(rng.IntN(20)), Strategy: "dirty", Modes: map[string]string{"attach": "write-protect"},
			BlockedTotal: 4, LongestWaitUS: 11.2e6, ImageReads: 1}
		f.Bytes, f.WindowBytes = f.Pages*4096, f.WindowPages*4096
		var window float64
		for _, p := range []struct {
			name string
			us   float64
		}{{"intent", 2100}, {"preclean", 900}, {"write", 3}, {"pagefault", 12}, {"sync", 60}, {"fs", 22}, {"complete", 1}} {
			us := p.us * (0.6 + rng.Float64()*rng.Float64()*6)
			f.Phases = append(f.Phases, store.Phase{Name: p.name, DurationUS: us})
			f.TotalUS += us
			if phases[p.name].window {
				window += us
			}
		}
		f.WindowUS = window
		end := "thawed"
		if s, ok := states[id]; ok {
			f.State, end = s, s
		}
		if f.State == "rolled_back" {
			f.FrozenAt, f.WindowUS, f.TotalUS = time.Time{}, 0, 0
			f.Error, f.WaitingFor = "not complete within 10s", []string{"attach client orderd (pid 4100)"}
		}
		f.Holds = []store.Hold{{Hold: fmt.Sprintf("%d.1", id), FreezeID: id, Holder: "nightly-1732300000-4711", Reason: "nightly backup",
			Since: f.RequestedAt, ExpiresAt: f.ExpiresAt, EndedAt: f.EndedAt, End: end, Renewals: 1}}
		l.freezes = append(l.freezes, f)
	}
	f := l.freezes[0]
	l.renewals = []store.Renewal{{Hold: "40.1", At: f.FrozenAt.Add(4 * time.Second), ExpiresAt: f.ExpiresAt}}
	l.imageReads = map[int64][]time.Time{40: {f.FrozenAt.Add(2 * time.Second)}, 41: {now.Add(-20 * time.Second), now.Add(time.Second)}}
	for n := range int64(4) {
		l.blocked = append(l.blocked, store.Blocked{ID: n + 1, FreezeID: 40, Gate: "write", Op: "store", Ino: 13 + n%2, Path: "/db/orders.tbl",
			WayIn: "attach", PID: 4100 + int(n), Comm: "orderd", UID: 1000, Since: f.FrozenAt.Add(time.Duration(n*900) * time.Millisecond),
			WaitedUS: float64(6e6 - n*1e6), Cancelled: n == 2})
	}
	for n := range int64(130) {
		l.found = append(l.found, store.FoundInode{ID: n + 1, FreezeID: 40, Ino: 13 + n, Path: fmt.Sprintf("/db/part-%03d", n), Pages: 130 - n,
			Bytes: (130 - n) * 4096, DirtySince: f.RequestedAt.Add(-3 * time.Second), FoundAt: f.RequestedAt, Window: n%4 == 0})
	}
}

// freezeNow makes a full appliance frozen, with two holds and waiters.
func freezeNow(fs *testFS, now time.Time) {
	at := now.Add(-23 * time.Second)
	rec := freeze.Record{ID: 41, State: freeze.StateFrozen, Generation: 18230, RequestedAt: at.Add(-6 * time.Millisecond), FrozenAt: at,
		ExpiresAt: now.Add(97 * time.Second), Window: 113 * time.Microsecond, Total: 5800 * time.Microsecond, PrecleanPasses: 2,
		Flushed: freeze.Flushed{Inodes: 3, Pages: 158, Bytes: 158 * 4096}, WindowFlushed: freeze.Flushed{Inodes: 1, Pages: 4, Bytes: 4 * 4096},
		Strategy: "dirty", BlockedTotal: 3, ImageReads: 1, Phases: []freeze.Phase{
			{Name: "intent", Duration: 2100 * time.Microsecond}, {Name: "preclean", Duration: 3600 * time.Microsecond},
			{Name: "write", Duration: 5 * time.Microsecond}, {Name: "pagefault", Duration: 14 * time.Microsecond},
			{Name: "sync", Duration: 61 * time.Microsecond}, {Name: "fs", Duration: 30 * time.Microsecond}, {Name: "complete", Duration: 3 * time.Microsecond}},
		Holds: []freeze.Hold{
			{ID: "41.1", FreezeID: 41, Holder: "nightly-1732300000-4711", Reason: "nightly backup", Since: at, ExpiresAt: now.Add(97 * time.Second), Renewals: 2},
			{ID: "41.2", FreezeID: 41, Holder: "dashboard/anna", Reason: "looking at orders.tbl", Since: at.Add(9 * time.Second), ExpiresAt: now.Add(43 * time.Second)}},
	}
	fs.status.State, fs.status.Level, fs.status.Since, fs.status.Freeze = "frozen", freeze.Complete, at, &rec
	fs.status.InodesDirty, fs.status.DirtyPages = 0, 0
	for n := range 3 {
		fs.blocked = append(fs.blocked, freeze.Blocked{ID: uint64(n + 1), Gate: freeze.PageFault, Since: at.Add(time.Duration(n) * 1500 * time.Millisecond),
			Waiter: freeze.Waiter{Op: "store", Ino: uint64(13 + n%2), Path: "/db/orders.tbl", WayIn: "attach", PID: 4100 + n, Comm: "orderd", UID: 1000, Mapping: 1, Page: uint64(17 * n)}})
	}
	fs.blocked[2].Gate = freeze.Write
	fs.blocked[2].Waiter = freeze.Waiter{Op: "write", Path: "/incoming/new.bin", WayIn: "rest", Remote: "127.0.0.1:52114"}
	fs.status.Blocked = 3
}

// newUI makes a dashboard for a test and closes it at its end.
func newUI(t *testing.T, fs FS, l Ledger, now func() time.Time) *UI {
	t.Helper()
	u, err := New(Options{FS: fs, Ledger: l, Version: "test", Now: now, Attach: func() *AttachStatus {
		return &AttachStatus{Socket: "/run/permafrost/attach.sock", Clients: 3}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

func fixed(at time.Time) func() time.Time { return func() time.Time { return at } }

var errPlanted = errors.New("planted: disk full")

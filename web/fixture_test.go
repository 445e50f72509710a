package web

import (
	"context"
	"errors"
	"fmt"
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
	mount   *testMount // nil: none
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

// testMount is a mount of values. A real one is seen through the REST calls' tests.
type testMount struct {
	mu     sync.Mutex
	status core.MountStatus   // guard mu
	open   []core.MappingInfo // immutable
}

func (m *testMount) Status() core.MountStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

func (m *testMount) change(f func(*core.MountStatus)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.status)
}

func (m *testMount) Mappings(ino format.Ino) (out []core.MappingInfo) {
	for _, o := range m.open {
		if ino == 0 || o.Ino == ino {
			out = append(out, o)
		}
	}
	return out
}

// testLedger answers from values.
type testLedger struct {
	mu         sync.Mutex
	err        error // of every read
	freezes    []store.Freeze
	found      []store.FoundInode
	blocked    []store.Blocked
	renewals   []store.Renewal
	imageReads map[int64][]store.ImageRead // of images, by freeze
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

func (l *testLedger) ImageReads(_ context.Context, id int64, from, to time.Time, limit int) ([]store.ImageRead, error) {
	var out []store.ImageRead
	for _, r := range l.imageReads[id] {
		if !r.Until.Before(from) && !r.Until.After(to) && len(out) < limit {
			out = append(out, r)
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

// newUI makes a dashboard for a test and closes it at its end.
func newUI(t *testing.T, fs FS, l Ledger, now func() time.Time) *UI {
	t.Helper()
	o := Options{FS: fs, Ledger: l, Version: "test", Now: now, Attach: func() *AttachStatus {
		return &AttachStatus{Socket: "/run/permafrost/attach.sock", Clients: 3}
	}}
	if f, ok := fs.(*testFS); ok && f.mount != nil {
		o.Mount = f.mount
	}
	u, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

func fixed(at time.Time) func() time.Time { return func() time.Time { return at } }

var errPlanted = errors.New("planted: disk full")

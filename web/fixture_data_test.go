package web

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/store"
)

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
	fillMount(fs, now)
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

// fillMount mounts a full appliance, with programs at work.
func fillMount(fs *testFS, now time.Time) {
	m := &testMount{status: core.MountStatus{Dir: "/mnt/permafrost", Options: "noatime", Since: now.Add(-26 * time.Hour), Open: 47, Writable: 12}}
	for n, op := range []struct {
		name  string
		count uint64
		mean  time.Duration
	}{{"lookup", 904_113, 3 * time.Microsecond}, {"getattr", 21_007, 2 * time.Microsecond}, {"open", 130_552, 9 * time.Microsecond},
		{"create", 4_310, 41 * time.Microsecond}, {"read", 2_481_020, 14 * time.Microsecond}, {"write", 761_005, 28 * time.Microsecond},
		{"writeback", 55_809, 33 * time.Microsecond}, {"release", 134_801, time.Microsecond}, {"fsync", 12_044, 870 * time.Microsecond},
		{"rename", 2_117, 47 * time.Microsecond}} {
		l := core.Latency{Sum: time.Duration(op.count) * op.mean}
		at := core.LatencyBucket(op.mean)
		l.Buckets[at], l.Buckets[at+3] = op.count-op.count/50, op.count/50
		if n == 5 { // writes that waited for a thaw
			l.Buckets[core.LatencyBucket(12*time.Second)] += 8
			l.Sum += 96 * time.Second
		}
		m.status.Ops = append(m.status.Ops, core.MountOp{Op: op.name, Latency: l})
	}
	for n := range 12 {
		i := fs.inodes[2+n%3]
		m.open = append(m.open, core.MappingInfo{ID: uint64(10 + n), Ino: i.Ino, Path: i.Paths[0], WayIn: "mount", Writable: true,
			Since: now.Add(-time.Duration(12-n) * 11 * time.Minute), Process: core.Process{PID: 5200 + n/2, UID: 106, Comm: "postgres"}})
	}
	fs.mount = m
}

func fillFreezes(l *testLedger, now time.Time, rng *rand.Rand) {
	states := map[int64]string{7: "expired", 19: "interrupted", 28: "rolled_back", 33: "forced"}
	for id := int64(40); id >= 1; id-- {
		at := now.Add(-time.Duration(41-id) * 17 * time.Minute)
		f := store.Freeze{ID: id, State: "thawed", Generation: 17000 + id*20, RequestedAt: at, FrozenAt: at.Add(5 * time.Millisecond),
			EndedAt: at.Add(time.Duration(8+rng.IntN(90)) * time.Second), ExpiresAt: at.Add(2 * time.Minute),
			PrecleanPasses: 2, Inodes: int64(3 + rng.IntN(5)), Pages: int64(60 + rng.IntN(300)), WindowInodes: 2,
			WindowPages: int64(rng.IntN(20)), Strategy: "dirty", Modes: map[string]string{"attach": "protect", "mount": "collect"},
			BlockedTotal: 4, LongestWaitUS: 11.2e6, ImageReads: 1}
		f.Bytes, f.WindowBytes = f.Pages*4096, f.WindowPages*4096
		var window float64
		for _, p := range []struct {
			name string
			us   float64
		}{{"intent", 2100}, {"preclean", 900}, {"write", 3}, {"collect", 640}, {"pagefault", 12}, {"sync", 60}, {"fs", 22}, {"complete", 1}} {
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
		if id == 39 {
			f.Modes = map[string]string{"attach": "protect", "mount": "notify"}
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
	read := func(reader string, since time.Time, lasted time.Duration, requests, bytes int64) store.ImageRead {
		return store.ImageRead{Reader: reader, Since: since, Until: since.Add(lasted), Requests: requests, Bytes: bytes}
	}
	l.imageReads = map[int64][]store.ImageRead{40: {read("uid:0", f.FrozenAt.Add(2*time.Second), 0, 1, 0)},
		41: {read("uid:0", now.Add(-20*time.Second), 9*time.Second, 1, 256<<20), read("127.0.0.1", now, time.Second, 3, 4096)}}
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
		ExpiresAt: now.Add(97 * time.Second), Modes: map[string]string{"attach": "protect", "mount": "collect"}, Window: 813 * time.Microsecond, Total: 6500 * time.Microsecond, PrecleanPasses: 2,
		Flushed: freeze.Flushed{Inodes: 3, Pages: 158, Bytes: 158 * 4096}, WindowFlushed: freeze.Flushed{Inodes: 1, Pages: 4, Bytes: 4 * 4096},
		Strategy: "dirty", BlockedTotal: 5, ImageReads: 1, Phases: []freeze.Phase{
			{Name: "intent", Duration: 2100 * time.Microsecond}, {Name: "preclean", Duration: 3600 * time.Microsecond},
			{Name: "write", Duration: 5 * time.Microsecond}, {Name: "collect", Duration: 700 * time.Microsecond}, {Name: "pagefault", Duration: 14 * time.Microsecond},
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
	held := func(op, path string, gate freeze.Level, ino, page uint64) {
		fs.blocked = append(fs.blocked, freeze.Blocked{ID: uint64(len(fs.blocked) + 1), Gate: gate, Since: at.Add(time.Duration(len(fs.blocked)) * 1500 * time.Millisecond),
			Waiter: freeze.Waiter{Op: op, Ino: ino, Path: path, WayIn: "mount", PID: 5200, Comm: "postgres", UID: 106, Page: page}})
	}
	held("store", "/db/orders.wal", freeze.Write, 14, 33)
	held("write", "/log/appliance-with-a-rather-long-name-so-that-tables-must-wrap.log", freeze.Write, 15, 0)
	fs.status.Blocked = 5
	fs.mount.change(func(m *core.MountStatus) { m.Held, m.Inside = 2, 2 })
}

// lengthen gives everything that has a name one as long as it may be, without a
// place to break it, and makes more freezes than a page lists.
func lengthen(fs *testFS, l *testLedger) {
	holder, reason := strings.Repeat("holder-", 36)+"abc", strings.Repeat("because", 146)
	path := strings.Repeat("/"+strings.Repeat("n", 255), 15) + "/" + strings.Repeat("long-name", 28)
	for i := range fs.inodes {
		fs.inodes[i].Paths = []string{path, path}
	}
	for i := range fs.maps {
		fs.maps[i].Path = path
	}
	for i := range fs.blocked {
		fs.blocked[i].Path = path
	}
	for i := range fs.mount.open {
		fs.mount.open[i].Path = path
	}
	fs.mount.change(func(m *core.MountStatus) { m.Dir = path })
	if f := fs.status.Freeze; f != nil {
		for i := range f.Holds {
			f.Holds[i].Holder, f.Holds[i].Reason = holder, reason
		}
	}
	for i := range l.found {
		l.found[i].Path = path
	}
	for i := range l.blocked {
		l.blocked[i].Path = path
	}
	for id, reads := range l.imageReads {
		for i := range reads {
			l.imageReads[id][i].Reader = holder
		}
	}
	first := l.freezes
	l.freezes = nil
	for n := range int64(4) {
		for _, f := range first {
			f.ID += (3 - n) * int64(len(first))
			f.Holds = slices.Clone(f.Holds)
			for i := range f.Holds {
				f.Holds[i].Holder, f.Holds[i].Reason = holder, reason
			}
			l.freezes = append(l.freezes, f)
		}
	}
}

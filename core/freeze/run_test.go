package freeze

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The order of freeze.md, with the gates as they must be at each step (F3).
func TestOrder(t *testing.T) {
	s := &scripted{work: []uint64{1000, 400, 190}}
	var f *Freezer
	var at []Level
	s.onSync = func(context.Context, SyncOptions) error { at = append(at, f.Level()); return nil }
	s.onCommit = func(context.Context, uint64) error { at = append(at, f.Level()); return nil }
	f = newFreezer(t, Config{Target: s, Intent: func(_ context.Context, r Record) error {
		s.note("intent")
		if r.State != StateFreezing || len(r.Holds) != 1 || r.Holds[0].Holder != "a" || r.Holds[0].ID != "1.1" ||
			r.Holds[0].Lease != time.Minute || r.Patience != DefaultPatience {
			t.Errorf("intent: %+v", r)
		}
		at = append(at, f.Level())
		return nil
	}})
	rec, h := mustFreeze(t, f, ask("a", time.Minute))
	if want := []string{"intent", "preclean", "preclean", "preclean", "sync", "commit"}; !slices.Equal(s.calls, want) {
		t.Errorf("calls %v, want %v", s.calls, want)
	}
	if want := []Level{Unfrozen, Unfrozen, Unfrozen, Unfrozen, PageFault, FS}; !slices.Equal(at, want) {
		t.Errorf("levels %v, want %v", at, want)
	}
	wantLevel(t, f, Complete)
	var names []string
	var sum time.Duration
	for _, p := range rec.Phases {
		names = append(names, p.Name)
		sum += p.Duration
	}
	if got := strings.Join(names, " "); got != "intent preclean write pagefault sync fs complete" {
		t.Errorf("phases %s", got)
	}
	if sum > rec.Total || rec.Window > rec.Total || rec.Window <= 0 {
		t.Errorf("phases %v, window %v, total %v", sum, rec.Window, rec.Total)
	}
	if rec.PrecleanPasses != 3 || rec.Flushed.Pages != 32 || rec.WindowFlushed.Pages != 2 || rec.Generation != 1001 ||
		rec.State != StateFrozen || rec.ID != 1 || rec.Degraded || rec.Strategy != "dirty" {
		t.Errorf("record %+v", rec)
	}
	if len(rec.Holds) != 1 || rec.Holds[0].Token != "" || h.Token == "" || !rec.ExpiresAt.Equal(rec.FrozenAt.Add(time.Minute)) {
		t.Errorf("holds %+v, answer %+v", rec.Holds, h)
	}
}

func TestPrecleanStopsWhenNotWorthIt(t *testing.T) {
	for _, c := range []struct {
		work   []uint64
		passes int
	}{
		{nil, 0},
		{[]uint64{worthAPass}, 0},
		{[]uint64{worthAPass + 1}, 1},
		{[]uint64{1000, 600}, 1}, // does not shrink enough
		{[]uint64{1000, 500, 251}, 2},
		{[]uint64{1 << 20, 1 << 19, 1 << 18, 1 << 17, 1 << 16, 1 << 15, 1 << 14, 1 << 13, 1 << 12}, maxPasses},
	} {
		f := newFreezer(t, Config{Target: &scripted{work: c.work}})
		if rec, _ := mustFreeze(t, f, ask("a", time.Minute)); rec.PrecleanPasses != c.passes {
			t.Errorf("%v: %d passes, want %d", c.work, rec.PrecleanPasses, c.passes)
		}
	}
}

func TestWalkAllOnlyInWindow(t *testing.T) {
	s := &scripted{work: []uint64{1000}}
	s.onSync = func(_ context.Context, o SyncOptions) error {
		if o.WalkAll != o.InWindow || o.Commit == o.InWindow || o.FreezeID != 1 {
			t.Errorf("options %+v", o)
		}
		return nil
	}
	f := newFreezer(t, Config{Target: s})
	if rec, _ := mustFreeze(t, f, Request{Holder: "a", Lease: time.Minute, WalkAll: true}); rec.Strategy != "walk-all" {
		t.Errorf("strategy %s", rec.Strategy)
	}
}

func TestIntentIsWaitedForBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		var mode atomic.Value
		f := newFreezer(t, Config{Intent: func(ctx context.Context, _ Record) error {
			switch mode.Load() {
			case "stuck": // ignores its context
				<-stuck
			case "fails":
				return errors.New("disk full")
			case "slow":
				time.Sleep(400 * time.Millisecond)
			}
			return nil
		}})
		for _, c := range []struct {
			mode     string
			patience time.Duration
			degraded bool
			took     time.Duration
		}{
			{"stuck", 10 * time.Second, true, 500 * time.Millisecond},
			{"stuck", 400 * time.Millisecond, true, 200 * time.Millisecond},
			{"fails", 0, true, 0},
			{"slow", 0, false, 400 * time.Millisecond},
			{"works", 0, false, 0},
		} {
			mode.Store(c.mode)
			rec, h := mustFreeze(t, f, Request{Holder: "a", Lease: time.Minute, Patience: c.patience})
			if rec.Degraded != c.degraded || rec.Total != c.took || rec.Window != 0 {
				t.Errorf("%s: degraded %v, total %v, window %v", c.mode, rec.Degraded, rec.Total, rec.Window)
			}
			mustThaw(t, f, ThawRequest{Hold: h.ID})
		}
		close(stuck)
	})
}

// holdUp makes a freeze stop at one step, until let go or the context ends.
type holdUp struct {
	name  string
	level Level
	at    func(f *Freezer, s *scripted, stop chan struct{}) (undo func())
	who   string // part of waiting_for
}

func waitFor(stop chan struct{}) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func inGate(g func(*Freezer) *Gate, op Op) func(*Freezer, *scripted, chan struct{}) func() {
	return func(f *Freezer, _ *scripted, stop chan struct{}) func() {
		p, ok := g(f).Try(op, 77)
		if !ok {
			panic("closed gate")
		}
		left := make(chan struct{})
		go func() { <-stop; p.Exit(); close(left) }()
		return func() { <-left }
	}
}

var holdUps = []holdUp{
	{"preclean", Unfrozen, func(_ *Freezer, s *scripted, stop chan struct{}) func() {
		s.work = []uint64{100}
		s.onSync = func(ctx context.Context, o SyncOptions) error {
			if o.InWindow {
				return nil
			}
			return waitFor(stop)(ctx)
		}
		return func() {}
	}, "the pre-clean"},
	{"write", Write, inGate((*Freezer).StartWrite, OpRename), "rename of inode 77, inside startWrite"},
	{"pagefault", PageFault, inGate((*Freezer).StartPageFault, OpStore), "store of inode 77, inside startPageFault"},
	{"sync", PageFault, func(_ *Freezer, s *scripted, stop chan struct{}) func() {
		s.onSync = func(ctx context.Context, o SyncOptions) error { return waitFor(stop)(ctx) }
		return func() {}
	}, "the sync path"},
	{"internal", FS, inGate((*Freezer).StartInternal, OpCommit), "commit of inode 77, inside startInternal"},
	{"commit", FS, func(_ *Freezer, s *scripted, stop chan struct{}) func() {
		s.onCommit = func(ctx context.Context, _ uint64) error { return waitFor(stop)(ctx) }
		return func() {}
	}, "the final commit"},
}

// A freeze held up at each step, ended in each way: always rolled back entirely,
// with the right error, nobody left held, and the next freeze works.
func TestRollBack(t *testing.T) {
	ways := []struct {
		name  string
		do    func(f *Freezer, cancel func())
		err   error
		after time.Duration
	}{
		{"patience", func(*Freezer, func()) { time.Sleep(2 * time.Second) }, ErrTimedOut, 2 * time.Second},
		{"disconnect", func(_ *Freezer, cancel func()) { cancel() }, context.Canceled, 0},
		{"thaw by holder", func(f *Freezer, _ func()) {
			if _, err := f.Thaw(ThawRequest{Holder: "a"}); !errors.Is(err, ErrFreezeLost) {
				panic(err)
			}
		}, ErrFreezeLost, 0},
		{"thaw by force", func(f *Freezer, _ func()) {
			if r, err := f.Thaw(ThawRequest{Force: true, By: "root"}); err != nil || !r.Changed || r.Held {
				panic(err)
			}
		}, ErrFreezeLost, 0},
	}
	for _, u := range holdUps {
		for _, w := range ways {
			t.Run(u.name+"/"+w.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &scripted{}
					f := newFreezer(t, Config{Target: s})
					stop := make(chan struct{})
					undo := u.at(f, s, stop)
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					r := ask("a", time.Minute)
					r.Patience = 2 * time.Second
					done := freezeAsync(ctx, f, r)
					synctest.Wait()
					wantLevel(t, f, u.level)
					if st := f.Status(); st.State != "freezing" || st.Freeze == nil {
						t.Fatalf("status %+v", st)
					}
					resumed := false
					if u.level >= PageFault {
						if _, err := f.StartPageFault().Park(Waiter{}, 1, func() { resumed = true }); err != nil {
							t.Fatal(err)
						}
					}
					w.do(f, cancel)
					o := <-done
					if !errors.Is(o.err, w.err) {
						t.Fatalf("error %v, want %v", o.err, w.err)
					}
					synctest.Wait()
					wantLevel(t, f, Unfrozen)
					if u.level >= PageFault && !resumed {
						t.Error("a parked caller is still parked")
					}
					last := f.Status().Last
					if last == nil || last.State != StateRolledBack || last.Error == "" || last.EndedAt.Sub(last.RequestedAt) != w.after {
						t.Fatalf("record %+v", last)
					}
					if got := strings.Join(last.WaitingFor, "; "); !strings.Contains(got, u.who) {
						t.Errorf("waiting for %q, want %q", got, u.who)
					}
					if w.err == ErrTimedOut {
						if ref := wantErr(t, o.err, ErrTimedOut); !strings.Contains(strings.Join(ref.WaitingFor, "; "), u.who) {
							t.Errorf("refusal %+v", ref)
						}
					}
					// To its holder it was never held.
					_, err := f.Thaw(ThawRequest{Holder: "a"})
					if ref := wantErr(t, err, ErrFreezeLost); ref.HoldEnd != endRolledBack {
						t.Errorf("refusal %+v", ref)
					}
					if res := mustThaw(t, f, ThawRequest{}); res.Changed {
						t.Errorf("bare thaw %+v", res)
					}
					close(stop)
					undo()
					rec, h := mustFreeze(t, f, ask("b", time.Minute))
					if rec.ID != 2 {
						t.Errorf("id %d", rec.ID)
					}
					mustThaw(t, f, ThawRequest{Hold: h.ID})
				})
			})
		}
	}
}

func TestTargetErrorRollsBack(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		s    *scripted
	}{
		{"preclean", &scripted{work: []uint64{100}, onSync: func(context.Context, SyncOptions) error { return boom }}},
		{"sync", &scripted{onSync: func(context.Context, SyncOptions) error { return boom }}},
		{"commit", &scripted{onCommit: func(context.Context, uint64) error { return boom }}},
	} {
		f := newFreezer(t, Config{Target: c.s})
		_, _, err := f.Freeze(context.Background(), ask("a", time.Minute))
		if !errors.Is(err, boom) {
			t.Errorf("%s: %v", c.name, err)
		}
		wantLevel(t, f, Unfrozen)
		if l := f.Status().Last; l.State != StateRolledBack || !strings.Contains(l.Error, "boom") {
			t.Errorf("%s: %+v", c.name, l)
		}
	}
}

func TestPanickingTargetLeavesGatesOpen(t *testing.T) {
	s := &scripted{onCommit: func(context.Context, uint64) error { panic("target") }}
	f := newFreezer(t, Config{Target: s})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		f.Freeze(context.Background(), ask("a", time.Minute))
	}()
	wantLevel(t, f, Unfrozen)
	s.onCommit = nil
	mustFreeze(t, f, ask("b", time.Minute))
}

// A target that ignores its context cannot keep the gates closed (F9), and when
// it comes back at last it cannot disturb the freeze that stands by then.
func TestStuckTargetIsAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		s := &scripted{}
		s.onSync = func(_ context.Context, o SyncOptions) error {
			if o.FreezeID == 1 {
				<-stuck
			}
			return nil
		}
		f := newFreezer(t, Config{Target: s})
		done := freezeAsync(context.Background(), f, ask("a", time.Minute))
		time.Sleep(DefaultPatience + abortGrace - time.Millisecond)
		wantLevel(t, f, PageFault)
		time.Sleep(2 * time.Millisecond)
		wantLevel(t, f, Unfrozen)
		_, h := mustFreeze(t, f, ask("b", time.Minute))
		close(stuck)
		wantErr(t, (<-done).err, ErrTimedOut)
		wantLevel(t, f, Complete)
		if res := mustThaw(t, f, ThawRequest{Hold: h.ID}); !res.Held {
			t.Errorf("%+v", res)
		}
	})
}

// The requester leaves at the very end: after the commit, before the answer.
func TestLateDisconnectRollsBack(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	f := newFreezer(t, Config{Target: &scripted{onCommit: func(context.Context, uint64) error { cancel(); return nil }}})
	_, _, err := f.Freeze(ctx, ask("a", time.Minute))
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	wantLevel(t, f, Unfrozen)
	if l := f.Status().Last; l.State != StateRolledBack {
		t.Errorf("%+v", l)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{})
		_, h := mustFreeze(t, f, ask("a", time.Minute))
		r := ask("b", time.Minute)
		r.Wait = time.Hour
		queued := freezeAsync(context.Background(), f, r)
		in := make(chan error)
		go func() {
			p, err := f.StartWrite().Enter(context.Background(), OpWrite, 1, nil)
			p.Exit()
			in <- err
		}()
		synctest.Wait()
		if err := f.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		wantErr(t, (<-queued).err, ErrClosed)
		if err := <-in; err != nil {
			t.Errorf("held caller: %v", err)
		}
		_, _, err := f.Freeze(context.Background(), ask("c", time.Minute))
		wantErr(t, err, ErrClosed)
		_, err = f.Thaw(ThawRequest{Hold: h.ID})
		if ref := wantErr(t, err, ErrFreezeLost); ref.HoldEnd != endInterrupted {
			t.Errorf("%+v", ref)
		}
	})
}

func TestCloseWhileFreezing(t *testing.T) {
	for _, u := range holdUps {
		synctest.Test(t, func(t *testing.T) {
			s := &scripted{}
			f := newFreezer(t, Config{Target: s})
			stop := make(chan struct{})
			undo := u.at(f, s, stop)
			done := freezeAsync(context.Background(), f, ask("a", time.Minute))
			synctest.Wait()
			if err := f.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			wantErr(t, (<-done).err, ErrClosed)
			wantLevel(t, f, Unfrozen)
			close(stop)
			undo()
		})
	}
}

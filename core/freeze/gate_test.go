package freeze

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func gates(f *Freezer) []*Gate {
	return []*Gate{f.StartWrite(), f.StartPageFault(), f.StartInternal()}
}

// Which gates are closed at which level (F2).
func TestGatesByLevel(t *testing.T) {
	f := newFreezer(t, Config{})
	for l := Unfrozen; l <= Complete; l++ {
		f.box.word.Store(pack(1, l))
		for _, g := range gates(f) {
			p, ok := g.Try(OpWrite, 1)
			if want := l < g.at; ok != want {
				t.Errorf("level %d: %s lets in: %v, want %v", l, g.Name(), ok, want)
			}
			p.Exit()
			if n, names := g.Inside(); n != 0 {
				t.Errorf("level %d: %s has %v inside", l, g.Name(), names)
			}
		}
	}
	f.box.word.Store(0)
}

// More callers inside than slots: none is forgotten, each can leave.
func TestGateOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{})
		g := f.StartWrite()
		var named, counted []Pass
		n := 3 * len(g.slots)
		for i := range n {
			p, ok := g.Try(OpWrite, uint64(i))
			if !ok {
				t.Fatal("open gate refused")
			}
			if p.s != nil {
				named = append(named, p)
			} else {
				counted = append(counted, p)
			}
		}
		if in, _ := g.Inside(); in != n || len(counted) == 0 || len(named) == 0 {
			t.Fatalf("%d inside (%d named), want %d", in, len(named), n)
		}
		done := freezeAsync(context.Background(), f, ask("a", time.Minute))
		for _, p := range append(named, counted...) { // the last is one without a slot
			synctest.Wait()
			wantLevel(t, f, Write)
			p.Exit()
		}
		if o := <-done; o.err != nil {
			t.Fatal(o.err)
		}
	})
}

// The thaw comes between a caller's refusal and its wait: it must not wait.
func TestThawBeforeWait(t *testing.T) {
	f := newFreezer(t, Config{})
	_, h := mustFreeze(t, f, ask("a", time.Minute))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	p, err := f.StartWrite().Enter(ctx, OpWrite, 1, func() Waiter {
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		return Waiter{}
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Exit()
}

func TestEnterWaitsAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{})
		_, h := mustFreeze(t, f, ask("a", time.Minute))
		in := make(chan error, 1)
		go func() {
			p, err := f.StartWrite().Enter(context.Background(), OpRename, 9, func() Waiter {
				return Waiter{Path: "/x", WayIn: "rest", Remote: "10.0.0.1:5"}
			})
			p.Exit()
			in <- err
		}()
		time.Sleep(3 * time.Second)
		b := f.Blocked(0, 0)
		if len(b) != 1 || b[0].Op != "rename" || b[0].Ino != 9 || b[0].Path != "/x" || b[0].Remote != "10.0.0.1:5" ||
			b[0].Gate != Write || time.Since(b[0].Since) != 3*time.Second {
			t.Fatalf("blocked: %+v", b)
		}
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		if err := <-in; err != nil {
			t.Fatal(err)
		}
		if n := f.BlockedCount(); n != 0 {
			t.Fatalf("%d blocked after the thaw", n)
		}
		last := f.Status().Last
		if last.BlockedTotal != 1 || last.LongestWait != 3*time.Second {
			t.Fatalf("account: %d, %v", last.BlockedTotal, last.LongestWait)
		}
	})
}

func TestEnterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done []BlockedDone
		f := newFreezer(t, Config{Observer: func(e Event) {
			if e.Kind == EventReleased {
				done = append(done, *e.Wait)
			}
		}})
		rec, _ := mustFreeze(t, f, ask("a", time.Minute))
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, err := f.StartWrite().Enter(ctx, OpWrite, 1, nil)
		r := wantErr(t, err, ErrFrozen)
		if !errors.Is(err, context.DeadlineExceeded) || r.FreezeID != rec.ID {
			t.Fatalf("refusal %+v", r)
		}
		if len(done) != 1 || !done[0].Cancelled || done[0].Waited != 2*time.Second || done[0].FreezeID != rec.ID {
			t.Fatalf("released: %+v", done)
		}
		if _, err := f.StartWrite().Enter(ctx, OpWrite, 1, nil); !errors.Is(err, ErrFrozen) {
			t.Fatalf("with a context that is done: %v", err)
		}
		if f.BlockedCount() != 0 {
			t.Fatal("still listed")
		}
		if rec := f.Status().Freeze; rec.LongestWait != 2*time.Second || rec.BlockedTotal != 1 {
			t.Fatalf("account: %v %d", rec.LongestWait, rec.BlockedTotal)
		}
	})
}

func TestTooManyHeld(t *testing.T) {
	f := newFreezer(t, Config{MaxBlocked: 3})
	mustFreeze(t, f, ask("a", time.Minute))
	g := f.StartPageFault()
	var unparks []func() bool
	for i := range 3 {
		u, err := g.Park(Waiter{Op: "store"}, i, func() {})
		if err != nil {
			t.Fatal(err)
		}
		unparks = append(unparks, u)
	}
	u, err := g.Park(Waiter{Op: "store"}, 4, func() { t.Error("resumed what was refused") })
	wantErr(t, err, ErrTooManyHeld)
	if u != nil {
		t.Error("a refused park gives an unpark")
	}
	_, err = f.StartWrite().Enter(context.Background(), OpWrite, 1, nil)
	wantErr(t, err, ErrTooManyHeld)
	if n := f.Status().Refused; n != 2 {
		t.Errorf("refused %d, want 2", n)
	}
	if !unparks[1]() || unparks[1]() {
		t.Error("unpark must succeed once")
	}
	if _, err := g.Park(Waiter{Op: "store"}, 5, func() {}); err != nil {
		t.Errorf("room again, but: %v", err)
	}
}

// A caller past the limit can still learn of the thaw, also while the freeze is
// only being reached.
func TestOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		s := &scripted{onCommit: func(ctx context.Context, _ uint64) error { return waitFor(stop)(ctx) }}
		f := newFreezer(t, Config{Target: s})
		g := f.StartPageFault()
		<-g.Opened()
		done := freezeAsync(context.Background(), f, ask("a", time.Minute))
		synctest.Wait()
		c := g.Opened()
		close(stop)
		<-done
		synctest.Wait()
		select {
		case <-c:
			t.Error("opened while frozen")
		default:
		}
		go f.Thaw(ThawRequest{})
		<-c
		if g.Closed() {
			t.Error("closed")
		}
		<-g.Opened()
	})
}

// Parked callers of one client resume in the order they were parked, on one
// worker; a slow client delays nobody else.
func TestParkOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{})
		_, h := mustFreeze(t, f, ask("a", time.Minute))
		var mu sync.Mutex
		got := map[string][]int{}
		busy := map[string]int{}
		gate := make(chan struct{})
		for i := range 30 {
			client := fmt.Sprintf("c%d", i%3)
			_, err := f.StartPageFault().Park(Waiter{Op: "store", PID: i}, client, func() {
				mu.Lock()
				busy[client]++
				if busy[client] > 1 {
					t.Errorf("%s is resumed by two workers", client)
				}
				mu.Unlock()
				if client == "c0" {
					<-gate
				}
				mu.Lock()
				busy[client]--
				got[client] = append(got[client], i)
				mu.Unlock()
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if b := f.Blocked(0, 0); len(b) != 30 || b[0].PID != 0 || b[29].PID != 29 {
			t.Fatalf("blocked: %d", len(b))
		}
		if b := f.Blocked(f.Blocked(0, 10)[9].ID, 5); len(b) != 5 || b[0].PID != 10 {
			t.Fatalf("second page: %+v", b)
		}
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		if f.BlockedCount() != 0 {
			t.Error("parked callers are listed after the thaw")
		}
		synctest.Wait()
		if n := len(got["c0"]); n != 0 {
			t.Errorf("c0 resumed %d", n)
		}
		if s := f.Status().State; s != "thawing" {
			t.Errorf("state %s while callers are let go", s)
		}
		close(gate)
		synctest.Wait()
		for c, l := range got {
			if len(l) != 10 || !slices.IsSorted(l) {
				t.Errorf("%s resumed %v", c, l)
			}
		}
		if s := f.Status().State; s != "unfrozen" {
			t.Errorf("state %s afterwards", s)
		}
	})
}

// A client's stores parked in a second freeze resume behind those of the first
// that are still being let go.
func TestParkOrderAcrossFreezes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{})
		var mu sync.Mutex
		var got []int
		gate := make(chan struct{})
		park := func(i int) {
			if _, err := f.StartPageFault().Park(Waiter{}, "c", func() {
				<-gate
				mu.Lock()
				got = append(got, i)
				mu.Unlock()
			}); err != nil {
				t.Error(err)
			}
		}
		for round := range 5 {
			_, h := mustFreeze(t, f, ask("a", time.Minute))
			for i := range 3 {
				park(round*10 + i)
			}
			mustThaw(t, f, ThawRequest{Hold: h.ID})
			park(round*10 + 5) // the gate is open: behind them all the same
		}
		close(gate)
		synctest.Wait()
		if len(got) != 20 || !slices.IsSorted(got) {
			t.Errorf("resumed %v", got)
		}
	})
}

func TestUnparkWhileLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{})
		_, h := mustFreeze(t, f, ask("a", time.Minute))
		g := f.StartPageFault()
		gate := make(chan struct{})
		if _, err := g.Park(Waiter{}, "c", func() { <-gate }); err != nil {
			t.Fatal(err)
		}
		unpark, err := g.Park(Waiter{}, "c", func() { t.Error("resumed after unpark") })
		if err != nil {
			t.Fatal(err)
		}
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		synctest.Wait() // the worker is held up by the first
		if !unpark() {
			t.Error("could not unpark what was not resumed yet")
		}
		close(gate)
		synctest.Wait()
	})
}

func TestInsideNames(t *testing.T) {
	f := newFreezer(t, Config{})
	g := f.StartInternal()
	a, _ := g.Try(OpCommit, 0)
	b, _ := g.Try(OpReclaim, 44)
	n, names := g.Inside()
	if s := strings.Join(names, "; "); n != 2 || s != "commit, inside startInternal; reclaim of inode 44, inside startInternal" {
		t.Errorf("%d inside: %s", n, s)
	}
	a.Exit()
	b.Exit()
	Pass{}.Exit()
}

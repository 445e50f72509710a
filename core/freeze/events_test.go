package freeze

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The events of one life, in order, none of them inside the window.
func TestEventsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *Freezer
		var got []string
		f = newFreezer(t, Config{Observer: func(e Event) {
			s := string(e.Kind)
			if e.Freeze != nil {
				s += ":" + string(e.Freeze.State)
			}
			if e.Hold != nil {
				s += ":" + e.Hold.ID + ":" + e.Hold.End
				if e.Hold.Token != "" {
					t.Error("an event gives a token away")
				}
			}
			if l := f.Level(); l != Unfrozen && l != Complete {
				t.Errorf("%s was told at level %d", s, l)
			}
			got = append(got, s)
		}})
		_, h := mustFreeze(t, f, ask("a", time.Minute))
		if _, err := f.StartWrite().Park(Waiter{}, 1, func() {}); err != nil {
			t.Fatal(err)
		}
		mustFreeze(t, f, Request{Holder: "b", Lease: time.Second, Join: true})
		f.Renew(RenewRequest{Hold: h.ID, Lease: time.Minute})
		if _, err := f.BeginImageRead(1, "r"); err != nil {
			t.Fatal(err)
		}
		f.BeginImageRead(2, "r") // refused: no event
		time.Sleep(time.Second)
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		synctest.Wait()
		f.Thaw(ThawRequest{})
		f.BeginImageRead(1, "r") // too late: no event
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		f.Freeze(ctx, ask("c", time.Minute))
		want := "freezing:freezing frozen:frozen hold_begin:frozen:1.1: hold_begin:frozen:1.2: hold_renew:frozen:1.1: image_read:frozen " +
			"hold_end:frozen:1.2:expired hold_end:frozen:1.1:thawed thawed:thawed released reported:thawed:1.2:expired " +
			"freezing:freezing rolled_back:rolled_back"
		if g := strings.Join(got, " "); g != want {
			t.Errorf("got  %s\nwant %s", g, want)
		}
	})
}

// An observer that is stuck stops neither leases nor thaws, and what is kept
// for it is bounded.
func TestStuckObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		var once sync.Once
		f := newFreezer(t, Config{Observer: func(Event) { once.Do(func() { <-stuck }) }})
		first := freezeAsync(context.Background(), f, ask("a", time.Minute)) // has the turn, and is stuck
		synctest.Wait()
		if o := len(first); o != 0 {
			t.Fatal("not stuck")
		}
		close(stuck)
		if o := <-first; o.err != nil {
			t.Fatal(o.err)
		}
		stuck2 := make(chan struct{})
		f2 := newFreezer(t, Config{Observer: func(e Event) {
			if e.Kind == EventRenewedForTest {
				<-stuck2
			}
		}})
		_, h := mustFreeze(t, f2, ask("a", time.Minute))
		go f2.out.send(Event{Kind: EventRenewedForTest})
		synctest.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		wantLevel(t, f2, Unfrozen)
		if _, err := f2.Thaw(ThawRequest{Hold: h.ID}); err == nil {
			t.Error("held?")
		}
		for range maxPending + 10 {
			f2.out.push(Event{Kind: EventReleased})
		}
		if n := len(f2.out.pending); n > maxPending/2+10 {
			t.Errorf("%d pending", n)
		}
		_, h = mustFreeze(t, f2, ask("b", time.Minute))
		mustThaw(t, f2, ThawRequest{Hold: h.ID})
		if n := f2.Status().Dropped; n == 0 {
			t.Error("nothing is said to be dropped")
		}
		close(stuck2)
		synctest.Wait()
		if n := len(f2.out.pending); n != 0 {
			t.Errorf("%d left undelivered", n)
		}
	})
}

// EventRenewedForTest is an event the machine never makes.
const EventRenewedForTest EventKind = "test"

package freeze

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestLeaseExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{})
		rec, h := mustFreeze(t, f, ask("a", time.Minute))
		time.Sleep(time.Minute - time.Nanosecond)
		wantLevel(t, f, Complete)
		time.Sleep(time.Nanosecond)
		synctest.Wait() // nobody asks: the timer alone
		wantLevel(t, f, Unfrozen)
		last := f.Status().Last
		if last.State != StateExpired || last.Holds[0].End != endExpired || !last.Holds[0].EndedAt.Equal(rec.FrozenAt.Add(time.Minute)) {
			t.Errorf("%+v", last)
		}
		_, err := f.Thaw(ThawRequest{Hold: h.ID})
		if ref := wantErr(t, err, ErrFreezeLost); ref.HoldEnd != endExpired || ref.FreezeID != rec.ID || ref.Hold != h.ID {
			t.Errorf("%+v", ref)
		}
	})
}

// The timer never runs: every call notices the expiry by itself (F7).
func TestExpiryIsExactWithoutTimer(t *testing.T) {
	for name, call := range map[string]func(f *Freezer, h Hold) error{
		"thaw hold":   func(f *Freezer, h Hold) error { _, err := f.Thaw(ThawRequest{Hold: h.ID}); return err },
		"thaw holder": func(f *Freezer, h Hold) error { _, err := f.Thaw(ThawRequest{Holder: "a"}); return err },
		"thaw bare":   func(f *Freezer, h Hold) error { _, err := f.Thaw(ThawRequest{}); return err },
		"thaw force": func(f *Freezer, h Hold) error {
			_, err := f.Thaw(ThawRequest{Hold: h.ID, Force: true})
			return err
		},
		"renew": func(f *Freezer, h Hold) error {
			_, _, err := f.Renew(RenewRequest{Hold: h.ID, Lease: time.Minute})
			return err
		},
		"image":   func(f *Freezer, h Hold) error { _, err := f.BeginImageRead(h.FreezeID, "r"); return err },
		"reading": func(f *Freezer, h Hold) error { return f.RenewByReading(h.FreezeID, h.ID, "") },
	} {
		clock := &stoppedClock{now: time.Now()}
		f := newFreezer(t, Config{Clock: clock})
		_, h := mustFreeze(t, f, ask("a", time.Minute))
		clock.advance(time.Minute - 1)
		wantLevel(t, f, Complete)
		clock.advance(1)
		if err := call(f, h); !errors.Is(err, ErrFreezeLost) {
			t.Errorf("%s at the instant of expiry: %v", name, err)
		}
		wantLevel(t, f, Unfrozen)
	}
	clock := &stoppedClock{now: time.Now()}
	f := newFreezer(t, Config{Clock: clock})
	mustFreeze(t, f, ask("a", time.Minute))
	clock.advance(time.Minute)
	if s := f.Status(); s.State != "unfrozen" || s.Last.State != StateExpired {
		t.Errorf("status %+v", s)
	}
	mustFreeze(t, f, ask("b", time.Minute)) // and a new freeze is not refused
}

func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{MaxLease: 10 * time.Minute})
		rec, h := mustFreeze(t, f, ask("a", time.Minute))
		time.Sleep(50 * time.Second)
		_, h2, err := f.Renew(RenewRequest{Holder: "a", Lease: 2 * time.Minute})
		if err != nil || !h2.ExpiresAt.Equal(time.Now().Add(2*time.Minute)) || h2.Renewals != 1 || h2.ID != h.ID || h2.Token != "" {
			t.Fatalf("%+v, %v", h2, err)
		}
		time.Sleep(119 * time.Second)
		wantLevel(t, f, Complete)
		// Nearer is allowed.
		if _, h2, err = f.Renew(RenewRequest{Lease: 500 * time.Millisecond}); err != nil || h2.Renewals != 2 {
			t.Fatal(err)
		}
		time.Sleep(499 * time.Millisecond)
		if _, _, err = f.Renew(RenewRequest{Hold: h.ID, Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
		// The cap counts from frozen_at, to the nanosecond, and a refusal changes nothing.
		left := 10*time.Minute - time.Since(rec.FrozenAt)
		before := f.Status().Freeze.ExpiresAt
		_, _, err = f.Renew(RenewRequest{Hold: h.ID, Lease: left + 1})
		if ref := wantErr(t, err, ErrOverCap); !ref.ExpiresAt.Equal(rec.FrozenAt.Add(10 * time.Minute)) {
			t.Errorf("%+v", ref)
		}
		if got := f.Status().Freeze.ExpiresAt; !got.Equal(before) {
			t.Errorf("expiry moved to %v", got)
		}
		if _, _, err = f.Renew(RenewRequest{Hold: h.ID, Lease: left}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(left)
		synctest.Wait()
		wantLevel(t, f, Unfrozen)
		_, _, err = f.Renew(RenewRequest{Hold: h.ID, Lease: time.Second})
		wantErr(t, err, ErrFreezeLost)
	})
}

func TestRenewRefusals(t *testing.T) {
	f := newFreezer(t, Config{})
	_, _, err := f.Renew(RenewRequest{Lease: time.Second})
	wantErr(t, err, ErrUnknownHold)
	r := ask("a", time.Minute)
	r.RequireToken = true
	_, h := mustFreeze(t, f, r)
	_, _, err = f.Renew(RenewRequest{Hold: h.ID, Token: h.Token})
	wantErr(t, err, ErrBadRequest)
	_, _, err = f.Renew(RenewRequest{Hold: "9.9", Lease: time.Second})
	wantErr(t, err, ErrUnknownHold)
	_, _, err = f.Renew(RenewRequest{Hold: h.ID, Holder: "b", Token: h.Token, Lease: time.Second})
	wantErr(t, err, ErrNotTheHolder)
	_, _, err = f.Renew(RenewRequest{Hold: h.ID, Lease: time.Second})
	wantErr(t, err, ErrNotTheHolder)
	_, _, err = f.Renew(RenewRequest{Hold: h.ID, Token: h.Token[1:] + "x", Lease: time.Second})
	wantErr(t, err, ErrNotTheHolder)
	j := ask("b", time.Minute)
	j.Join = true
	mustFreeze(t, f, j)
	_, _, err = f.Renew(RenewRequest{Lease: time.Second})
	wantErr(t, err, ErrWhichHold)
	mustThaw(t, f, ThawRequest{Hold: h.ID, Token: h.Token})
	_, _, err = f.Renew(RenewRequest{Hold: h.ID, Token: h.Token, Lease: time.Second})
	if ref := wantErr(t, err, ErrHoldEnded); ref.HoldEnd != endThawed {
		t.Errorf("%+v", ref)
	}
}

// Joiners hold the same point in time; it ends with the last of them, and the
// record says how each ended.
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{MaxLease: 5 * time.Minute})
		rec, a := mustFreeze(t, f, ask("a", time.Minute))
		time.Sleep(30 * time.Second)
		join := func(who string, lease time.Duration) (Record, Hold, error) {
			return f.Freeze(context.Background(), Request{Holder: who, Lease: lease, Join: true})
		}
		recB, b, err := join("b", 2*time.Minute)
		if err != nil || recB.ID != rec.ID || !recB.FrozenAt.Equal(rec.FrozenAt) || recB.Generation != rec.Generation ||
			b.ID != "1.2" || b.Token == a.Token || len(recB.Holds) != 2 {
			t.Fatalf("%+v %+v %v", recB, b, err)
		}
		_, c, err := join("c", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = join("d", 5*time.Minute) // 30 s are gone
		wantErr(t, err, ErrOverCap)
		if res := mustThaw(t, f, ThawRequest{Hold: c.ID}); res.Thawed || !res.Held || !res.Changed {
			t.Errorf("%+v", res)
		}
		time.Sleep(31 * time.Second) // a expired
		wantLevel(t, f, Complete)
		if r := f.Status().Freeze; r.Holds[0].End != endExpired || r.Holds[1].End != "" || !r.ExpiresAt.Equal(b.ExpiresAt) {
			t.Errorf("%+v", r)
		}
		_, err = f.Thaw(ThawRequest{Hold: a.ID})
		wantErr(t, err, ErrFreezeLost)
		if res := mustThaw(t, f, ThawRequest{Holder: "b"}); !res.Thawed || !res.Held || res.Frozen != 61*time.Second {
			t.Errorf("%+v", res)
		}
		last := f.Status().Last
		if last.State != StateThawed || last.Holds[0].End+last.Holds[1].End+last.Holds[2].End != "expiredthawedthawed" {
			t.Errorf("%+v", last)
		}
		rec, _, err = join("e", time.Minute) // nothing to join: its own freeze
		if err != nil || rec.ID != 2 {
			t.Fatalf("%+v %v", rec, err)
		}
	})
}

func TestJoinWaitsForTheOneBeingReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{}
		stop := make(chan struct{})
		s.onCommit = func(ctx context.Context, _ uint64) error { return waitFor(stop)(ctx) }
		f := newFreezer(t, Config{Target: s})
		first := freezeAsync(context.Background(), f, ask("a", time.Minute))
		synctest.Wait()
		second := freezeAsync(context.Background(), f, Request{Holder: "b", Lease: time.Minute, Join: true})
		late := freezeAsync(context.Background(), f, Request{Holder: "c", Lease: time.Minute, Join: true, Patience: time.Second})
		wantErr(t, (<-late).err, ErrAlreadyFrozen)
		close(stop)
		a, b := <-first, <-second
		if a.err != nil || b.err != nil || a.rec.ID != b.rec.ID || b.h.ID != "1.2" {
			t.Errorf("%+v %+v", a, b)
		}
	})
}

func TestRefusedWhileFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{})
		rec, h := mustFreeze(t, f, ask("a", time.Minute))
		_, _, err := f.Freeze(context.Background(), ask("b", time.Minute))
		ref := wantErr(t, err, ErrAlreadyFrozen)
		if ref.FreezeID != rec.ID || !slices.Equal(ref.Holders, []string{"a"}) || !ref.Since.Equal(rec.FrozenAt) || !ref.ExpiresAt.Equal(h.ExpiresAt) {
			t.Errorf("%+v", ref)
		}
		r := ask("b", time.Minute)
		r.Wait = 5 * time.Second
		start := time.Now()
		_, _, err = f.Freeze(context.Background(), r)
		wantErr(t, err, ErrAlreadyFrozen)
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("waited %v", d)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := freezeAsync(ctx, f, r)
		synctest.Wait()
		cancel()
		if o := <-done; !errors.Is(o.err, context.Canceled) {
			t.Error(o.err)
		}
		if n := f.Status().Queued; n != 0 {
			t.Errorf("%d still queued", n)
		}
	})
}

// A freeze that is rolled back lets the next of the queue have its turn.
func TestQueueBehindRollBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{}
		s.onCommit = func(ctx context.Context, id uint64) error {
			if id == 1 {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		f := newFreezer(t, Config{Target: s})
		first := freezeAsync(context.Background(), f, ask("a", time.Minute))
		synctest.Wait()
		rec, _, err := f.Freeze(context.Background(), Request{Holder: "b", Lease: time.Minute, Wait: time.Minute})
		if err != nil || rec.ID != 2 || !rec.RequestedAt.Equal(time.Now()) {
			t.Fatalf("%+v %v", rec, err)
		}
		wantErr(t, (<-first).err, ErrTimedOut)
	})
}

// wait queues first come, first served; those who leave lose their place only.
func TestQueueIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{MaxQueued: 6})
		_, h := mustFreeze(t, f, ask("first", time.Minute))
		type turn struct {
			i int
			outcome
		}
		turns := make(chan turn, 10)
		ctx3, leave3 := context.WithCancel(context.Background())
		for i := range 6 {
			ctx := context.Background()
			r := Request{Holder: fmt.Sprint("q", i), Lease: 10 * time.Second, Wait: time.Hour}
			if i == 3 {
				ctx = ctx3
			}
			if i == 1 {
				r.Wait = time.Second
			}
			go func() {
				rec, h, err := f.Freeze(ctx, r)
				turns <- turn{i, outcome{rec, h, err}}
			}()
			synctest.Wait()
		}
		_, _, err := f.Freeze(context.Background(), Request{Holder: "x", Lease: time.Minute, Wait: time.Hour})
		wantErr(t, err, ErrTooManyHeld)
		if o := <-turns; o.i != 1 || !errors.Is(o.err, ErrAlreadyFrozen) {
			t.Fatalf("%+v", o)
		}
		leave3()
		if o := <-turns; o.i != 3 || !errors.Is(o.err, context.Canceled) {
			t.Fatalf("%+v", o)
		}
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		for _, want := range []int{0, 2, 4, 5} {
			// No barging: a newcomer without patience to queue is refused.
			_, _, err := f.Freeze(context.Background(), ask("barger", time.Minute))
			wantErr(t, err, ErrAlreadyFrozen)
			o := <-turns
			if o.err != nil || o.i != want {
				t.Fatalf("turn of %d: %v; want %d", o.i, o.err, want)
			}
			if want%4 == 0 {
				mustThaw(t, f, ThawRequest{Hold: o.h.ID})
			} else {
				time.Sleep(10 * time.Second) // its lease lapses: the next has its turn as well
			}
		}
	})
}

func TestIdempotencyKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{}
		f := newFreezer(t, Config{Target: s})
		r := ask("a", time.Minute)
		r.Key = "k1"
		rec, h := mustFreeze(t, f, r)
		rec2, h2 := mustFreeze(t, f, r)
		if rec2.ID != rec.ID || h2.ID != h.ID || h2.Token != h.Token || len(s.calls) != 2 {
			t.Errorf("replay: %+v, calls %v", h2, s.calls)
		}
		other := r
		other.Lease = 2 * time.Minute
		_, _, err := f.Freeze(context.Background(), other)
		wantErr(t, err, ErrKeyReused)
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		if rec3, _ := mustFreeze(t, f, r); rec3.State != StateThawed || rec3.ID != rec.ID {
			t.Errorf("replay after the thaw: %+v", rec3)
		}
		wantLevel(t, f, Unfrozen)

		r.Key = "k2"
		mustFreeze(t, f, r)
		time.Sleep(2 * time.Minute)
		_, _, err = f.Freeze(context.Background(), r)
		wantErr(t, err, ErrFreezeLost)
		if res := mustThaw(t, f, ThawRequest{}); res.Changed { // somebody was told
			t.Errorf("%+v", res)
		}

		// In flight: the replay waits for the first and gets the same answer.
		stop := make(chan struct{})
		s.onCommit = func(ctx context.Context, _ uint64) error { return waitFor(stop)(ctx) }
		r.Key = "k3"
		ctx, cancel := context.WithCancel(context.Background())
		one := freezeAsync(ctx, f, r)
		synctest.Wait()
		two := freezeAsync(context.Background(), f, r)
		synctest.Wait()
		cancel() // the first is gone: its key is free, the second makes its own
		if o := <-one; !errors.Is(o.err, context.Canceled) {
			t.Errorf("%v", o.err)
		}
		synctest.Wait()
		three := freezeAsync(context.Background(), f, r)
		synctest.Wait()
		close(stop)
		o2, o3 := <-two, <-three
		if o2.err != nil || o3.err != nil || o2.h.ID != o3.h.ID || o2.h.Token != o3.h.Token {
			t.Errorf("%+v %+v", o2, o3)
		}
		// Abandoned: to its requester it never was, the key is free again.
		f.Abandon(o2.h.ID)
		wantLevel(t, f, Complete) // the other has it still
		f.Abandon(o3.h.ID)
		wantLevel(t, f, Unfrozen)
		if o, h := mustFreeze(t, f, r); h.ID == o2.h.ID || o.State != StateFrozen {
			t.Errorf("%+v", o)
		}
	})
}

func TestBadRequests(t *testing.T) {
	f := newFreezer(t, Config{})
	long := string(make([]byte, 300))
	for name, r := range map[string]Request{
		"no lease":          {Holder: "a"},
		"negative lease":    {Holder: "a", Lease: -1},
		"negative wait":     {Holder: "a", Lease: 1, Wait: -1},
		"endless wait":      {Holder: "a", Lease: 1, Wait: MaxWait + 1},
		"negative patience": {Holder: "a", Lease: 1, Patience: -1},
		"endless patience":  {Holder: "a", Lease: 1, Patience: 2 * time.Hour},
		"no holder":         {Lease: 1},
		"long holder":       {Lease: 1, Holder: long},
		"holder with LF":    {Lease: 1, Holder: "a\nb"},
		"holder not UTF-8":  {Lease: 1, Holder: "\xff"},
		"reason with ESC":   {Lease: 1, Holder: "a", Reason: "\x1b[2J"},
		"long key":          {Lease: 1, Holder: "a", Key: long},
	} {
		_, _, err := f.Freeze(context.Background(), r)
		if !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, _, err := f.Freeze(context.Background(), ask("a", time.Hour+1))
	wantErr(t, err, ErrOverCap)
	wantLevel(t, f, Unfrozen)
	if f.Status().Last != nil {
		t.Error("a refused request left a record")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no target, no error")
	}
}

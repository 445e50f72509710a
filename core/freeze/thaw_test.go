package freeze

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestThawByHoldAndRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFreezer(t, Config{})
		rec, h := mustFreeze(t, f, ask("a", time.Minute))
		time.Sleep(7 * time.Second)
		res := mustThaw(t, f, ThawRequest{Hold: h.ID})
		if want := (ThawResult{FreezeID: rec.ID, Hold: h.ID, Changed: true, Held: true, Frozen: 7 * time.Second, Thawed: true}); res != want {
			t.Errorf("%+v, want %+v", res, want)
		}
		wantLevel(t, f, Unfrozen)
		time.Sleep(time.Hour)
		for _, again := range []ThawRequest{{Hold: h.ID}, {Holder: "a"}, {Hold: h.ID, Holder: "a"}, {Hold: h.ID, Force: true}} {
			res = mustThaw(t, f, again)
			if want := (ThawResult{FreezeID: rec.ID, Hold: h.ID, Held: true, Frozen: 7 * time.Second, Thawed: true}); res != want {
				t.Errorf("repeat %+v: %+v, want %+v", again, res, want)
			}
		}
		// While another's freeze stands a repeat says so and ends nothing.
		mustFreeze(t, f, ask("b", time.Minute))
		if res = mustThaw(t, f, ThawRequest{Holder: "a"}); res.Changed || !res.Held || res.Thawed {
			t.Errorf("%+v", res)
		}
		wantLevel(t, f, Complete)
	})
}

// A holder's name means its newest hold, and only that.
func TestThawByHolderIsNewest(t *testing.T) {
	f := newFreezer(t, Config{})
	mustFreeze(t, f, ask("a", time.Minute))
	_, h2, err := f.Freeze(context.Background(), Request{Holder: "a", Lease: time.Minute, Join: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		res := mustThaw(t, f, ThawRequest{Holder: "a"})
		if res.Hold != h2.ID || res.Changed != (i == 0) || res.Thawed {
			t.Errorf("%d: %+v", i, res)
		}
	}
	wantLevel(t, f, Complete)
}

func TestThawRefusals(t *testing.T) {
	f := newFreezer(t, Config{})
	_, err := f.Thaw(ThawRequest{Hold: "1.1"})
	wantErr(t, err, ErrUnknownHold)
	_, err = f.Thaw(ThawRequest{Holder: "a"})
	wantErr(t, err, ErrUnknownHold)
	r := ask("a", time.Minute)
	r.RequireToken = true
	_, h := mustFreeze(t, f, r)
	for _, bad := range []ThawRequest{
		{Hold: h.ID}, {Holder: "a"}, {}, // no token
		{Hold: h.ID, Token: "x"}, {Token: h.Token + "0"}, {Holder: "a", Token: h.Token[:63]}, // a wrong one
		{Hold: h.ID, Holder: "b", Token: h.Token}, // not its holder
	} {
		_, err := f.Thaw(bad)
		ref := wantErr(t, err, ErrNotTheHolder)
		if ref.Hold != h.ID {
			t.Errorf("%+v: %+v", bad, ref)
		}
	}
	_, err = f.Thaw(ThawRequest{Hold: "1.2", Token: h.Token})
	wantErr(t, err, ErrUnknownHold)
	_, err = f.Thaw(ThawRequest{Holder: "b", Force: true})
	wantErr(t, err, ErrUnknownHold)
	wantLevel(t, f, Complete)
	if res := mustThaw(t, f, ThawRequest{Hold: h.ID, Token: h.Token}); !res.Thawed {
		t.Errorf("%+v", res)
	}
	_, err = f.Thaw(ThawRequest{Hold: h.ID})
	wantErr(t, err, ErrNotTheHolder) // a repeat needs it too
	mustThaw(t, f, ThawRequest{Hold: h.ID, Token: h.Token})
	// A token that was not required must still not be a wrong one.
	_, h = mustFreeze(t, f, ask("a", time.Minute))
	_, err = f.Thaw(ThawRequest{Hold: h.ID, Token: "wrong"})
	wantErr(t, err, ErrNotTheHolder)
	mustThaw(t, f, ThawRequest{Hold: h.ID})
}

func TestThawBare(t *testing.T) {
	f := newFreezer(t, Config{})
	if res := mustThaw(t, f, ThawRequest{}); res != (ThawResult{Thawed: true}) {
		t.Errorf("nothing frozen: %+v", res)
	}
	_, h := mustFreeze(t, f, ask("a", time.Minute))
	if res := mustThaw(t, f, ThawRequest{}); !res.Changed || !res.Held || res.Hold != h.ID {
		t.Errorf("%+v", res)
	}
	if res := mustThaw(t, f, ThawRequest{}); res.Changed {
		t.Errorf("again: %+v", res)
	}
	mustFreeze(t, f, ask("a", time.Minute))
	if _, _, err := f.Freeze(context.Background(), Request{Holder: "b", Lease: time.Minute, Join: true}); err != nil {
		t.Fatal(err)
	}
	_, err := f.Thaw(ThawRequest{})
	if ref := wantErr(t, err, ErrWhichHold); len(ref.Holders) != 2 {
		t.Errorf("%+v", ref)
	}
	wantLevel(t, f, Complete)
}

// A bare thaw is told once of each freeze that was lost, oldest first, unless
// its holder has been told already.
func TestBareThawToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reported []string
		f := newFreezer(t, Config{Observer: func(e Event) {
			if e.Kind == EventReported {
				reported = append(reported, e.Hold.ID)
			}
		}})
		var holds []Hold
		for range 4 {
			_, h := mustFreeze(t, f, ask("a", time.Second))
			holds = append(holds, h)
			time.Sleep(2 * time.Second)
		}
		_, err := f.Thaw(ThawRequest{Hold: holds[1].ID})
		wantErr(t, err, ErrFreezeLost)
		_, h := mustFreeze(t, f, ask("b", time.Minute)) // one stands: not ended by being told
		for _, i := range []int{0, 2, 3} {
			_, err := f.Thaw(ThawRequest{})
			if ref := wantErr(t, err, ErrFreezeLost); ref.Hold != holds[i].ID || ref.HoldEnd != endExpired {
				t.Errorf("told of %+v, want %s", ref, holds[i].ID)
			}
			wantLevel(t, f, Complete)
		}
		if res := mustThaw(t, f, ThawRequest{}); !res.Changed || res.Hold != h.ID {
			t.Errorf("%+v", res)
		}
		if res := mustThaw(t, f, ThawRequest{}); res.Changed {
			t.Errorf("%+v", res)
		}
		// Whoever asks by name hears it every time.
		for range 2 {
			_, err := f.Thaw(ThawRequest{Hold: holds[3].ID})
			wantErr(t, err, ErrFreezeLost)
		}
		if len(reported) != 4 {
			t.Errorf("reported %v", reported)
		}
	})
}

// However many of its holds were lost, a freeze is told of once, and the event
// for the ledger says the same: not before all is known, and exactly once.
func TestToldOncePerFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reported := 0
		f := newFreezer(t, Config{Observer: func(e Event) {
			if e.Kind == EventReported {
				reported++
			}
		}})
		two := func(leases ...time.Duration) (holds []Hold) {
			for i, lease := range leases {
				_, h, err := f.Freeze(context.Background(), Request{Holder: string(rune('a' + i)), Lease: lease, Join: true})
				if err != nil {
					t.Fatal(err)
				}
				holds = append(holds, h)
			}
			return holds
		}
		bare := func(lost bool) {
			t.Helper()
			res, err := f.Thaw(ThawRequest{})
			if lost {
				wantErr(t, err, ErrFreezeLost)
			} else if err != nil || res.Changed {
				t.Errorf("%+v %v", res, err)
			}
		}
		wantReported := func(want int) {
			t.Helper()
			if reported != want {
				t.Errorf("reported %d times, want %d", reported, want)
			}
		}
		// Both expire: one answer, by whatever name.
		two(time.Second, 2*time.Second)
		time.Sleep(3 * time.Second)
		bare(true)
		bare(false)
		wantReported(1)
		h := two(time.Second, 2*time.Second)
		time.Sleep(3 * time.Second)
		_, err := f.Thaw(ThawRequest{Hold: h[1].ID})
		wantErr(t, err, ErrFreezeLost)
		bare(false)
		wantReported(2)
		// One is told while the other stands, which is lost later: untold again.
		two(time.Second, time.Minute)
		time.Sleep(2 * time.Second)
		bare(true)
		wantReported(2)
		time.Sleep(time.Minute)
		bare(true)
		bare(false)
		wantReported(3)
		// The other is kept: then all was told, and the end of the freeze says so.
		h = two(time.Second, time.Minute)
		time.Sleep(2 * time.Second)
		bare(true)
		mustThaw(t, f, ThawRequest{Hold: h[1].ID})
		bare(false)
		wantReported(4)
		// Nothing lost, nothing reported.
		h = two(time.Second)
		mustThaw(t, f, ThawRequest{Hold: h[0].ID})
		wantReported(4)
	})
}

// The same after a restart: the ledger tells of freezes, not of holds.
func TestToldOncePerFreezeAfterRestart(t *testing.T) {
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var past []PastHold
	for fid := uint64(1); fid <= 2; fid++ {
		for n := 1; n <= 2; n++ {
			past = append(past, PastHold{State: StateExpired, FrozenAt: t0, FreezeAt: t0, Reported: fid == 1, Hold: Hold{ID: holdID(fid, n),
				FreezeID: fid, Holder: "h", Since: t0, ExpiresAt: t0.Add(time.Second), EndedAt: t0.Add(time.Second), End: endExpired}})
		}
	}
	f := newFreezer(t, Config{Past: past})
	_, err := f.Thaw(ThawRequest{})
	if ref := wantErr(t, err, ErrFreezeLost); ref.FreezeID != 2 {
		t.Errorf("%+v", ref)
	}
	if res := mustThaw(t, f, ThawRequest{}); res.Changed {
		t.Errorf("%+v", res)
	}
}

func TestForce(t *testing.T) {
	f := newFreezer(t, Config{})
	r := ask("a", time.Minute)
	r.RequireToken = true
	_, a := mustFreeze(t, f, r)
	if _, _, err := f.Freeze(context.Background(), Request{Holder: "b", Lease: time.Minute, Join: true}); err != nil {
		t.Fatal(err)
	}
	res := mustThaw(t, f, ThawRequest{Hold: a.ID, Force: true, By: "root"})
	if !res.Changed || !res.Held || res.Thawed {
		t.Errorf("%+v", res)
	}
	rec := f.Status().Freeze
	if h := rec.Holds[0]; h.End != endForced || h.EndedBy != "root" || rec.State != StateFrozen {
		t.Errorf("%+v", rec)
	}
	_, err := f.Thaw(ThawRequest{Hold: a.ID, Token: a.Token})
	if ref := wantErr(t, err, ErrFreezeLost); ref.HoldEnd != endForced {
		t.Errorf("%+v", ref)
	}
	// Bare force ends all that stands.
	if _, _, err := f.Freeze(context.Background(), Request{Holder: "c", Lease: time.Minute, Join: true}); err != nil {
		t.Fatal(err)
	}
	if res := mustThaw(t, f, ThawRequest{Force: true, By: "root"}); !res.Changed || !res.Thawed || res.Hold != "" {
		t.Errorf("%+v", res)
	}
	wantLevel(t, f, Unfrozen)
	last := f.Status().Last
	if last.State != StateForced || last.Holds[1].EndedBy != "root" || last.Holds[2].End != endForced {
		t.Errorf("%+v", last)
	}
	// What was lost after one victim was told is told once more, for both others.
	_, err = f.Thaw(ThawRequest{})
	if ref := wantErr(t, err, ErrFreezeLost); ref.Holders[0] != "b" {
		t.Errorf("%+v", ref)
	}
	if res := mustThaw(t, f, ThawRequest{}); res.Changed {
		t.Errorf("%+v", res)
	}
}

// An answer that could not be delivered: rolled back, and nobody is told of a loss.
func TestAbandon(t *testing.T) {
	f := newFreezer(t, Config{})
	_, h := mustFreeze(t, f, ask("a", time.Minute))
	f.Abandon(h.ID)
	wantLevel(t, f, Unfrozen)
	if l := f.Status().Last; l.State != StateRolledBack || l.Holds[0].End != endRolledBack {
		t.Errorf("%+v", l)
	}
	if res := mustThaw(t, f, ThawRequest{}); res.Changed {
		t.Errorf("%+v", res)
	}
	_, err := f.Thaw(ThawRequest{Hold: h.ID})
	wantErr(t, err, ErrFreezeLost)
	f.Abandon(h.ID)
	f.Abandon("nonsense")
}

// TestAbandonOfOneAnswer: a key's hold was given to several requests. It stands
// while one of them has it, whichever answers are lost, in whatever order.
func TestAbandonOfOneAnswer(t *testing.T) {
	f := newFreezer(t, Config{})
	r := ask("a", time.Minute)
	r.Key = "k"
	_, h := mustFreeze(t, f, r)
	mustFreeze(t, f, r)
	mustFreeze(t, f, r)
	f.Abandon(h.ID)
	f.Abandon(h.ID)
	wantLevel(t, f, Complete)
	mustFreeze(t, f, r)
	f.Abandon(h.ID)
	if res := mustThaw(t, f, ThawRequest{Hold: h.ID}); !res.Changed || !res.Held {
		t.Errorf("%+v", res)
	}
	r.Key = "l"
	_, h = mustFreeze(t, f, r)
	mustFreeze(t, f, r)
	f.Abandon(h.ID)
	f.Abandon(h.ID)
	wantLevel(t, f, Unfrozen)
}

func TestRestore(t *testing.T) {
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	past := func(id string, fid uint64, holder, end string, st State, frozen bool) PastHold {
		p := PastHold{Hold: Hold{ID: id, FreezeID: fid, Holder: holder, Since: t0, ExpiresAt: t0.Add(time.Minute), End: end}, State: st, FreezeAt: t0}
		if end != "" {
			p.EndedAt = t0.Add(time.Second)
		}
		if frozen {
			p.FrozenAt = t0
		}
		return p
	}
	told := past("4.1", 4, "e", endExpired, StateExpired, true)
	told.Reported = true
	keyed := past("7.1", 7, "d", endThawed, StateThawed, true)
	keyed.Key = "k"
	f := newFreezer(t, Config{NextID: 3, Past: []PastHold{
		keyed, // not in order: sorted
		past("2.1", 2, "a", "", StateFrozen, true),
		past("3.1", 3, "b", "", StateFreezing, false),
		told,
		past("5.1", 5, "c", "", StateInterrupted, true),
		past("5.2", 5, "c2", endThawed, StateInterrupted, true),
		past("6.1", 6, "x", endForced, StateForced, true),
	}})
	for _, c := range []struct{ hold, end string }{{"2.1", endInterrupted}, {"3.1", endRolledBack}, {"6.1", endForced}} {
		_, err := f.Thaw(ThawRequest{Hold: c.hold, Token: "whatever it was"})
		if ref := wantErr(t, err, ErrFreezeLost); ref.HoldEnd != c.end {
			t.Errorf("%s: %+v", c.hold, ref)
		}
	}
	if res := mustThaw(t, f, ThawRequest{Holder: "d"}); res.Changed || !res.Held || res.Frozen != time.Second {
		t.Errorf("%+v", res)
	}
	if res := mustThaw(t, f, ThawRequest{Hold: "5.2"}); !res.Held {
		t.Errorf("%+v", res)
	}
	// Of 2.1 and 6.1 somebody was told just now, of 4.1 before; 5.1 is left.
	_, err := f.Thaw(ThawRequest{})
	if ref := wantErr(t, err, ErrFreezeLost); ref.Hold != "5.1" || ref.HoldEnd != endInterrupted {
		t.Errorf("%+v", ref)
	}
	if res := mustThaw(t, f, ThawRequest{}); res.Changed {
		t.Errorf("%+v", res)
	}
	_, err = f.Thaw(ThawRequest{Hold: "4.1"})
	if ref := wantErr(t, err, ErrFreezeLost); ref.HoldEnd != endExpired {
		t.Errorf("%+v", ref)
	}
	if rec, h, err := f.Freeze(context.Background(), Request{Holder: "d", Lease: time.Minute, Key: "k"}); err != nil || rec.ID != 7 || h.ID != "7.1" {
		t.Errorf("replay after restart: %+v %v", rec, err)
	}
	_, _, err = f.Freeze(context.Background(), Request{Holder: "z", Lease: time.Minute, Key: "k"})
	wantErr(t, err, ErrKeyReused)
	if rec, _ := mustFreeze(t, f, ask("n", time.Minute)); rec.ID != 8 {
		t.Errorf("id %d is not above all before (F8)", rec.ID)
	}
}

func TestPastIsBounded(t *testing.T) {
	f := newFreezer(t, Config{MaxPast: 5, NextID: 100})
	var ids []string
	for range 20 {
		r := ask("a", time.Minute)
		r.Key = "k" + holdID(uint64(len(ids)), 0)
		_, h := mustFreeze(t, f, r)
		mustThaw(t, f, ThawRequest{Hold: h.ID, Force: true})
		ids = append(ids, h.ID)
	}
	if n, m, o, k, l := len(f.book.byID), len(f.book.byHolder), len(f.book.order), len(f.keys), len(f.book.lost); n != 5 || m != 1 || o != 5 || k != 5 || l > 10 {
		t.Errorf("%d %d %d holds, %d keys, %d lost", n, m, o, k, l)
	}
	_, err := f.Thaw(ThawRequest{Hold: ids[14]})
	wantErr(t, err, ErrUnknownHold)
	_, err = f.Thaw(ThawRequest{})
	if ref := wantErr(t, err, ErrFreezeLost); ref.Hold != ids[15] {
		t.Errorf("%+v", ref)
	}
}

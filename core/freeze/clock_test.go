package freeze

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// steppedClock is the machine's clock with its wall clock set forth and back:
// what time.Now gives after a step of CLOCK_REALTIME. Its monotonic readings and
// its timers run on.
//
// Times of testing/synctest have no monotonic readings, so its clock only moves
// a time from outside on.
type steppedClock struct {
	SystemClock
	real  time.Time    // immutable: a time with a monotonic reading
	began time.Time    // immutable: when it was that, by synctest
	by    atomic.Int64 // seconds
}

// outside is from before any bubble, and so has a monotonic reading.
var outside = time.Now()

func newSteppedClock() *steppedClock { return &steppedClock{real: outside, began: time.Now()} }

func (c *steppedClock) Now() time.Time {
	return stepWall(c.real.Add(time.Since(c.began)), c.by.Load())
}

// step sets the wall clock; never further than a time.Time with both readings
// can tell (1885 to 2157).
func (c *steppedClock) step(d time.Duration) {
	const most = 60 * 365 * 24 * 3600
	if by := c.by.Load() + int64(d/time.Second); by < most && by > -most {
		c.by.Store(by)
	}
}

// stepWall moves the wall reading of a time and not its monotonic one, which
// no call of package time does. The first word of a time.Time with a monotonic
// reading is a flag, 33 bits of seconds and 30 of nanoseconds.
func stepWall(t time.Time, seconds int64) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(seconds) << 30
	return t
}

// steps by which clocks are set: a second of leap, a zone, a dead battery.
var steps = []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, 400 * 24 * time.Hour, -400 * 24 * time.Hour, -20 * 365 * 24 * time.Hour}

func TestStepWall(t *testing.T) {
	now := time.Now()
	for _, d := range steps {
		s := stepWall(now, int64(d/time.Second))
		if s.Sub(now) != 0 || s.Round(0).Sub(now.Round(0)) != d {
			t.Fatalf("a step of %v moves the monotonic reading by %v and the wall by %v", d, s.Sub(now), s.Round(0).Sub(now.Round(0)))
		}
	}
}

// wantWall holds a time that is shown against what the clock on the wall will
// read at an instant from now.
func wantWall(t *testing.T, what string, got time.Time, c *steppedClock, from time.Duration) {
	t.Helper()
	want := c.Now().Round(0).Add(from)
	if d := got.Round(0).Sub(want); d >= clockStep || d <= -clockStep {
		t.Errorf("%s is shown as %v, which is %v beside %v", what, got.Round(0), d, want)
	}
}

// TestClockSteppedDuringLease sets the wall clock in the middle of a lease: the
// lease ends at its own time, neither sooner nor later, whoever notices first.
func TestClockSteppedDuringLease(t *testing.T) {
	for _, d := range steps {
		synctest.Test(t, func(t *testing.T) {
			c := newSteppedClock()
			f := newFreezer(t, Config{Clock: c, MaxLease: 10 * time.Minute})
			_, h := mustFreeze(t, f, ask("a", time.Minute))
			time.Sleep(20 * time.Second)
			c.step(d)
			st := f.Status()
			wantLevel(t, f, Complete)
			wantWall(t, "expires_at", st.Freeze.ExpiresAt, c, 40*time.Second)
			wantWall(t, "the hold's", st.Freeze.Holds[0].ExpiresAt, c, 40*time.Second)
			if !f.StillHeld(1) {
				t.Error("a reader of the image is told that it is thawed")
			}
			_, _, err := f.Freeze(context.Background(), ask("b", time.Minute))
			wantWall(t, "a refusal's", wantErr(t, err, ErrAlreadyFrozen).ExpiresAt, c, 40*time.Second)
			time.Sleep(40*time.Second - time.Nanosecond)
			wantLevel(t, f, Complete)
			time.Sleep(time.Nanosecond)
			synctest.Wait() // nobody asks: the timer alone
			wantLevel(t, f, Unfrozen)
			_, err = f.Thaw(ThawRequest{Hold: h.ID})
			if ref := wantErr(t, err, ErrFreezeLost); ref.HoldEnd != endExpired {
				t.Errorf("%+v", ref)
			}
			wantWall(t, "its end", f.Status().Last.EndedAt, c, 0)
			wantWall(t, "the hold's end", f.Status().Last.Holds[0].EndedAt, c, 0)
		})
	}
}

// TestClockSteppedVerdicts: a kept hold is thawed as kept, for as long as it
// stood; renewals, the cap, joiners and replays of a key go by the same clock.
func TestClockSteppedVerdicts(t *testing.T) {
	for _, d := range steps {
		synctest.Test(t, func(t *testing.T) {
			c := newSteppedClock()
			f := newFreezer(t, Config{Clock: c, MaxLease: 5 * time.Minute})
			r := ask("a", time.Minute)
			r.Key = "key"
			rec, h := mustFreeze(t, f, r)
			time.Sleep(30 * time.Second)
			c.step(d)
			if again, same := mustFreeze(t, f, r); again.ID != rec.ID || same.ID != h.ID || same.Token != h.Token {
				t.Errorf("a replay of the key was given %+v", same)
			}
			_, h2, err := f.Renew(RenewRequest{Hold: h.ID, Lease: 2 * time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			wantWall(t, "a renewed expiry", h2.ExpiresAt, c, 2*time.Minute)
			_, _, err = f.Renew(RenewRequest{Hold: h.ID, Lease: 4*time.Minute + 30*time.Second + 1})
			wantWall(t, "the cap", wantErr(t, err, ErrOverCap).ExpiresAt, c, 4*time.Minute+30*time.Second)
			c.step(-2 * d)
			j := ask("b", 3*time.Minute)
			j.Join = true
			if _, _, err := f.Freeze(context.Background(), j); err != nil {
				t.Fatal(err)
			}
			time.Sleep(119 * time.Second)
			if res := mustThaw(t, f, ThawRequest{Hold: h.ID}); !res.Held || !res.Changed || res.Thawed || res.Frozen != 149*time.Second {
				t.Errorf("%+v", res)
			}
			c.step(3 * d)
			if res := mustThaw(t, f, ThawRequest{Holder: "b"}); !res.Held || !res.Thawed || res.Frozen != 149*time.Second {
				t.Errorf("%+v", res)
			}
			if res := mustThaw(t, f, ThawRequest{Hold: h.ID}); res.Changed || !res.Held || res.Frozen != 149*time.Second {
				t.Errorf("a repeated thaw: %+v", res)
			}
		})
	}
}

// TestClockSteppedAtRandom has leases, renewals and steps in random order, and
// a machine without steps beside it: the two must agree at every turn.
func TestClockSteppedAtRandom(t *testing.T) {
	s := seed(t)
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(s, 1))
		c := newSteppedClock()
		f, plain := newFreezer(t, Config{Clock: c, MaxLease: time.Hour}), newFreezer(t, Config{MaxLease: time.Hour})
		both := func(what string, do func(f *Freezer) error) {
			t.Helper()
			a, b := do(f), do(plain)
			var ra, rb *Refusal
			errors.As(a, &ra)
			errors.As(b, &rb)
			if (a == nil) != (b == nil) || (ra == nil) != (rb == nil) || ra != nil && (!errors.Is(ra, rb.Err) || ra.HoldEnd != rb.HoldEnd) {
				t.Fatalf("%s with steps: %v, without: %v", what, a, b)
			}
		}
		for range 2000 {
			lease := time.Duration(1+rng.IntN(90)) * time.Second
			switch rng.IntN(6) {
			case 0:
				c.step(steps[rng.IntN(len(steps))])
			case 1:
				both("freeze", func(f *Freezer) error { _, _, err := f.Freeze(context.Background(), ask("a", lease)); return err })
			case 2:
				both("renew", func(f *Freezer) error { _, _, err := f.Renew(RenewRequest{Holder: "a", Lease: lease}); return err })
			case 3:
				both("thaw", func(f *Freezer) error { _, err := f.Thaw(ThawRequest{}); return err })
			default:
				time.Sleep(time.Duration(rng.Int64N(int64(40 * time.Second))))
			}
			synctest.Wait()
			if a, b := f.Status(), plain.Status(); a.State != b.State || a.Freezes != b.Freezes {
				t.Fatalf("with steps it is %s (%d freezes), without %s (%d)", a.State, a.Freezes, b.State, b.Freezes)
			} else if a.Freeze != nil {
				wantWall(t, "expires_at", a.Freeze.ExpiresAt, c, time.Until(b.Freeze.ExpiresAt))
			}
		}
	})
}

// TestRestoreAfterTheClockWasSetBack: which hold is a holder's newest does not
// depend on what the wall clock read when they were made.
func TestRestoreAfterTheClockWasSetBack(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	var past []PastHold
	for i, end := range []string{endExpired, endThawed} { // the second was made an hour earlier, says the clock
		since := at.Add(-time.Duration(i) * time.Hour)
		past = append(past, PastHold{Hold: Hold{ID: holdID(7, 9+i), FreezeID: 7, Holder: "a", Since: since, EndedAt: since.Add(-time.Minute), End: end},
			State: StateThawed, FrozenAt: at, FreezeAt: at})
	}
	past[0], past[1] = past[1], past[0] // in no order
	f := newFreezer(t, Config{Past: past})
	res := mustThaw(t, f, ThawRequest{Holder: "a"})
	if res.Hold != "7.10" || !res.Held || res.Changed || res.Frozen < 0 {
		t.Errorf("the holder's newest: %+v", res)
	}
}

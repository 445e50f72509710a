package freeze

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// caching is a scripted target with a cache in front of it.
type caching struct {
	scripted
	collects bool
	collect  func(ctx context.Context, id uint64) error
}

func (c *caching) Collects() bool { return c.collects }

func (c *caching) Preclean(context.Context, uint64) { c.note("preclean the cache") }

func (c *caching) Collect(ctx context.Context, id uint64) error {
	c.note("collect")
	if c.collect == nil {
		return nil
	}
	return c.collect(ctx, id)
}

// A cache is collected at level Write: who modifies waits by then, and what is
// written back still passes startPageFault. The window has begun.
func TestCollectOrder(t *testing.T) {
	c := &caching{collects: true}
	var f *Freezer
	c.collect = func(_ context.Context, id uint64) error {
		if l := f.Level(); l != Write || id != 1 {
			t.Errorf("collected for freeze %d at level %v", id, l)
		}
		if _, ok := f.StartWrite().Try(OpWrite, 7); ok {
			t.Error("a modification passed while the cache was collected")
		}
		p, ok := f.StartPageFault().Try(OpWrite, 7)
		if !ok {
			t.Fatal("a write-back was held while the cache was collected")
		}
		p.Exit()
		select {
		case <-f.Over(id):
			t.Error("the freeze is over while it is being reached")
		default:
		}
		return nil
	}
	f = newFreezer(t, Config{Target: c})
	rec, h := mustFreeze(t, f, ask("a", time.Minute))
	if want := []string{"preclean the cache", "collect", "sync", "commit"}; !slices.Equal(c.calls, want) {
		t.Errorf("calls %v, want %v", c.calls, want)
	}
	if i := slices.IndexFunc(rec.Phases, func(p Phase) bool { return p.Name == "collect" }); i < 0 || rec.Window < rec.Phases[i].Duration {
		t.Errorf("phases %v, window %v", rec.Phases, rec.Window)
	}
	over := f.Over(rec.ID)
	mustThaw(t, f, ThawRequest{Hold: h.ID})
	<-over
}

// A cache that cannot be collected rolls the freeze back; whoever waits for its
// end hears it.
func TestCollectFails(t *testing.T) {
	boom := errors.New("the kernel will not")
	var over <-chan struct{}
	c := &caching{collects: true}
	f := newFreezer(t, Config{Target: c})
	c.collect = func(_ context.Context, id uint64) error {
		over = f.Over(id)
		return boom
	}
	if _, _, err := f.Freeze(context.Background(), ask("a", time.Minute)); !errors.Is(err, boom) {
		t.Fatalf("frozen although the cache was not collected: %v", err)
	}
	<-over
	wantLevel(t, f, Unfrozen)
}

// Without a cache nothing is asked and no phase is shown.
func TestCollectNothing(t *testing.T) {
	c := &caching{}
	f := newFreezer(t, Config{Target: c})
	rec, _ := mustFreeze(t, f, ask("a", time.Minute))
	if len(c.calls) != 2 || slices.ContainsFunc(rec.Phases, func(p Phase) bool { return p.Name == "collect" }) {
		t.Errorf("calls %v, phases %v", c.calls, rec.Phases)
	}
}

// A store that is parked just as the gate has opened was held by no freeze, and
// is told to nobody: its row would belong to none.
func TestParkedAtAnOpenGateIsNotTold(t *testing.T) {
	told := make(chan Event, 4)
	f := newFreezer(t, Config{Observer: func(e Event) {
		if e.Kind == EventReleased {
			told <- e
		}
	}})
	done := make(chan struct{})
	if _, err := f.StartWrite().Park(Waiter{Op: "store"}, 1, func() { close(done) }); err != nil {
		t.Fatal(err)
	}
	<-done
	// Behind it, one that really was held.
	_, h := mustFreeze(t, f, ask("a", time.Minute))
	again := make(chan struct{})
	if _, err := f.StartWrite().Park(Waiter{Op: "store"}, 1, func() { close(again) }); err != nil {
		t.Fatal(err)
	}
	mustThaw(t, f, ThawRequest{Hold: h.ID})
	<-again
	if e := <-told; e.Wait == nil || e.Wait.FreezeID != h.FreezeID {
		t.Errorf("told of %+v", e.Wait)
	}
}

package freeze

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	stressFor = flag.Duration("freeze.stress", 700*time.Millisecond, "how long each stress test runs")
	seedFlag  = flag.Uint64("freeze.seed", 0, "seed of the random tests; 0: by the clock")
)

func seed(t *testing.T) uint64 {
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed: -freeze.seed=%d", s)
	return s
}

// watch checks from inside the target, and while frozen, that nobody is inside.
type watch struct {
	t       *testing.T
	writers atomic.Int64 // inside startWrite
	faults  atomic.Int64 // inside startPageFault
	works   atomic.Int64 // inside startInternal
	stores  atomic.Int64 // everything ever done
}

func (*watch) Dirty() (inodes, pages uint64) { return 0, 0 }
func (w *watch) SyncDirty(_ context.Context, o SyncOptions) (Flushed, error) {
	if o.InWindow && (w.writers.Load() != 0 || w.faults.Load() != 0) {
		w.t.Error("sync path in the window with somebody inside")
	}
	return Flushed{}, nil
}
func (w *watch) FinalCommit(context.Context, uint64) (uint64, error) {
	before := w.stores.Load()
	runtime.Gosched()
	if w.writers.Load() != 0 || w.faults.Load() != 0 || w.works.Load() != 0 || w.stores.Load() != before {
		w.t.Error("final commit with somebody inside")
	}
	return 1, nil
}

// fails if a caller is not let go long after the last thaw.
const lostAfter = 20 * time.Second

// Writers, parked storers and internal work against freezes that are thawed,
// rolled back and cancelled: nobody is inside while frozen (F1 to F3), every
// parked store is resumed or unparked exactly once, none is lost (F6).
func TestStressGates(t *testing.T) {
	s := seed(t)
	w := &watch{t: t}
	f := newFreezer(t, Config{Target: w, Observer: func(Event) {}})
	ctx, stop := context.WithTimeout(context.Background(), *stressFor)
	defer stop()
	var wg sync.WaitGroup
	start := func(n int, fn func(r *rand.Rand, i int)) {
		for i := range n {
			wg.Add(1)
			go func() {
				defer wg.Done()
				r := rand.New(rand.NewPCG(s, uint64(i)))
				for ctx.Err() == nil {
					fn(r, i)
					runtime.Gosched() // few processors, many callers: take turns
				}
			}()
		}
	}
	var waited, parked, unparked, frozen atomic.Int64
	start(3, func(r *rand.Rand, i int) { writeOnce(t, f, w, r, &waited) })
	start(3, func(r *rand.Rand, i int) { storeOnce(t, f, w, r, i%2, &parked, &unparked) })
	start(1, func(*rand.Rand, int) {
		if p, ok := f.StartInternal().Try(OpCommit, 0); ok {
			w.works.Add(1)
			w.stores.Add(1)
			w.works.Add(-1)
			p.Exit()
		}
	})
	start(2, func(r *rand.Rand, i int) { freezeOnce(t, f, w, r, &frozen) })
	wg.Wait()
	t.Logf("%d frozen, %d writers waited, %d parked, %d unparked, %d stores", frozen.Load(), waited.Load(), parked.Load(), unparked.Load(), w.stores.Load())
	if frozen.Load() == 0 || waited.Load() == 0 || parked.Load() == 0 || unparked.Load() == 0 {
		t.Error("the test did not exercise what it is for")
	}
	checkInvariants(t, f)
}

func writeOnce(t *testing.T, f *Freezer, w *watch, r *rand.Rand, waited *atomic.Int64) {
	p, ok := f.StartWrite().Try(OpWrite, 1)
	if !ok {
		waited.Add(1)
		ctx, cancel := context.WithTimeout(context.Background(), lostAfter)
		if r.IntN(4) == 0 {
			time.AfterFunc(time.Duration(r.IntN(100))*time.Microsecond, cancel)
		}
		var err error
		p, err = f.StartWrite().Enter(ctx, OpWrite, 1, nil)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Error("a writer's wake-up was lost")
		}
		cancel()
		if err != nil {
			return
		}
	}
	w.writers.Add(1)
	w.stores.Add(1)
	w.writers.Add(-1)
	p.Exit()
}

func storeOnce(t *testing.T, f *Freezer, w *watch, r *rand.Rand, client int, parked, unparked *atomic.Int64) {
	g := f.StartPageFault()
	for {
		if p, ok := g.Try(OpStore, 2); ok {
			w.faults.Add(1)
			w.stores.Add(1)
			w.faults.Add(-1)
			p.Exit()
			return
		}
		parked.Add(1)
		resumed := make(chan struct{}) // closed twice: panics
		unpark, err := g.Park(Waiter{Op: "store"}, client, func() { close(resumed) })
		if err != nil {
			t.Error(err)
			return
		}
		if r.IntN(4) == 0 {
			runtime.Gosched()
			if unpark() {
				unparked.Add(1)
				select {
				case <-resumed:
					t.Error("unparked and resumed")
				default:
				}
				return
			}
		}
		select {
		case <-resumed:
		case <-time.After(lostAfter):
			t.Error("a parked store's wake-up was lost")
			return
		}
	}
}

func freezeOnce(t *testing.T, f *Freezer, w *watch, r *rand.Rand, frozen *atomic.Int64) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if r.IntN(8) == 0 {
		time.AfterFunc(time.Duration(r.IntN(50))*time.Microsecond, cancel)
	}
	rec, h, err := f.Freeze(ctx, Request{Holder: "s", Lease: time.Minute, Wait: lostAfter})
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		return
	}
	before := w.stores.Load()
	for range r.IntN(20) {
		runtime.Gosched()
	}
	if r.IntN(3) == 0 {
		time.Sleep(time.Duration(r.IntN(200)) * time.Microsecond)
	}
	if after := w.stores.Load(); after != before {
		t.Errorf("%d stores while frozen", after-before)
	}
	if !f.StillHeld(rec.ID) {
		t.Error("not held")
	}
	if res, err := f.Thaw(ThawRequest{Hold: h.ID}); err != nil || !res.Held {
		t.Errorf("%+v %v", res, err)
	}
	frozen.Add(1)
	time.Sleep(time.Duration(r.IntN(100)) * time.Microsecond)
}

// Callers that park while the one thaw happens, with no later freeze to rescue
// them: all are resumed (F6).
func TestStressParkAgainstThaw(t *testing.T) {
	f := newFreezer(t, Config{Target: still{}})
	g := f.StartPageFault()
	end := time.Now().Add(*stressFor)
	for rounds := 0; time.Now().Before(end) || rounds < 10; rounds++ {
		_, h := mustFreeze(t, f, ask("a", time.Minute))
		var wg, resumed sync.WaitGroup
		for i := range 3 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for n := 0; n < 1000 && g.Closed(); n++ {
					resumed.Add(1)
					if _, err := g.Park(Waiter{}, i, resumed.Done); err != nil {
						t.Error(err)
						resumed.Done()
					}
				}
			}()
		}
		for f.BlockedCount() < 20 {
			runtime.Gosched()
		}
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		wg.Wait()
		all := make(chan struct{})
		go func() { resumed.Wait(); close(all) }()
		select {
		case <-all:
		case <-time.After(lostAfter):
			t.Fatalf("round %d: %d stores are still parked with the gate open", rounds, f.BlockedCount())
		}
	}
}

// Whoever sends last, every event is delivered by the time all senders are back.
func TestStressOutbox(t *testing.T) {
	var o outbox
	o.observer = func(Event) {}
	end := time.Now().Add(*stressFor)
	for rounds := 0; time.Now().Before(end); rounds++ {
		var wg sync.WaitGroup
		for range 3 {
			wg.Add(1)
			go func() { defer wg.Done(); o.send(Event{}); o.send(Event{}) }()
		}
		wg.Wait()
		if n := len(o.pending); n != 0 {
			t.Fatalf("round %d: %d events left", rounds, n)
		}
	}
}

package core

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"permafrost/core/format"
)

// scrubWorld is a world with some thousand nodes.
func scrubWorld(t *testing.T, opt ...func(*Options)) *world {
	t.Helper()
	w := newWorld(t, 64<<20, opt...)
	for d := range 10 {
		dir := w.dir(root, fmt.Sprint("d", d))
		for i := range 400 {
			f := w.file(dir, fmt.Sprint("f", i))
			w.ok(w.fs.SetXattr(ctx, f, "user.fat", pattern(i, 1000), false, false))
		}
	}
	w.durable()
	if n := w.fs.store.Counters().Nodes; n < 1000 {
		t.Fatalf("%d nodes", n)
	}
	return w
}

// passes waits until n scrubs have come to their end.
func (w *world) passes(n uint64) ScrubStatus {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d scrubs end", n), func() bool {
		s := w.fs.ScrubStatus()
		return s.Passes >= n && s.State == ScrubIdle
	})
	return w.fs.ScrubStatus()
}

// flip changes one bit on the medium, as decay would, and changes it back at
// the end of the test.
func (w *world) flip(off int64) {
	turn := func() {
		b := w.m.Begin()
		defer b.End()
		w.ok(b.Write(off, []byte{w.m.Bytes(off, 1)[0] ^ 0x10}))
		w.ok(b.Fence())
	}
	turn()
	w.t.Cleanup(turn)
}

// A scrub reads all metadata, on demand and every ScrubInterval.
func TestScrub(t *testing.T) {
	w := scrubWorld(t, func(o *Options) { o.ScrubRate = 1 << 40 })
	if s := w.fs.ScrubStatus(); s.State != ScrubIdle || !s.StartedAt.IsZero() || !s.NextAt.IsZero() || s.Passes != 0 {
		t.Fatalf("before the first: %+v", s)
	}
	if s := w.fs.Scrub(); s.State != ScrubRunning || s.StartedAt.IsZero() || s.Of == 0 {
		t.Fatalf("begun: %+v", s)
	}
	s := w.passes(1)
	if n := w.fs.store.Counters().Nodes; s.Nodes != n || s.Of != n || s.NodesTotal != n || s.Found != 0 || s.EndedAt.Before(s.StartedAt) {
		t.Fatalf("%+v of %d nodes", s, n)
	}
	w.fs.Scrub()
	w.passes(2)
	if n := w.fs.Status().OpsTotal["scrub"]; n != 2 {
		t.Errorf("%d scrubs are counted", n)
	}
	w.unmount()
	w.opt.ScrubInterval = time.Millisecond
	w.mount()
	w.passes(3)
	w.unmount()
	w.opt.ScrubInterval = 100 * time.Hour
	w.mount()
	eventually(t, "the next one is told", func() bool {
		in := time.Until(w.fs.ScrubStatus().NextAt)
		return in > 0 && in <= scrubSettle
	})
}

// A scrub finds a bit that flipped on the medium under the running file system,
// in a node that lookups have long since verified. The file system is read-only
// from then on; files that need the node are lost, others are served.
func TestScrubFindsAFlippedBit(t *testing.T) {
	w := scrubWorld(t, func(o *Options) { o.ScrubRate = 1 << 40 })
	dir := w.lookup(root, "d3")
	in := func(i int) (format.Ino, error) {
		a, err := w.fs.Lookup(ctx, dir, fmt.Sprint("f", i))
		return a.Ino, err
	}
	victim, err := in(123)
	w.ok(err)
	xattr := func(ino format.Ino) error { _, err := w.fs.GetXattr(ctx, ino, "user.fat"); return err }
	w.ok(xattr(victim))
	var leaf format.Block
	w.eachNode(func(p format.Ptr, level int, n *format.Node) {
		for i := range n.Count() {
			if k := n.Key(i); level == 0 && k.Ino == victim && k.Kind == format.KindXattr {
				leaf = p.Block
			}
		}
	})
	w.flip(blockOff(leaf) + 3000)
	w.ok(xattr(victim)) // nobody has noticed: it was verified before
	w.fs.Scrub()
	if s := w.passes(1); s.Found != 1 {
		t.Fatalf("%+v", s)
	}
	if list, total := w.fs.Damages(); total != 1 || len(list) != 1 || list[0].Block != leaf {
		t.Fatalf("block %d was damaged: %+v", leaf, list)
	}
	w.wantReadOnly(nil)
	w.fails(xattr(victim), ErrIO)
	lost := 0
	for i := range 400 {
		ino, err := in(i)
		w.ok(err)
		if err := xattr(ino); err != nil {
			w.fails(err, ErrIO)
			lost++
		}
	}
	if lost == 0 || lost > 10 {
		t.Fatalf("%d of 400 files are lost with one leaf", lost)
	}
	w.fs.Scrub() // also when nothing can be changed
	if s := w.passes(2); s.Found != 1 || w.fs.Status().MetadataErrors != 1 {
		t.Fatalf("%+v, %d metadata errors", s, w.fs.Status().MetadataErrors)
	}
}

// A freeze does not wait for a scrub, which stops where it is until the thaw.
func TestScrubStopsForAFreeze(t *testing.T) {
	w := scrubWorld(t, func(o *Options) { o.ScrubRate = 1 << 20 }) // some seconds
	w.fs.Scrub()
	for round := range 3 {
		before := w.fs.ScrubStatus().Nodes
		eventually(t, "the scrub gets on", func() bool { return w.fs.ScrubStatus().Nodes > before })
		w.freeze()
		at := w.fs.ScrubStatus()
		if at.Nodes >= at.Of || at.Passes != 0 {
			t.Fatalf("round %d: the scrub has come to its end: %+v", round, at)
		}
		eventually(t, "the scrub is held", func() bool { return w.fs.ScrubStatus().State == ScrubHeld })
		image := w.imageSum()
		time.Sleep(200 * time.Millisecond) // six batches
		if now := w.fs.ScrubStatus(); now.Nodes != at.Nodes || now.State != ScrubHeld {
			t.Fatalf("round %d: it got from node %d to %d while frozen: %+v", round, at.Nodes, now.Nodes, now)
		}
		if n := w.fs.Status().Blocked; n != 0 {
			t.Errorf("%d callers are held: the scrub is none", n)
		}
		if w.imageSum() != image {
			t.Fatal("the image changed while frozen")
		}
		w.thaw()
	}
}

// imageSum is a checksum of the whole image.
func (w *world) imageSum() uint32 {
	return format.Checksum(w.m.Bytes(0, w.m.Size()))
}

// Scrubs without a pause among changes, commits, freezes and remounts of
// everything: no false alarm.
func TestScrubAmongChanges(t *testing.T) {
	seed := seedOf(t)
	w := scrubWorld(t, func(o *Options) { o.ScrubRate = 1 << 40; o.ScrubInterval = time.Microsecond })
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				dir := w.lookup(root, fmt.Sprint("d", rnd.IntN(10)))
				name := fmt.Sprintf("g%d-%d", g, rnd.IntN(50))
				a, err := w.fs.Create(ctx, dir, name, NewNode{})
				switch {
				case err != nil:
					err = w.fs.Unlink(ctx, dir, name)
				case rnd.IntN(2) == 0:
					_, err = w.fs.WriteAt(ctx, a.Ino, pattern(g, 6000), int64(rnd.IntN(5))<<12)
				default:
					err = w.fs.SetXattr(ctx, a.Ino, "user.fat", pattern(g, 1000), false, false)
				}
				if err == nil && rnd.IntN(4) == 0 {
					_, err = w.fs.Fsync(ctx, dir, 0, 0)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until) || w.fs.ScrubStatus().Passes < 3; {
		w.freeze()
		w.thaw()
		if t.Failed() || w.fs.Status().Degraded != nil {
			break
		}
	}
	close(stop)
	wg.Wait()
	list, total := w.fs.Damages()
	if s := w.fs.ScrubStatus(); total != 0 || s.Passes < 3 || w.fs.Status().Degraded != nil {
		t.Fatalf("%+v: %d false alarms: %+v", s, total, list)
	}
	t.Logf("%d scrubs over %d commits", w.fs.ScrubStatus().Passes, w.fs.store.DurableGeneration())
}

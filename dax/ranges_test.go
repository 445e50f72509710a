package dax

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRemapMovesProtection(t *testing.T) {
	for _, c := range []struct {
		name        string
		flags, area int // of mremap, and where to
	}{{"moved", unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED, 1}, {"old place kept", unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED | unix.MREMAP_DONTUNMAP, 1}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			w := r.attached("/f", 8)
			w.do("store 0 0 1")
			w.do("store 0 8192 1")
			if w.do("mremap 0 %d %d %d %d", 8*4096, 8*4096, c.flags, 8*4096) != 1 {
				t.Fatal("it did not move")
			}
			w.do("hammer 0 0 0 4096 8")
			w.moved(0, 1000)
			if c.flags&unix.MREMAP_DONTUNMAP != 0 {
				w.do("hammer 1 15 64 4096 8") // through the old place
				w.moved(1, 1000)
			}
			for range 5 {
				r.freeze()
				r.waitParked(1 + c.flags&unix.MREMAP_DONTUNMAP/unix.MREMAP_DONTUNMAP)
				w.held(0, 2*time.Millisecond)
				w.held(1, time.Millisecond)
				r.still("/f", 8*4096, 5*time.Millisecond)
				r.prefix("/f", 0, 8, w.slot(0))
				at := w.slot(0)
				r.thaw()
				w.moved(0, at+100)
			}
		})
	}
}

func TestRemapWhileFrozen(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 8)
	w.do("hammer 0 0 0 4096 2")
	w.moved(0, 100)
	r.freeze()
	r.waitParked(1)
	w.do("map 1 /f 0 %d w", 8*4096) // a mapping that allocates nothing is made while frozen
	if w.do("mremap 1 %d %d %d %d", 8*4096, 8*4096, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, 8*4096) != 1 {
		t.Fatal("it did not move")
	}
	w.do("once 1 1 %d 7", 4*4096)
	r.waitParked(2)
	r.still("/f", 8*4096, 3*time.Millisecond)
	r.thaw()
	w.moved(1, 0)
	eventually(t, "the store lands", func() bool { return r.word("/f", 4*4096) == 7 })
}

func TestGrowthOutsideTheFile(t *testing.T) {
	t.Run("in place", func(t *testing.T) {
		r := newRig(t)
		w := r.attached("/f", 4)
		// The guard page stands in the way.
		if s := w.ask("mremap 0 %d %d 0 0", 4*4096, 5*4096); !strings.HasPrefix(s, "error 12") {
			t.Fatalf("a guarded mapping grew in place: %s", s)
		}
		w.do("unguard 0")
		w.do("mremap 0 %d %d 0 0", 4*4096, 5*4096) // what the peer does to itself
		w.do("hammer 0 0 0 4096 4")
		w.moved(0, 100)
		r.freeze() // stores to the registered part are held all the same
		r.waitParked(1)
		w.held(0, 2*time.Millisecond)
		r.prefix("/f", 0, 4, w.slot(0))
		r.thaw()
	})
	t.Run("while it moves", func(t *testing.T) {
		r := newRig(t)
		w, tries := r.attached("/f", 4), 0
		w.do("catchbus")
		if w.do("mremap 0 %d %d %d 0", 4*4096, 8*4096, unix.MREMAP_MAYMOVE) != 1 {
			t.Fatal("it did not move")
		}
		w.do("hammer 0 0 0 4096 4")
		w.moved(0, 100)
		// Image bytes that are not the file's. The server protects them when it has
		// met the move; a store before that lands, and hears nothing.
		for next := time.Now(); w.slot(63) == 0; time.Sleep(time.Millisecond) {
			if now := time.Now(); !now.Before(next) {
				w.do("once 1 0 %d 9", 6*4096)
				next = now.Add(100 * time.Millisecond)
				tries++
			}
			if tries > 100 {
				t.Fatal("no SIGBUS")
			}
		}
		r.freeze()
		r.waitParked(1)
		r.prefix("/f", 0, 4, w.slot(0))
		r.thaw()
	})
}

func TestUnmapWhileFrozen(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 8)
	w.do("map 1 /g 0 %d wcg", 8*4096)
	w.do("hammer 0 0 0 4096 6") // not to the pages that will go
	w.do("once 1 1 0 5")
	w.moved(0, 100)
	w.moved(1, 0)
	r.freeze()
	r.waitParked(1)
	began := time.Now()
	w.do("munmap 0 %d %d", 6*4096, 2*4096) // part of one, by hand
	w.do("unmap 1")                        // all of the other, by the library
	if d := time.Since(began); d > time.Second {
		t.Errorf("unmapping took %v while frozen", d)
	}
	eventually(t, "core knows", func() bool {
		m := r.fs.Mappings()
		return len(m) == 1 && len(m[0].Ranges) == 1 && m[0].Ranges[0].Count == 6
	})
	r.still("/f", 8*4096, 2*time.Millisecond)
	if r.word("/g", 0) != 5 {
		t.Error("a store made before the freeze is missing")
	}
	r.thaw()
}

func TestExecAndDetachEndMappings(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 4)
	w.do("store 0 0 1")
	w.do("exec")
	eventually(t, "exec ends the mapping", func() bool { return len(r.fs.Mappings()) == 0 && len(r.srv.Clients()) == 0 })
	if r.word("/f", 0) != 1 || r.fs.Status().DirtyPages != 0 {
		t.Error("what was stored is not flushed")
	}
	v := r.attached("/g", 4)
	v.do("hammer 0 0 0 4096 4")
	v.do("detach") // without unmapping: still mapped, still held
	v.moved(0, 100)
	r.freeze()
	r.waitParked(1)
	r.prefix("/g", 0, 4, v.slot(0))
	r.thaw()
}

func TestDiscardedPagesStayHeld(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 8)
	w.do("store 0 0 1")
	w.do("store 0 4096 1")
	w.do("discard 0 0 %d", 8*4096)
	r.freeze()
	w.do("once 0 0 0 2")
	w.do("once 1 0 %d 2", 5*4096)
	r.waitParked(2)
	r.still("/f", 8*4096, 2*time.Millisecond)
	r.thaw()
	w.moved(0, 0)
	w.moved(1, 0)
}

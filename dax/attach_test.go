package dax

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFreezeHoldsAMappedWriter(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 16)
	w.do("hammer 0 0 0 4096 16")
	w.moved(0, 100000)
	for range 20 {
		r.freeze()
		r.waitParked(1)
		w.held(0, 2*time.Millisecond)
		r.prefix("/f", 0, 16, w.slot(0))
		r.still("/f", 16*4096, 2*time.Millisecond)
		at := w.slot(0)
		r.thaw()
		w.moved(0, at+1000)
	}
}

// prefix checks that the file holds exactly a storer's first n stores, or one
// more, which the storer has not yet said it made.
func (r *rig) prefix(path string, off, pages int64, n uint64) {
	r.t.Helper()
	if r.word(path, off+int64((n+1)%uint64(pages))*4096) == n+1 {
		n++
	}
	for p := range uint64(pages) {
		var want uint64
		if back := (n + uint64(pages) - p) % uint64(pages); back <= n && n-back > 0 {
			want = n - back
		}
		if got := r.word(path, off+int64(p)*4096); got != want {
			r.t.Fatalf("page %d holds %d, want %d after %d stores", p, got, want, n)
		}
	}
}

func TestManyThreadsAndTwoClients(t *testing.T) {
	r := newRig(t)
	a, b := r.attached("/a", 64), r.attached("/b", 64)
	for i := range 4 {
		a.do("hammer %d 0 %d 4096 4", i, i*4*4096)
		b.do("hammer %d 0 %d 8192 8", i, i*16*4096)
	}
	for range 10 {
		for i := range 4 {
			a.moved(i, a.slot(i)+100)
			b.moved(i, b.slot(i)+100)
		}
		r.freeze()
		r.waitParked(8)
		for i := range 4 {
			r.prefix("/a", int64(i*4*4096), 4, a.slot(i))
		}
		r.still("/b", 64*4096, 2*time.Millisecond)
		r.thaw()
	}
}

func TestTwoClientsOnOnePage(t *testing.T) {
	r := newRig(t)
	a, b := r.attached("/f", 1), r.attached("/f", 1)
	a.do("hammer 0 0 0 4096 1")
	b.do("hammer 0 0 2048 4096 1")
	for range 10 {
		a.moved(0, a.slot(0)+1000)
		b.moved(0, b.slot(0)+1000)
		r.freeze()
		r.waitParked(2)
		if x, y := r.word("/f", 0), r.word("/f", 2048); x != a.slot(0) || y != b.slot(0) {
			t.Fatalf("image holds %d and %d, the storers had done %d and %d", x, y, a.slot(0), b.slot(0))
		}
		r.still("/f", 4096, 2*time.Millisecond)
		r.thaw()
	}
}

func TestForkWhileFrozenAndBetweenReadAndProtect(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 32)
	w.do("hammer 0 0 0 4096 4")
	var pids []int
	t.Cleanup(func() {
		for _, p := range pids {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
	})
	for i := range 12 {
		w.moved(0, w.slot(0)+100)
		slot := i + 1
		if i%3 == 0 { // fork while frozen
			r.freeze()
			pids = append(pids, int(w.do("fork %d 0 %d 4096 2", slot, (4+2*i)*4096)))
			w.held(slot, 2*time.Millisecond)
			eventually(t, "the child is named among the blocked", func() bool {
				for _, b := range r.fs.Blocked() {
					if b.PID == pids[len(pids)-1] && b.Comm == "worker" {
						return true
					}
				}
				return false
			})
		} else { // fork at the moment of the freeze
			w.send("fork %d 0 %d 4096 2", slot, (4+2*i)*4096)
			if i%3 == 2 {
				time.Sleep(time.Duration(i*30) * time.Microsecond) // different moments of the fork
			}
			r.freeze()
			pids = append(pids, int(w.number()))
		}
		r.still("/f", 32*4096, 5*time.Millisecond)
		for k := range slot {
			w.held(k, 100*time.Microsecond)
		}
		r.prefix("/f", 0, 4, w.slot(0))
		r.thaw()
		w.moved(slot, w.slot(slot)+10) // the child goes on
	}
	eventually(t, "the children are named", func() bool {
		named := 0
		for _, p := range r.srv.Clients()[0].Processes {
			if p.Forked && p.PID != 0 && p.Comm != "" {
				named++
			}
		}
		return named == 12
	})
	// They outlive their parent, and are held all the same.
	w.kill()
	eventually(t, "the parent is gone", func() bool { return len(r.srv.Clients()[0].Processes) == 12 })
	r.freeze()
	r.still("/f", 32*4096, 5*time.Millisecond)
	w.held(3, time.Millisecond)
	r.thaw()
	at := w.slot(3)
	w.moved(3, at)
	for _, p := range pids {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	pids = nil
	eventually(t, "all have ended", func() bool { return len(r.srv.Clients()) == 0 && len(r.fs.Mappings()) == 0 })
}

func TestKernelModeStore(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 4)
	src := r.dir + "/src"
	if err := os.WriteFile(src, []byte(strings.Repeat("k", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.freeze()
	w.do("kernel 0 0 4096 %s", src) // read(2) into a protected page
	r.waitParked(1)
	w.held(0, 3*time.Millisecond)
	r.still("/f", 4*4096, 2*time.Millisecond)
	r.thaw()
	w.moved(0, 0)
	if got := w.slot(0); got != 1 {
		t.Fatalf("read(2) gave %#x", got)
	}
	if b := r.file("/f", 4096, 4096); string(b) != strings.Repeat("k", 4096) {
		t.Error("the bytes did not arrive")
	}
	r.freeze()
	r.thaw()
}

func TestServerWritesAMappedPage(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 4)
	ino := r.ino("/f")
	w.do("hammer 0 0 0 4096 4")
	for i := range byte(50) {
		if _, err := r.fs.WriteAt(r.bg, ino, []byte{i, i, i, i, i, i, i, i}, 2048); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			r.freeze()
			w.held(0, time.Millisecond)
			r.prefix("/f", 0, 4, w.slot(0))
			r.still("/f", 4*4096, time.Millisecond)
			r.thaw()
		}
	}
	want := uint64(49) * 0x0101010101010101
	if got := w.do("load 0 2048"); got != want || r.word("/f", 2048) != want {
		t.Errorf("the client reads %#x, the file %#x, want %#x", got, r.word("/f", 2048), want)
	}
}

func TestPrivateMappingIsNeverHeld(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 4)
	w.do("store 0 0 3")
	w.do("private 1 0")
	r.freeze()
	for i := range 4 {
		w.do("store 1 %d 77", i*4096)
	}
	w.do("hammer 0 1 0 4096 4")
	w.moved(0, 1000)
	if r.parked() != 0 {
		t.Error("a private store is held")
	}
	if got := r.word("/f", 0); got != 3 {
		t.Errorf("a private store reached the image: %d", got)
	}
	r.thaw()
}

func TestMtimeOncePerDirtyPeriod(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 4)
	ino := r.ino("/f")
	mtime := func() time.Time {
		a, err := r.fs.GetAttr(r.bg, ino)
		if err != nil {
			t.Fatal(err)
		}
		return a.Mtime
	}
	m0 := mtime()
	w.do("store 0 0 1")
	m1 := mtime()
	if !m1.After(m0) {
		t.Errorf("the first store left mtime at %v", m1)
	}
	w.do("store 0 0 2")
	w.do("store 0 8192 2")
	if m := mtime(); m != m1 {
		t.Errorf("a later store of the same period moved mtime from %v to %v", m1, m)
	}
	w.do("sync 0 0 0")
	w.do("store 0 0 3")
	if m := mtime(); !m.After(m1) {
		t.Errorf("the first store after a sync left mtime at %v", m)
	}
}

func TestSyncMakesDurableAndClean(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 64)
	for i := range 10 {
		w.do("store 0 %d %d", i*4096*5, i+1)
	}
	if n := r.fs.Status().DirtyPages; n < 10 {
		t.Errorf("%d pages dirty after 10 stores to different pages", n)
	}
	if n := w.do("sync 0 0 0"); n < 10 {
		t.Errorf("sync of 10 pages says %d", n)
	}
	if n := r.fs.Status().DirtyPages; n != 0 {
		t.Errorf("%d pages dirty after sync", n)
	}
	if n := w.do("sync 0 0 0"); n != 0 {
		t.Errorf("sync of a clean mapping flushed %d pages", n)
	}
	w.do("unmap 0")
	eventually(t, "unmapped", func() bool { return len(r.fs.Mappings()) == 0 })
}

func TestReadsAnswerWhileHeld(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 64)
	for i := range 40 {
		w.do("hammer %d 0 %d 4096 1", i, i*4096)
	}
	r.freeze()
	r.waitParked(40)
	w.send("map 1 /new 0 4096 wcg") // held, in the request itself
	v := startWorker(t)
	v.do("attach %s", r.srv.Socket())
	if n := v.do("stat /f"); n != 64*4096 {
		t.Errorf("stat: %d", n)
	}
	if s := v.ask("map 0 /other 0 4096 wcgn"); !strings.HasPrefix(s, "error 16") {
		t.Errorf("map that would not wait: %s", s)
	}
	if n := len(r.srv.Clients()); n != 2 {
		t.Errorf("%d clients", n)
	}
	r.thaw()
	if s := w.read(); s != "ok" {
		t.Errorf("map after the thaw: %s", s)
	}
	for i := range 40 {
		w.moved(i, 0)
	}
}

// TestRequestsSideBySide: of one client, a request that is held delays no other.
func TestRequestsSideBySide(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 4)
	w.do("store 0 0 1")
	r.freeze()
	for i := range 8 {
		w.do("beside %d %d /new%d 8192", i, i+1, i)
	}
	eventually(t, "they are held", func() bool { return len(r.fs.Blocked()) == 8 })
	if n := w.do("stat /f"); n != 4*4096 {
		t.Errorf("stat: %d", n)
	}
	w.do("sync 0 0 0")
	r.thaw()
	for i := range 8 {
		w.moved(i, 0)
		if w.slot(i) != 1 {
			t.Errorf("map %d failed", i)
		}
		w.do("store %d 4096 %d", i+1, i)
	}
	w.do("remap 0 /f %d", 16*4096) // the library's own mremap
	w.do("hammer 20 0 0 4096 16")
	w.moved(20, 100)
	r.freeze()
	r.waitParked(1)
	r.prefix("/f", 0, 16, w.slot(20))
	r.thaw()
}

// TestManyHeldRequests: more requests are held than a connection may have in
// flight. What only reads is answered, and a client that dies is held no more.
func TestManyHeldRequests(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 4)
	r.freeze()
	for i := range 2 * maxInFlight {
		w.do("beside 40 15 /new%d 4096", i)
	}
	eventually(t, "they are held", func() bool { return len(r.fs.Blocked()) == 2*maxInFlight })
	if n := w.do("stat /f"); n != 4*4096 {
		t.Errorf("stat: %d", n)
	}
	w.kill()
	eventually(t, "nobody is held", func() bool { return len(r.fs.Blocked()) == 0 })
	r.thaw()
}

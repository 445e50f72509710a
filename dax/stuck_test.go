package dax

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"permafrost/core/freeze"
)

func TestClientDiesWhileHeld(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 4)
	w.do("hammer 0 0 0 4096 4")
	w.moved(0, 100)
	r.freeze()
	r.waitParked(1)
	if b := r.fs.Blocked(); len(b) != 1 || b[0].PID != w.cmd.Process.Pid || b[0].Comm != "worker" || b[0].WayIn != "attach" {
		t.Errorf("blocked: %+v", b)
	}
	began := time.Now()
	w.kill()
	if d := time.Since(began); d > time.Second {
		t.Errorf("it took %v to die", d)
	}
	eventually(t, "it is let go", func() bool {
		return len(r.fs.Blocked()) == 0 && len(r.fs.Mappings()) == 0 && len(r.srv.Clients()) == 0
	})
	r.thaw()
	if files, _ := os.ReadDir(r.srv.opt.RecordDir); len(files) != 0 {
		t.Errorf("records stay behind: %v", files)
	}
}

func TestStoppedClient(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 4)
	w.do("hammer 0 0 0 4096 4")
	w.moved(0, 100)
	for range 5 {
		if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		r.freeze() // its pages are protected without its help
		r.prefix("/f", 0, 4, w.slot(0))
		if err := w.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		w.held(0, 2*time.Millisecond)
		at := w.slot(0)
		r.thaw()
		w.moved(0, at+100)
	}
}

func TestStuckClientIsNamed(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 2)
	v := r.attached("/g", 2)
	w.do("map 1 /f 0 4096 w")
	w.do("store 0 4096 1")
	v.do("hammer 0 0 0 4096 2")
	w.do("stuck 1") // its munmap never finishes: the kernel refuses to protect
	time.Sleep(50 * time.Millisecond)
	_, err := r.tryFreeze(300 * time.Millisecond)
	if err == nil {
		t.Fatal("frozen, though a client could not be protected")
	}
	if !strings.Contains(err.Error(), "worker") && !strings.Contains(strings.Join(waitingFor(err), " "), "worker") {
		t.Errorf("the client is not named: %v (waiting for %q)", err, waitingFor(err))
	}
	if s := r.fs.Status(); s.Level != freeze.Unfrozen {
		t.Errorf("level %v after the roll-back", s.Level)
	}
	at := v.slot(0)
	v.moved(0, at+100)
	w.kill()
	r.freeze()
	r.thaw()
}

func waitingFor(err error) []string {
	var ref *freeze.Refusal
	if asRefusal(err, &ref) {
		return ref.WaitingFor
	}
	return nil
}

package dax

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestPopulateDoesNotWaitForThePeer: a page that the peer protects by itself,
// in the middle of a run that was just granted, is granted again.
func TestPopulateDoesNotWaitForThePeer(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 16)
	w.do("timed 0 0 4096 16") // granted and tagged, all of them
	mp := r.only(w)
	m := mp.c.members[0]
	through := make(chan struct{})
	go func() {
		defer close(through)
		mp.c.evMu.Lock()
		defer mp.c.evMu.Unlock()
		addr := m.spans.list[0].addr
		if errno := m.fd.WriteProtect(addr+4*pageBytes, 4*pageBytes, true); errno != 0 { // as the peer could
			t.Errorf("protect: %v", errno)
		}
		m.populateLocked(addr, 16*pageBytes)
	}()
	select {
	case <-through:
	case <-time.After(20 * time.Second):
		t.Fatal("waits for a page that the peer has protected")
	}
	w.do("timed 0 0 4096 16")
	r.freeze()
	r.still("/f", 16*4096, 2*time.Millisecond)
	r.thaw()
}

// TestPoller: short waits make a reader look on, long ones make it sleep at once.
func TestPoller(t *testing.T) {
	var turn atomic.Bool
	p := poller{turn: &turn}
	asked := 0
	yes := func() bool { asked++; return true }
	if p.look(yes) || asked != 0 {
		t.Error("it looks on before that has paid")
	}
	for _, step := range []struct{ waited, budget time.Duration }{
		{20 * time.Microsecond, 5 * time.Microsecond},
		{20 * time.Microsecond, 10 * time.Microsecond},
		{8 * time.Microsecond, 10 * time.Microsecond}, // found while looking
		{150 * time.Microsecond, 20 * time.Microsecond},
		{150 * time.Microsecond, 40 * time.Microsecond},
		{150 * time.Microsecond, 80 * time.Microsecond},
		{150 * time.Microsecond, pollMost},
		{150 * time.Microsecond, pollMost},
		{time.Second, pollMost / 2},
		{time.Second, pollMost / 4},
	} {
		if p.waited(step.waited); p.budget != step.budget {
			t.Errorf("after a wait of %v: budget %v, want %v", step.waited, p.budget, step.budget)
		}
	}
	if !p.look(yes) || asked != 1 {
		t.Error("it does not look on")
	}
	if p.look(func() bool { return false }) || turn.Load() {
		t.Error("it finds what is not there, or keeps its turn")
	}
	turn.Store(true)
	if p.look(yes) || asked != 1 {
		t.Error("two look on at a time")
	}
	for range 5 {
		p.waited(time.Second)
	}
	if p.budget != 0 {
		t.Errorf("an idle reader looks on for %v", p.budget)
	}
}

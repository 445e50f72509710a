package dax

import (
	"sync/atomic"
	"time"
)

// Polling for the next store. Waking a thread that sleeps on another processor
// costs 30 to 50 us on a virtual machine (an interrupt to a halted processor,
// twice a store: the server's and the storer's), looking at the descriptor
// 0.3 us. So after an answer the reader looks on for a moment before it sleeps,
// as long as that has paid: stores come in bursts. The rule is that of KVM's
// halt polling (virt/kvm/kvm_main.c, kvm_vcpu_halt): what a short sleep proves
// too long a sleep grows, what a long wait proves futile shrinks.
const (
	pollLeast = 5 * time.Microsecond
	pollMost  = 100 * time.Microsecond
	pollWorth = 200 * time.Microsecond // a wait shorter than this would have been worth looking on
)

// poller is one reader's memory of whether looking on pays. It is owned by the
// reader's goroutine, but for the turn, which all readers of a server share:
// one looks on at a time, the others sleep, so that they never take more than
// one processor from the storers.
type poller struct {
	turn   *atomic.Bool
	budget time.Duration
}

// look calls pending until it says yes or the budget is used up.
func (p *poller) look(pending func() bool) bool {
	if p.budget == 0 || !p.turn.CompareAndSwap(false, true) {
		return false
	}
	defer p.turn.Store(false)
	for began := time.Now(); time.Since(began) < p.budget; {
		if pending() {
			return true
		}
	}
	return false
}

// waited learns from how long it took until there was something to read.
func (p *poller) waited(d time.Duration) {
	switch {
	case d > pollWorth:
		if p.budget /= 2; p.budget < pollLeast {
			p.budget = 0
		}
	case d > p.budget:
		p.budget = min(max(2*p.budget, pollLeast), pollMost)
	}
}

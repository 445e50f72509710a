package freeze

import "sync"

// maxPending bounds the events waiting for a slow observer. Past half of it
// releases are dropped, past all of it everything is.
const maxPending = 1 << 16

// outbox carries events to the observer in the order they were pushed, with no
// lock of the machine held and outside the window. One goroutine delivers at a
// time; others leave their events to it, so an observer that is stuck stops one
// goroutine and neither the machine nor a lease.
type outbox struct {
	observer func(Event) // immutable; nil: nobody listens

	turn sync.Mutex // held by whoever delivers; taken with nothing held

	mu      sync.Mutex
	pending []Event // guarded by mu
	dropped uint64  // guarded by mu
}

// push queues an event. Any lock of the machine may be held.
func (o *outbox) push(e Event) {
	if o.observer == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.pending); n >= maxPending || n >= maxPending/2 && e.Kind == EventReleased {
		o.dropped++
		return
	}
	o.pending = append(o.pending, e)
}

// flush delivers what is queued, unless somebody is at it. No lock may be held.
func (o *outbox) flush() {
	if o.observer == nil {
		return
	}
	for !o.idle() {
		if !o.turn.TryLock() {
			return // whoever has the turn looks again after giving it up
		}
		for {
			batch := o.take()
			if len(batch) == 0 {
				break
			}
			for _, e := range batch {
				o.observer(e)
			}
		}
		o.turn.Unlock()
	}
}

// send is push and flush.
func (o *outbox) send(e Event) {
	o.push(e)
	o.flush()
}

func (o *outbox) idle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pending) == 0
}

func (o *outbox) take() []Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch := o.pending
	o.pending = nil
	return batch
}

func (o *outbox) lost() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}

package freeze

import "sync"

// releaser lets go the callers a thaw has taken from the lobby, off the thaw's
// own path. One goroutine walks the lists in arrival order; parked callers go to
// a worker of their client, so that one slow client delays nobody else and each
// client's callers resume in order. Goroutines exist only while there is work.
type releaser struct {
	clock Clock       // immutable
	emit  func(Event) // immutable

	mu      sync.Mutex
	lists   []*held          // guarded by mu: taken, not yet walked
	walking bool             // guarded by mu: a walker runs
	clients map[any]*workers // guarded by mu: clients with a worker running
	waiting []chan struct{}  // guarded by mu: closed when nobody works any more
}

// busy says whether callers are being let go.
func (r *releaser) busy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.walking || len(r.clients) > 0
}

// idle is closed when nobody is being let go.
func (r *releaser) idle() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(chan struct{})
	r.waiting = append(r.waiting, c)
	r.restLocked()
	return c
}

// restLocked wakes those who wait for the end of the work, if it has come.
func (r *releaser) restLocked() {
	if r.walking || len(r.clients) > 0 {
		return
	}
	for _, c := range r.waiting {
		close(c)
	}
	r.waiting = nil
}

// workers is one client's queue.
type workers struct {
	todo []*held // guarded by releaser.mu
}

// all releases a list. It returns at once.
func (r *releaser) all(list *held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists = append(r.lists, list)
	if !r.walking {
		r.walking = true
		go r.walk()
	}
}

func (r *releaser) walk() {
	for {
		r.mu.Lock()
		if len(r.lists) == 0 {
			r.walking = false
			r.lists = nil
			r.restLocked()
			r.mu.Unlock()
			return
		}
		h := r.lists[0]
		r.lists[0] = nil
		r.lists = r.lists[1:]
		r.mu.Unlock()
		for h != nil {
			next := h.next
			h.prev, h.next = nil, nil
			if h.resume != nil {
				r.toClient(h)
			} else if h.fate.CompareAndSwap(0, heldReleased) {
				close(h.wake)
				r.emit(released(h, r.clock.Now().Sub(h.Since), false))
			}
			h = next
		}
	}
}

func (r *releaser) toClient(h *held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.clients[h.client]; w != nil {
		w.todo = append(w.todo, h)
		return
	}
	w := &workers{todo: []*held{h}}
	r.clients[h.client] = w
	go r.work(h.client, w)
}

// work resumes one client's callers until none is left.
func (r *releaser) work(client any, w *workers) {
	for {
		r.mu.Lock()
		todo := w.todo
		w.todo = nil
		if len(todo) == 0 {
			delete(r.clients, client)
			r.restLocked()
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		for _, h := range todo {
			if h.fate.CompareAndSwap(0, heldReleased) {
				waited := r.clock.Now().Sub(h.Since)
				h.resume()
				if h.freezeID != 0 { // else the gate had opened before it was parked: nobody was held
					r.emit(released(h, waited, false))
				}
			}
		}
	}
}

package web

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// liveInterval is the least time between two renders of a page, and how
	// often the hub looks at core's status while a tab is open: dirty counts
	// change with every store, and no event tells of each.
	liveInterval = 250 * time.Millisecond
	// listInterval is the same for pages that walk a list.
	listInterval = time.Second
	// settleAfter is when the ledger has caught up with what core showed.
	settleAfter = 1200 * time.Millisecond
	// refreshEvery brings in what has no event at all, such as samples.
	refreshEvery = 5 * time.Second
	// beatEvery tells an idle tab that its connection lives.
	beatEvery = 15 * time.Second
	// streamBuffer is how many messages a tab may lag behind before it is cut;
	// it then connects again and gets the whole page.
	streamBuffer = 16
)

var (
	errStreamsFull = errors.New("too many event streams are open")
	errHubClosed   = errors.New("shutting down")
)

// look is what the hub saw of the present at one pass: one snapshot for all pages.
type look struct {
	snap     snapshot
	sig      string // differs whenever a page might
	standing bool   // a freeze stands: some drawings grow with time
}

// hub keeps every open tab up to date. Its goroutine runs while there is at
// least one stream, and starts one more for each render.
type hub struct {
	max    int                                                                  // immutable
	look   func() look                                                          // immutable
	render func(ctx context.Context, p page, l look) (map[string]string, error) // immutable
	forced atomic.Bool                                                          // notify was called
	done   chan struct{}                                                        // closed by close

	mu      sync.Mutex
	topics  map[string]*topic // guard mu: by page key
	streams int               // guard mu
	running bool              // guard mu: the goroutine is there
	closed  bool              // guard mu
	wg      sync.WaitGroup    // the goroutine and the renders
}

// topic is one page that at least one tab shows.
type topic struct {
	page page              // immutable
	subs map[*stream]bool  // guard hub.mu
	full []byte            // guard hub.mu: the newest whole page as a message, nil before the first
	busy bool              // guard hub.mu: a render is under way
	took time.Duration     // guard hub.mu: the last render
	seen map[string]string // owner: the render under way; regions as last sent
	at   time.Time         // owner: the hub's goroutine; start of the last render
	due  bool              // owner: the hub's goroutine; changed since
}

// stream is one tab's queue; ch is closed when the tab is cut or at shutdown.
type stream struct {
	ch    chan []byte
	topic *topic // immutable
}

func newHub(max int, look func() look, render func(context.Context, page, look) (map[string]string, error)) *hub {
	return &hub{max: max, look: look, render: render, done: make(chan struct{}), topics: map[string]*topic{}}
}

func (h *hub) notify() { h.forced.Store(true) }

// join opens a stream for a page; leave must follow.
func (h *hub) join(p page) (*stream, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, errHubClosed
	case h.streams >= h.max:
		return nil, errStreamsFull
	}
	t := h.topics[p.Key]
	if t == nil {
		t = &topic{page: p, subs: map[*stream]bool{}, seen: map[string]string{}, due: true}
		h.topics[p.Key] = t
	}
	s := &stream{ch: make(chan []byte, streamBuffer), topic: t}
	if t.full != nil {
		s.ch <- t.full
	}
	t.subs[s] = true
	h.streams++
	if !h.running {
		h.running = true
		h.wg.Add(1)
		go h.run()
	}
	return s, nil
}

// leave ends a stream; a stream that was cut has left already.
func (h *hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked(s)
}

func (h *hub) dropLocked(s *stream) {
	if !s.topic.subs[s] {
		return
	}
	delete(s.topic.subs, s)
	close(s.ch)
	h.streams--
	if len(s.topic.subs) == 0 {
		delete(h.topics, s.topic.page.Key)
	}
}

func (h *hub) close() {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.done)
		for _, t := range h.topics {
			for s := range t.subs {
				h.dropLocked(s)
			}
		}
	}
	h.mu.Unlock()
	h.wg.Wait()
}

// run looks at the present every liveInterval until the last tab has gone.
func (h *hub) run() {
	defer h.wg.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // a render that waits for the ledger ends at shutdown
		select {
		case <-h.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var p passState
	for {
		select {
		case <-h.done:
		case <-timer.C:
		}
		topics := h.openTopics()
		if topics == nil {
			return
		}
		h.pass(ctx, &p, topics)
		timer.Reset(liveInterval)
	}
}

// openTopics lists the topics, or says that the goroutine is to end.
func (h *hub) openTopics() []*topic {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.topics) == 0 {
		h.running = false
		return nil
	}
	out := make([]*topic, 0, len(h.topics))
	for _, t := range h.topics {
		out = append(out, t)
	}
	return out
}

// passState is the hub goroutine's memory from one look to the next.
type passState struct {
	sig       string
	settleAt  time.Time // zero: nothing to settle
	refreshAt time.Time
	beatAt    time.Time
}

func (h *hub) pass(ctx context.Context, p *passState, topics []*topic) {
	now := time.Now()
	l := h.look()
	changed := h.forced.Swap(false)
	if l.sig != p.sig {
		p.sig, changed = l.sig, true
	}
	if changed {
		p.settleAt = now.Add(settleAfter)
	} else if !p.settleAt.IsZero() && !now.Before(p.settleAt) {
		p.settleAt, changed = time.Time{}, true
	}
	if !now.Before(p.refreshAt) {
		p.refreshAt, changed = now.Add(refreshEvery), true
	}
	beat := !now.Before(p.beatAt)
	if beat {
		p.beatAt = now.Add(beatEvery)
	}
	for _, t := range topics {
		t.due = t.due || changed || (l.standing && t.page.Every > 0 && now.Sub(t.at) >= t.page.Every)
		if t.due && h.begin(t, now) {
			t.at, t.due = now, false
			h.wg.Go(func() { h.update(ctx, t, l) })
		}
		if beat {
			h.send(t, encodeMessage(message{Now: isoTime(l.snap.Now)}), nil)
		}
	}
}

// least is the shortest time between two renders of a page.
func (p page) least() time.Duration {
	if p.Key == "/ui/" {
		return liveInterval
	}
	return listInterval
}

// message is one event of a stream.
type message struct {
	Now     string            `json:"now"`
	Regions map[string]string `json:"regions,omitempty"` // inner HTML by region id
	Error   string            `json:"error,omitempty"`   // the page cannot be shown (any more)
}

func encodeMessage(m message) []byte {
	b, err := json.Marshal(m)
	if err != nil { // strings and maps of strings always encode
		return nil
	}
	return append(append([]byte("data: "), b...), '\n', '\n')
}

// idleShare is how many times as long as a render took its page rests: a
// search through a large image must not keep a processor busy for a tab.
const idleShare = 10

// begin takes a topic for a render, unless one is under way or it has to rest.
// A page that is slow to render holds up no other.
func (h *hub) begin(t *topic, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.busy || now.Sub(t.at) < max(t.page.least(), idleShare*t.took) {
		return false
	}
	t.busy = true
	return true
}

// update renders a page once and sends its tabs the regions that changed.
func (h *hub) update(ctx context.Context, t *topic, l look) {
	start := time.Now()
	defer func() {
		h.mu.Lock()
		t.busy, t.took = false, time.Since(start)
		h.mu.Unlock()
	}()
	regions, err := h.render(ctx, t.page, l)
	now := isoTime(l.snap.Now)
	if err != nil {
		h.send(t, encodeMessage(message{Now: now, Error: err.Error()}), nil)
		return
	}
	diff := map[string]string{}
	for id, html := range regions {
		if old, ok := t.seen[id]; !ok || old != html {
			diff[id] = html
		}
	}
	t.seen = regions
	full := encodeMessage(message{Now: now, Regions: regions})
	if len(diff) == 0 {
		h.send(t, nil, full)
		return
	}
	h.send(t, encodeMessage(message{Now: now, Regions: diff}), full)
}

// send queues msg for every tab of a topic and keeps full for those to come. A
// tab whose queue is full is cut.
func (h *hub) send(t *topic, msg, full []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if full != nil {
		t.full = full
	}
	if msg == nil {
		return
	}
	for s := range t.subs {
		select {
		case s.ch <- msg:
		default:
			h.dropLocked(s)
		}
	}
}

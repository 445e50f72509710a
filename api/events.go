package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"permafrost/store"
)

// eventParams are the parameters of GET /events.
type eventParams struct {
	After  *uint64 `param:"after" doc:"Begin after this event, as Last-Event-ID does. 0 begins with the oldest kept."`
	LastID string  `header:"Last-Event-ID" doc:"The last event that was seen; browsers send it when they reconnect."`
}

// replayBatch is how many events are read from the ledger at a time.
const replayBatch = 500

func (s *Server) eventRoute() {
	route(s, operation{
		method: http.MethodGet, pattern: "/events", id: "events", tag: tagInspect,
		summary: "Events as they happen",
		description: "Server-sent events. Ids are rows of the ledger: a client that comes back with Last-Event-ID gets what it missed. " +
			"Events without an id could not be written to the ledger yet. The first comment opens the stream, one says that a replay is done, and then one comes every 15 s. The stream ends when the appliance stops.",
		answers:  []answer{{status: 200, describe: "The stream.", media: mediaEvents}},
		problems: []*kind{kindLedger, kindTooManyEvents, kindShuttingDown},
	}, s.getEvents)
}

func (s *Server) getEvents(w http.ResponseWriter, r *http.Request, p *eventParams) error {
	l, err := s.ledger()
	if err != nil {
		return err
	}
	if s.streams.Add(1) > int64(s.opt.MaxStreams) {
		s.streams.Add(-1)
		e := problem(kindTooManyEvents, "%d streams are open; close some, or try again", s.opt.MaxStreams)
		e.Retry = 5 * time.Second
		return e
	}
	defer s.streams.Add(-1)
	last, replay, err := p.start()
	if err != nil {
		return err
	}
	sub, err := subscribe(l)
	if err != nil {
		return err
	}
	st := &eventStream{w: w, rc: http.NewResponseController(w), ledger: l, last: last, sub: sub, live: !replay, keepAlive: s.limits.keepAlive}
	defer func() { st.sub.Close() }()
	if !replay {
		st.last = sub.Start
	}
	if r.Method == http.MethodHead {
		st.header()
		return nil
	}
	return st.run(r.Context(), s.done)
}

// start is the event after which the stream begins, if one is named.
func (p *eventParams) start() (last int64, named bool, err error) {
	text := p.LastID
	if p.After != nil {
		if text != "" {
			return 0, false, problem(kindBadParameter, "after= and Last-Event-ID both say where to begin; send one of them").with("parameter", "after")
		}
		text = strconv.FormatUint(*p.After, 10)
	}
	if text == "" {
		return 0, false, nil
	}
	if last, err = strconv.ParseInt(text, 10, 64); err != nil || last < 0 {
		return 0, false, problem(kindBadParameter, "Last-Event-ID %s is not a number of an event", shorten(text)).with("parameter", "Last-Event-ID")
	}
	return last, true, nil
}

func subscribe(l Ledger) (*store.Subscription, error) {
	sub, err := l.Subscribe()
	switch {
	case errors.Is(err, store.ErrTooMany):
		return nil, problem(kindTooManyEvents, "%v", err).because(err)
	case errors.Is(err, store.ErrClosed):
		return nil, problem(kindShuttingDown, "%v", err).because(err)
	}
	return sub, err
}

// eventStream is one client's stream. Owned by its handler.
type eventStream struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	ledger Ledger
	sub    *store.Subscription
	last   int64 // id of the newest event sent, or after which the stream began
	live   bool  // nothing is left to replay

	keepAlive time.Duration
}

func (st *eventStream) header() {
	h := st.w.Header()
	h.Set("Content-Type", mediaEvents)
	h.Set("X-Accel-Buffering", "no")
	st.w.WriteHeader(http.StatusOK)
}

// run streams until the client leaves, the appliance stops or the ledger
// closes. Errors after the header break the connection.
func (st *eventStream) run(ctx context.Context, done <-chan struct{}) error {
	st.header()
	if err := st.send(": permafrost events\n\n"); err != nil {
		return err
	}
	tick := time.NewTicker(st.keepAlive)
	defer tick.Stop()
	for {
		if !st.live {
			if err := st.replay(ctx); err != nil {
				return err
			}
			// Whoever wants what is there, and not what comes, can stop here.
			if err := st.send(": replayed\n\n"); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			return st.send(": the appliance stops\n\n")
		case <-tick.C:
			if err := st.send(": alive\n\n"); err != nil {
				return err
			}
		case e, ok := <-st.sub.C:
			if err := st.take(e, ok); err != nil {
				return err
			}
		}
	}
}

// take sends a live event, or mends a subscription that was cut for being slow:
// what it missed is read from the ledger.
func (st *eventStream) take(e store.LedgerEvent, ok bool) error {
	if ok {
		if e.ID != 0 && e.ID <= st.last {
			return nil // replayed already
		}
		return st.event(&e)
	}
	if !errors.Is(st.sub.Err(), store.ErrSlow) {
		return errAborted // the ledger is closed
	}
	sub, err := subscribe(st.ledger)
	if err != nil {
		return err
	}
	st.sub, st.live = sub, false
	return nil
}

// replay sends what the ledger has after last.
func (st *eventStream) replay(ctx context.Context) error {
	for {
		events, err := st.ledger.EventsAfter(ctx, st.last, replayBatch)
		if err != nil {
			return ledgerProblem(err)
		}
		for i := range events {
			if err := st.event(&events[i]); err != nil {
				return err
			}
		}
		if len(events) < replayBatch {
			st.live = true
			return nil
		}
	}
}

// event sends one event.
func (st *eventStream) event(e *store.LedgerEvent) error {
	var b strings.Builder
	if e.ID != 0 {
		fmt.Fprintf(&b, "id: %d\n", e.ID)
		st.last = e.ID
	}
	fmt.Fprintf(&b, "event: %s\n", strings.NewReplacer("\n", " ", "\r", " ").Replace(e.Kind))
	for line := range strings.SplitSeq(strings.ReplaceAll(string(e.Data), "\r", ""), "\n") {
		fmt.Fprintf(&b, "data: %s\n", line)
	}
	b.WriteByte('\n')
	return st.send(b.String())
}

func (st *eventStream) send(text string) error {
	if _, err := st.w.Write([]byte(text)); err != nil {
		return err
	}
	return st.rc.Flush()
}

package api

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// eventReader is a client of /events.
type eventReader struct {
	t     *testing.T
	resp  *http.Response
	lines chan string // closed at the end of the stream
}

func (r *rig) events(query string, headers ...string) *eventReader {
	r.t.Helper()
	req := must(http.NewRequest("GET", r.base+"/events"+query, nil))(r.t)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp := must(http.DefaultClient.Do(req))(r.t)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		r.t.Fatalf("/events: %d %v", resp.StatusCode, resp.Header)
	}
	e := &eventReader{t: r.t, resp: resp, lines: make(chan string, 20)}
	left := make(chan struct{})
	go func() {
		defer close(e.lines)
		sc := bufio.NewScanner(resp.Body)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			select {
			case e.lines <- sc.Text():
			case <-left: // with lines that nobody wanted
				return
			}
		}
	}()
	r.t.Cleanup(func() { close(left); _ = resp.Body.Close() })
	if first := e.line(); !strings.HasPrefix(first, ":") {
		r.t.Fatalf("the stream begins with %q", first)
	}
	return e
}

func (e *eventReader) line() string {
	e.t.Helper()
	select {
	case l, ok := <-e.lines:
		if !ok {
			e.t.Fatal("the stream ended")
		}
		return l
	case <-time.After(10 * time.Second):
		e.t.Fatal("no line in 10 s")
		return ""
	}
}

// next is the next event's id and kind.
func (e *eventReader) next() (id int64, kind string) {
	e.t.Helper()
	for {
		l := e.line()
		switch {
		case strings.HasPrefix(l, "id: "):
			_, _ = fmt.Sscanf(l, "id: %d", &id)
		case strings.HasPrefix(l, "event: "):
			kind = strings.TrimPrefix(l, "event: ")
		case l == "" && kind != "":
			return id, kind
		}
	}
}

// TestEvents: live events have the ledger's ids; a client that comes back gets
// what it missed, once each, in order.
func TestEvents(t *testing.T) {
	r := newRig(t, rigOptions{})
	live := r.events("")
	r.frozen("holder=h")
	var ids []int64
	var kinds []string
	take := func(e *eventReader, n int) (ids []int64, kinds []string) {
		for range n {
			id, kind := e.next()
			ids, kinds = append(ids, id), append(kinds, kind)
		}
		return ids, kinds
	}
	ids, kinds = take(live, 3)
	if strings.Join(kinds, " ") != "freezing frozen hold_begin" && strings.Join(kinds, " ") != "freezing hold_begin frozen" {
		t.Errorf("events of a freeze: %v", kinds)
	}
	_ = live.resp.Body.Close()
	r.thawed("holder=h") // nobody listens
	r.flush()
	for i, back := range []*eventReader{r.events("", fmt.Sprintf("Last-Event-ID: %d", ids[2])), r.events(fmt.Sprintf("?after=%d", ids[2]))} {
		more, kinds := take(back, 2)
		if more[0] != ids[2]+1 || more[1] != ids[2]+2 || !strings.Contains(strings.Join(kinds, " "), "thawed") {
			t.Errorf("reader %d was replayed %v %v after %d", i, more, kinds, ids[2])
		}
	}
	all := r.events("?after=0")
	if got, _ := take(all, 5); got[0] != 1 || got[4] != 5 {
		t.Errorf("from the beginning: %v", got)
	}
	r.frozen("holder=h") // goes on live after the replay
	if id, kind := all.next(); id != 6 || kind != "freezing" {
		t.Errorf("live after the replay: %d %s", id, kind)
	}
	r.thawed("holder=h")
	r.call("GET", "/events", nil, "Last-Event-ID: x").problem(422, "bad-parameter")
	r.call("GET", "/events?after=1", nil, "Last-Event-ID: 1").problem(422, "bad-parameter")
}

// TestEventStreamLimits: streams are bounded in number, say that they live, and
// end when the appliance stops.
func TestEventStreamLimits(t *testing.T) {
	r := newRig(t, rigOptions{change: func(o *Options) { o.MaxStreams = 2 },
		limits: func(l *limits) { l.keepAlive, l.writeIdle = 50*time.Millisecond, 100*time.Millisecond }})
	a, b := r.events(""), r.events("")
	rep := r.call("GET", "/events", nil)
	rep.problem(503, "too-many-streams")
	for range 6 { // well past the deadline of one write
		if l := a.line(); l != ": alive" && l != "" {
			t.Errorf("a quiet stream said %q", l)
		}
	}
	_ = b.resp.Body.Close()
	until(t, "a place is free", func() bool { return r.srv.streams.Load() < 2 })
	c := r.events("")
	done := make(chan struct{})
	srv := r.srv.HTTPServer() // its shutdown ends the streams of all
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
		close(done)
	}()
	<-done
	for end := time.After(5 * time.Second); ; {
		select {
		case _, ok := <-c.lines:
			if ok {
				continue
			}
		case <-end:
			t.Error("the stream did not end at shutdown")
		}
		break
	}
	r.call("GET", "/readyz", nil).problem(503, "not-ready")
}

// TestEventsWithoutLedger: a refusal, not a stream that stays silent.
func TestEventsWithoutLedger(t *testing.T) {
	r := newRig(t, rigOptions{change: func(o *Options) { o.Ledger = nil }})
	for _, path := range []string{"/events", "/samples", "/inodes/1/history"} {
		r.call("GET", path, nil).problem(503, "ledger-unavailable")
	}
	f := r.frozen("holder=h")
	if st := r.call("GET", "/status", nil).want(200).json(); st["ledger"].(map[string]any)["state"] != "none" {
		t.Errorf("ledger %v", st["ledger"])
	}
	r.call("GET", fmt.Sprintf("/freezes/%v", f["id"]), nil).want(200)
	if n := len(r.call("GET", "/freezes", nil).want(200).json()["items"].([]any)); n != 1 {
		t.Errorf("%d freezes without a ledger, want the one that stands", n)
	}
	r.thawed("holder=h")
}

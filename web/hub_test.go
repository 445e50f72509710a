package web

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counted is a hub over a page whose text a test sets.
type counted struct {
	*hub
	text    atomic.Value
	sig     atomic.Int64
	renders atomic.Int64
	looks   atomic.Int64
}

func newCounted(max int) *counted {
	c := &counted{}
	c.text.Store("one")
	c.hub = newHub(max, func() look {
		c.looks.Add(1)
		return look{sig: time.Duration(c.sig.Load()).String()}
	}, func(context.Context, page, look) (map[string]string, error) {
		c.renders.Add(1)
		return map[string]string{"a": c.text.Load().(string), "b": "still"}, nil
	})
	return c
}

func (c *counted) change(text string) {
	c.text.Store(text)
	c.sig.Add(1)
}

// drain takes what a stream holds without waiting.
func drain(s *stream) (out []message, open bool) {
	for {
		select {
		case b, ok := <-s.ch:
			if !ok {
				return out, false
			}
			var m message
			if err := json.Unmarshal([]byte(strings.TrimPrefix(string(b), "data: ")), &m); err != nil {
				panic(err)
			}
			if m.Regions != nil || m.Error != "" {
				out = append(out, m)
			}
		default:
			return out, true
		}
	}
}

var overview = page{Key: "/ui/"}

// TestHubRendersOnceForAllTabs is W5.
func TestHubRendersOnceForAllTabs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounted(100)
		var tabs []*stream
		for range 50 {
			s, err := c.join(overview)
			if err != nil {
				t.Fatal(err)
			}
			tabs = append(tabs, s)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, s := range tabs {
			if m, _ := drain(s); len(m) != 1 || m[0].Regions["a"] != "one" || m[0].Regions["b"] != "still" {
				t.Fatalf("a new tab got %+v", m)
			}
		}
		before := c.renders.Load()
		c.change("two")
		time.Sleep(liveInterval + time.Millisecond)
		synctest.Wait()
		if n := c.renders.Load() - before; n != 1 {
			t.Errorf("%d renders for one change and 50 tabs", n)
		}
		for _, s := range tabs {
			if m, _ := drain(s); len(m) != 1 || m[0].Regions["a"] != "two" || len(m[0].Regions) != 1 {
				t.Fatalf("the change arrived as %+v", m)
			}
		}
		// Ten changes a millisecond: not more than one render an interval.
		before = c.renders.Load()
		for i := range 1000 {
			c.change(strings.Repeat("x", i))
			time.Sleep(time.Millisecond)
		}
		if n := c.renders.Load() - before; n > 5 {
			t.Errorf("%d renders in one second of changes", n)
		}
		for _, s := range tabs {
			c.leave(s)
		}
		time.Sleep(2 * liveInterval)
		synctest.Wait()
		looks := c.looks.Load()
		time.Sleep(time.Hour)
		if c.looks.Load() != looks {
			t.Error("the hub looks while no tab is open")
		}
		c.close()
	})
}

func TestHubSendsNothingWithoutChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounted(1)
		s, _ := c.join(overview)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		drain(s)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		beats := len(s.ch)
		if m, open := drain(s); len(m) != 0 || !open || beats < 7 || beats > 9 {
			t.Errorf("an unchanged page sent %+v and %d beats in 2 min (open %v)", m, beats, open)
		}
		c.close()
	})
}

func TestHubLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounted(2)
		a, _ := c.join(overview)
		b, _ := c.join(overview)
		if _, err := c.join(overview); err != errStreamsFull {
			t.Errorf("a third stream of two: %v", err)
		}
		c.leave(a)
		c.leave(a) // leaving twice frees one place
		if _, err := c.join(overview); err != nil {
			t.Errorf("a place that was left: %v", err)
		}
		if _, err := c.join(overview); err != errStreamsFull {
			t.Errorf("leaving twice freed two places: %v", err)
		}
		// b reads nothing: it is cut, and its place is free again.
		for i := range streamBuffer + 3 {
			c.change(strings.Repeat("y", i+1))
			time.Sleep(2 * liveInterval)
		}
		synctest.Wait()
		if m, open := drain(b); open {
			t.Errorf("a tab that reads nothing is still fed: %d messages", len(m))
		}
		s, err := c.join(overview)
		if err != nil {
			t.Fatalf("the cut tab kept its place: %v", err)
		}
		c.close()
		if _, open := drain(s); open {
			t.Error("close left a stream open")
		}
		if _, err := c.join(overview); err != errHubClosed {
			t.Errorf("join after close: %v", err)
		}
	})
}

func TestNotifyForcesALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounted(1)
		s, _ := c.join(overview)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		drain(s)
		c.text.Store("only the ledger knows")
		c.notify()
		time.Sleep(2 * liveInterval)
		synctest.Wait()
		if m, _ := drain(s); len(m) != 1 {
			t.Errorf("notify brought %+v", m)
		}
		c.close()
	})
}

// TestHubSlowPage: a page that is slow to render rests, and holds up no other.
func TestHubSlowPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow, quick atomic.Int64
		var sig atomic.Int64
		h := newHub(2, func() look { return look{sig: time.Duration(sig.Add(1)).String()} }, // every look differs
			func(ctx context.Context, p page, _ look) (map[string]string, error) {
				if p.Key != "/ui/" {
					slow.Add(1)
					time.Sleep(3 * time.Second)
					return map[string]string{"a": time.Duration(slow.Load()).String()}, nil
				}
				quick.Add(1)
				return map[string]string{"a": time.Duration(quick.Load()).String()}, nil
			})
		for _, key := range []string{"/ui/", "/ui/inodes?path_prefix=x"} {
			s, err := h.join(page{Key: key})
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				for range s.ch { // a tab that reads
				}
			}()
		}
		time.Sleep(time.Minute)
		if n := quick.Load(); n < 200 || n > 241 {
			t.Errorf("the quick page was rendered %d times in a minute, want 4 a second", n)
		}
		if n := slow.Load(); n < 2 || n > 3 {
			t.Errorf("the slow page was rendered %d times in a minute, want once in half of one", n)
		}
		h.close()
	})
}

// TestHubLooksAgainWhenTheLedgerHasSettled: what the recorder writes a moment
// after a change of core has no sign of its own.
func TestHubLooksAgainWhenTheLedgerHasSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounted(1)
		s, _ := c.join(overview)
		time.Sleep(refreshEvery + 2*settleAfter)
		synctest.Wait()
		drain(s)
		c.change("core says so")
		time.Sleep(2 * liveInterval)
		c.text.Store("and the ledger has it")
		time.Sleep(settleAfter)
		synctest.Wait()
		if m, _ := drain(s); len(m) != 2 || m[1].Regions["a"] != "and the ledger has it" {
			t.Errorf("got %+v", m)
		}
		c.close()
	})
}

// TestStream reads a real stream: its regions are the page's own.
func TestStream(t *testing.T) {
	fs, l := fullFS(time.Now())
	u := newUI(t, fs, l, time.Now)
	srv := httptest.NewServer(u)
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL + "/ui/live?page=/ui/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %q", res.StatusCode, res.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	next := func() message {
		t.Helper()
		for lines.Scan() {
			var m message
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(data), &m); err != nil {
					t.Fatal(err)
				}
				if m.Regions != nil {
					return m
				}
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return message{}
	}
	first := next()
	page := get(u, "/ui/").Body.String()
	for _, id := range []string{"strip", "announce", "alerts", "banner", "controls", "cost", "waiters", "marks", "samples", "facts"} {
		html, ok := first.Regions[id]
		if !ok || !strings.Contains(page, `id="r-`+id+`"`) {
			t.Errorf("region %s: in the stream %v, in the page %v", id, ok, strings.Contains(page, `id="r-`+id+`"`))
		}
		// The controls change with nothing but freezes, so they are the same to the byte.
		if id == "controls" && !strings.Contains(page, html) {
			t.Error("the stream shows other controls than the page")
		}
	}
	if strings.Contains(first.Regions["banner"], " ago") {
		t.Error("the stream has relative times: every second would be a change")
	}
	fs.mu.Lock()
	fs.status.DirtyPages = 4242
	fs.mu.Unlock()
	m := next()
	if !strings.Contains(m.Regions["cost"], "4,242 dirty pages") {
		t.Errorf("the change did not come: %v", m.Regions)
	}
	if _, ok := m.Regions["banner"]; ok {
		t.Error("an unchanged region was sent again")
	}
	// A gone page says so; the close ends the stream.
	u.Close()
	for lines.Scan() {
	}
	if lines.Err() != nil {
		t.Errorf("the stream broke instead of ending: %v", lines.Err())
	}
	if w := get(u, "/ui/live?page=/ui/"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("a stream after close: %d", w.Code)
	}
}

// TestStreamDiesWithItsReader: a tab that leaves frees its place.
func TestStreamDiesWithItsReader(t *testing.T) {
	fs, l := fullFS(time.Now())
	u := newUI(t, fs, l, time.Now)
	srv := httptest.NewServer(u)
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/ui/live?page=/ui/inodes", nil)
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	res.Body.Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		u.hub.mu.Lock()
		n := u.hub.streams
		u.hub.mu.Unlock()
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d streams are open", n)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

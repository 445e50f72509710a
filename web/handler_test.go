package web

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"permafrost/core/freeze"
	"permafrost/store"
)

func get(h http.Handler, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w
}

func post(h http.Handler, target string, form url.Values) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	h.ServeHTTP(w, r)
	return w
}

// states are the appliances every page must be able to show.
func states(now time.Time) map[string]func() (*testFS, *testLedger) {
	return map[string]func() (*testFS, *testLedger){
		"empty": func() (*testFS, *testLedger) { return emptyFS(now) },
		"full":  func() (*testFS, *testLedger) { return fullFS(now) },
		"frozen": func() (*testFS, *testLedger) {
			fs, l := fullFS(now)
			freezeNow(fs, now)
			return fs, l
		},
		"broken": func() (*testFS, *testLedger) {
			fs, l := fullFS(now)
			freezeNow(fs, now)
			fs.status.Degraded, fs.status.BadBlocks, fs.status.EventsDropped = errPlanted, 3, 4
			fs.status.Space.Free = 1
			l.err, l.health = errPlanted, store.Degraded
			return fs, l
		},
		"freezing": func() (*testFS, *testLedger) {
			fs, l := fullFS(now)
			fs.status.State, fs.status.Level = "freezing", freeze.PageFault
			fs.status.Freeze = &freeze.Record{ID: 41, State: freeze.StateFreezing, RequestedAt: now}
			return fs, l
		},
		"hostile names": func() (*testFS, *testLedger) {
			fs, l := fullFS(now)
			freezeNow(fs, now)
			evil := `"><script>alert(1)</script><b onload=x style="a:b">`
			fs.status.Freeze.Holds[0].Holder, fs.status.Freeze.Holds[0].Reason = evil, evil
			fs.status.Medium.Path = evil
			for i := range fs.inodes {
				fs.inodes[i].Paths = []string{"/" + evil}
			}
			for i := range fs.maps {
				fs.maps[i].Path, fs.maps[i].Process.Comm = evil, evil
			}
			for i := range fs.blocked {
				fs.blocked[i].Path, fs.blocked[i].Op, fs.blocked[i].Remote = evil, evil, evil
			}
			for i := range l.found {
				l.found[i].Path = evil
			}
			return fs, l
		},
	}
}

// document is what a parse of a page yields that tests look at.
type document struct {
	ids   map[string]int
	links []string
	h1    int
	text  string
}

// parse reads a page as XML (templ writes every element closed) and reports
// whatever a Content-Security-Policy without 'unsafe-inline' would refuse.
func parse(t *testing.T, html []byte) document {
	t.Helper()
	d := document{ids: map[string]int{}}
	dec := xml.NewDecoder(bytes.NewReader(html))
	dec.Strict, dec.AutoClose, dec.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	var text strings.Builder
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the page cannot be parsed: %v", err)
		}
		switch e := tok.(type) {
		case xml.StartElement:
			name := strings.ToLower(e.Name.Local)
			attr := map[string]string{}
			for _, a := range e.Attr {
				attr[strings.ToLower(a.Name.Local)] = a.Value
			}
			switch {
			case name == "style":
				t.Error("inline <style>")
			case name == "script" && attr["src"] == "":
				t.Error("inline <script>")
			case name == "h1":
				d.h1++
			}
			for a, v := range attr {
				if a == "style" || strings.HasPrefix(a, "on") {
					t.Errorf("<%s %s=%q> is inline", name, a, v)
				}
				if (a == "href" || a == "src" || a == "action") && !strings.HasPrefix(v, "/") && !strings.HasPrefix(v, "#") {
					t.Errorf("<%s %s=%q> leaves the appliance", name, a, v)
				}
			}
			if id, ok := attr["id"]; ok {
				d.ids[id]++
			}
			if name == "a" {
				d.links = append(d.links, attr["href"])
			}
		case xml.CharData:
			text.Write(e)
		}
	}
	d.text = strings.Join(strings.Fields(text.String()), " ")
	return d
}

// TestEveryPage follows every link from the overview, in every state: each
// page answers, is guarded, and has nothing inline.
func TestEveryPage(t *testing.T) {
	for name, build := range states(epoch) {
		t.Run(name, func(t *testing.T) {
			fs, l := build()
			u := newUI(t, fs, l, fixed(epoch))
			seen, queue := map[string]bool{}, []string{"/ui/"}
			for len(queue) > 0 {
				path := queue[0]
				queue = queue[1:]
				if seen[path] || !strings.HasPrefix(path, "/ui/") {
					continue
				}
				seen[path] = true
				w := get(u, path)
				want := http.StatusOK
				if name == "broken" && strings.HasPrefix(path, "/ui/freezes/") && !strings.HasSuffix(path, "/41") {
					want = http.StatusServiceUnavailable
				}
				// Numbers in lists of this fixture that name no inode of it.
				if strings.HasPrefix(path, "/ui/inodes/") && w.Code == http.StatusNotFound {
					want = http.StatusNotFound
				}
				if w.Code != want {
					t.Errorf("%s: %d, want %d\n%s", path, w.Code, want, w.Body)
				}
				checkHeaders(t, w)
				d := parse(t, w.Body.Bytes())
				if d.h1 != 1 {
					t.Errorf("%s has %d h1", path, d.h1)
				}
				for id, n := range d.ids {
					if n > 1 {
						t.Errorf("%s has id %q %d times", path, id, n)
					}
				}
				queue = append(queue, d.links...)
			}
			if len(seen) < 4 {
				t.Errorf("only %d pages were reached: %v", len(seen), seen)
			}
		})
	}
}

func checkHeaders(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		"X-Content-Type-Options": "nosniff",
		"Cache-Control":          "no-store",
		"Content-Type":           "text/html; charset=utf-8",
		"Referrer-Policy":        "same-origin",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestPagesThatAreNot(t *testing.T) {
	fs, l := fullFS(epoch)
	u := newUI(t, fs, l, fixed(epoch))
	for path, want := range map[string]int{
		"/ui/nothing": 404, "/ui/freezes/0": 404, "/ui/freezes/x": 404, "/ui/freezes/999": 404, "/ui/inodes/-1": 404,
		"/ui/inodes/99999": 404, "/ui/inodes?cursor=garbage": 400, "/ui/freezes?before=x": 400, "/ui/freezes?state=odd": 400,
		"/ui/freezes/40?after=x": 400, "/ui/assets/app.css": 404, "/ui/live?page=/ui/nothing": 404, "/ui/freeze": 303,
		"/ui": 308, "/ui/live?page=%zz": 404,
	} {
		if w := get(u, path); w.Code != want {
			t.Errorf("GET %s: %d, want %d", path, w.Code, want)
		}
	}
	w := post(u, "/ui/freezes", nil)
	if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST to a page: %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}

func TestAssets(t *testing.T) {
	u := newUI(t, &testFS{}, nil, fixed(epoch))
	for _, name := range []string{"app.css", "live.js", "icon.svg"} {
		w := get(u, assetURL(name))
		if w.Code != 200 || w.Body.Len() == 0 || w.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" {
			t.Errorf("%s at %q: %d, %d bytes, %q", name, assetURL(name), w.Code, w.Body.Len(), w.Header().Get("Cache-Control"))
		}
	}
	css, js := string(assets["app.css"].data), string(assets["live.js"].data)
	if regexp.MustCompile(`@import|url\(`).MatchString(css) || regexp.MustCompile(`https?:`).MatchString(css+js) {
		t.Error("an asset names something outside")
	}
	if n := strings.Count(js, "\n"); n > 150 {
		t.Errorf("live.js has %d lines", n)
	}
}

func TestNotes(t *testing.T) {
	var ns notes
	first := ns.put(note{Title: "first", At: epoch})
	if n := ns.get(first, epoch.Add(time.Minute)); n == nil || n.Title != "first" {
		t.Fatalf("note %+v", n)
	}
	if ns.get(first, epoch.Add(noteLife+1)) != nil {
		t.Error("a note outlives its time")
	}
	for range notesKept {
		ns.put(note{At: epoch})
	}
	if ns.get(first, epoch) != nil || len(ns.byID) != notesKept {
		t.Errorf("%d notes are kept", len(ns.byID))
	}
}

// TestFigures: what the overview says is what the status says.
func TestFigures(t *testing.T) {
	fs, l := fullFS(epoch)
	d := parse(t, get(newUI(t, fs, l, fixed(epoch)), "/ui/").Body.Bytes())
	says(t, d, "Unfrozen", "3 dirty inodes", "158 dirty pages", "632 KiB", "18,231", "1,204", "97 MiB used",
		"of 256 MiB, 159 MiB free", "does not survive a power loss", "flushed by CLWB", "Nobody waits")
	freezeNow(fs, epoch)
	d = parse(t, get(newUI(t, fs, l, fixed(epoch)), "/ui/").Body.Bytes())
	says(t, d, "Frozen", "held by nightly-1732300000-4711, dashboard/anna", "1:37", "22:31:37 UTC", "5 callers are held, oldest first",
		"orderd (pid 4100, uid 1000)", "page 17", "127.0.0.1:52114", "renewed 2 times")
}

// TestOneSnapshot is W1: the count of held callers is that of the list beside it.
func TestOneSnapshot(t *testing.T) {
	fs, l := fullFS(epoch)
	freezeNow(fs, epoch)
	fs.status.Blocked = 9 // as seen an instant before four of them left
	d := parse(t, get(newUI(t, fs, l, fixed(epoch)), "/ui/").Body.Bytes())
	says(t, d, "5 callers are held")
	if strings.Contains(d.text, "and 4 more") {
		t.Error("the count is not of the list")
	}
}

// TestFreezeNotInTheLedgerYet: the list has what core knows already, but only
// on its first page.
func TestFreezeNotInTheLedgerYet(t *testing.T) {
	fs, l := fullFS(epoch)
	freezeNow(fs, epoch)
	u := newUI(t, fs, l, fixed(epoch))
	if !strings.Contains(get(u, "/ui/freezes").Body.String(), `href="/ui/freezes/41"`) {
		t.Error("the standing freeze is not in the list")
	}
	if strings.Contains(get(u, "/ui/freezes?before=30").Body.String(), `href="/ui/freezes/41"`) {
		t.Error("the standing freeze is on every page of the list")
	}
}

// TestPagesWithoutALedger: every page stands without history and says so.
func TestPagesWithoutALedger(t *testing.T) {
	fs, _ := fullFS(epoch)
	freezeNow(fs, epoch)
	u := newUI(t, fs, nil, fixed(epoch))
	for path, word := range map[string]string{"/ui/": "The ledger is degraded", "/ui/freezes": "no ledger is open",
		"/ui/freezes/41": "no ledger is open", "/ui/inodes/13": "no ledger is open"} {
		w := get(u, path)
		if w.Code != 200 {
			t.Errorf("%s: %d", path, w.Code)
		}
		says(t, parse(t, w.Body.Bytes()), word)
	}
}

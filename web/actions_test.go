package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"permafrost/core/freeze"
)

// followed posts a form and returns the page the browser is sent to.
func followed(t *testing.T, u *UI, path string, form url.Values) document {
	t.Helper()
	w := post(u, path, form)
	if w.Code != http.StatusSeeOther {
		t.Fatalf("POST %s: %d\n%s", path, w.Code, w.Body)
	}
	to := w.Header().Get("Location")
	page := get(u, to)
	if page.Code != 200 {
		t.Fatalf("GET %s: %d", to, page.Code)
	}
	return parse(t, page.Body.Bytes())
}

func says(t *testing.T, d document, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(d.text, w) {
			t.Errorf("the page does not say %q:\n%s", w, d.text)
		}
	}
}

func TestFreezeByForm(t *testing.T) {
	fs, l := fullFS(epoch)
	u := newUI(t, fs, l, time.Now)
	d := followed(t, u, "/ui/freeze", url.Values{"lease": {"90s"}, "name": {" anna "}, "reason": {"looking"}})
	want := freeze.Request{Holder: "dashboard/anna", Reason: "looking", Lease: 90 * time.Second}
	if fs.asked[0] != want {
		t.Errorf("asked %+v, want %+v", fs.asked[0], want)
	}
	says(t, d, "Freeze 41 is complete: window 84.0 µs", "Frozen", "held by dashboard/anna", "Thaw")

	d = followed(t, u, "/ui/renew", url.Values{"hold": {"41.1"}, "lease": {"300"}})
	if fs.asked[1] != (freeze.RenewRequest{Hold: "41.1", Lease: 5 * time.Minute}) {
		t.Errorf("asked %+v", fs.asked[1])
	}
	says(t, d, "Hold 41.1 of dashboard now ends at")

	d = followed(t, u, "/ui/thaw", url.Values{"hold": {"41.1"}})
	if r := fs.asked[2].(freeze.ThawRequest); r.Hold != "41.1" || r.Force {
		t.Errorf("asked %+v", r)
	}
	says(t, d, "stood without a gap for 12.3 s", "Unfrozen")
}

func TestForceNeedsItsTick(t *testing.T) {
	fs, l := fullFS(time.Now())
	freezeNow(fs, time.Now())
	u := newUI(t, fs, l, time.Now)
	page := get(u, "/ui/").Body.String()
	others, own, ok := strings.Cut(page[strings.Index(page, `id="hold-41.1"`):], `id="hold-41.2"`)
	if !ok || strings.Contains(others, ">Thaw<") || !strings.Contains(others, "End by force") {
		t.Error("another's hold has a plain Thaw button, or no way to end it at all")
	}
	if own, _, _ = strings.Cut(own, `id="join"`); !strings.Contains(own, ">Thaw<") || strings.Contains(own, "End by force") {
		t.Error("the dashboard's own hold has no plain Thaw button")
	}
	says(t, followed(t, u, "/ui/thaw", url.Values{"hold": {"41.1"}, "force": {"true"}}), "Not ended")
	if len(fs.asked) != 0 {
		t.Fatalf("force without its tick asked %+v", fs.asked)
	}
	says(t, followed(t, u, "/ui/thaw", url.Values{"hold": {"41.1"}, "force": {"true"}, "sure": {"yes"}}),
		"was ended by force", "its copy is not consistent")
	if r := fs.asked[0].(freeze.ThawRequest); !r.Force || !strings.HasPrefix(r.By, "dashboard at ") {
		t.Errorf("asked %+v", r)
	}
}

func TestRefusalsAreShown(t *testing.T) {
	fs, l := fullFS(epoch)
	u := newUI(t, fs, l, fixed(epoch))
	for _, lease := range []string{"", "soon", "0", "-5s", "99999999999999999999"} {
		says(t, followed(t, u, "/ui/freeze", url.Values{"lease": {lease}, "reason": {"kept for another try"}}),
			"That lease cannot be used", "90s, 5m, 1h")
	}
	if len(fs.asked) != 0 {
		t.Fatalf("a bad lease was asked for: %+v", fs.asked)
	}
	w := post(u, "/ui/freeze", url.Values{"lease": {"soon"}, "reason": {"kept for another try"}})
	if page := get(u, w.Header().Get("Location")).Body.String(); !strings.Contains(page, `value="kept for another try"`) {
		t.Error("the form was emptied by the refusal")
	}
	for _, e := range refusalTitles {
		fs.refuse = &freeze.Refusal{Err: e.err, Holders: []string{"nightly"}, Since: epoch, ExpiresAt: epoch.Add(time.Minute),
			WaitingFor: []string{"write /db by pid 7"}, Hold: "40.1", HoldEnd: "expired", Detail: "do this next"}
		d := followed(t, u, "/ui/freeze", url.Values{"lease": {"60s"}})
		says(t, d, e.title, "do this next.", "Held by nightly.", "Since 22:30:00 UTC.", "Its lease ends at 22:31:00 UTC.",
			"It waited for: write /db by pid 7.", "Hold 40.1 ended: expired.")
	}
	fs.refuse = fmt.Errorf("thawing: %w", errPlanted)
	says(t, followed(t, u, "/ui/thaw", url.Values{"hold": {"1.1"}}), "The thaw failed", "planted: disk full")
	says(t, followed(t, u, "/ui/thaw", nil), "Which hold?")
}

// TestFreezeNobodyHearsOf: a freeze whose answer nobody can read is undone.
func TestFreezeNobodyHearsOf(t *testing.T) {
	fs, l := fullFS(epoch)
	u := newUI(t, fs, l, fixed(epoch))
	ctx, cancel := context.WithCancel(t.Context())
	fs.lost = cancel
	r := httptest.NewRequest(http.MethodPost, "/ui/freeze", strings.NewReader("lease=60s")).WithContext(ctx)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	u.ServeHTTP(httptest.NewRecorder(), r)
	if len(fs.asked) != 2 {
		t.Fatalf("asked %+v", fs.asked)
	}
	// Taken back, not thawed: to the record it never was.
	if fs.asked[1] != "abandon 41.1" {
		t.Errorf("asked %+v", fs.asked[1])
	}
}

func TestFormsAreBounded(t *testing.T) {
	fs, l := fullFS(epoch)
	u := newUI(t, fs, l, fixed(epoch))
	if w := post(u, "/ui/freeze", url.Values{"lease": {"60s"}, "reason": {strings.Repeat("x", formBytes)}}); w.Code != 400 || len(fs.asked) > 0 {
		t.Errorf("a form of more than %d bytes: %d, asked %v", formBytes, w.Code, fs.asked)
	}
}

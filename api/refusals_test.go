package api

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
)

// TestSurvivor: while a mapping of before a restart is not taken back nothing is
// written and nothing can be frozen, and neither is called frozen.
func TestSurvivor(t *testing.T) {
	r := newRig(t, rigOptions{survivor: true})
	r.call("GET", "/files/", nil).want(200)
	for _, query := range []string{"", "?wait=20ms"} {
		rep := r.call("PUT", "/files/new"+query, "x")
		v := rep.problem(503, "recovering")
		if rep.header.Get("Retry-After") == "" || strings.Contains(v["detail"].(string), "system is frozen") || v["freeze_id"] != nil {
			t.Errorf("PUT%s: %v", query, v)
		}
	}
	v := r.call("POST", "/freeze?patience=20ms", nil).problem(503, "freeze-timed-out")
	if len(v["waiting_for"].([]any)) != 1 {
		t.Errorf("freeze: %v", v)
	}
	r.fs.Adopted()
	r.call("PUT", "/files/new", "x").want(201)
	r.frozen("holder=h")
	r.thawed("holder=h")
}

// TestNothingSaidTwice: a detail does not repeat its title, and is in words that
// fit a command line as well as a URL.
func TestNothingSaidTwice(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.frozen("holder=a")
	problems := []map[string]any{
		r.call("POST", "/freeze?holder=b", nil).problem(409, "already-frozen"),
		r.call("PUT", "/files/x", "x").problem(423, "frozen"),
		r.call("PUT", "/files/x?wait=10ms", "x").problem(423, "frozen"),
		r.call("POST", "/thaw?holder=b", nil).problem(404, "unknown-hold"),
		r.call("POST", "/renew?holder=a&lease=2h", nil).problem(422, "over-cap"),
	}
	r.frozen("holder=b&join=true")
	problems = append(problems, r.call("POST", "/thaw", nil).problem(409, "which-hold"))
	r.thawed("force=true")
	problems = append(problems, r.call("POST", "/thaw?holder=a", nil).problem(410, "freeze-lost"))
	for _, p := range problems {
		title, detail := strings.ToLower(p["title"].(string)), strings.ToLower(p["detail"].(string))
		if strings.Contains(detail, title) || strings.Contains(detail, "=") {
			t.Errorf("%s: %s", title, p["detail"])
		}
	}
}

// TestRenewAfterThaw: a hold that was kept is not called lost.
func TestRenewAfterThaw(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.frozen("holder=a")
	r.thawed("holder=a")
	if v := r.call("POST", "/renew?holder=a", nil).problem(410, "freeze-ended"); v["hold_end"] != "thawed" || strings.Contains(v["detail"].(string), "lost") {
		t.Errorf("%v", v)
	}
}

// TestMissingNamesWhatCanBeListed: the hint of a 404 is a call that works.
func TestMissingNamesWhatCanBeListed(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.call("PUT", "/files/d/", nil).want(201)
	for path, lists := range map[string]string{"x/y/z": "/files/", "d/y": "/files/d/", "d/y/z": "/files/d/"} {
		for _, method := range []string{"GET", "DELETE", "PATCH"} {
			query := ""
			if method == "PATCH" {
				query = "?truncate=0"
			}
			v := r.call(method, "/files/"+path+query, nil).problem(404, "no-such-file")
			if !strings.Contains(v["detail"].(string), "GET "+lists+" lists") {
				t.Errorf("%s %s: %v", method, path, v["detail"])
			}
		}
	}
	r.call("PUT", "/files/x/y", "x").problem(409, "parent-missing")
}

// deaf is a program whose mappings cannot be write-protected.
type deaf struct{}

func (deaf) Protect(context.Context, []core.PageRun) error {
	return errors.New("program 7 does not answer")
}

// TestFreezeFails: for a reason other than time; all is rolled back and said.
func TestFreezeFails(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.call("PUT", "/files/f", strings.Repeat("x", 4096)).want(201)
	ctx := context.Background()
	a := must(r.fs.Resolve(ctx, "/f"))(t)
	m, _, err := r.fs.Map(ctx, a.Ino, core.MapRequest{Length: 4096, Writable: true, WayIn: "attach", Protector: deaf{}})
	check(t, err)
	check(t, m.Mkwrite(format.Page(0), 1, func(core.PageRun) error { return nil }))
	rep := r.call("POST", "/freeze?holder=h", nil)
	if v := rep.problem(503, "freeze-failed"); !strings.Contains(v["detail"].(string), "program 7") || rep.header.Get("Retry-After") == "" {
		t.Errorf("%v", v)
	}
	if r.fs.Freezer().Level() != freeze.Unfrozen {
		t.Error("not rolled back")
	}
	_ = m.Unmap(ctx) // its sync meets the deaf program once more
}

// TestTooManyInLine: one more freeze than may wait in line is refused at once.
func TestTooManyInLine(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.frozen("holder=a&lease=10m")
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range freeze.DefaultMaxQueued {
		wg.Go(func() { _, _, _ = r.fs.Freeze(ctx, freeze.Request{Holder: "q", Lease: time.Second, Wait: time.Hour}) })
	}
	defer wg.Wait()
	defer cancel()
	until(t, "a full line", func() bool { return r.fs.Freezer().Status().Queued == freeze.DefaultMaxQueued })
	if rep := r.call("POST", "/freeze?holder=b&wait=30s", nil); rep.problem(503, "too-many-held") == nil || rep.header.Get("Retry-After") == "" {
		t.Errorf("%s", rep.body)
	}
	r.call("GET", "/status", nil).want(200)
}

// TestShuttingDown: a freeze that comes while the appliance goes down.
func TestShuttingDown(t *testing.T) {
	r := newRig(t, rigOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r.frozen("holder=a")
	check(t, r.fs.Freezer().Close(ctx))
	if rep := r.call("POST", "/freeze?holder=b", nil); rep.problem(503, "shutting-down") == nil || rep.header.Get("Retry-After") == "" {
		t.Errorf("%s", rep.body)
	}
	if v := r.call("POST", "/thaw?holder=a", nil).problem(410, "freeze-lost"); v["hold_end"] != "interrupted" {
		t.Errorf("%v", v)
	}
}

package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"permafrost/core/freeze"
)

// TestFreezeByCurl: the bare lines of a shell work, without any parameter or
// body, and say what happened.
func TestFreezeByCurl(t *testing.T) {
	r := newRig(t, rigOptions{})
	f := r.call("POST", "/freeze", nil).want(200).json()
	if f["state"] != "frozen" || f["hold"] != fmt.Sprintf("%v.1", f["id"]) || f["holder"] != "127.0.0.1" || len(f["token"].(string)) != 64 {
		t.Errorf("freeze answered %v", f)
	}
	if len(f["phases"].([]any)) == 0 || f["window_us"].(float64) <= 0 || f["ended_at"] != nil {
		t.Errorf("freeze answered %v", f)
	}
	st := r.call("GET", "/status", nil).want(200).json()
	if st["state"] != "frozen" || st["level"] != "complete" || st["freeze"].(map[string]any)["id"] != f["id"] {
		t.Errorf("status %v", st)
	}
	th := r.call("POST", "/thaw", nil).want(200).json()
	if th["changed"] != true || th["held"] != true || th["thawed"] != true || th["hold"] != f["hold"] || th["frozen_ms"].(float64) <= 0 {
		t.Errorf("thaw answered %v", th)
	}
	// Nothing frozen, nothing lost.
	if th := r.call("POST", "/thaw", nil).want(200).json(); th["changed"] != false {
		t.Errorf("second bare thaw answered %v", th)
	}
	// A repeat after one's own thaw.
	if th := r.thawed("hold=" + f["hold"].(string)); th["changed"] != false || th["held"] != true {
		t.Errorf("repeated thaw answered %v", th)
	}
}

// TestDefaultHolder: the peer's uid on the Unix socket, its address on TCP.
func TestDefaultHolder(t *testing.T) {
	r := newRig(t, rigOptions{})
	f := r.callBy(r.local, "POST", "http://anything.example/freeze", nil).want(200).json()
	if !strings.HasPrefix(f["holder"].(string), "uid:") {
		t.Errorf("holder %v over the Unix socket", f["holder"])
	}
	r.callBy(r.local, "POST", "http://anything.example/thaw", nil).want(200)
}

// TestVerbParameters: query, JSON or form, never two of them, and every bad
// parameter named.
func TestVerbParameters(t *testing.T) {
	r := newRig(t, rigOptions{})
	const form = "Content-Type: application/x-www-form-urlencoded"
	const json = "Content-Type: application/json"
	good := []struct{ query, body, header string }{
		{"?holder=me&lease=90s&reason=a+b", "", ""},
		{"?holder=me&lease=90", "", ""},
		{"", "holder=me&lease=1m30s", form},
		{"", `{"holder":"me","lease":90,"join":false}`, json},
		{"?holder=me&lease=90s", "", form},
		{"?holder=me&lease=90s", "", json},
	}
	for _, g := range good {
		f := r.call("POST", "/freeze"+g.query, g.body, headers(g.header)...).want(200).json()
		lease := parse(t, f["hold_expires_at"]).Sub(parse(t, f["frozen_at"]))
		hold := f["holds"].([]any)[0].(map[string]any)
		if hold["lease_us"] != 9e7 || f["patience_us"] != 1e7 {
			t.Errorf("%+v: lease_us %v, patience_us %v", g, hold["lease_us"], f["patience_us"])
		}
		if f["holder"] != "me" || lease < 89*time.Second || lease > 91*time.Second {
			t.Errorf("%+v: holder %v, lease %v", g, f["holder"], lease)
		}
		r.thawed("holder=me")
	}
	bad := []struct {
		query, body, header string
		status              int
		name, parameter     string
		nearest             string
	}{
		{"?leese=10m", "", "", 422, "bad-parameter", "leese", "lease"},
		{"?lease=", "", "", 422, "bad-parameter", "lease", "lease"},
		{"?join", "", "", 422, "bad-parameter", "join", "join"},
		{"?lease=1s&lease=1s", "", "", 422, "bad-parameter", "lease", "lease"},
		{"?lease=soon", "", "", 422, "bad-parameter", "lease", "lease"},
		{"?lease=-5s", "", "", 422, "bad-parameter", "lease", "lease"},
		{"?lease=1.5", "", "", 422, "bad-parameter", "lease", "lease"},
		{"?lease=0", "", "", 422, "bad-parameter", "lease", "lease"},
		{"?lease=99999999999999", "", "", 422, "bad-parameter", "lease", "lease"},
		{"?lease=2h", "", "", 422, "over-cap", "", ""},
		{"?join=maybe", "", "", 422, "bad-parameter", "join", "join"},
		{"?strategy=walk", "", "", 422, "bad-parameter", "strategy", "strategy"},
		{"?holder=%zz", "", "", 422, "bad-parameter", "holder", ""},
		{"?holder=%00", "", "", 422, "bad-parameter", "holder", "holder"},
		{"?patience=5h", "", "", 422, "bad-parameter", "patience", "patience"},
		{"?wait=25h", "", "", 422, "bad-parameter", "wait", "wait"},
		{"?holder=a", "lease=1s", form, 422, "two-places", "lease", ""},
		{"?holder=a", `{"lease":"1s"}`, json, 422, "two-places", "lease", ""},
		{"", `{"lease":"1s","lease":"2s"}`, json, 422, "bad-parameter", "lease", "lease"},
		{"", `{"lease":null}`, json, 422, "bad-parameter", "lease", "lease"},
		{"", `{"lease":""}`, json, 422, "bad-parameter", "lease", "lease"},
		{"", `{"lease":{"s":1}}`, json, 422, "bad-body", "", ""},
		{"", `{"lease":"1s"} {}`, json, 422, "bad-body", "", ""},
		{"", `{"lease":"1s"`, json, 422, "bad-body", "", ""},
		{"", `["lease"]`, json, 422, "bad-body", "", ""},
		{"", `lease=1s&leas=2s`, form, 422, "bad-parameter", "leas", "lease"},
		{"", `lease: 1s`, "Content-Type: application/yaml", 415, "unsupported-media-type", "", ""},
		{"", `lease=1s`, "", 415, "unsupported-media-type", "", ""},
		{"", "reason=" + strings.Repeat("x", 70<<10), form, 413, "too-large", "", ""},
	}
	for _, b := range bad {
		v := r.call("POST", "/freeze"+b.query, b.body, headers(b.header)...).problem(b.status, b.name)
		if b.parameter != "" && v["parameter"] != b.parameter {
			t.Errorf("%+v: parameter %v", b, v["parameter"])
		}
		if b.nearest != "" && v["nearest"] != b.nearest {
			t.Errorf("%+v: nearest %v", b, v["nearest"])
		}
	}
	if st := r.call("GET", "/status?x=1", nil).problem(422, "bad-parameter"); st["parameter"] != "x" {
		t.Errorf("status?x=1 named %v", st["parameter"])
	}
	if st := r.call("GET", "/status", nil).json(); st["state"] != "unfrozen" {
		t.Errorf("refused freezes left it %v", st["state"])
	}
}

// TestFreezeRefusals: every row of the table of freezes and holds.
func TestFreezeRefusals(t *testing.T) {
	r := newRig(t, rigOptions{})
	f := r.frozen("holder=a&lease=40s&reason=first")
	rep := r.call("POST", "/freeze?holder=b", nil)
	v := rep.problem(409, "already-frozen")
	if v["freeze_id"] != f["id"] || fmt.Sprint(v["holders"]) != "[a]" || v["since"] == nil || v["expires_at"] == nil {
		t.Errorf("already-frozen says %v", v)
	}
	if ra := rep.header.Get("Retry-After"); ra != "40" && ra != "39" {
		t.Errorf("Retry-After %q", ra)
	}
	start := time.Now()
	r.call("POST", "/freeze?holder=b&wait=300ms", nil).problem(409, "already-frozen")
	if d := time.Since(start); d < 300*time.Millisecond {
		t.Errorf("wait=300ms was over after %v", d)
	}
	j := r.frozen("holder=b&join=true&lease=30s")
	if j["id"] != f["id"] || j["generation"] != f["generation"] || j["hold"] == f["hold"] {
		t.Errorf("join answered %v", j)
	}
	r.call("POST", "/thaw", nil).problem(409, "which-hold")
	r.call("POST", "/renew", nil).problem(409, "which-hold")
	r.call("POST", "/thaw?hold=99.1", nil).problem(404, "unknown-hold")
	r.call("POST", "/thaw?holder=nobody", nil).problem(404, "unknown-hold")
	r.call("POST", "/renew?holder=nobody", nil).problem(404, "unknown-hold")
	r.call("POST", "/renew?holder=b&lease=2h", nil).problem(422, "over-cap")
	r.call("POST", "/renew?holder=b&lease=0s", nil).problem(422, "bad-parameter")
	n := r.call("POST", "/renew?holder=b&lease=50s", nil).want(200).json()
	if left := time.Until(parse(t, n["hold_expires_at"])); left < 48*time.Second || n["token"] != nil {
		t.Errorf("renewed: %v left, token %v", left, n["token"])
	}
	if th := r.thawed("holder=b"); th["thawed"] != false || th["changed"] != true {
		t.Errorf("thaw of one of two holds answered %v", th)
	}
	// Forced: recorded, and its holder is told.
	if th := r.thawed("holder=a&force=true"); th["thawed"] != true {
		t.Errorf("forced thaw answered %v", th)
	}
	v = r.call("POST", "/thaw?holder=a", nil).problem(410, "freeze-lost")
	if v["hold_end"] != "forced" || v["freeze_id"] != f["id"] {
		t.Errorf("freeze-lost says %v", v)
	}
	r.call("POST", "/renew?holder=a", nil).problem(410, "freeze-lost")
}

// TestTokens: a hold made with require_token is ended and renewed by nobody
// without it.
func TestTokens(t *testing.T) {
	r := newRig(t, rigOptions{})
	f := r.frozen("holder=a&require_token=true")
	hold := f["hold"].(string)
	r.call("POST", "/thaw?hold="+hold, nil).problem(403, "not-the-holder")
	r.call("POST", "/thaw", nil).problem(403, "not-the-holder")
	r.call("POST", "/thaw?hold="+hold, nil, "Freeze-Token: wrong").problem(403, "not-the-holder")
	r.call("POST", "/renew?hold="+hold, nil).problem(403, "not-the-holder")
	token := "Freeze-Token: " + f["token"].(string)
	r.call("POST", "/renew?hold="+hold, nil, token).want(200)
	r.call("POST", "/thaw?hold="+hold, nil, token).want(200)
}

// TestLostLease: a thaw after the lease ended is 410, a bare one once.
func TestLostLease(t *testing.T) {
	r := newRig(t, rigOptions{})
	f := r.frozen("holder=a&lease=100ms")
	until(t, "the lease ends", func() bool { return r.fs.Freezer().Level() == freeze.Unfrozen })
	v := r.call("POST", "/thaw", nil).problem(410, "freeze-lost")
	if v["freeze_id"] != f["id"] || v["hold_end"] != "expired" {
		t.Errorf("bare thaw told %v", v)
	}
	if th := r.call("POST", "/thaw", nil).want(200).json(); th["changed"] != false {
		t.Errorf("told twice: %v", th)
	}
	r.call("POST", "/thaw?holder=a", nil).problem(410, "freeze-lost")
	r.call("GET", fmt.Sprintf("/freezes/%v/image", f["id"]), nil).problem(410, "freeze-ended")
}

// TestPatience: a freeze that cannot complete is rolled back and says whom it
// waited for.
func TestPatience(t *testing.T) {
	r := newRig(t, rigOptions{})
	pass, ok := r.fs.Freezer().StartWrite().Try(freeze.OpWrite, 7)
	if !ok {
		t.Fatal("the gate is closed")
	}
	rep := r.call("POST", "/freeze?holder=a&patience=200ms", nil)
	v := rep.problem(503, "freeze-timed-out")
	if w := fmt.Sprint(v["waiting_for"]); !strings.Contains(w, "write") {
		t.Errorf("waiting_for %v", w)
	}
	if rep.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	pass.Exit()
	if st := r.call("GET", "/status", nil).json(); st["state"] != "unfrozen" || st["last_freeze"].(map[string]any)["state"] != "rolled_back" {
		t.Errorf("after the roll-back: %v", st)
	}
	r.frozen("holder=a")
	r.thawed("holder=a")
}

// TestIdempotencyKey: a replay gives the hold that stands; then the truth.
func TestIdempotencyKey(t *testing.T) {
	r := newRig(t, rigOptions{})
	key := "Idempotency-Key: k1"
	one := r.call("POST", "/freeze?holder=a", nil, key).want(200).json()
	two := r.call("POST", "/freeze?holder=a", nil, key).want(200).json()
	if one["hold"] != two["hold"] || one["token"] != two["token"] || two["token"] == nil {
		t.Errorf("replay answered %v, first %v", two, one)
	}
	r.call("POST", "/freeze?holder=a&lease=20s", nil, key).problem(422, "key-reused")
	r.thawed("holder=a")
	if three := r.call("POST", "/freeze?holder=a", nil, key).want(200).json(); three["state"] != "thawed" || three["id"] != one["id"] {
		t.Errorf("replay after the thaw answered %v", three)
	}
	r.call("POST", "/freeze?holder=b&lease=50ms", nil, "Idempotency-Key: k2").want(200)
	until(t, "the lease ends", func() bool { return r.fs.Freezer().Level() == freeze.Unfrozen })
	r.call("POST", "/freeze?holder=b&lease=50ms", nil, "Idempotency-Key: k2").problem(410, "freeze-lost")
}

// TestRequesterLeaves: a freeze whose requester went before the answer is
// rolled back (R6), while it is being reached and while it waits in line.
func TestRequesterLeaves(t *testing.T) {
	r := newRig(t, rigOptions{})
	pass, ok := r.fs.Freezer().StartWrite().Try(freeze.OpWrite, 7)
	if !ok {
		t.Fatal("the gate is closed")
	}
	ctx, leave := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	go func() {
		_, err := r.try(ctx, http.DefaultClient, "POST", r.base+"/freeze?holder=ghost&patience=30s", nil)
		gone <- err
	}()
	until(t, "freezing", func() bool { return r.fs.Freezer().Level() == freeze.Write })
	leave()
	if err := <-gone; err == nil {
		t.Fatal("the cancelled request was answered")
	}
	until(t, "rolled back", func() bool { return r.fs.Freezer().Level() == freeze.Unfrozen })
	pass.Exit()
	st := r.call("GET", "/status", nil).json()
	if last := st["last_freeze"].(map[string]any); last["state"] != "rolled_back" {
		t.Errorf("last freeze %v", last)
	}

	r.frozen("holder=a")
	ctx, leave = context.WithCancel(context.Background())
	go func() {
		_, err := r.try(ctx, http.DefaultClient, "POST", r.base+"/freeze?holder=ghost&wait=30s", nil)
		gone <- err
	}()
	time.Sleep(50 * time.Millisecond) // in line, most likely; if not, the test still holds
	leave()
	<-gone
	r.thawed("holder=a")
	time.Sleep(50 * time.Millisecond)
	if st := r.call("GET", "/status", nil).json(); st["state"] != "unfrozen" {
		t.Errorf("a requester that left the line froze it: %v", st["freeze"])
	}
}

// TestFsync: one file, a part, everything; while frozen nothing is left to do.
func TestFsync(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.call("PUT", "/files/a", "hello").want(201)
	v := r.call("POST", "/fsync?path=/a", nil).want(200).json()
	if v["generation"].(float64) <= 0 {
		t.Errorf("fsync answered %v", v)
	}
	r.call("POST", "/fsync", nil).want(200)
	r.call("POST", "/fsync?ino=1&offset=4KiB&length=1MiB", nil) // a directory: any answer but a crash
	r.call("POST", "/fsync?path=/a&offset=1KiB&length=4KiB", nil).want(200)
	r.call("POST", "/fsync?path=/none", nil).problem(404, "no-such-file")
	r.call("POST", "/fsync?ino=4711", nil).problem(404, "no-such-inode")
	r.call("POST", "/fsync?path=/a&ino=2", nil).problem(422, "bad-parameter")
	r.call("POST", "/fsync?offset=1", nil).problem(422, "bad-parameter")
	r.call("POST", "/fsync?path=/../a", nil).problem(422, "bad-path")
	r.call("PUT", "/files/a", "more").want(204)
	r.frozen("holder=a")
	for _, q := range []string{"", "?path=/a"} {
		v = r.call("POST", "/fsync"+q, nil).want(200).json()
		if v["inodes"] != 0.0 || v["pages"] != 0.0 || v["bytes"] != 0.0 {
			t.Errorf("fsync%s while frozen answered %v", q, v)
		}
	}
	r.thawed("holder=a")
}

func headers(h string) []string {
	if h == "" {
		return nil
	}
	return []string{h}
}

func parse(t *testing.T, v any) time.Time {
	t.Helper()
	s, _ := v.(string)
	at, err := time.Parse(stampLayout, s)
	if err != nil {
		t.Fatalf("%v is not a time in RFC 3339 with nanoseconds in UTC: %v", v, err)
	}
	return at
}

// TestUndeliverable: a freeze whose answer cannot be delivered is taken back
// (R6): the requester is found gone after it completed, or the answer breaks.
func TestUndeliverable(t *testing.T) {
	r := newRig(t, rigOptions{})
	for name, send := range map[string]func(){
		"gone": func() {
			req := must(http.NewRequestWithContext(goneWhenFrozen{context.Background(), r}, "POST", "http://localhost/freeze?holder=h", nil))(t)
			r.srv.ServeHTTP(&brokenWriter{}, req)
		},
		"broken": func() {
			req := must(http.NewRequest("POST", "http://localhost/freeze?holder=h", nil))(t)
			w := &brokenWriter{fails: true}
			func() {
				defer func() {
					if p := recover(); p != http.ErrAbortHandler {
						t.Errorf("the connection is not broken: %v", p)
					}
				}()
				r.srv.ServeHTTP(w, req)
			}()
		},
	} {
		before := r.fs.Status().LastFreeze
		send()
		last := r.fs.Status().LastFreeze
		if r.fs.Freezer().Level() != freeze.Unfrozen || last == nil || before != nil && last.ID == before.ID || last.State != freeze.StateRolledBack {
			t.Errorf("%s: level %v, last freeze %+v", name, r.fs.Freezer().Level(), last)
		}
	}
	// The replay of an answered freeze is not taken back: somebody has it.
	f := r.call("POST", "/freeze?holder=h", nil, "Idempotency-Key: k").want(200).json()
	req := must(http.NewRequestWithContext(goneWhenFrozen{context.Background(), r}, "POST", "http://localhost/freeze?holder=h", nil))(t)
	req.Header.Set("Idempotency-Key", "k")
	r.srv.ServeHTTP(&brokenWriter{}, req)
	if th := r.thawed("hold=" + f["hold"].(string)); th["changed"] != true || th["held"] != true {
		t.Errorf("a replay that could not be delivered ended the hold: %v", th)
	}
}

// goneWhenFrozen is the context of a requester that leaves when the freeze is
// complete.
type goneWhenFrozen struct {
	context.Context
	r *rig
}

func (c goneWhenFrozen) Err() error {
	if c.r.fs.Freezer().Level() == freeze.Complete {
		return context.Canceled
	}
	return nil
}

// brokenWriter is a connection; one that fails takes headers and no bytes.
type brokenWriter struct {
	header http.Header
	fails  bool
}

func (w *brokenWriter) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}
func (w *brokenWriter) WriteHeader(int) {}
func (w *brokenWriter) Flush()          {}
func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.fails {
		return 0, fmt.Errorf("broken pipe")
	}
	return len(p), nil
}

// TestDefaultsUnderAShortCap: what a bare request leaves out fits the cap.
func TestDefaultsUnderAShortCap(t *testing.T) {
	r := newRig(t, rigOptions{leaseMax: 2 * time.Second})
	f := r.frozen("")
	until, err := time.Parse(time.RFC3339Nano, fmt.Sprint(f["hold_expires_at"]))
	if err != nil || time.Until(until) > 2*time.Second {
		t.Fatalf("a bare freeze under a cap of 2 s ends at %v (%v)", f["hold_expires_at"], err)
	}
	r.call("POST", "/thaw", nil)
}

package api

import (
	"fmt"
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

package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"permafrost/core/freeze"
	"permafrost/store"
)

// TestReadsWhileHeld: with the file system frozen and 100 callers held,
// everything that only reads answers at once, and all 100 go on at the thaw.
func TestReadsWhileHeld(t *testing.T) {
	const callers = 100
	r := newRig(t, rigOptions{})
	r.call("PUT", "/files/d/a?parents=true", "content").want(201)
	f := r.frozen("holder=h&lease=60s")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	statuses := make([]int, callers)
	for i := range callers {
		wg.Go(func() {
			rep, err := r.try(context.Background(), client, "PUT", fmt.Sprintf("%s/files/d/new%d?wait=50s", r.base, i), "x")
			if err == nil {
				statuses[i] = rep.status
			}
		})
	}
	until(t, "100 callers are held", func() bool { return r.fs.Status().Blocked == callers })
	for _, path := range []string{"/status", "/livez", "/readyz", "/metrics", "/files/", "/files/d/", "/files/d/a", "/inodes", "/inodes?dirty=true",
		"/inodes/1", "/inodes/1/history", "/mappings", "/blocked", "/blocked?limit=7", "/freezes", fmt.Sprintf("/freezes/%v", f["id"]),
		fmt.Sprintf("/freezes/%v/inodes", f["id"]), fmt.Sprintf("/freezes/%v/blocked", f["id"]), fmt.Sprintf("/freezes/%v/image", f["id"]),
		"/samples", "/openapi.json", "/problems", "/problems/frozen", "/"} {
		start := time.Now()
		rep := r.call("GET", path, nil).want(200)
		if d := time.Since(start); d > 20*time.Second { // one that waits for the thaw waits for 60
			t.Errorf("GET %s took %v while frozen", path, d)
		}
		if cc := rep.header.Get("Cache-Control"); cc != "no-store" {
			t.Errorf("GET %s: Cache-Control %q", path, cc)
		}
	}
	if st := r.call("GET", "/status", nil).json(); st["blocked_total"] != float64(callers) {
		t.Errorf("status counts %v held", st["blocked_total"])
	}
	if m := string(r.call("GET", "/metrics", nil).body); !strings.Contains(m, "permafrost_blocked 100") || !strings.Contains(m, "permafrost_frozen 1") {
		t.Error("metrics do not tell the 100 held callers")
	}
	seen := map[float64]bool{}
	for cursor := ""; ; {
		v := r.call("GET", "/blocked?limit=30"+cursor, nil).want(200).json()
		for _, b := range v["items"].([]any) {
			seen[b.(map[string]any)["id"].(float64)] = true
		}
		if v["next_cursor"] == nil {
			break
		}
		cursor = "&cursor=" + v["next_cursor"].(string)
	}
	if len(seen) != callers {
		t.Errorf("the pages of /blocked have %d callers", len(seen))
	}
	r.thawed("holder=h")
	wg.Wait()
	for i, s := range statuses {
		if s != 201 {
			t.Errorf("held caller %d ended with %d", i, s)
		}
	}
}

// TestHistory: freezes are listed newest first, filtered and paged, and each
// can be looked at.
func TestHistory(t *testing.T) {
	r := newRig(t, rigOptions{})
	var ids []float64
	for i := range 7 {
		holder := []string{"even", "odd"}[i%2]
		ids = append(ids, r.frozen("holder=" + holder)["id"].(float64))
		r.thawed("holder=" + holder)
	}
	r.flush()
	var got []float64
	for cursor := ""; ; {
		v := r.call("GET", "/freezes?limit=3"+cursor, nil).want(200).json()
		for _, it := range v["items"].([]any) {
			got = append(got, it.(map[string]any)["id"].(float64))
		}
		if v["next_cursor"] == nil {
			break
		}
		cursor = "&cursor=" + v["next_cursor"].(string)
	}
	for i, id := range got {
		if i >= len(ids) || id != ids[len(ids)-1-i] {
			t.Fatalf("listed %v of %v", got, ids)
		}
	}
	if len(got) != len(ids) {
		t.Errorf("listed %v of %v", got, ids)
	}
	// A last page that is exactly full has no next one.
	for _, list := range []string{"/freezes?limit=7", "/freezes?limit=1000", "/freezes?holder=odd&limit=3"} {
		if v := r.call("GET", list, nil).want(200).json(); v["next_cursor"] != nil {
			t.Errorf("%s: next_cursor %v", list, v["next_cursor"])
		}
	}
	r.ledger.RecordFound([]store.FoundInode{{FreezeID: 1, Ino: 1, Path: "/", FoundAt: time.Now()}, {FreezeID: 1, Ino: 1, Path: "/", FoundAt: time.Now()}})
	r.ledger.RecordBlocked([]store.Blocked{{FreezeID: 1, Gate: "write", Since: time.Now()}, {FreezeID: 1, Gate: "write", Since: time.Now()}})
	r.flush()
	for _, list := range []string{"/freezes/1/inodes", "/freezes/1/blocked", "/inodes/1/history"} {
		v := r.call("GET", list+"?limit=1", nil).want(200).json()
		if v["next_cursor"] == nil || len(v["items"].([]any)) != 1 {
			t.Fatalf("%s, one of two: %v", list, v)
		}
		v = r.call("GET", list+"?limit=1&cursor="+v["next_cursor"].(string), nil).want(200).json()
		if v["next_cursor"] != nil || len(v["items"].([]any)) != 1 {
			t.Errorf("%s, the second of two: %v", list, v)
		}
		if v = r.call("GET", list+"?limit=2", nil).want(200).json(); v["next_cursor"] != nil || len(v["items"].([]any)) != 2 {
			t.Errorf("%s, both: %v", list, v)
		}
	}
	if n := len(r.call("GET", "/freezes?holder=odd", nil).want(200).json()["items"].([]any)); n != 3 {
		t.Errorf("%d freezes of odd", n)
	}
	if n := len(r.call("GET", "/freezes?state=expired", nil).want(200).json()["items"].([]any)); n != 0 {
		t.Errorf("%d expired freezes", n)
	}
	future := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	if n := len(r.call("GET", "/freezes?since="+future, nil).want(200).json()["items"].([]any)); n != 0 {
		t.Errorf("%d freezes in the future", n)
	}
	one := r.call("GET", fmt.Sprintf("/freezes/%v", ids[0]), nil).want(200).json()
	if one["state"] != "thawed" || len(one["holds"].([]any)) != 1 || len(one["phases"].([]any)) == 0 {
		t.Errorf("freeze of the ledger: %v", one)
	}
	if h := one["holds"].([]any)[0].(map[string]any); h["end"] != "thawed" || h["holder"] != "even" {
		t.Errorf("hold of the ledger: %v", h)
	}
	for _, below := range []string{"", "/inodes", "/blocked", "/image"} {
		r.call("GET", "/freezes/4711"+below, nil).problem(404, "no-such-freeze")
	}
	r.call("GET", "/freezes?state=frosty", nil).problem(422, "bad-parameter")
	r.call("GET", "/freezes?since=yesterday", nil).problem(422, "bad-parameter")
	r.call("GET", "/inodes/4711", nil).problem(404, "no-such-inode")
	r.call("GET", "/inodes/4711/history", nil).problem(404, "no-such-inode")
	if v := r.call("GET", "/inodes?cursor=@@", nil).problem(422, "bad-parameter"); v["parameter"] != "cursor" {
		t.Errorf("a bad cursor: %v", v)
	}
	r.call("GET", "/samples?step=1ms", nil).problem(422, "bad-parameter")
	r.call("GET", "/samples?from=2030-01-01T00:00:00Z&to=2029-01-01T00:00:00Z", nil).problem(422, "bad-parameter")
}

// TestInodes: the listing and one inode.
func TestInodes(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.call("PUT", "/files/db/one?parents=true", randomBytes(100_000)).want(201)
	r.call("PUT", "/files/db/%ff", "x").want(201)
	v := r.call("GET", "/inodes?path_prefix=/db/", nil).want(200).json()
	items := v["items"].([]any)
	if len(items) != 2 {
		t.Fatalf("inodes under /db/: %v", items)
	}
	ino := items[0].(map[string]any)["ino"]
	one := r.call("GET", fmt.Sprintf("/inodes/%v", ino), nil).want(200).json()
	if one["size_bytes"] != 100_000.0 || fmt.Sprint(one["paths"]) != "[/db/one]" || len(one["extents"].([]any)) == 0 || one["dirty"] != false {
		t.Errorf("inode: %v", one)
	}
	two := items[1].(map[string]any)
	if fmt.Sprint(two["hrefs"]) != "[/files/db/%FF]" {
		t.Errorf("hrefs %v", two["hrefs"])
	}
	n := 0
	for cursor := ""; ; n++ {
		v := r.call("GET", "/inodes?limit=1"+cursor, nil).want(200).json()
		if v["next_cursor"] == nil || n > 9 {
			break
		}
		cursor = "&cursor=" + v["next_cursor"].(string)
	}
	if n < 3 || n > 4 { // root, db, two files: a full last page may be followed by an empty one
		t.Errorf("4 inodes by one took %d further pages", n)
	}
}

// TestErrorState: after a failed fence the file system is read-only, says so to
// writers and probes, and goes on reading.
func TestErrorState(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.broken = true
	r.call("PUT", "/files/a", "x").want(201)
	r.call("GET", "/readyz", nil).want(200)
	r.medium.broken.Store(true)
	if rep := r.call("PUT", "/files/b", "x"); rep.status < 500 {
		t.Errorf("a write whose commit failed was answered %d", rep.status)
	}
	until(t, "read-only", func() bool { return r.fs.Status().Degraded != nil })
	r.call("PUT", "/files/c", "x").problem(503, "read-only")
	r.call("POST", "/freeze", nil).problem(503, "read-only")
	v := r.call("GET", "/readyz", nil).problem(503, "not-ready")
	if reasons := fmt.Sprint(v["reasons"]); !strings.Contains(reasons, "read-only") {
		t.Errorf("reasons %v", reasons)
	}
	r.call("GET", "/livez", nil).want(200)
	if got := r.call("GET", "/files/a", nil).want(200); string(got.body) != "x" {
		t.Errorf("a is %q", got.body)
	}
	if st := r.call("GET", "/status", nil).want(200).json(); st["error"] == "" {
		t.Error("status does not tell the error")
	}
}

// TestStarting: before the image is mounted, health and documents answer and
// everything else says to try again.
func TestStarting(t *testing.T) {
	r := newRig(t, rigOptions{change: func(o *Options) { o.FS = nil; o.NotReady = func() []string { return nil } }})
	r.call("GET", "/livez", nil).want(200)
	r.call("GET", "/readyz", nil).problem(503, "not-ready")
	r.call("GET", "/openapi.json", nil).want(200)
	r.call("GET", "/metrics", nil).want(200)
	r.call("GET", "/", nil).want(200)
	for _, path := range []string{"/status", "/files/", "/inodes", "/freezes"} {
		if rep := r.call("GET", path, nil); rep.problem(503, "starting") == nil || rep.header.Get("Retry-After") == "" {
			t.Errorf("GET %s: no Retry-After", path)
		}
	}
	r.call("POST", "/freeze", nil).problem(503, "starting")
	r.srv.Mounted(r.fs)
	r.call("GET", "/readyz", nil).want(200)
	if r.fs.Freezer().Level() != freeze.Unfrozen {
		t.Error("a refused freeze froze it")
	}
}

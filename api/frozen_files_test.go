package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/pmem"
)

// TestFrozenWrites: 423 at once with what a script needs, or a wait.
func TestFrozenWrites(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.call("PUT", "/files/a", "old").want(201)
	r.call("PUT", "/files/d/", nil).want(201)
	f := r.frozen("holder=h&lease=50s")
	writes := []struct {
		method, path string
		body         any
		status       int // after the thaw
	}{
		{"PUT", "/files/new", "new", 201}, {"PUT", "/files/e/", nil, 201}, {"PUT", "/files/p/q/r?parents=true", "x", 201},
		{"PATCH", "/files/a?offset=3", "er", 204}, {"PATCH", "/files/a?truncate=1MiB", nil, 204},
		{"POST", "/files/d?rename_to=/d2", nil, 200}, {"DELETE", "/files/new?wait=0", nil, 204},
	}
	r.call("PATCH", "/files/none?offset=0", "x").problem(404, "no-such-file")
	for _, w := range writes {
		if strings.Contains(w.path, "new?") {
			continue // does not exist yet: 404 comes first
		}
		rep := r.call(w.method, w.path, w.body)
		v := rep.problem(423, "frozen")
		if v["freeze_id"] != f["id"] || fmt.Sprint(v["holders"]) != "[h]" || v["expires_at"] == nil {
			t.Errorf("423 says %v", v)
		}
		if ra := rep.header.Get("Retry-After"); ra != "50" && ra != "49" {
			t.Errorf("Retry-After %q", ra)
		}
	}
	start := time.Now()
	if v := r.call("PUT", "/files/new?wait=200ms", "new").problem(423, "frozen"); v["freeze_id"] != f["id"] || fmt.Sprint(v["holders"]) != "[h]" {
		t.Errorf("423 after a wait says %v", v)
	}
	if d := time.Since(start); d < 200*time.Millisecond || d > 5*time.Second {
		t.Errorf("wait=200ms took %v", d)
	}
	r.call("PUT", "/files/new?wait=2h", "new").problem(422, "bad-parameter")

	// Held: visible as such, then carried out.
	done := make(chan int, 1)
	go func() {
		rep, err := r.try(context.Background(), http.DefaultClient, "PATCH", r.base+"/files/a?offset=3&wait=30s", "er")
		if err != nil {
			done <- 0
			return
		}
		done <- rep.status
	}()
	until(t, "held", func() bool { return r.fs.Status().Blocked == 1 })
	b := r.call("GET", "/blocked", nil).want(200).json()["items"].([]any)
	if len(b) != 1 {
		t.Fatalf("blocked %v", b)
	}
	if who := b[0].(map[string]any); who["op"] != "write" || who["path"] != "/a" || who["way_in"] != "rest" || who["remote"] != "127.0.0.1" || who["gate"] != "write" {
		t.Errorf("blocked %v", who)
	}
	if got := r.call("GET", "/files/a", nil).want(200); string(got.body) != "old" {
		t.Errorf("a is %q while frozen", got.body)
	}
	r.thawed("holder=h")
	if got := <-done; got != 204 {
		t.Errorf("the held write ended with %d", got)
	}
	if got := r.call("GET", "/files/a", nil).want(200); string(got.body) != "older" {
		t.Errorf("a is %q after the thaw", got.body)
	}
	// The write that gave up after 200 ms, and this one; it may be answered
	// before its story is told.
	until(t, "two held callers in the ledger", func() bool {
		r.flush()
		return len(r.call("GET", fmt.Sprintf("/freezes/%v/blocked", f["id"]), nil).want(200).json()["items"].([]any)) == 2
	})
	for _, w := range writes {
		r.call(w.method, w.path, w.body).want(w.status)
	}
}

// TestUploadAcrossFreeze: an upload that is streaming when a freeze comes pauses
// at the gate, the image stays still meanwhile, and the upload then completes.
func TestUploadAcrossFreeze(t *testing.T) {
	r := newRig(t, rigOptions{})
	data := randomBytes(4 << 20)
	pr, pw := io.Pipe()
	done := make(chan *reply, 1)
	go func() {
		rep, _ := r.try(context.Background(), http.DefaultClient, "PUT", r.base+"/files/up", pr)
		done <- rep
	}()
	_ = must(pw.Write(data[:2<<20]))(t)
	until(t, "the first chunk is in", func() bool { return r.fs.Status().OpsTotal["write"] > 0 })
	f := r.frozen("holder=h")
	before := r.image(f["id"])
	go func() {
		_, _ = pw.Write(data[2<<20:])
		_ = pw.Close()
	}()
	until(t, "the upload is held", func() bool { return r.fs.Status().Blocked == 1 })
	if !bytes.Equal(before, r.image(f["id"])) {
		t.Error("the image changed while frozen")
	}
	r.thawed("holder=h")
	if rep := <-done; rep == nil || rep.status != 201 {
		t.Fatalf("the upload ended with %+v", rep)
	}
	if got := r.call("GET", "/files/up", nil).want(200); !bytes.Equal(got.body, data) {
		t.Error("the upload has other bytes")
	}
}

// TestDurableAnswers: what was answered is in the image that a crash at that
// moment leaves (R3).
func TestDurableAnswers(t *testing.T) {
	r := newRig(t, rigOptions{bytes: 8 << 20})
	steps := []struct {
		method, path string
		body         any
		holds        func(fs *core.FS) bool
	}{
		{"PUT", "/files/a", "one", func(fs *core.FS) bool { return content(fs, "/a") == "one" }},
		{"PUT", "/files/a", "two2", func(fs *core.FS) bool { return content(fs, "/a") == "two2" }},
		{"PATCH", "/files/a?offset=1", "WO", func(fs *core.FS) bool { return content(fs, "/a") == "tWO2" }},
		{"PATCH", "/files/a?truncate=2", nil, func(fs *core.FS) bool { return content(fs, "/a") == "tW" }},
		{"PUT", "/files/d/e/f?parents=true", "x", func(fs *core.FS) bool { return content(fs, "/d/e/f") == "x" }},
		{"POST", "/files/a?rename_to=d/b", nil, func(fs *core.FS) bool { return content(fs, "/d/b") == "tW" && content(fs, "/a") == "-" }},
		{"DELETE", "/files/d?recursive=true", nil, func(fs *core.FS) bool { return content(fs, "/d/b") == "-" }},
	}
	for _, st := range steps {
		if got := r.call(st.method, st.path, st.body); got.status >= 300 {
			t.Fatalf("%s %s: %d %s", st.method, st.path, got.status, got.body)
		}
		crash := must(pmem.CreateMemfd("crash", 8<<20, pmem.Options{}))(t)
		img := make([]byte, 8<<20)
		_ = must(r.medium.ReadAt(img, 0))(t)
		b := crash.Begin()
		check(t, b.Write(0, img))
		check(t, b.Fence())
		b.End()
		fs := must(core.Mount(crash, core.Options{}))(t)
		if !st.holds(fs) {
			t.Errorf("%s %s was answered and is not in the image", st.method, st.path)
		}
		check(t, fs.Unmount(context.Background()))
		check(t, crash.Close())
	}
}

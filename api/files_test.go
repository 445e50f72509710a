package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/core/freeze"
	"permafrost/pmem"
)

// TestFileLife: make, read, replace, patch, rename, delete.
func TestFileLife(t *testing.T) {
	r := newRig(t, rigOptions{})
	data := randomBytes(3<<20 + 123)
	rep := r.call("PUT", "/files/a.bin", data).want(201)
	if rep.header.Get("Location") != "/files/a.bin" {
		t.Errorf("Location %q", rep.header.Get("Location"))
	}
	tag := rep.header.Get("ETag")
	got := r.call("GET", "/files/a.bin", nil).want(200)
	if !bytes.Equal(got.body, data) || got.header.Get("ETag") != tag || strings.HasPrefix(tag, "W/") {
		t.Errorf("read %d bytes, ETag %q, put said %q", len(got.body), got.header.Get("ETag"), tag)
	}
	for name, want := range map[string]string{"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff",
		"Content-Disposition": "attachment; filename*=UTF-8''a.bin", "Accept-Ranges": "bytes", "Cache-Control": "no-store"} {
		if got.header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.header.Get(name), want)
		}
	}
	if csp := got.header.Get("Content-Security-Policy"); !strings.Contains(csp, "sandbox") {
		t.Errorf("Content-Security-Policy %q", csp)
	}
	head := r.call("HEAD", "/files/a.bin", nil).want(200)
	if head.header.Get("Content-Length") != fmt.Sprint(len(data)) || len(head.body) != 0 {
		t.Errorf("HEAD: %v", head.header)
	}
	part := r.call("GET", "/files/a.bin", nil, "Range: bytes=100-299").want(206)
	if !bytes.Equal(part.body, data[100:300]) {
		t.Error("a range has other bytes")
	}
	out := r.call("GET", "/files/a.bin", nil, "Range: bytes=99999999-")
	out.problem(416, "range-not-satisfiable")
	if out.header.Get("Content-Range") != fmt.Sprintf("bytes */%d", len(data)) {
		t.Errorf("Content-Range %q", out.header.Get("Content-Range"))
	}
	if r.call("GET", "/files/a.bin", nil, "If-None-Match: "+tag).status != 304 {
		t.Error("If-None-Match of the same tag is not 304")
	}
	r.call("GET", "/files/a.bin", nil, `If-Match: "other"`).problem(412, "precondition-failed")

	r.call("PUT", "/files/a.bin", "short").want(204)
	if got := r.call("GET", "/files/a.bin", nil); string(got.body) != "short" || got.header.Get("ETag") == tag {
		t.Errorf("replaced: %q, ETag %q", got.body, got.header.Get("ETag"))
	}
	r.call("PATCH", "/files/a.bin?offset=5", " and long").want(204)
	r.call("PATCH", "/files/a.bin?offset=0", "S").want(204)
	if got := r.call("GET", "/files/a.bin", nil); string(got.body) != "Short and long" {
		t.Errorf("patched: %q", got.body)
	}
	r.call("PATCH", "/files/a.bin?truncate=5", nil).want(204)
	r.call("PATCH", "/files/a.bin?offset=1KiB", "far").want(204)
	if got := r.call("GET", "/files/a.bin", nil); len(got.body) != 1027 || !bytes.Equal(got.body[5:1024], make([]byte, 1019)) {
		t.Errorf("sparse: %d bytes", len(got.body))
	}
	moved := r.call("POST", "/files/a.bin?rename_to=/b.bin", nil).want(200).json()
	if moved["name"] != "b.bin" || moved["href"] != "/files/b.bin" || moved["size_bytes"] != 1027.0 {
		t.Errorf("rename answered %v", moved)
	}
	r.call("GET", "/files/a.bin", nil).problem(404, "no-such-file")
	r.call("DELETE", "/files/b.bin", nil).want(204)
	r.call("DELETE", "/files/b.bin", nil).problem(404, "no-such-file")
}

// TestDirectories: make, list in pages, delete with all that is in them.
func TestDirectories(t *testing.T) {
	r := newRig(t, rigOptions{})
	if loc := r.call("PUT", "/files/d/", nil).want(201).header.Get("Location"); loc != "/files/d/" {
		t.Errorf("Location %q", loc)
	}
	r.call("PUT", "/files/d/", nil).want(204)
	r.call("PUT", "/files/d/", "body").problem(422, "bad-parameter")
	r.call("PUT", "/files/d/", nil, "If-None-Match: *").problem(412, "precondition-failed")
	r.call("PUT", "/files/d", "x").problem(409, "is-a-directory")
	r.call("PATCH", "/files/d?offset=0", "x").problem(409, "is-a-directory")
	r.call("PUT", "/files/x/y/z", "x").problem(409, "parent-missing")
	r.call("PUT", "/files/x/y/z?parents=true", "x").want(201)
	r.call("PUT", "/files/x/y/z/w", "x").problem(409, "not-a-directory")
	r.call("PUT", "/files/x/y/z/w/v?parents=true", "x").problem(409, "not-a-directory")
	r.call("GET", "/files/x/y/z/", nil).problem(404, "no-such-file")
	r.call("DELETE", "/files/x", nil).problem(409, "not-empty")
	want := map[string]bool{}
	for i := range 25 {
		name := fmt.Sprintf("f%02d", i)
		want[name] = true
		r.call("PUT", "/files/d/"+name, "x").want(201)
	}
	cursor, pages := "", 0
	for {
		v := r.call("GET", "/files/d/?limit=10"+cursor, nil).want(200).json()
		for _, it := range v["items"].([]any) {
			e := it.(map[string]any)
			if !want[e["name"].(string)] || e["type"] != "file" || e["size_bytes"] != 1.0 || e["mode"] != "0644" {
				t.Errorf("unexpected or repeated entry %v", e)
			}
			delete(want, e["name"].(string))
		}
		if pages++; v["next_cursor"] == nil || pages > 9 {
			break
		}
		cursor = "&cursor=" + v["next_cursor"].(string)
	}
	if len(want) != 0 || pages != 3 {
		t.Errorf("after %d pages these were missing: %v", pages, want)
	}
	r.call("GET", "/files/d?limit=0", nil).problem(422, "bad-parameter")
	r.call("GET", "/files/d?limit=1001", nil).problem(422, "bad-parameter")
	r.call("GET", "/files/d?cursor=x", nil).problem(422, "bad-parameter")
	r.call("DELETE", "/files/d?recursive=true", nil).want(204)
	r.call("DELETE", "/files/x/?recursive=true", nil).want(204)
	if v := r.call("GET", "/files/", nil).want(200).json(); len(v["items"].([]any)) != 0 {
		t.Errorf("the root still has %v", v["items"])
	}
	r.call("DELETE", "/files/", nil).problem(409, "root-directory")
	r.call("POST", "/files/?rename_to=x", nil).problem(409, "root-directory")
	r.call("PUT", "/files/", nil).problem(409, "root-directory")
}

// TestRename: refusals, replacing, and a directory into itself.
func TestRename(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.call("PUT", "/files/a", "a").want(201)
	r.call("PUT", "/files/b", "b").want(201)
	r.call("PUT", "/files/d/", nil).want(201)
	r.call("POST", "/files/a?rename_to=b", nil).problem(409, "exists")
	r.call("POST", "/files/a?rename_to=/b&replace=true", nil).want(200)
	if got := r.call("GET", "/files/b", nil); string(got.body) != "a" {
		t.Errorf("b is %q", got.body)
	}
	r.call("POST", "/files/b", nil).problem(422, "bad-parameter")
	r.call("POST", "/files/none?rename_to=x", nil).problem(404, "no-such-file")
	r.call("POST", "/files/b?rename_to=x/y", nil).problem(409, "parent-missing")
	r.call("POST", "/files/b?rename_to=../y", nil).problem(422, "bad-path")
	r.call("POST", "/files/b?rename_to=d/", nil).problem(409, "not-a-directory")
	r.call("POST", "/files/d?rename_to=d/e", nil).problem(422, "bad-parameter")
	r.call("POST", "/files/d/?rename_to=/e/", nil).want(200)
	r.call("GET", "/files/e/", nil).want(200)
}

// TestBadPaths: names that cannot be, and names that are merely strange.
func TestBadPaths(t *testing.T) {
	r := newRig(t, rigOptions{})
	long := strings.Repeat("n", 256)
	for _, path := range []string{"..", "a/../b", ".", "a//b", "/a", "a%00b", "%2e%2e", "a%2Fb", long, "a/" + long,
		strings.Repeat(strings.Repeat("d", 200)+"/", 21) + "f"} {
		for _, method := range []string{"GET", "PUT", "DELETE", "POST", "PATCH"} {
			query := map[string]string{"POST": "?rename_to=x", "PATCH": "?offset=0"}[method]
			if got := r.raw(method, "/files/"+path+query); got != 422 {
				t.Errorf("%s %.40q: status %d, want 422", method, path, got)
			}
		}
	}
	r.call("PUT", "/files/"+strings.Repeat("n", 255), "x").want(201)
	// Bytes that are not UTF-8, and every character that means something in a URL.
	for _, enc := range []string{"%ff%fe", "100%25", "a%20b%3Fc%23d%26e", "quote%27%22", "%E2%98%83", "semi%3Bcolon", "plus+plus", "%C3%28"} {
		r.call("PUT", "/files/"+enc, enc).want(201)
	}
	v := r.call("GET", "/files/", nil).want(200).json()
	for _, it := range v["items"].([]any) {
		e := it.(map[string]any)
		got := r.call("GET", e["href"].(string), nil).want(200)
		if len(e["name"].(string)) < 255 && len(got.body) == 0 {
			t.Errorf("%v is empty under its href", e)
		}
	}
	r.raw("GET", "/files/%zz")
}

// TestUploadRefusals: what an upload is refused for.
func TestUploadRefusals(t *testing.T) {
	r := newRig(t, rigOptions{bytes: 4 << 20})
	r.call("PUT", "/files/a", "a=1", "Content-Type: application/x-www-form-urlencoded").problem(415, "form-body")
	r.call("PUT", "/files/a", "a", "Content-Type: multipart/form-data; boundary=x").problem(415, "form-body")
	r.call("PATCH", "/files/a?offset=0", "a", "Content-Type: application/x-www-form-urlencoded").problem(415, "form-body")
	r.call("PUT", "/files/a", "a", "Content-Encoding: gzip").problem(415, "unsupported-media-type")
	r.call("PUT", "/files/a", "a", "Content-Range: bytes 0-0/1").problem(422, "bad-parameter")
	r.call("PUT", "/files/a", randomBytes(5<<20)).problem(413, "too-large")
	r.call("PUT", "/files/keep", randomBytes(1<<20)).want(201)
	r.call("PUT", "/files/a", randomBytes(7<<19)).problem(507, "no-space")
	r.call("PUT", "/files/a", "a").want(201)
	r.call("PUT", "/files/a", "b", "If-None-Match: *").problem(412, "precondition-failed")
	r.call("PUT", "/files/a", "b", `If-Match: "x"`).problem(412, "precondition-failed")
	r.call("PUT", "/files/none", "b", "If-Match: *").problem(412, "precondition-failed")
	tag := r.call("HEAD", "/files/a", nil).header.Get("ETag")
	r.call("PUT", "/files/a", "c", "If-Match: "+tag).want(204)
	r.call("PUT", "/files/a", "d", "If-Match: "+tag).problem(412, "precondition-failed")
	r.call("DELETE", "/files/a", nil, "If-Match: "+tag).problem(412, "precondition-failed")
	r.call("PATCH", "/files/a?offset=0", "x", "If-Match: "+tag).problem(412, "precondition-failed")
	r.call("PATCH", "/files/a", "x").problem(422, "bad-parameter")
	r.call("PATCH", "/files/a?offset=0&truncate=1", "x").problem(422, "bad-parameter")
	r.call("PATCH", "/files/a?truncate=1", "x").problem(422, "bad-parameter")
	r.call("PATCH", "/files/none?truncate=1", nil).problem(404, "no-such-file")
}

// TestNoSpaceInTheMiddle: an upload of unknown length fills the image: 507, the
// old file is whole, and the space comes back.
func TestNoSpaceInTheMiddle(t *testing.T) {
	r := newRig(t, rigOptions{bytes: 8 << 20})
	old := randomBytes(1 << 20)
	r.call("PUT", "/files/a", old).want(201)
	r.call("PUT", "/files/a", io.LimitReader(endless{}, 64<<20)).problem(507, "no-space")
	if got := r.call("GET", "/files/a", nil).want(200); !bytes.Equal(got.body, old) {
		t.Error("the old file is not whole")
	}
	v := r.call("PATCH", "/files/a?offset=0", io.LimitReader(endless{}, 64<<20)).problem(507, "no-space")
	if n := v["written_bytes"].(float64); n <= 0 || n > 8<<20 {
		t.Errorf("written_bytes %v", n)
	}
	r.call("DELETE", "/files/a", nil).want(204)
	until(t, "the space is back", func() bool { return r.call("PUT", "/files/b", old).status < 300 })
}

// TestBrokenUpload: a body that breaks off leaves the old file, with a length
// announced and without, and leaves nothing else behind.
func TestBrokenUpload(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.call("PUT", "/files/a", "old").want(201)
	for _, head := range []string{
		"PUT /files/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("n", 5000),
		"PUT /files/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n" + strings.Repeat("n", 5000) + "\r\n",
		"PATCH /files/a?offset=10 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	} {
		c := must(net.Dial("tcp", r.hosts))(t)
		_ = must(io.WriteString(c, head))(t)
		check(t, c.(*net.TCPConn).CloseWrite())
		answer := must(io.ReadAll(c))(t)
		if !bytes.Contains(answer, []byte(" 408 ")) {
			t.Errorf("answer to a broken body: %.200q", answer)
		}
		_ = c.Close()
	}
	until(t, "uploads are dropped", func() bool { return r.fs.Status().InodesTotal == 2 })
	if got := r.call("GET", "/files/a", nil).want(200); string(got.body) != "old" {
		t.Errorf("a is %d bytes after broken uploads", len(got.body))
	}
}

// TestSlowBody: a body that trickles or stops is cut off, whatever it was for,
// and a connection is not kept by a body that nobody wants.
func TestSlowBody(t *testing.T) {
	r := newRig(t, rigOptions{limits: func(l *limits) {
		l.bodyIdle, l.bodyGrace, l.drain = 150*time.Millisecond, 400*time.Millisecond, 100*time.Millisecond
	}})
	for _, path := range []string{"PUT /files/a", "PATCH /files/a?offset=0", "POST /freeze", "PUT /files/", "POST /nowhere"} {
		for _, trickle := range []bool{false, true} {
			c := must(net.Dial("tcp", r.hosts))(t)
			_ = must(io.WriteString(c, path+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nContent-Type: application/octet-stream\r\n\r\n"))(t)
			stop := make(chan struct{})
			if trickle {
				go func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(50 * time.Millisecond):
							if _, err := c.Write([]byte("x")); err != nil {
								return
							}
						}
					}
				}()
			}
			start := time.Now()
			check(t, c.SetReadDeadline(start.Add(5*time.Second)))
			_, err := io.ReadAll(c)
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("%s (trickle %v): the connection was kept for %v: %v", path, trickle, d, err)
			}
			close(stop)
			_ = c.Close()
		}
	}
	// One that moves is not: 2 seconds for 40 chunks.
	pr, pw := io.Pipe()
	go func() {
		for range 20 {
			time.Sleep(40 * time.Millisecond)
			_, _ = pw.Write(make([]byte, 64<<10))
		}
		_ = pw.Close()
	}()
	r.call("PUT", "/files/slow", pr).want(201)
	if r.fs.Freezer().Level() != freeze.Unfrozen {
		t.Error("a refused body froze the file system")
	}
}

// TestStalledReader: a client that takes nothing of an answer is cut off.
func TestStalledReader(t *testing.T) {
	r := newRig(t, rigOptions{bytes: 64 << 20, limits: func(l *limits) { l.writeIdle = 200 * time.Millisecond }})
	r.call("PUT", "/files/big", randomBytes(40<<20)).want(201)
	c := must(net.Dial("tcp", r.hosts))(t)
	defer c.Close()
	_ = must(io.WriteString(c, "GET /files/big HTTP/1.1\r\nHost: localhost\r\n\r\n"))(t)
	broken := func(m string) bool {
		return strings.Contains(m, `permafrost_http_requests_total{call="get-file",status="broken"} 1`)
	}
	until(t, "the answer is given up", func() bool { return broken(string(r.call("GET", "/metrics", nil).body)) })
	if n, err := io.Copy(io.Discard, c); n >= 40<<20 {
		t.Errorf("%d bytes came, %v", n, err)
	}
}

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

// content is a file's content, "-" if there is none.
func content(fs *core.FS, path string) string {
	a, err := fs.Resolve(context.Background(), path)
	if err != nil {
		return "-"
	}
	p := make([]byte, 100)
	n, _ := fs.ReadAt(context.Background(), a.Ino, p, 0)
	return string(p[:n])
}

// image reads the image of a freeze over HTTP.
func (r *rig) image(id any) []byte {
	r.t.Helper()
	return r.call("GET", fmt.Sprintf("/freezes/%v/image", id), nil).want(200).body
}

// raw sends a request line as it is, without a client's clean-up of the path,
// and returns the status.
func (r *rig) raw(method, target string) int {
	r.t.Helper()
	c := must(net.Dial("tcp", r.hosts))(r.t)
	defer c.Close()
	_ = must(fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", method, target))(r.t)
	answer := must(io.ReadAll(c))(r.t)
	var status int
	_, _ = fmt.Sscanf(string(answer), "HTTP/1.1 %d", &status)
	return status
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	g := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = g.Read(b)
	return b
}

// endless is a stream of bytes without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"permafrost/core"
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

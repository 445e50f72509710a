package api

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"permafrost/core/freeze"
)

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

package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"permafrost/core/freeze"
)

// TestImage: whole, in ranges, with a strong tag; counted; refused when there
// is nothing to read.
func TestImage(t *testing.T) {
	r := newRig(t, rigOptions{bytes: 8 << 20})
	r.call("PUT", "/files/a", randomBytes(1<<20)).want(201)
	r.call("GET", "/freezes/1/image", nil).problem(404, "no-such-freeze")
	r.call("GET", "/freezes/x/image", nil).problem(422, "bad-parameter")
	f := r.frozen("holder=h")
	path := fmt.Sprintf("/freezes/%v/image", f["id"])
	want := make([]byte, 8<<20)
	_ = must(r.medium.ReadAt(want, 0))(t)
	got := r.call("GET", path, nil).want(200)
	if !bytes.Equal(got.body, want) {
		t.Error("the image over HTTP has other bytes than the medium")
	}
	tag := got.header.Get("ETag")
	if !strings.HasPrefix(tag, fmt.Sprintf(`"f%v-g%v-`, f["id"], f["generation"])) {
		t.Errorf("ETag %q", tag)
	}
	if got.header.Get("Content-Length") != fmt.Sprint(8<<20) {
		t.Errorf("Content-Length %q", got.header.Get("Content-Length"))
	}
	part := r.call("GET", path, nil, "Range: bytes=4096-12287", "If-Range: "+tag).want(206)
	if !bytes.Equal(part.body, want[4096:12288]) {
		t.Error("a range has other bytes")
	}
	r.call("GET", path, nil, "Range: bytes=9999999999-").problem(416, "range-not-satisfiable")
	if head := r.call("HEAD", path, nil).want(200); head.header.Get("ETag") != tag {
		t.Errorf("HEAD: %v", head.header)
	}
	if n := r.call("GET", fmt.Sprintf("/freezes/%v", f["id"]), nil).json()["image_reads_total"]; n != 3.0 {
		t.Errorf("image_reads_total %v, want 3 GETs", n)
	}
	r.call("GET", path+"?hold=1.1", nil).problem(422, "bad-parameter")
	r.call("GET", path+"?renew=true&hold=99.9", nil).problem(404, "unknown-hold")
	r.thawed("holder=h")
	r.call("GET", path, nil).problem(410, "freeze-ended")
	r.call("HEAD", path, nil).want(410)
	f2 := r.frozen("holder=h")
	r.call("GET", path, nil).problem(410, "freeze-ended")
	if r.call("HEAD", fmt.Sprintf("/freezes/%v/image", f2["id"]), nil).header.Get("ETag") == tag {
		t.Error("two freezes share a tag")
	}
	r.thawed("holder=h")
}

// TestImageInSmallRanges: a reader of very many small ranges is a few events,
// which say who it was and how much it read.
func TestImageInSmallRanges(t *testing.T) {
	r := newRig(t, rigOptions{})
	var mu sync.Mutex
	told := map[string][2]uint64{} // reader -> requests, bytes
	events := 0
	r.observed = func(e *freeze.Event) {
		mu.Lock()
		defer mu.Unlock()
		if u := e.Reads; u != nil {
			events++
			told[u.Reader] = [2]uint64{told[u.Reader][0] + u.Requests, told[u.Reader][1] + u.Bytes}
		}
	}
	f := r.frozen("holder=h")
	path := fmt.Sprintf("/freezes/%v/image", f["id"])
	begun := time.Now()
	const requests = 1000
	for i := range requests {
		r.call("GET", path, nil, fmt.Sprintf("Range: bytes=%d-%d", i*512, i*512+511)).want(206)
	}
	r.callBy(r.local, "GET", "http://localhost"+path, nil, "Range: bytes=0-99").want(206)
	r.call("HEAD", path, nil).want(200) // reads nothing
	r.thawed("holder=h")
	uid := fmt.Sprint("uid:", os.Getuid())
	until(t, "all is told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return told["127.0.0.1"] == [2]uint64{requests, requests * 512} && told[uid] == [2]uint64{1, 100}
	})
	if atMost := 5 + int(time.Since(begun)/(2*time.Second)); events > atMost {
		t.Errorf("%d events of %d reads, want at most %d", events, requests, atMost)
	}
}

// TestImageStoppedReader: a client that stops reading in the middle, then a
// thaw and new stores: it gets old bytes or a broken connection, never new
// bytes, and never what looks like a whole image.
func TestImageStoppedReader(t *testing.T) {
	const size = 64 << 20
	r := newRig(t, rigOptions{bytes: size})
	fill := bytes.Repeat([]byte("old-old-"), 6<<20)
	r.call("PUT", "/files/big", fill).want(201)
	for _, thaw := range []string{"holder=h", "holder=h&force=true"} {
		f := r.frozen("holder=h&lease=60s")
		want := make([]byte, size)
		_ = must(r.medium.ReadAt(want, 0))(t)
		c := must(net.Dial("tcp", r.hosts))(t)
		check(t, c.(*net.TCPConn).SetReadBuffer(64<<10))
		_ = must(fmt.Fprintf(c, "GET /freezes/%v/image HTTP/1.1\r\nHost: localhost\r\n\r\n", f["id"]))(t)
		br := bufio.NewReader(c)
		resp := must(http.ReadResponse(br, nil))(t)
		if resp.StatusCode != 200 || resp.ContentLength != size {
			t.Fatalf("status %d, length %d", resp.StatusCode, resp.ContentLength)
		}
		got := make([]byte, size)
		n := must(io.ReadFull(resp.Body, got[:1<<20]))(t)
		time.Sleep(100 * time.Millisecond) // the sender fills what buffers there are and stands
		r.thawed(thaw)
		r.call("PATCH", "/files/big?offset=0", bytes.Repeat([]byte("NEW+NEW+"), 6<<20)).want(204)
		check(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
		m, err := io.ReadFull(resp.Body, got[n:])
		n += m
		if !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("thaw %s: of %d bytes some are newer than the freeze", thaw, n)
		}
		if err == nil || n == size {
			t.Fatalf("thaw %s: the whole image was delivered past the thaw", thaw)
		}
		_ = c.Close()
		r.call("PATCH", "/files/big?offset=0", fill).want(204)
	}
}

// TestImageBreaksForClients: an ordinary client fails when the thaw comes in
// the middle, by an error of the transfer and not by a short file.
func TestImageBreaksForClients(t *testing.T) {
	r := newRig(t, rigOptions{bytes: 64 << 20})
	f := r.frozen("holder=h")
	req := must(http.NewRequest("GET", fmt.Sprintf("%s/freezes/%v/image", r.base, f["id"]), nil))(t)
	resp := must(http.DefaultClient.Do(req))(t)
	defer resp.Body.Close()
	_ = must(io.CopyN(io.Discard, resp.Body, 1<<20))(t)
	time.Sleep(50 * time.Millisecond)
	r.thawed("holder=h")
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil {
		t.Errorf("the client read %d further bytes without an error", n)
	}
}

// TestImageRenews: reading with renew=true keeps the hold beyond its lease;
// without it the lease ends and breaks the read.
func TestImageRenews(t *testing.T) {
	r := newRig(t, rigOptions{bytes: 64 << 20})
	read := func(query string) (took time.Duration, err error) {
		f := r.frozen("holder=h&lease=400ms")
		start := time.Now()
		req := must(http.NewRequestWithContext(context.Background(), "GET", fmt.Sprintf("%s/freezes/%v/image%s", r.base, f["id"], query), nil))(t)
		resp := must(http.DefaultClient.Do(req))(t)
		defer resp.Body.Close()
		for err == nil {
			_, err = io.CopyN(io.Discard, resp.Body, 2<<20)
			time.Sleep(30 * time.Millisecond)
		}
		if err == io.EOF {
			err = nil
		}
		return time.Since(start), err
	}
	took, err := read("?renew=true")
	if err != nil {
		t.Errorf("with renew=true the read failed after %v: %v", took, err)
	}
	if took < 600*time.Millisecond {
		t.Errorf("the read took only %v: it proves nothing", took)
	}
	r.call("POST", "/thaw?holder=h", nil)
	until(t, "thawed", func() bool { return r.fs.Freezer().Level() == freeze.Unfrozen })
	if took, err := read(""); err == nil {
		t.Errorf("without renew the read of %v outlived its lease", took)
	}
}

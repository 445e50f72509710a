package api

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/pprof"
	"testing"
	"time"

	"permafrost/core/freeze"
)

// flood sends a request with a body of n bytes that goes on after the socket's
// buffers are full, and returns when the sender stands.
func flood(t *testing.T, network, addr, request string, n int) net.Conn {
	t.Helper()
	conn := must(net.Dial(network, addr))(t)
	if _, err := fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", request, n); err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 256<<10)
	for sent := 0; sent < n; {
		check(t, conn.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
		m, err := conn.Write(chunk[:min(len(chunk), n-sent)])
		sent += m
		if err != nil {
			if sent < 128<<10 {
				t.Fatalf("only %d bytes were taken", sent)
			}
			return conn
		}
	}
	return conn
}

// thawAtEnd lets whom a failed test has left held go, for the rig to end.
func (r *rig) thawAtEnd() {
	r.t.Cleanup(func() { _, _ = r.fs.Freezer().Thaw(freeze.ThawRequest{Force: true}) })
}

// TestHeldUploaderLeaves: a requester that leaves while its upload is held with
// bytes that nobody has read, few or more than all buffers take, is held no
// more, on every kind of connection, and what it sent changes nothing.
func TestHeldUploaderLeaves(t *testing.T) {
	r := newRig(t, rigOptions{bytes: 96 << 20})
	r.thawAtEnd()
	r.call("PUT", "/files/old", "old").want(201)
	r.frozen("holder=a&lease=5m")
	for _, network := range []string{"unix", "tcp"} {
		addr := map[string]string{"unix": r.sock, "tcp": r.hosts}[network]
		for request, bytes := range map[string]int{"PUT /files/few?wait=5m": 200 << 10, "PUT /files/many?wait=5m": 64 << 20, "PATCH /files/old?offset=0&wait=5m": 64 << 20} {
			conn := flood(t, network, addr, request, bytes)
			until(t, request+" is held", func() bool { return r.fs.Freezer().BlockedCount() == 1 })
			if bytes == 64<<20 {
				time.Sleep(peerPoll + peerPoll/4) // one that stays is not taken for one that left
			}
			if r.fs.Freezer().BlockedCount() != 1 {
				t.Fatalf("%s, %s: held no more though the requester waits", network, request)
			}
			check(t, conn.Close())
			gone := time.Now()
			until(t, request+" is held no more", func() bool { return r.fs.Freezer().BlockedCount() == 0 })
			t.Logf("%s, %s, %d bytes: noticed after %v", network, request, bytes, time.Since(gone))
			if d := time.Since(gone); d > 5*time.Second {
				t.Errorf("%s, %s: noticed after %v", network, request, d)
			}
		}
	}
	r.thawed("holder=a")
	r.call("GET", "/files/few", nil).want(http.StatusNotFound)
	r.call("GET", "/files/many", nil).want(http.StatusNotFound)
	if got := string(r.call("GET", "/files/old", nil).want(200).body); got != "old" {
		t.Errorf("the file holds %q", got)
	}
}

// TestPausedUploaderLeaves: an upload that pauses in its middle and whose
// requester leaves gives its space back after the thaw.
func TestPausedUploaderLeaves(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		r := newRig(t, rigOptions{bytes: 96 << 20})
		r.thawAtEnd()
		addr := map[string]string{"unix": r.sock, "tcp": r.hosts}[network]
		before := r.fs.Status().Space.Used
		conn := must(net.Dial(network, addr))(t)
		_ = must(fmt.Fprintf(conn, "PUT /files/big HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", 64<<20))(t)
		_ = must(conn.Write(make([]byte, 8<<20)))(t)
		until(t, "some of it is in the image", func() bool { return r.fs.Status().Space.Used > before+4<<20 })
		r.frozen("holder=a&lease=5m")
		go func() { _, _ = io.Copy(conn, zeros{}) }()
		held := func() (n int) { // the reaper, which is to free what was uploaded, is held too
			for _, b := range r.fs.Blocked() {
				if b.WayIn == "rest" {
					n++
				}
			}
			return n
		}
		until(t, "the upload pauses", func() bool { return held() == 1 })
		time.Sleep(100 * time.Millisecond) // the buffers fill
		check(t, conn.Close())
		until(t, "it is held no more", func() bool { return held() == 0 })
		r.thawed("holder=a")
		until(t, "its space is free again", func() bool {
			st := r.fs.Status()
			return st.PendingOrphans == 0 && st.Space.Used < before+1<<20
		})
		r.call("GET", "/files/big", nil).want(http.StatusNotFound)
	}
}

// zeros is a body without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestManyHeldUploadersLeave: watching hundreds of connections takes one
// goroutine beside their own and no threads, and all who leave are noticed.
func TestManyHeldUploadersLeave(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.thawAtEnd()
	r.frozen("holder=a&lease=5m")
	const n = 400
	threads := pprof.Lookup("threadcreate").Count()
	conns := make([]net.Conn, n)
	for i := range conns {
		network, addr := "unix", r.sock
		if i%2 == 0 {
			network, addr = "tcp", r.hosts
		}
		conns[i] = must(net.Dial(network, addr))(t)
		_ = must(fmt.Fprintf(conns[i], "PUT /files/f%d?wait=5m HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", i, 1<<20))(t)
		_ = must(conns[i].Write(make([]byte, 100<<10)))(t)
	}
	until(t, "all are held", func() bool { return r.fs.Freezer().BlockedCount() == n })
	if more := pprof.Lookup("threadcreate").Count() - threads; more > 40 {
		t.Errorf("%d connections took %d threads", n, more)
	}
	for _, c := range conns[:n/2] {
		check(t, c.Close())
	}
	until(t, "half of them have left", func() bool { return r.fs.Freezer().BlockedCount() == n/2 })
	for _, c := range conns[n/2:] {
		check(t, c.Close())
	}
	until(t, "nobody is held", func() bool { return r.fs.Freezer().BlockedCount() == 0 })
	until(t, "nobody is watched", func() bool {
		r.srv.hangups.mu.Lock()
		defer r.srv.hangups.mu.Unlock()
		return len(r.srv.hangups.conns) == 0 && r.srv.hangups.epoll == nil
	})
	r.thawed("holder=a")
}

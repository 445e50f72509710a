package api

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// fresh calls on a connection of its own.
func (r *rig) fresh(network, method, path string) *reply {
	r.t.Helper()
	addr := map[string]string{"unix": r.sock, "tcp": r.hosts}[network]
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}}}
	return r.callBy(c, method, "http://localhost"+path, nil)
}

// TestTooManyConnections: held uploads that take every connection do not keep
// out the thaw that they wait for; others are told, and served again afterwards.
func TestTooManyConnections(t *testing.T) {
	const limit = 20
	r := newRig(t, rigOptions{change: func(o *Options) { o.MaxConnections = limit }})
	r.thawAtEnd()
	r.fresh("unix", "POST", "/freeze?holder=a&lease=5m").want(200)
	until(t, "the requester's connection is closed", func() bool { return r.srv.conns.count() == 0 })
	var held []net.Conn
	for i := range limit {
		conn := must(net.Dial("tcp", r.hosts))(t)
		_ = must(fmt.Fprintf(conn, "PUT /files/f%d?wait=5m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", i))(t)
		held = append(held, conn)
	}
	until(t, "all are held", func() bool { return r.fs.Freezer().BlockedCount() == limit })
	for _, network := range []string{"tcp", "unix"} {
		for _, path := range []string{"/files/", "/events", "/freezes", "/", "/nowhere"} {
			got := r.fresh(network, "GET", path)
			if v := got.problem(503, "too-many-connections"); v["connections_max"] != float64(limit) || got.header.Get("Retry-After") != "1" {
				t.Errorf("%s %s: %s, %v", network, path, got.body, got.header)
			}
		}
		r.fresh(network, "PUT", "/files/new").problem(503, "too-many-connections")
		for _, path := range []string{"/status", "/livez", "/readyz"} {
			r.fresh(network, "GET", path).want(200)
		}
		r.fresh(network, "POST", "/renew?holder=a&lease=5m").want(200)
	}
	until(t, "the refused have gone", func() bool { return r.srv.conns.count() == limit })
	metrics := string(r.fresh("unix", "GET", "/metrics").want(200).body)
	for _, line := range []string{"permafrost_http_connections_max 20\n", "permafrost_http_connections 21\n", "permafrost_http_connections_refused_total 12\n"} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics lack %q", line)
		}
	}
	testReserveTaken(t, r)
	r.fresh("tcp", "POST", "/thaw?holder=a").want(200)
	for i, conn := range held {
		check(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
		resp := must(http.ReadResponse(bufio.NewReader(conn), nil))(t)
		if resp.StatusCode != 201 {
			t.Errorf("upload %d: status %d", i, resp.StatusCode)
		}
		check(t, resp.Body.Close())
		check(t, conn.Close())
	}
	until(t, "all connections are closed", func() bool { return r.srv.conns.count() == 0 })
	r.fresh("tcp", "GET", "/files/").want(200)
}

// testReserveTaken: connections that say nothing take what is open to TCP. The
// next ones wait, and are served when one is closed; the Unix socket goes on.
func testReserveTaken(t *testing.T, r *rig) {
	t.Helper()
	var silent []net.Conn
	for range reserve {
		silent = append(silent, must(net.Dial("tcp", r.hosts))(t))
	}
	full := r.srv.conns.limit + reserve
	until(t, "the reserve is taken", func() bool { return r.srv.conns.count() == full })
	late := must(net.Dial("tcp", r.hosts))(t)
	_ = must(fmt.Fprint(late, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"))(t)
	check(t, late.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	if n, err := late.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("a connection beyond the reserve: %d bytes, %v; it should wait", n, err)
	}
	begun := time.Now() // the silent ones are cut off after 10 s
	r.fresh("unix", "GET", "/livez").want(200)
	r.fresh("unix", "POST", "/freeze?holder=b&join=true").want(200)
	r.fresh("unix", "POST", "/thaw?holder=b").want(200)
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("the Unix socket answered after %v: it had no place of its own", d)
	}
	if n := r.srv.conns.count(); n > full+1 {
		t.Errorf("%d connections are open, at most %d may be", n, full)
	}
	check(t, silent[0].Close())
	check(t, late.SetReadDeadline(time.Now().Add(20*time.Second)))
	resp := must(http.ReadResponse(bufio.NewReader(late), nil))(t)
	if resp.StatusCode != 200 || !resp.Close {
		t.Errorf("the one that waited: status %d, close %v", resp.StatusCode, resp.Close)
	}
	for _, c := range append(silent[1:], late) {
		_ = c.Close()
	}
	until(t, "the reserve is free", func() bool { return r.srv.conns.count() == r.srv.conns.limit })
}

// TestFullListenerCloses: a listener that waits for a place ends when it is
// closed, and so does the connection that it had in hand.
func TestFullListenerCloses(t *testing.T) {
	s := must(New(Options{MaxConnections: 16}))(t)
	inner := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	l := s.Limit(inner)
	for range 16 + reserve {
		_ = must(net.Dial("tcp", inner.Addr().String()))(t)
		conn := must(l.Accept())(t)
		t.Cleanup(func() { _ = conn.Close() })
	}
	client := must(net.Dial("tcp", inner.Addr().String()))(t)
	accepted := make(chan error)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	select {
	case err := <-accepted:
		t.Fatalf("accepted beyond the bound: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	check(t, l.Close())
	if err := <-accepted; err == nil {
		t.Error("a closed listener accepts")
	}
	check(t, client.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := client.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the connection in hand: %v", err)
	}
}

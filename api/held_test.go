package api

import (
	"fmt"
	"net"
	"net/http"
	"testing"
)

// TestHeldRequesterLeaves: a requester that is held with a body under way is
// not held any more once it has left, and what it sent changes nothing. (The
// server watches a connection only when the body has been read.)
func TestHeldRequesterLeaves(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.call("PUT", "/files/old", "old").want(201)
	r.frozen("holder=a&lease=5m")
	sends := map[string]string{
		"upload":         "PUT /files/new?wait=5m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
		"write in place": "PATCH /files/old?offset=0&wait=5m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
		"in chunks":      "PUT /files/new?wait=5m HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"without a body": "DELETE /files/old?wait=5m HTTP/1.1\r\nHost: localhost\r\n\r\n",
	}
	for name, send := range sends {
		conn := must(net.Dial("unix", r.sock))(t)
		if _, err := fmt.Fprint(conn, send); err != nil {
			t.Fatal(err)
		}
		until(t, name+" is held", func() bool { return r.fs.Freezer().BlockedCount() == 1 })
		check(t, conn.Close())
		until(t, name+" is held no more", func() bool { return r.fs.Freezer().BlockedCount() == 0 })
	}
	r.thawed("holder=a")
	r.call("GET", "/files/new", nil).want(http.StatusNotFound)
	if got := string(r.call("GET", "/files/old", nil).want(200).body); got != "old" {
		t.Errorf("the file holds %q", got)
	}
}

package api

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultMaxConnections bounds the connections open at once, all listeners
// together.
const DefaultMaxConnections = 1024

// Beyond the bound there is a reserve, on which one request is answered before
// its connection is closed: a call of urgent, and 503 to any other. Without it
// the held uploads of a freeze could keep out the thaw that they wait for. The
// last of the reserve is for the Unix socket, so that nobody on TCP can keep out
// the operator. When even the reserve is taken, connections wait to be accepted.
const (
	reserve     = 16
	unixReserve = 48
)

// urgent are the calls that are answered on the reserve. Immutable.
var urgent = map[string]bool{"/freeze": true, "/thaw": true, "/renew": true, "/status": true, "/livez": true, "/readyz": true, "/metrics": true}

// connections counts what is open.
type connections struct {
	limit   int           // immutable
	refused atomic.Uint64 // requests answered 503

	mu   sync.Mutex
	less sync.Cond         // of mu: a connection was closed, or a listener
	open map[net.Conn]bool // guarded by mu; true: of the reserve
}

func (c *connections) init(limit int) {
	c.limit, c.open, c.less.L = limit, map[net.Conn]bool{}, &c.mu
}

// count is how many are open, the reserve included.
func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// state is http.Server.ConnState.
func (c *connections) state(conn net.Conn, s http.ConnState) {
	if s != http.StateClosed && s != http.StateHijacked {
		return
	}
	c.mu.Lock()
	delete(c.open, conn)
	c.mu.Unlock()
	c.less.Broadcast()
}

// Limit puts a listener under the bound on open connections, which all listeners
// of the server share. It must be served by HTTPServer.
func (s *Server) Limit(l net.Listener) net.Listener {
	most := s.conns.limit + reserve
	if l.Addr().Network() == "unix" {
		most += unixReserve
	}
	return &limitedListener{Listener: l, conns: &s.conns, most: most}
}

// limitedListener is a listener that gives out connections only while fewer than
// most are open.
type limitedListener struct {
	net.Listener
	conns  *connections // immutable
	most   int          // immutable
	closed bool         // guarded by conns.mu
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := l.conns
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.open) >= l.most && !l.closed {
		c.less.Wait()
	}
	if l.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	c.open[conn] = len(c.open) >= c.limit
	return conn, nil
}

// Close implements net.Listener.
func (l *limitedListener) Close() error {
	l.conns.mu.Lock()
	l.closed = true
	l.conns.mu.Unlock()
	l.conns.less.Broadcast()
	return l.Listener.Close()
}

type reservedKey struct{}

// markReserved notes in a connection's context that it is of the reserve.
func (c *connections) markReserved(ctx context.Context, conn net.Conn) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[conn] {
		return context.WithValue(ctx, reservedKey{}, true)
	}
	return ctx
}

// withReserve answers urgent calls alone on connections of the reserve, and
// keeps none for a further request while the bound is reached.
func (s *Server) withReserve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reserved := r.Context().Value(reservedKey{}) != nil
		if reserved || s.conns.count() >= s.conns.limit {
			w.Header().Set("Connection", "close")
		}
		if reserved && !urgent[r.URL.Path] {
			s.conns.refused.Add(1)
			p := problem(kindTooManyConns, "%d connections are open; close some, or try again. Freezing, thawing and GET /status go on", s.conns.limit).
				with("connections_max", s.conns.limit)
			p.Retry = time.Second
			s.fail(w, r, p)
			return
		}
		next.ServeHTTP(w, r)
	})
}

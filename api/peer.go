package api

import (
	"context"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/freeze"
)

// peer is who is at the other end of a connection. Immutable.
type peer struct {
	local bool // a Unix socket
	known bool // pid, uid and comm were found
	pid   int
	uid   uint32
	gid   uint32
	comm  string
}

type (
	peerKey struct{}
	connKey struct{}
)

// ConnContext records who opened a connection. It belongs in the http.Server
// (see HTTPServer): once a connection, not once a request.
func (s *Server) ConnContext(ctx context.Context, c net.Conn) context.Context {
	ctx = s.conns.markReserved(context.WithValue(ctx, connKey{}, c), c)
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	p := peer{local: true}
	if raw, err := uc.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				p.known, p.pid, p.uid, p.gid = true, int(cred.Pid), cred.Uid, cred.Gid
			}
		})
	}
	if p.known {
		// comm and nothing else of /proc/PID: cmdline, environ and maps take a
		// lock that a held mapped store may keep until the thaw.
		if b, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/comm"); err == nil {
			p.comm = strings.TrimSpace(string(b))
		}
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// caller is who made a request.
type caller struct {
	peer
	remote string // address without the port; "" on a Unix socket
}

func callerOf(r *http.Request) caller {
	if p, ok := r.Context().Value(peerKey{}).(peer); ok {
		return caller{peer: p}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return caller{remote: host}
}

// name is the caller as a default holder: its uid, or its address.
func (c caller) name() string {
	switch {
	case c.known:
		return "uid:" + strconv.FormatUint(uint64(c.uid), 10)
	case c.local:
		return "local"
	case c.remote == "":
		return "unknown"
	}
	return c.remote
}

// as puts the caller into the context of a file operation, so that /blocked can
// name it while it is held. A caller that may not wait is refused at once.
func (c caller) as(ctx context.Context, op, path string, mayWait bool) context.Context {
	ctx = core.WithCaller(ctx, freeze.Waiter{Op: op, Path: path, WayIn: "rest",
		PID: c.pid, Comm: c.comm, UID: c.uid, Remote: c.remote})
	if !mayWait {
		ctx = core.TryOnly(ctx)
	}
	return ctx
}

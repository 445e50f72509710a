package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core"
)

// errHungUp is why the wait of a requester who left has ended.
var errHungUp = errors.New("the requester left")

// untilHangup is the context of a change, which ends when the requester leaves
// while the change is held at the gate. The server itself notices that only when
// it has read the whole body; an upload that pauses is not read.
func (s *Server) untilHangup(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(r.Context())
	stop := func() { cancel(nil) }
	conn, ok := r.Context().Value(connKey{}).(net.Conn)
	if !ok {
		return ctx, stop
	}
	return core.WhenHeld(ctx, func() func() { return s.hangups.watch(conn, func() { cancel(errHungUp) }) }), stop
}

// hangups watches the connections of held requests for peers that leave: one
// goroutine for all of them, which lives while there are any, and no thread.
//
// The kernel reports a peer's shutdown as EPOLLRDHUP though data is unread. Of a
// TCP peer that leaves with more to send than our receive buffer takes it cannot:
// the FIN queues behind the data in the peer's own socket. If that socket is on
// this machine its state is asked for, every peerPoll.
type hangups struct {
	mu    sync.Mutex
	conns map[int32]*watched // guarded by mu: by the number that epoll gives back
	last  int32              // guarded by mu: newest number
	epoll *os.File           // guarded by mu; nil while nothing is watched
}

// watched is the connection of one held request. Immutable.
type watched struct {
	conn net.Conn
	gone func()
}

// peerPoll is how often the state of TCP peers is asked for.
const peerPoll = time.Second

// watch has gone called, on another goroutine, when the peer of conn leaves; at
// once if it has left. stop ends that, but may come too late. A connection that
// cannot be watched is not.
func (h *hangups) watch(conn net.Conn, gone func()) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.epoll == nil {
		epoll, err := newEpoll()
		if err != nil {
			return func() {} // no descriptor left: it is noticed at the thaw
		}
		h.epoll, h.conns = epoll, map[int32]*watched{}
		go h.run(epoll)
	}
	h.last++
	n := h.last
	// If this fails the peer's state may still be asked for.
	_ = control(conn, h.epoll, func(fd, epoll int) error {
		return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: n})
	})
	h.conns[n] = &watched{conn, gone}
	return func() { h.forget(n) }
}

// forget ends the watching of one connection, and the goroutine with the last.
func (h *hangups) forget(n int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.conns[n]
	if w == nil {
		return
	}
	delete(h.conns, n)
	// A connection that was closed has left the set by itself.
	_ = control(w.conn, h.epoll, func(fd, epoll int) error { return unix.EpollCtl(epoll, unix.EPOLL_CTL_DEL, fd, nil) })
	if len(h.conns) == 0 {
		_ = h.epoll.SetReadDeadline(time.Unix(1, 0)) // wakes run
		h.epoll = nil
	}
}

// run waits for peers that leave until its set is given up.
func (h *hangups) run(epoll *os.File) {
	defer epoll.Close()
	peers := peerStates{fd: -1}
	defer peers.close()
	due := time.Now().Add(peerPoll)
	for h.extend(epoll, due) {
		left := epollWait(epoll)
		if !time.Now().Before(due) {
			left = append(left, h.leftBehind(&peers)...)
			due = time.Now().Add(peerPoll)
		}
		for _, n := range left {
			h.mu.Lock()
			w := h.conns[n]
			if h.epoll != epoll {
				w = nil
			}
			h.mu.Unlock()
			if w != nil {
				w.gone()
			}
		}
	}
}

// extend sets the deadline of the next wait; false: the set was given up.
func (h *hangups) extend(epoll *os.File, due time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.epoll == epoll && epoll.SetReadDeadline(due) == nil
}

// leftBehind are the TCP connections whose peers have closed their end.
func (h *hangups) leftBehind(peers *peerStates) []int32 {
	h.mu.Lock()
	tcp := map[int32]net.Conn{}
	for n, w := range h.conns {
		if _, ok := w.conn.(*net.TCPConn); ok {
			tcp[n] = w.conn
		}
	}
	h.mu.Unlock()
	var left []int32
	for n, c := range tcp {
		if peers.closing(c.RemoteAddr(), c.LocalAddr()) {
			left = append(left, n)
		}
	}
	return left
}

// newEpoll makes a set that the runtime's own poller waits for.
func newEpoll() (*os.File, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "epoll"), nil
}

// epollWait waits for events until the file's deadline and returns the numbers
// they carry.
func epollWait(epoll *os.File) (numbers []int32) {
	raw, err := epoll.SyscallConn()
	if err != nil {
		return nil
	}
	var events [64]unix.EpollEvent
	_ = raw.Read(func(fd uintptr) bool {
		n, err := unix.EpollWait(int(fd), events[:], 0)
		for _, e := range events[:max(n, 0)] {
			numbers = append(numbers, e.Fd)
		}
		return n > 0 || err != nil && err != unix.EINTR
	})
	return numbers
}

// control calls f with the descriptors of a connection and a set.
func control(conn net.Conn, epoll *os.File, f func(fd, epoll int) error) error {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	re, err := epoll.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(rc.Control(func(fd uintptr) {
		err = re.Control(func(epoll uintptr) { err = f(int(fd), int(epoll)) })
	}), err)
}

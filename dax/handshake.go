package dax

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/dax/uffd"
	"permafrost/dax/wire"
)

// greet brings a new connection to being served.
func (s *Server) greet(conn *wire.Conn) {
	stop := context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	defer stop()
	c, err := s.handshake(conn)
	if err != nil {
		var e *wire.Error
		if errors.As(err, &e) {
			_ = conn.Send(wire.Pack(e, 0)) // if it cannot be told, it has left
			s.log.Warn("attach: refused", "reason", e.Text)
		} else {
			s.explain(conn, err)
		}
		_ = conn.Close()
		return
	}
	c.serveConn(conn)
}

// peer is who is at the other end.
type peer struct {
	proc    core.Process
	started uint64
	pidfd   int
}

// identifyPeer asks the kernel who connected.
func (s *Server) identifyPeer(conn *wire.Conn) (*peer, error) {
	raw, err := conn.Unix().SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return nil, fmt.Errorf("attach: credentials of the peer: %w", errors.Join(e, err))
	}
	if !s.admits(cred.Uid) {
		return nil, refuse(wire.CodeRefused, unix.EACCES,
			"user %d may not attach: holding the image's descriptor is holding all of it, so the operator names who may (serve --attach-uid %d); the REST interface is open to you", cred.Uid, cred.Uid)
	}
	if cred.Pid <= 0 {
		return nil, refuse(wire.CodeRefused, unix.EACCES,
			"a process of another pid namespace cannot be followed and may not attach: run it in the server's pid namespace (docker run --pid=host)")
	}
	p := &peer{proc: core.Process{PID: int(cred.Pid), UID: cred.Uid, Comm: commOf(int(cred.Pid))}}
	if p.pidfd, err = peerPidfd(raw, p.proc.PID); err == nil {
		p.started, err = startOf(p.proc.PID)
	}
	if err != nil {
		return nil, fmt.Errorf("attach: process %d: %w", p.proc.PID, err)
	}
	return p, nil
}

func (s *Server) admits(uid uint32) bool {
	if int(uid) == os.Geteuid() {
		return true
	}
	for _, u := range s.opt.UIDs {
		if u == uid {
			return true
		}
	}
	return false
}

// handshake checks the peer, takes its descriptor, and enters it.
func (s *Server) handshake(conn *wire.Conn) (*client, error) {
	who, err := s.identifyPeer(conn)
	if err != nil {
		return nil, err
	}
	owned := false
	defer func() {
		if !owned {
			_ = unix.Close(who.pidfd)
		}
	}()
	f, err := conn.Receive(greetLimit)
	if err != nil {
		return nil, err
	}
	f.CloseFDs()
	var h wire.Hello
	if f.Type != wire.TypeHello {
		return nil, fmt.Errorf("%w: a connection begins with hello, not %s", wire.ErrProtocol, f.Type)
	}
	if err := wire.Unpack(f, &h); err != nil {
		return nil, err
	}
	if h.Version != wire.Version {
		return nil, refuse(wire.CodeProtocol, unix.EPROTO, "protocol version %d is not spoken here, only %d", h.Version, wire.Version)
	}
	if s.unavailable != nil {
		return nil, refuse(wire.CodeUnsupported, unix.EOPNOTSUPP, "%v", s.unavailable)
	}
	if c := s.resume(conn, &h, who); c != nil {
		return c, s.welcome(conn, f.Seq, c.id, h.Flags, wire.WelcomeResumed)
	}
	if err := s.reserve(); err != nil {
		return nil, err
	}
	defer s.unreserve()
	var id wire.ClientID
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	if err := s.welcome(conn, f.Seq, id, h.Flags, 0); err != nil {
		return nil, err
	}
	fd, number, err := takeUffd(conn)
	if err != nil {
		return nil, err
	}
	c := s.newClient(id, who.proc, who.started)
	c.conn = conn
	owned = true
	s.enter(c, fd, number, who.pidfd)
	if err := c.keepRecord(nil); err != nil {
		c.disconnect(nil) // with nothing mapped, it is over
		return nil, err
	}
	return c, nil
}

// takeUffd receives the client's descriptor, makes it ready and confirms it.
func takeUffd(conn *wire.Conn) (*uffd.FD, int, error) {
	f, err := conn.Receive(greetLimit)
	if err != nil {
		return nil, 0, err
	}
	defer f.CloseFDs()
	var u wire.Uffd
	if f.Type != wire.TypeUffd {
		return nil, 0, fmt.Errorf("%w: welcome is followed by uffd, not %s", wire.ErrProtocol, f.Type)
	}
	if err := wire.Unpack(f, &u); err != nil {
		return nil, 0, err
	}
	raw := f.TakeFD(0)
	if raw < 0 {
		return nil, 0, fmt.Errorf("%w: a uffd frame without a descriptor", wire.ErrProtocol)
	}
	fd, err := uffd.Take(raw)
	if err != nil {
		return nil, 0, refuse(wire.CodeProtocol, unix.EBADF, "uffd: %v: make one with userfaultfd(2)", err)
	}
	fresh, err := fd.Handshake()
	if err == nil && !fresh {
		err = errors.New("the descriptor is in use already")
	}
	if err != nil {
		_ = fd.Close()
		return nil, 0, refuse(wire.CodeUnsupported, unix.EOPNOTSUPP, "uffd: %v", err)
	}
	if err := conn.Send(wire.Pack(&wire.OK{}, f.Seq)); err != nil {
		_ = fd.Close()
		return nil, 0, err
	}
	return fd, int(u.Number), nil
}

// enter makes a client known and serves its descriptor.
func (s *Server) enter(c *client, fd *uffd.FD, number, pidfd int) {
	s.mu.Lock()
	s.clients[c.id] = c
	s.mu.Unlock()
	c.start(fd, number, pidfd)
	c.refresh()
}

// resume joins a new connection to a client that is known: one taken back after
// a restart, or one that lost its connection.
func (s *Server) resume(conn *wire.Conn, h *wire.Hello, who *peer) *client {
	s.mu.Lock()
	c := s.clients[h.Client]
	s.mu.Unlock()
	if c == nil || c.proc.PID != who.proc.PID || c.started != who.started {
		return nil
	}
	c.connMu.Lock()
	defer c.connMu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close() // the process has opened a new one: the old one is of no use to it
	}
	c.conn, c.awaited = conn, false
	return c
}

// welcome sends the image's descriptor and, if asked for, the device's.
func (s *Server) welcome(conn *wire.Conn, seq uint32, id wire.ClientID, asked, flags uint32) error {
	img, err := s.opt.Image()
	if err != nil {
		return refuse(wire.CodeUnsupported, unix.EIO, "the image's descriptor cannot be had: %v", err)
	}
	defer img.Close()
	fds := []int{int(img.Fd())}
	if asked&wire.HelloWantDevice != 0 {
		if s.device == nil {
			return refuse(wire.CodeUnsupported, unix.EOPNOTSUPP, "this machine has no /dev/userfaultfd: run the client with CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd=1")
		}
		fds = append(fds, int(s.device.Fd()))
		flags |= wire.WelcomeDevice
	}
	return conn.Send(wire.Pack(&wire.Welcome{Version: wire.Version, Flags: flags, Client: id,
		ImageBytes: uint64(s.image.size), PageBytes: pageBytes, InFlight: maxInFlight}, seq, fds...))
}

package dax

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/dax/uffd"
	"permafrost/dax/wire"
)

const (
	wayIn       = "attach"
	maxInFlight = 64               // requests of one connection at once
	greetLimit  = 10 * time.Second // from connecting to being served
	frameLimit  = 10 * time.Second // for the rest of a frame that has begun
	maxPath     = 4096             // bytes
)

// Errors of the server, wrapped with what was attempted.
var (
	// ErrUnavailable: this image or this machine cannot do direct mappings.
	// The text says why and which way in to use instead.
	ErrUnavailable = errors.New("attach is not available")
	// ErrSocketInUse: another server listens there.
	ErrSocketInUse = errors.New("another server listens on the attach socket")
)

// Options of a Server. All fields are immutable once given.
type Options struct {
	FS *core.FS
	// Image opens the pmem file anew for a client; the server closes its copy.
	// See pmem.Region.DuplicateForClients.
	Image func() (*os.File, error)
	// Socket is the path of the Unix socket to listen on.
	Socket string
	// UIDs are the users that may attach, besides the server's own.
	UIDs []uint32
	// RecordDir holds one small file for each client, so that a restarted server
	// can take its mappings back. It is made if missing, for the server only.
	RecordDir   string
	MaxClients  int // 256 by default
	MaxMappings int // of one client; 4096 by default
	Log         *slog.Logger

	vol volume // unit tests of the layers below core
}

// Server is the attach way in.
type Server struct {
	opt         Options            // immutable
	vol         volume             // immutable
	log         *slog.Logger       // immutable
	device      *os.File           // immutable: /dev/userfaultfd for clients without the privilege, may be nil
	image       imageID            // immutable once New has returned
	unavailable error              // immutable once New has returned
	ctx         context.Context    // ends when the server quits
	quit        context.CancelFunc // immutable
	mappingIDs  atomic.Uint64
	quiet       atomic.Bool // nothing is granted, published or forgotten any more
	running     sync.WaitGroup

	records sync.Mutex // serialises the writing of records, so that the last written is the newest; above evMu

	mu        sync.Mutex
	listener  *net.UnixListener         // guarded by mu
	clients   map[wire.ClientID]*client // guarded by mu
	greeting  int                       // guarded by mu: connections not yet served
	survivors []Survivor                // guarded by mu
}

// New makes a server that does not listen yet. It finds out whether direct
// mappings can be protected at all; if not, Start still listens, and tells each
// client why (Unavailable).
func New(o Options) (*Server, error) {
	if o.MaxClients == 0 {
		o.MaxClients = 256
	}
	if o.MaxMappings == 0 {
		o.MaxMappings = 4096
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{opt: o, vol: o.vol, log: o.Log, clients: make(map[wire.ClientID]*client)}
	if s.vol == nil {
		s.vol = coreVolume{o.FS}
	}
	s.ctx, s.quit = context.WithCancel(context.Background())
	if err := os.MkdirAll(o.RecordDir, 0o700); err != nil {
		return nil, fmt.Errorf("attach: directory for the records of clients: %w", err)
	}
	f, err := o.Image()
	if err != nil {
		return nil, fmt.Errorf("attach: descriptor of the image: %w", err)
	}
	defer f.Close()
	if s.image, err = identify(f); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	if err := tryProtection(f); err != nil {
		s.unavailable = fmt.Errorf("%w for this image: %w; use REST (PUT and PATCH /files) or, where there is one, the mount", ErrUnavailable, err)
	}
	if s.device, err = uffd.OpenDevice(); err != nil {
		s.log.Info("attach: only privileged clients can attach", "error", err)
	}
	return s, nil
}

// Unavailable is why clients are refused, nil if they are not.
func (s *Server) Unavailable() error { return s.unavailable }

// Start listens. Errors: ErrSocketInUse.
func (s *Server) Start() error {
	if err := clearSocket(s.opt.Socket); err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.opt.Socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("attach: listen on %s: %w", s.opt.Socket, err)
	}
	mode := os.FileMode(0o600)
	for _, uid := range s.opt.UIDs {
		if int(uid) != os.Geteuid() {
			mode = 0o666 // who may is decided by SO_PEERCRED
		}
	}
	if err := os.Chmod(s.opt.Socket, mode); err != nil {
		_ = l.Close()
		return fmt.Errorf("attach: permissions of the socket: %w", err)
	}
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	s.running.Add(1)
	go s.accept(l)
	return nil
}

// clearSocket removes a socket that nobody listens on.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("attach: socket %s: %w", path, err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("attach: %s exists and is not a socket: remove it or choose another path", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%w: %s: stop it, or choose another path", ErrSocketInUse, path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("attach: remove the stale socket %s: %w", path, err)
	}
	return nil
}

func (s *Server) accept(l *net.UnixListener) {
	defer s.running.Done()
	for {
		u, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Error("attach: accept", "error", err)
			if pause(s.ctx, 100*time.Millisecond) != nil { // out of descriptors: give it a moment
				return
			}
			continue
		}
		s.running.Add(1)
		go func() {
			defer s.running.Done()
			s.greet(wire.NewConn(u, frameLimit))
		}()
	}
}

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
	c.conn = conn
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

func (s *Server) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.clients)+s.greeting >= s.opt.MaxClients {
		return refuse(wire.CodeLimit, unix.EUSERS, "%d clients are attached, the most there may be: end one, or use REST", len(s.clients))
	}
	s.greeting++
	return nil
}

func (s *Server) unreserve() {
	s.mu.Lock()
	s.greeting--
	s.mu.Unlock()
}

func (s *Server) remove(c *client) {
	s.mu.Lock()
	if s.clients[c.id] == c {
		delete(s.clients, c.id)
	}
	s.mu.Unlock()
}

func (s *Server) allClients() []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*client, 0, len(s.clients))
	for _, c := range s.clients {
		out = append(out, c)
	}
	return out
}

// Close ends the service in a way that a new server can go on from: everything
// mapped is protected and flushed, nothing is granted any more, and the records
// stay. Clients keep their descriptors, so their stores wait for the new server
// (or end with them). Call it before the file system is unmounted.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	l := s.listener
	s.listener = nil
	s.mu.Unlock()
	if l != nil {
		_ = l.Close() // also removes the socket
	}
	s.quiet.Store(true)
	var errs []error
	for _, c := range s.allClients() {
		errs = append(errs, c.hush(ctx))
	}
	s.quit()
	for _, c := range s.allClients() {
		c.let()
	}
	s.running.Wait()
	if s.device != nil {
		_ = s.device.Close()
	}
	return errors.Join(errs...)
}

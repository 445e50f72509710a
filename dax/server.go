package dax

import (
	"context"
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
	maxInFlight = 64               // requests of one connection at once, beside those to map
	greetLimit  = 10 * time.Second // from connecting to being served
	frameLimit  = 10 * time.Second // for the rest of a frame that has begun
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
	quiet       atomic.Bool    // nothing is granted, published or forgotten any more
	polling     atomic.Bool    // a reader looks for the next store without sleeping
	running     sync.WaitGroup // all goroutines of the server and its clients

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

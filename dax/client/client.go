package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/dax/uffd"
	"permafrost/dax/wire"
)

// Errors of this package. What the server refuses is a *wire.Error, which is
// also its errno: errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EBUSY).
var (
	// ErrClosed: Close was called.
	ErrClosed = errors.New("attach client is closed")
	// ErrLost: the server was replaced by one that does not know our mappings.
	// Stores to them wait for ever: unmap them and map anew.
	ErrLost = errors.New("the server does not know this client any more")
)

const (
	frameLimit = 10 * time.Second
	greetLimit = 15 * time.Second
)

// Client is a connection to a server. Its methods may be called from any
// goroutine.
type Client struct {
	socket string // immutable
	uffd   int    // immutable once Dial has returned: our copy, which keeps stores waiting should the server end

	reconnectMu sync.Mutex // one attempt at a time; taken before mu

	mu       sync.Mutex
	id       wire.ClientID         // guarded by mu
	image    *os.File              // guarded by mu
	link     *link                 // guarded by mu: nil while not connected
	mappings map[*Mapping]struct{} // guarded by mu
	closed   bool                  // guarded by mu
}

// link is one connection and the requests under way on it.
type link struct {
	conn *wire.Conn // immutable

	mu      sync.Mutex
	seq     uint32             // guarded by mu
	waiting map[uint32]*waiter // guarded by mu; nil once the connection has ended
	err     error              // guarded by mu: why it ended
}

// waiter is a request under way.
type waiter struct {
	frames chan *wire.Frame // closed if the connection ends first
	left   chan struct{}    // closed when nobody waits any more
}

// Dial connects to the server's attach socket. Errors: *wire.Error if refused,
// with the reason and the way out.
func Dial(ctx context.Context, socket string) (*Client, error) {
	c := &Client{socket: socket, uffd: -1, mappings: make(map[*Mapping]struct{})}
	conn, w, err := c.greet(ctx)
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", socket, err)
	}
	if err := c.handOver(conn); err != nil {
		_ = conn.Close()
		c.release()
		return nil, fmt.Errorf("attach to %s: %w", socket, err)
	}
	c.id = w.Client
	c.link = newLink(conn)
	return c, nil
}

// greet opens a connection and says hello; with our id, if we have one.
func (c *Client) greet(ctx context.Context) (*wire.Conn, *wire.Welcome, error) {
	var d net.Dialer
	u, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, nil, err
	}
	conn := wire.NewConn(u.(*net.UnixConn), frameLimit)
	w, err := c.hello(conn)
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, w, nil
}

func (c *Client) hello(conn *wire.Conn) (*wire.Welcome, error) {
	h := wire.Hello{Version: wire.Version, Client: c.id}
	fd := -1
	if c.uffd < 0 {
		var err error
		if fd, err = uffd.New(); err != nil {
			h.Flags |= wire.HelloWantDevice
		}
	}
	f, err := exchange(conn, &h)
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd) // unused
		}
		return nil, err
	}
	defer f.CloseFDs()
	var w wire.Welcome
	if err = answerOf(f, &w); err == nil {
		err = c.take(f, fd)
	}
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd) // unused
		}
		return nil, err
	}
	return &w, nil
}

// take keeps the image's descriptor and makes our userfaultfd.
func (c *Client) take(f *wire.Frame, fd int) error {
	image := f.TakeFD(0)
	if image < 0 {
		return fmt.Errorf("%w: welcome without the image's descriptor", wire.ErrProtocol)
	}
	if c.uffd < 0 && fd < 0 {
		var err error
		if dev := f.TakeFD(1); dev >= 0 {
			fd, err = uffd.NewFromDevice(dev)
			_ = unix.Close(dev)
		} else {
			err = fmt.Errorf("%w: welcome without the device that was asked for", wire.ErrProtocol)
		}
		if err != nil {
			_ = unix.Close(image)
			return err
		}
	}
	if c.uffd < 0 {
		c.uffd = fd
	}
	c.mu.Lock()
	if c.image != nil {
		_ = c.image.Close() // mappings made from it stay
	}
	c.image = os.NewFile(uintptr(image), "permafrost image")
	c.mu.Unlock()
	return nil
}

// handOver gives the server a copy of our userfaultfd.
func (c *Client) handOver(conn *wire.Conn) error {
	f, err := exchange(conn, &wire.Uffd{Number: uint32(c.uffd)}, c.uffd)
	if err != nil {
		return err
	}
	defer f.CloseFDs()
	return answerOf(f, &wire.OK{})
}

// exchange is one request and its answer before the link runs.
func exchange(conn *wire.Conn, m wire.Message, fds ...int) (*wire.Frame, error) {
	if err := conn.Send(wire.Pack(m, 1, fds...)); err != nil {
		// The server may have said why before it closed.
		if f, e := conn.Receive(greetLimit); e == nil {
			return f, nil
		}
		return nil, err
	}
	return conn.Receive(greetLimit)
}

// answerOf reads an answer into m, or gives the server's error.
func answerOf(f *wire.Frame, m wire.Message) error {
	if f.Type == wire.TypeError {
		e := &wire.Error{}
		if err := wire.Unpack(f, e); err != nil {
			return err
		}
		return e
	}
	if f.Type != m.Type() {
		return fmt.Errorf("%w: %s instead of %s", wire.ErrProtocol, f.Type, m.Type())
	}
	return wire.Unpack(f, m)
}

func newLink(conn *wire.Conn) *link {
	l := &link{conn: conn, waiting: make(map[uint32]*waiter)}
	go l.receive()
	return l
}

// receive hands answers to those who wait for them, until the connection ends.
func (l *link) receive() {
	for {
		f, err := l.conn.Receive(0)
		if err != nil {
			l.end(err)
			return
		}
		f.CloseFDs() // none are expected
		l.mu.Lock()
		w := l.waiting[f.Seq]
		if f.Flags&wire.FlagMore == 0 {
			delete(l.waiting, f.Seq)
		}
		l.mu.Unlock()
		if w != nil {
			select {
			case w.frames <- f:
			case <-w.left:
			}
		}
	}
}

func (l *link) end(err error) {
	l.mu.Lock()
	l.err = fmt.Errorf("connection to the server: %w", err)
	for _, w := range l.waiting {
		close(w.frames)
	}
	l.waiting = nil
	l.mu.Unlock()
	_ = l.conn.Close() // it has ended
}

// errEnded: the connection ended under a request.
var errEnded = errors.New("the connection ended")

// ask sends a request and passes each frame of its answer to got.
func (l *link) ask(ctx context.Context, m wire.Message, got func(*wire.Frame) error) error {
	w := &waiter{frames: make(chan *wire.Frame), left: make(chan struct{})}
	defer close(w.left)
	l.mu.Lock()
	if l.waiting == nil {
		err := l.err
		l.mu.Unlock()
		return fmt.Errorf("%w: %w", errEnded, err)
	}
	l.seq++
	seq := l.seq
	l.waiting[seq] = w
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.waiting, seq)
		l.mu.Unlock()
	}()
	if err := l.conn.Send(wire.Pack(m, seq)); err != nil {
		return fmt.Errorf("%w: %w", errEnded, err)
	}
	for {
		select {
		case f, ok := <-w.frames:
			if !ok {
				return errEnded
			}
			if err := got(f); err != nil || f.Flags&wire.FlagMore == 0 {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ask sends a request, over a new connection if the old one has ended.
func (c *Client) ask(ctx context.Context, m wire.Message, got func(*wire.Frame) error) error {
	for attempt := 0; ; attempt++ {
		l, err := c.connected(ctx)
		if err != nil {
			return err
		}
		err = l.ask(ctx, m, got)
		if err == nil || !errors.Is(err, errEnded) || attempt > 0 {
			return err
		}
		c.mu.Lock()
		if c.link == l {
			c.link = nil
		}
		c.mu.Unlock()
	}
}

// connected is the link, made anew if need be.
func (c *Client) connected(ctx context.Context) (*link, error) {
	c.reconnectMu.Lock()
	defer c.reconnectMu.Unlock()
	c.mu.Lock()
	l, closed := c.link, c.closed
	c.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	if l != nil {
		return l, nil
	}
	conn, w, err := c.greet(ctx)
	if err != nil {
		return nil, fmt.Errorf("attach again to %s: %w", c.socket, err)
	}
	if w.Flags&wire.WelcomeResumed == 0 {
		_ = conn.Close()
		return nil, fmt.Errorf("attach again to %s: %w", c.socket, ErrLost)
	}
	l = newLink(conn)
	c.mu.Lock()
	c.link = l
	c.mu.Unlock()
	return l, nil
}

// Attr is what Stat tells of a file.
type Attr struct {
	Ino                        uint64
	Size                       int64
	Blocks                     uint64 // of 4096 bytes
	Mode                       uint32 // as stat(2)
	Links, UID, GID            uint32
	Generation                 uint64 // commit that last changed it
	Atime, Mtime, Ctime, Btime time.Time
}

// Stat looks a file up by its path in the image. It never waits for a thaw.
func (c *Client) Stat(ctx context.Context, path string) (Attr, error) {
	var a wire.Attr
	err := c.ask(ctx, &wire.Stat{Path: path}, func(f *wire.Frame) error { return answerOf(f, &a) })
	if err != nil {
		return Attr{}, fmt.Errorf("stat %s: %w", path, err)
	}
	at := func(ns int64) time.Time { return time.Unix(0, ns) }
	return Attr{Ino: a.Ino, Size: int64(a.Bytes), Blocks: a.Blocks, Mode: a.Mode, Links: a.Links, UID: a.UID, GID: a.GID,
		Generation: a.Generation, Atime: at(a.Atime), Mtime: at(a.Mtime), Ctime: at(a.Ctime), Btime: at(a.Btime)}, nil
}

// Image is the descriptor of the whole pmem file, and the client's own. For
// tests and tools: stores through it are tracked by nobody.
func (c *Client) Image() *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.image
}

// Close unmaps everything and ends the connection. Memory that Bytes returned
// must not be touched any more.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	var list []*Mapping
	for m := range c.mappings {
		list = append(list, m)
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), greetLimit)
	defer cancel()
	var errs []error
	for _, m := range list {
		errs = append(errs, m.Unmap(ctx))
	}
	c.mu.Lock()
	c.closed = true
	l := c.link
	c.link = nil
	c.mu.Unlock()
	if l != nil {
		_ = l.ask(ctx, &wire.Bye{}, func(*wire.Frame) error { return nil }) // it leaves either way
		_ = l.conn.Close()
	}
	c.release()
	return errors.Join(errs...)
}

func (c *Client) release() {
	if c.uffd >= 0 {
		_ = unix.Close(c.uffd) // nothing is mapped through it any more
	}
	if c.image != nil {
		_ = c.image.Close() // only mapped, never written
	}
}

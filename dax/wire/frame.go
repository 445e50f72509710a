package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes and numbers of the protocol.
const (
	Version    = 1
	Magic      = 0x58444650 // "PFDX" as it stands in memory
	HeaderSize = 16
	MaxFrame   = 64 << 10
	maxFDs     = 4 // descriptors beside one frame
)

// Flags of a frame.
const FlagMore = 1 // another frame of the same answer follows

// Type of a frame.
type Type uint16

// The frames. Requests come from the client; each gets one answer.
const (
	TypeHello   Type = 1  // -> Welcome
	TypeWelcome Type = 2  // with descriptors: image, then /dev/userfaultfd if asked for
	TypeUffd    Type = 3  // with the client's userfaultfd -> OK
	TypeMap     Type = 4  // -> Extents, in several frames if FlagMore is set
	TypeExtents Type = 5  //
	TypeMapped  Type = 6  // -> OK: from now on stores are tracked
	TypeUnmap   Type = 7  // -> OK
	TypeSync    Type = 8  // -> Synced
	TypeSynced  Type = 9  //
	TypeStat    Type = 10 // -> Attr
	TypeAttr    Type = 11 //
	TypeOK      Type = 12 //
	TypeError   Type = 13 //
	TypeBye     Type = 14 // -> OK, and the server closes the connection
)

var typeNames = map[Type]string{TypeHello: "hello", TypeWelcome: "welcome", TypeUffd: "uffd", TypeMap: "map",
	TypeExtents: "extents", TypeMapped: "mapped", TypeUnmap: "unmap", TypeSync: "sync", TypeSynced: "synced",
	TypeStat: "stat", TypeAttr: "attr", TypeOK: "ok", TypeError: "error", TypeBye: "bye"} // immutable

// String names a frame type for messages.
func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("type %d", uint16(t))
}

// ErrProtocol: the other end sent what is not a frame of this protocol. The
// connection is of no more use.
var ErrProtocol = errors.New("not the attach protocol")

// Frame is one frame. Its descriptors belong to whoever received it.
type Frame struct {
	Type  Type
	Flags uint16
	Seq   uint32
	Body  []byte
	FDs   []int
}

// CloseFDs gives up the descriptors that nobody took (set to -1 when taken).
func (f *Frame) CloseFDs() {
	for _, fd := range f.FDs {
		if fd >= 0 {
			_ = unix.Close(fd) // nothing was written through it
		}
	}
	f.FDs = nil
}

// TakeFD hands descriptor i to the caller, or -1 if there is none.
func (f *Frame) TakeFD(i int) int {
	if i >= len(f.FDs) {
		return -1
	}
	fd := f.FDs[i]
	f.FDs[i] = -1
	return fd
}

// Conn sends and receives frames. One goroutine receives; any may send.
type Conn struct {
	u *net.UnixConn // immutable

	sendMu sync.Mutex // frames leave whole
	// Stall bounds how long the other end may take over a frame that has
	// begun. immutable
	stall time.Duration

	oob [128]byte // owned by the receiving goroutine
}

// NewConn wraps a connected stream socket and owns it.
func NewConn(u *net.UnixConn, stall time.Duration) *Conn { return &Conn{u: u, stall: stall} }

// Unix is the socket, for its credentials.
func (c *Conn) Unix() *net.UnixConn { return c.u }

// Close ends the connection; a Receive in progress fails.
func (c *Conn) Close() error { return c.u.Close() }

// Send writes one frame with descriptors, which stay the caller's.
func (c *Conn) Send(f *Frame) error {
	size := HeaderSize + len(f.Body)
	if size > MaxFrame {
		return fmt.Errorf("%w: %s frame of %d bytes, at most %d", ErrProtocol, f.Type, size, MaxFrame)
	}
	b := make([]byte, size)
	le := binary.LittleEndian
	le.PutUint32(b[0:], Magic)
	le.PutUint32(b[4:], uint32(size))
	le.PutUint16(b[8:], uint16(f.Type))
	le.PutUint16(b[10:], f.Flags)
	le.PutUint32(b[12:], f.Seq)
	copy(b[HeaderSize:], f.Body)
	var oob []byte
	if len(f.FDs) > 0 {
		oob = unix.UnixRights(f.FDs...)
	}
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if err := c.u.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return fmt.Errorf("send %s: %w", f.Type, err)
	}
	n, _, err := c.u.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = c.u.Write(b[n:]) // the descriptors went with the first byte
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", f.Type, err)
	}
	return nil
}

// Receive waits for one frame, at most idle for its first byte (0: as long as
// it takes). io.EOF when the other end has closed between frames.
func (c *Conn) Receive(idle time.Duration) (*Frame, error) {
	var deadline time.Time
	if idle > 0 {
		deadline = time.Now().Add(idle)
	}
	if err := c.u.SetReadDeadline(deadline); err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	var header [HeaderSize]byte
	f := &Frame{}
	if err := c.fill(header[:], f, true); err != nil {
		f.CloseFDs()
		return nil, err
	}
	le := binary.LittleEndian
	magic, size := le.Uint32(header[0:]), le.Uint32(header[4:])
	if magic != Magic {
		f.CloseFDs()
		return nil, fmt.Errorf("%w: starts with %q", ErrProtocol, header[:4])
	}
	if size < HeaderSize || size > MaxFrame {
		f.CloseFDs()
		return nil, fmt.Errorf("%w: frame of %d bytes, allowed are %d to %d", ErrProtocol, size, HeaderSize, MaxFrame)
	}
	f.Type, f.Flags, f.Seq = Type(le.Uint16(header[8:])), le.Uint16(header[10:]), le.Uint32(header[12:])
	f.Body = make([]byte, size-HeaderSize)
	if err := c.fill(f.Body, f, false); err != nil {
		f.CloseFDs()
		return nil, err
	}
	return f, nil
}

// fill reads exactly len(b) bytes and collects descriptors. first: nothing of
// the frame has been read yet.
func (c *Conn) fill(b []byte, f *Frame, first bool) error {
	for got := 0; got < len(b); {
		n, oobn, flags, _, err := c.u.ReadMsgUnix(b[got:], c.oob[:])
		if err == nil && (oobn > 0 || flags&unix.MSG_CTRUNC != 0) {
			err = f.collect(c.oob[:oobn], flags)
		}
		if n == 0 && err == nil {
			err = io.EOF
		}
		if err != nil {
			switch {
			case !errors.Is(err, io.EOF):
			case first && got == 0:
				return io.EOF
			default:
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("receive: %w", err)
		}
		if got == 0 && first {
			if err := c.u.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
				return fmt.Errorf("receive: %w", err)
			}
		}
		got += n
	}
	return nil
}

// collect takes the descriptors out of a control message.
func (f *Frame) collect(oob []byte, flags int) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("%w: control message: %w", ErrProtocol, err)
	}
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			f.FDs = append(f.FDs, fds...)
		}
	}
	if flags&unix.MSG_CTRUNC != 0 || len(f.FDs) > maxFDs {
		return fmt.Errorf("%w: more than %d descriptors beside one frame", ErrProtocol, maxFDs)
	}
	return nil
}

// IsTimeout reports whether an error of Receive or Send is an expired wait.
func IsTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

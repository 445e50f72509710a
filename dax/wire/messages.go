package wire

import (
	"encoding/binary"
	"fmt"
	"syscall"
)

// ClientID names a client for as long as its process lives, so that a server
// that was restarted can join a new connection to what it took back.
type ClientID [16]byte

// Flags of Hello.
const HelloWantDevice = 1 // I may not make a full userfaultfd: send /dev/userfaultfd

// Flags of Welcome.
const (
	WelcomeDevice  = 1 // the second descriptor is /dev/userfaultfd
	WelcomeResumed = 2 // your mappings are known and served; keep your userfaultfd
)

// Flags of Map.
const (
	MapWrite  = 1 // stores are meant: allocate the range, track and hold them
	MapCreate = 2 // make the file if there is none (by path)
	MapGrow   = 4 // make the file long enough for the range
	MapNoWait = 8 // while frozen fail with EBUSY instead of waiting for the thaw
)

// Hello opens a connection.
//
//	0 u32 version   4 u32 flags   8 [16] client id, zero if new
type Hello struct {
	Version uint32
	Flags   uint32
	Client  ClientID
}

// Welcome answers Hello.
//
//	0 u32 version   4 u32 flags   8 [16] client id   24 u64 image bytes   32 u32 page bytes   36 u32 requests at once
type Welcome struct {
	Version    uint32
	Flags      uint32
	Client     ClientID
	ImageBytes uint64
	PageBytes  uint32
	InFlight   uint32
}

// Uffd hands over the client's userfaultfd; Number is the client's own
// descriptor number of the copy it keeps.
//
//	0 u32 number
type Uffd struct{ Number uint32 }

// Map asks for a mapping of part of a file, by inode or, if that is zero, path.
//
//	0 u32 flags   4 u32 permission bits for create   8 u64 ino   16 u64 offset   24 u64 length   32 path
type Map struct {
	Flags          uint32
	Mode           uint32
	Ino            uint64
	Offset, Length uint64
	Path           string
}

// Extents answers Map: which bytes of the image the client is to map where.
// What no piece covers is a hole (read-only mappings only).
//
//	0 u64 mapping   8 u64 ino   16 u64 offset   24 u64 length   32 u64 file bytes   40 u32 count   44 u32 zero
//	48 count times: u64 file offset, u64 image offset, u64 length
type Extents struct {
	Mapping        uint64
	Ino            uint64
	Offset, Length uint64
	FileBytes      uint64
	Pieces         []Piece
}

// Piece maps Length bytes of a file to the image.
type Piece struct{ File, Image, Length uint64 }

const (
	extentsFixed = 48
	pieceSize    = 24
	// MaxPieces is how many pieces one Extents frame holds.
	MaxPieces = (MaxFrame - HeaderSize - extentsFixed) / pieceSize
)

// Mapped tells where the client has mapped it.
//
//	0 u64 mapping   8 u64 address
type Mapped struct{ Mapping, Addr uint64 }

// Unmap tells that the client has unmapped it.
//
//	0 u64 mapping
type Unmap struct{ Mapping uint64 }

// Sync asks for durability of part of a mapping; Length zero: to its end.
//
//	0 u64 mapping   8 u64 offset in the mapping   16 u64 length
type Sync struct{ Mapping, Offset, Length uint64 }

// Synced answers Sync.
//
//	0 u64 generation   8 u64 pages   16 u64 bytes   24 u64 nanoseconds
type Synced struct{ Generation, Pages, Bytes, Nanoseconds uint64 }

// Stat asks for attributes, by inode or, if that is zero, path.
//
//	0 u64 ino   8 path
type Stat struct {
	Ino  uint64
	Path string
}

// Attr answers Stat. Times are nanoseconds since 1970.
//
//	0 u64 ino   8 u64 bytes   16 u64 blocks   24 u64 generation   32 i64 atime   40 i64 mtime   48 i64 ctime   56 i64 btime
//	64 u32 mode   68 u32 links   72 u32 uid   76 u32 gid
type Attr struct {
	Ino, Bytes, Blocks, Generation uint64
	Atime, Mtime, Ctime, Btime     int64
	Mode, Links, UID, GID          uint32
}

// Code says what kind of error an Error frame is, for clients that act on it.
type Code uint32

// The codes.
const (
	CodeProtocol    Code = 1 // the frame was not understood; the connection is closed
	CodeRefused     Code = 2 // this user or this client may not attach
	CodeUnsupported Code = 3 // this image or this kernel cannot do it; another way in can
	CodeLimit       Code = 4 // a limit was reached
	CodeFrozen      Code = 5 // not while frozen; again after the thaw
	CodeFile        Code = 6 // the operation failed: see errno
)

// Error answers a request that failed. Text says what to do.
//
//	0 u32 errno   4 u32 code   8 text
type Error struct {
	Errno uint32
	Code  Code
	Text  string
}

// Error is the text.
func (e *Error) Error() string { return e.Text }

// Unwrap is the errno, so that errors.Is(err, fs.ErrNotExist) and the like work.
func (e *Error) Unwrap() error { return syscall.Errno(e.Errno) }

// reader takes fields off a body; bad stays set once the body was too short.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *reader) rest() string {
	s := string(r.b)
	r.b = nil
	return s
}

// done checks that the body was neither too short nor too long.
func (r *reader) done(what Type) error {
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("%w: a %s frame of the wrong length", ErrProtocol, what)
	}
	return nil
}

func u32(b []byte, vs ...uint32) []byte {
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func u64(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

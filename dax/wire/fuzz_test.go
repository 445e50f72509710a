package wire

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unpackAll reads a frame as each message of its type: what is taken comes back
// byte for byte and as the same message, and needs no more memory than a frame.
func unpackAll(t *testing.T, fr *Frame) {
	t.Helper()
	for _, m := range every() {
		if m.Type() != fr.Type {
			continue
		}
		got := empty(m)
		if err := Unpack(fr, got); err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("%s: %v", fr.Type, err)
			}
			continue
		}
		if e, ok := got.(*Extents); ok && len(e.Pieces) > MaxPieces {
			t.Fatalf("%d pieces", len(e.Pieces))
		}
		packed := Pack(got, fr.Seq)
		if e, ok := got.(*Error); ok && len(e.Text) > 4096 {
			// A longer text than this end would send: cut when it is sent on.
			if !bytes.HasPrefix(fr.Body, packed.Body) {
				t.Fatalf("%s: %x is no beginning of %x", fr.Type, packed.Body, fr.Body)
			}
			return
		}
		again := empty(m)
		if err := Unpack(packed, again); err != nil || !bytes.Equal(packed.Body, fr.Body) || !reflect.DeepEqual(got, again) {
			t.Fatalf("%s: %x comes back as %x, %v", fr.Type, fr.Body, packed.Body, err)
		}
	}
}

// FuzzPayload: the body of a frame of any type, without a socket in between.
func FuzzPayload(f *testing.F) {
	for _, m := range every() {
		f.Add(uint16(m.Type()), m.append(nil))
		f.Add(uint16(m.Type()), append(m.append(nil), 0))
	}
	f.Add(uint16(TypeExtents), append(u64(nil, 1, 2, 3, 4, 5), u32(nil, MaxPieces, 0)...))
	f.Add(uint16(TypeError), append(u32(nil, 5, 6), strings.Repeat("x", 5000)...))
	f.Fuzz(func(t *testing.T, typ uint16, body []byte) {
		if len(body) > MaxFrame-HeaderSize {
			return // Receive takes no such frame
		}
		unpackAll(t, &Frame{Type: Type(typ), Body: body})
		if s := Type(typ).String(); s == "" || len(s) > 20 {
			t.Fatalf("type %d is %q", typ, s)
		}
	})
}

// FuzzReceive: no bytes on the socket make Receive do anything but give a frame
// or refuse, and every descriptor that came is owned by somebody. cut is where
// the bytes are sent in two pieces.
func FuzzReceive(f *testing.F) {
	for i, m := range every() {
		f.Add(frameBytes(m, uint32(i)), uint16(i), uint8(i))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(3), uint8(0))
	f.Add(append(frameBytes(&OK{}, 1), frameBytes(&Stat{Path: "/x"}, 2)...), uint16(20), uint8(5))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16, fds uint8) {
		if len(b) > 2*MaxFrame {
			return
		}
		x, y := pair(t)
		defer x.Close()
		defer y.Close()
		before := openFiles(t)
		go func() { // the other end takes what it likes, or hangs up
			n := min(int(cut), len(b))
			var oob []byte
			if fds %= 8; fds > 0 {
				oob = unix.UnixRights(make([]int, fds)...)
			}
			if n > 0 {
				_, _, _ = x.Unix().WriteMsgUnix(b[:n], oob, nil)
			}
			_, _ = x.Unix().Write(b[n:])
			_ = x.Unix().CloseWrite()
		}()
		got := 0
		for {
			fr, err := y.Receive(time.Second)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrProtocol) {
					t.Fatalf("after %d frames: %v", got, err)
				}
				break
			}
			got++
			if len(fr.Body) > MaxFrame-HeaderSize || len(fr.FDs) > maxFDs {
				t.Fatalf("a body of %d bytes, %d descriptors", len(fr.Body), len(fr.FDs))
			}
			unpackAll(t, fr)
			fr.CloseFDs()
		}
		if got > len(b)/HeaderSize {
			t.Fatalf("%d frames of %d bytes", got, len(b))
		}
		if after := openFiles(t); after > before {
			t.Fatalf("%d descriptors are open, %d were", after, before)
		}
	})
}

// openFiles counts this process's descriptors up to 64, which the test's few
// stay below.
func openFiles(t *testing.T) (n int) {
	for fd := range 64 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

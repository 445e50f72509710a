package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is two ends of a connection.
func pair(t testing.TB) (*Conn, *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out [2]*Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		u, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		out[i] = NewConn(u.(*net.UnixConn), 200*time.Millisecond)
		t.Cleanup(func() { u.Close() })
	}
	return out[0], out[1]
}

// every message, with every field set.
func every() []Message {
	id := ClientID{1, 2, 3, 15: 4}
	return []Message{
		&Hello{1, 2, id}, &Welcome{1, 2, id, 3, 4, 5}, &Uffd{6}, &Map{1, 2, 3, 4, 5, "/a/b"},
		&Extents{1, 2, 3, 4, 5, []Piece{{6, 7, 8}, {9, 10, 11}}}, &Mapped{1, 2}, &Unmap{1}, &Sync{1, 2, 3},
		&Synced{1, 2, 3, 4}, &Stat{1, "/x"}, &Attr{1, 2, 3, 4, -5, 6, 7, 8, 9, 10, 11, 12}, &OK{}, &Bye{},
		&Error{1, CodeFrozen, "try again"},
	}
}

func empty(m Message) Message { return reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message) }

func TestMessagesCrossTheWire(t *testing.T) {
	a, b := pair(t)
	for i, m := range every() {
		if err := a.Send(Pack(m, uint32(i))); err != nil {
			t.Fatal(err)
		}
		f, err := b.Receive(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		got := empty(m)
		if err := Unpack(f, got); err != nil || f.Seq != uint32(i) || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: %+v %v, sent %+v", m.Type(), got, err, m)
		}
		// One byte less, and for messages without a text one more, is refused.
		for _, body := range [][]byte{f.Body[:max(len(f.Body)-1, 0)], append(bytes.Clone(f.Body), 0)} {
			short := len(body) < len(f.Body)
			switch m.(type) {
			case *Map, *Stat, *Error:
				continue // the text takes what there is
			case *OK, *Bye:
				if len(body) == len(f.Body) {
					continue
				}
			}
			if err := Unpack(&Frame{Type: f.Type, Body: body}, empty(m)); !errors.Is(err, ErrProtocol) {
				t.Errorf("%s with a wrong length (short %v): %v", m.Type(), short, err)
			}
		}
	}
}

func TestDescriptorsTravel(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Send(Pack(&Uffd{Number: 3}, 1, int(w.Fd()))); err != nil {
		t.Fatal(err)
	}
	w.Close()
	f, err := b.Receive(time.Second)
	if err != nil || len(f.FDs) != 1 {
		t.Fatalf("%v, %d descriptors", err, len(f.FDs))
	}
	if f.TakeFD(1) != -1 {
		t.Error("a descriptor that was not sent")
	}
	fd := f.TakeFD(0)
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x %v: programs that are started would have it", flags, err)
	}
	f.CloseFDs() // it is taken, so this leaves it open
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		t.Errorf("the descriptor does not work: %v", err)
	}
	unix.Close(fd)
	// Those nobody takes are closed.
	if err := a.Send(Pack(&OK{}, 1, int(r.Fd()))); err != nil {
		t.Fatal(err)
	}
	f, err = b.Receive(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	kept := f.FDs[0]
	f.CloseFDs()
	if err := unix.Close(kept); err != unix.EBADF {
		t.Errorf("a descriptor nobody took is open: %v", err)
	}
}

func TestTooManyDescriptors(t *testing.T) {
	a, b := pair(t)
	fds := []int{0, 0, 0, 0, 0}
	if err := a.Send(&Frame{Type: TypeOK, FDs: fds}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Receive(time.Second); !errors.Is(err, ErrProtocol) {
		t.Errorf("five descriptors: %v", err)
	}
}

func TestFramesThatEndEarlyOrStall(t *testing.T) {
	t.Run("end between frames", func(t *testing.T) {
		a, b := pair(t)
		a.Close()
		if _, err := b.Receive(time.Second); err != io.EOF {
			t.Errorf("%v", err)
		}
	})
	t.Run("end within a frame", func(t *testing.T) {
		a, b := pair(t)
		a.Unix().Write([]byte("PFDX"))
		a.Close()
		if _, err := b.Receive(time.Second); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v", err)
		}
	})
	t.Run("stall within a frame", func(t *testing.T) {
		a, b := pair(t)
		a.Unix().Write([]byte("PFDX"))
		if _, err := b.Receive(0); !IsTimeout(err) { // the first byte may take as long as it likes
			t.Errorf("%v", err)
		}
	})
	t.Run("in many pieces", func(t *testing.T) {
		a, b := pair(t)
		go func() {
			f := frameBytes(&Map{Path: strings.Repeat("p", 40000)}, 7)
			for len(f) > 0 {
				n := min(len(f), 1000)
				a.Unix().Write(f[:n])
				f = f[n:]
			}
		}()
		f, err := b.Receive(time.Second)
		var m Map
		if err != nil || Unpack(f, &m) != nil || len(m.Path) != 40000 || f.Seq != 7 {
			t.Errorf("%v %d", err, len(m.Path))
		}
	})
	t.Run("too long to send", func(t *testing.T) {
		a, _ := pair(t)
		if err := a.Send(Pack(&Map{Path: strings.Repeat("p", MaxFrame)}, 1)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%v", err)
		}
	})
}

// frameBytes is a frame as it stands on the wire.
func frameBytes(m Message, seq uint32) []byte {
	body := m.append(nil)
	b := u32(nil, Magic, uint32(HeaderSize+len(body)))
	b = append(b, byte(m.Type()), byte(m.Type()>>8), 0, 0)
	return append(u32(b, seq), body...)
}

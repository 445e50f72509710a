package dax

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/freeze"
	"permafrost/dax/wire"
	"permafrost/pmem"
)

// FuzzServer: whatever a client in good standing sends, the server answers with
// frames of the protocol or closes the connection; when it is closed nothing of
// the client is left, and the file system freezes and is clean. The client has
// no userfaultfd: what the kernel does with one is not decoded from its bytes.
func FuzzServer(f *testing.F) {
	region, err := pmem.CreateMemfd("dax-fuzz", 1<<20, pmem.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { region.Close() })
	if err := core.Mkfs(region, core.MkfsOptions{}); err != nil {
		f.Fatal(err)
	}
	srv, err := New(Options{Image: region.DuplicateForClients, RecordDir: filepath.Join(f.TempDir(), "rec"), MaxMappings: 8})
	if err != nil {
		f.Fatal(err)
	}
	frames := func(list ...wire.Message) (b []byte) {
		for i, m := range list {
			b = append(b, rawFrame(f, wire.Pack(m, uint32(i)))...)
		}
		return b
	}
	made := &wire.Map{Flags: wire.MapWrite | wire.MapCreate | wire.MapGrow, Mode: 0o644, Length: 8192, Path: "/f"}
	for _, b := range [][]byte{
		frames(made, &wire.Stat{Path: "/f"}, &wire.Sync{Mapping: 1}, &wire.Mapped{Mapping: 1, Addr: 1 << 40}, &wire.Unmap{Mapping: 1}, &wire.Bye{}),
		frames(made, made, &wire.Unmap{Mapping: 2}, &wire.Map{Length: 4096, Path: "/f"}, &wire.Map{Length: 4096, Ino: 2}),
		frames(&wire.Map{Flags: wire.MapWrite | wire.MapCreate, Length: 1 << 62, Path: "/x"}, &wire.Stat{Ino: 1}, &wire.Stat{Path: strings.Repeat("n/", 3000)}),
		frames(&wire.Hello{Version: 1}, &wire.OK{}),
		[]byte("GET / HTTP/1.1\r\n\r\n"),
		frames(made)[:20],
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > wire.MaxFrame {
			return
		}
		defer time.AfterFunc(30*time.Second, func() { panic("FuzzServer: it did not end in 30 s") }).Stop()
		if err := core.Mkfs(region, core.MkfsOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		fs, err := core.Mount(region, core.Options{CommitInterval: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		srv.vol = coreVolume{fs}
		srv.mappingIDs.Store(0)
		talk(t, srv, b)
		if left := fs.Mappings(); len(left) > 0 {
			t.Fatalf("mappings are left: %+v", left)
		}
		bg := context.Background()
		_, _, err = fs.Freeze(bg, freeze.Request{Holder: "fuzz", Lease: time.Minute})
		if err == nil {
			_, err = fs.Thaw(bg, freeze.ThawRequest{Holder: "fuzz"})
		}
		if err = errors.Join(err, fs.Unmount(bg)); err != nil {
			t.Fatal(err)
		}
		if r, err := core.Check(bg, region, nil); err != nil || !r.OK() {
			t.Fatalf("check: %v %+v", err, r)
		}
	})
}

// rawFrame is a frame as it stands on the wire.
func rawFrame(t testing.TB, fr *wire.Frame) []byte {
	t.Helper()
	a, b := socketPair(t)
	defer a.Close()
	defer b.Close()
	if err := wire.NewConn(a, time.Second).Send(fr); err != nil {
		t.Fatal(err)
	}
	out := make([]byte, wire.HeaderSize+len(fr.Body))
	if _, err := io.ReadFull(b, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// talk sends b to a server that serves one client, reads what it is answered, and
// hangs up when for a moment no answer came: requests that a client waits for are
// carried out, and some are under way when it leaves.
func talk(t *testing.T, srv *Server, b []byte) {
	ours, theirs := socketPair(t)
	defer ours.Close()
	c := srv.newClient(wire.ClientID{1}, core.Process{PID: os.Getpid(), Comm: "fuzz"}, 0)
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn := wire.NewConn(theirs, time.Second)
		c.connMu.Lock()
		c.conn = conn
		c.connMu.Unlock()
		c.serveConn(conn)
	}()
	go func() { _, _ = ours.Write(b) }() // the server may have closed already
	in := wire.NewConn(ours, time.Second)
	patience := 3 * time.Millisecond
	for answers := 0; ; answers++ {
		fr, err := in.Receive(patience)
		if wire.IsTimeout(err) && patience < time.Second {
			_ = ours.CloseWrite()
			patience = 20 * time.Second
			continue
		}
		if err != nil {
			if errors.Is(err, wire.ErrProtocol) || wire.IsTimeout(err) {
				t.Fatalf("the server answered with what is no frame: %v", err)
			}
			break
		}
		switch fr.Type {
		case wire.TypeExtents, wire.TypeSynced, wire.TypeAttr, wire.TypeOK:
		case wire.TypeError:
			var e wire.Error
			if err := wire.Unpack(fr, &e); err != nil || e.Text == "" || e.Errno == 0 || e.Code == 0 || e.Code > wire.CodeFile {
				t.Fatalf("an error that says nothing: %+v, %v", e, err)
			}
		default:
			t.Fatalf("the server answered with %s", fr.Type)
		}
		if answers > len(b)/wire.HeaderSize+64 {
			t.Fatalf("%d answers to %d bytes", answers, len(b))
		}
		fr.CloseFDs()
	}
	<-served
}

package dax

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/dax/wire"
	"permafrost/pmem"
)

// raw is a connection that speaks by hand.
func (r *rig) raw() *wire.Conn {
	r.t.Helper()
	u, err := net.Dial("unix", r.srv.Socket())
	if err != nil {
		r.t.Fatal(err)
	}
	c := wire.NewConn(u.(*net.UnixConn), 5*time.Second)
	r.t.Cleanup(func() { c.Close() })
	return c
}

// refused expects an error frame that says so, and the end of the connection.
func refused(t *testing.T, c *wire.Conn, code wire.Code, text string) {
	t.Helper()
	f, err := c.Receive(5 * time.Second)
	if err != nil {
		t.Fatalf("instead of an error frame: %v", err)
	}
	var e wire.Error
	if f.Type != wire.TypeError || wire.Unpack(f, &e) != nil || e.Code != code || !strings.Contains(e.Text, text) {
		t.Errorf("answer %s %+v, want code %d saying %q", f.Type, e, code, text)
	}
	if _, err := c.Receive(5 * time.Second); err == nil || wire.IsTimeout(err) {
		t.Errorf("the connection is open after the error: %v", err)
	}
}

func header(magic, size uint32, typ uint16) []byte {
	b := make([]byte, wire.HeaderSize)
	binary.LittleEndian.PutUint32(b, magic)
	binary.LittleEndian.PutUint32(b[4:], size)
	binary.LittleEndian.PutUint16(b[8:], typ)
	return b
}

func TestBadFrames(t *testing.T) {
	r := newRig(t)
	w := r.attached("/f", 4)
	w.do("hammer 0 0 0 4096 4")
	for _, c := range []struct {
		name  string
		bytes []byte
		text  string
	}{
		{"garbage", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "not the attach protocol"},
		{"oversized", header(wire.Magic, wire.MaxFrame+1, 1), "frame of 65537 bytes"},
		{"too short a length", header(wire.Magic, 3, 1), "frame of 3 bytes"},
		{"short hello", header(wire.Magic, wire.HeaderSize, 1), "wrong length"},
		{"map before hello", header(wire.Magic, wire.HeaderSize, 4), "begins with hello"},
		{"unknown type", header(wire.Magic, wire.HeaderSize, 999), "begins with hello"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := r.raw()
			if _, err := conn.Unix().Write(c.bytes); err != nil {
				t.Fatal(err)
			}
			refused(t, conn, wire.CodeProtocol, c.text)
		})
	}
	t.Run("other version", func(t *testing.T) {
		conn := r.raw()
		if err := conn.Send(wire.Pack(&wire.Hello{Version: 99}, 1)); err != nil {
			t.Fatal(err)
		}
		refused(t, conn, wire.CodeProtocol, "version 99")
	})
	t.Run("not a userfaultfd", func(t *testing.T) {
		conn := r.raw()
		if err := conn.Send(wire.Pack(&wire.Hello{Version: wire.Version}, 1)); err != nil {
			t.Fatal(err)
		}
		f, err := conn.Receive(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		f.CloseFDs()
		if err := conn.Send(wire.Pack(&wire.Uffd{Number: 0}, 2, 0)); err != nil {
			t.Fatal(err)
		}
		refused(t, conn, wire.CodeProtocol, "not a userfaultfd")
	})
	t.Run("random bytes", func(t *testing.T) {
		seed := time.Now().UnixNano()
		if s := os.Getenv("PERMAFROST_SEED"); s != "" {
			if _, err := fmt.Sscan(s, &seed); err != nil {
				t.Fatal("PERMAFROST_SEED:", err)
			}
		}
		t.Logf("repeat with PERMAFROST_SEED=%d go test ./dax -run 'TestBadFrames$'", seed)
		rnd := rand.New(rand.NewSource(seed))
		for range 200 {
			conn := r.raw()
			b := make([]byte, rnd.Intn(200))
			rnd.Read(b)
			if rnd.Intn(2) == 0 {
				b = append(header(wire.Magic, uint32(wire.HeaderSize+len(b)), uint16(rnd.Intn(16))), b...)
			}
			_, _ = conn.Unix().Write(b) // the server may have closed already
			_ = conn.Close()
		}
	})
	// All of that disturbed nobody.
	w.moved(0, w.slot(0)+100)
	r.freeze()
	r.waitParked(1)
	r.thaw()
}

// TestBadRequests: a client in good standing asks for what cannot be.
func TestBadRequests(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxMappings = 3 })
	w := r.attached("/f", 4)
	for _, c := range []struct{ line, want string }{
		{"map 1 /nothere 0 4096 w", "error 2 "},
		{"map 1 /f 1 4096 w", "error 22 map: offset 1"},
		{"map 1 /f 0 65536 w", "error 22 "},
		{"map 1 /f 0 0 w", "error 22 "},
		{"map 1 /f 0 4096 c", "error 22 map: creating or growing"},
		{"map 1 / 0 4096 w", "error 21 "},
		{"map 1 /x/y 0 4096 wcg", "error 2 "},
		{"map 1 /" + strings.Repeat("n", 256) + " 0 4096 wcg", "error 36 "},
		{"stat /nothere", "error 2 "},
		{"sync 0 0 999999", "error 12 sync: "},
		{"sync 7 0 0", "error 9 sync: no mapping 0"},
		{"unmap 7", "ok"}, // already forgotten is as good as unmapped
	} {
		if s := w.ask("%s", c.line); !strings.HasPrefix(s, c.want) {
			t.Errorf("%.60s: %q, want %q", c.line, s, c.want)
		}
	}
	w.do("map 1 /f 0 4096 w")
	w.do("map 2 /f 0 4096 r")
	if s := w.ask("map 3 /f 0 4096 w"); !strings.HasPrefix(s, "error 12 map: a client may have 3 mappings") {
		t.Errorf("a fourth mapping: %s", s)
	}
	w.do("unmap 2")
	w.do("map 3 /f 0 4096 w")
	if n := len(r.fs.Mappings()); n != 3 {
		t.Errorf("%d mappings", n)
	}
}

func TestWhoMayAttach(t *testing.T) {
	const nobody = 65534
	as := func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	open := func(r *rig) { // the directories above are root's
		_ = os.Chmod(scratch, 0o755)
		_ = os.Chmod(r.dir, 0o755)
	}
	worker := func(t *testing.T, r *rig) *worker {
		t.Helper()
		open(r)
		w := startWorker(t, as, func(c *exec.Cmd) { _ = os.Chmod(c.Args[1], 0o666) })
		return w
	}
	t.Run("not listed", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.UIDs = []uint32{12345} })
		w := worker(t, r)
		if s := w.ask("attach %s", r.srv.Socket()); !strings.Contains(s, "error 13 user 65534 may not attach") || !strings.Contains(s, "REST") {
			t.Errorf("answer: %s", s)
		}
	})
	t.Run("socket closed to others", func(t *testing.T) {
		r := newRig(t)
		w := worker(t, r)
		if s := w.ask("attach %s", r.srv.Socket()); !strings.HasPrefix(s, "error 13") {
			t.Errorf("answer: %s", s)
		}
		if st, err := os.Stat(r.srv.Socket()); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("socket mode %v %v", st.Mode(), err)
		}
	})
	t.Run("listed, without privileges", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.UIDs = []uint32{nobody} })
		w := worker(t, r)
		w.do("attach %s", r.srv.Socket())
		w.do("map 0 /f 0 16384 wcg")
		w.do("hammer 0 0 0 4096 4")
		w.moved(0, 100)
		src := filepath.Join(r.dir, "src")
		if err := os.WriteFile(src, make([]byte, 4096), 0o644); err != nil {
			t.Fatal(err)
		}
		r.freeze()
		r.waitParked(1)
		w.do("kernel 1 0 8192 %s", src) // a full descriptor holds these too
		r.waitParked(2)
		r.thaw()
		w.moved(1, 0)
		if w.slot(1) != 1 {
			t.Errorf("read(2): %#x", w.slot(1))
		}
		if a, err := r.fs.Resolve(r.bg, "/f"); err != nil || a.UID != nobody {
			t.Errorf("owner %d %v", a.UID, err)
		}
	})
}

func TestTooManyClients(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxClients = 2 })
	a, b := r.attached("/a", 1), r.attached("/b", 1)
	c := startWorker(t)
	if s := c.ask("attach %s", r.srv.Socket()); !strings.HasPrefix(s, fmt.Sprintf("error %d 2 clients are attached", syscall.EUSERS)) {
		t.Errorf("answer: %s", s)
	}
	a.kill()
	eventually(t, "its place is free", func() bool { return len(r.srv.Clients()) == 1 })
	c.do("attach %s", r.srv.Socket())
	b.do("store 0 0 1")
}

// TestPageCacheRefused: where the kernel will not hold mapped stores, clients
// are told so, and what to use instead.
func TestPageCacheRefused(t *testing.T) {
	needAttach(t)
	dir, err := os.MkdirTemp("/var/tmp", "permafrost-dax-") // a disk
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	region, err := pmem.Create(filepath.Join(dir, "image"), 16<<20, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	if region.Domain() != pmem.DomainPageCache {
		t.Skipf("%s is %s, not page-cache", dir, region.Domain())
	}
	if err := core.Mkfs(region, core.MkfsOptions{}); err != nil {
		t.Fatal(err)
	}
	fs, err := core.Mount(region, core.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Unmount(context.Background())
	s, err := New(Options{FS: fs, Image: region.DuplicateForClients, Socket: filepath.Join(scratch, "pc"), RecordDir: filepath.Join(dir, "rec")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	if !errors.Is(s.Unavailable(), ErrUnavailable) {
		t.Errorf("unavailable: %v", s.Unavailable())
	}
	w := startWorker(t)
	got := w.ask("attach %s", s.Socket())
	for _, want := range []string{fmt.Sprintf("error %d", syscall.EOPNOTSUPP), "REST", "mount"} {
		if !strings.Contains(got, want) {
			t.Errorf("answer %q lacks %q", got, want)
		}
	}
}

func TestSocketInUse(t *testing.T) {
	r := newRig(t)
	o := r.srv.opt
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(r.bg)
	if err := s.Start(); !errors.Is(err, ErrSocketInUse) {
		t.Errorf("a second server on the socket: %v", err)
	}
	file := filepath.Join(r.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := clearSocket(file); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in the socket's place: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("it was removed: %v", err)
	}
}

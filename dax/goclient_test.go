package dax

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	attach "permafrost/dax/client"
)

const goClientArg = "attach-test-client"

// goClientMain is a Go program that attaches, in a process of its own: a
// process must not be the client of a server inside itself. It prints what went
// wrong and ends with 1, or ends with 0.
func goClientMain(socket string) int {
	// Stores here may be held, and a collection would wait for them.
	debug.SetGCPercent(-1)
	if err := goClient(socket); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func goClient(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := attach.Dial(ctx, socket)
	if err != nil {
		return err
	}
	if _, err := c.Stat(ctx, "/go"); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stat of no file: %v", err)
	}
	m, err := c.Map(ctx, attach.MapOptions{Path: "/go", Length: 3*4096 - 5, Write: true, Create: true, Grow: true})
	if err != nil {
		return err
	}
	if n := len(m.Bytes()); n != 3*4096 {
		return fmt.Errorf("%d bytes mapped", n)
	}
	copy(m.Bytes()[4000:], "written through the mapping")
	s, err := m.Sync(ctx, 0, 0)
	if err != nil || s.Pages == 0 || s.Generation == 0 {
		return fmt.Errorf("sync: %+v %v", s, err)
	}
	ro, err := c.Map(ctx, attach.MapOptions{Path: "/go", Length: 4096})
	if err != nil {
		return err
	}
	if got := string(ro.Bytes()[4000:4027]); got != "written through the mapping" {
		return fmt.Errorf("read-only mapping shows %q", got)
	}
	big, err := m.Remap(ctx, 64*4096)
	if err != nil {
		return err
	}
	big.Bytes()[63*4096] = 9
	if a, err := c.Stat(ctx, "/go"); err != nil || a.Size != 64*4096 || a.Ino != big.Ino() {
		return fmt.Errorf("stat: %+v %v", a, err)
	}
	var errno syscall.Errno
	if _, err := c.Map(ctx, attach.MapOptions{Path: "/go", Offset: 7, Length: 1}); !errors.As(err, &errno) || errno != syscall.EINVAL {
		return fmt.Errorf("map at an odd offset: %v", err)
	}
	if err := ro.Unmap(ctx); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	if _, err := c.Stat(ctx, "/go"); !errors.Is(err, attach.ErrClosed) {
		return fmt.Errorf("stat after close: %v", err)
	}
	return nil
}

func TestGoClient(t *testing.T) {
	r := newRig(t)
	out, err := exec.Command(os.Args[0], goClientArg, r.srv.Socket()).CombinedOutput()
	if err != nil {
		t.Fatalf("client: %v\n%s", err, out)
	}
	if b := r.file("/go", 4000, 27); string(b) != "written through the mapping" {
		t.Errorf("the file holds %q", b)
	}
	if b := r.file("/go", 63*4096, 1); b[0] != 9 {
		t.Errorf("the grown part holds %d", b[0])
	}
	eventually(t, "nothing is mapped", func() bool { return len(r.fs.Mappings()) == 0 && len(r.srv.Clients()) == 0 })
}

// TestStoresEndInTheErrorState: a store that can never be granted ends in
// SIGBUS and not in a wait without end.
func TestStoresEndInTheErrorState(t *testing.T) {
	var failed atomic.Bool
	r := newRig(t, func(o *Options) { o.vol = failing{coreVolume{o.FS}, &failed} })
	w := r.attached("/f", 4)
	w.do("catchbus")
	w.do("once 0 0 0 1")
	w.moved(0, 0)
	failed.Store(true) // for what is mapped from now on
	w.do("map 1 /g 0 4096 wcg")
	w.do("once 1 1 0 2")
	eventually(t, "SIGBUS", func() bool { return w.slot(63) == 1 })
	if w.slot(1) != 0 {
		t.Error("the store was carried out")
	}
	w.do("once 2 0 8192 3") // others go on
	w.moved(2, 0)
	if !strings.Contains(fmt.Sprint(r.srv.Clients()), "worker") {
		t.Error("the client is gone")
	}
}

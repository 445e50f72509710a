package dax

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/core/freeze"
	"permafrost/pmem"
)

const serverArg = "attach-test-server"

// serverMain is the appliance in a process of its own, so that tests can kill
// it: image, socket, record directory; then a command a line, an answer each.
func serverMain(args []string) int {
	if err := serveLines(args[0], args[1], args[2]); err != nil {
		fmt.Println("error", err)
		return 1
	}
	return 0
}

func serveLines(image, socket, records string) error {
	ctx := context.Background()
	region, err := pmem.Open(image, pmem.Options{})
	if err != nil {
		return err
	}
	surviving, err := region.SurvivingMappings()
	if err != nil {
		return err
	}
	fs, err := core.Mount(region, core.Options{CommitInterval: time.Hour, DeferOrphans: surviving})
	if err != nil {
		return err
	}
	srv, err := New(Options{FS: fs, Image: region.DuplicateForClients, Socket: socket, RecordDir: records,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	a, err := srv.Adopt(ctx, surviving)
	if err != nil {
		return err
	}
	if err := srv.Start(); err != nil {
		return err
	}
	fs.Adopted()
	fmt.Println("ok", a.Clients, a.Mappings, len(a.Survivors))
	hold := ""
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch f := strings.Fields(in.Text()); f[0] {
		case "freeze":
			_, h, err := fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute, Patience: 5 * time.Second})
			hold = h.ID
			report(err)
		case "thaw":
			_, err := fs.Thaw(ctx, freeze.ThawRequest{Hold: hold})
			report(err)
		case "parked":
			n := 0
			for _, c := range srv.Clients() {
				n += c.Parked
			}
			fmt.Println("ok", n)
		case "dirty":
			fmt.Println("ok", fs.Status().DirtyPages)
		case "mappings":
			fmt.Println("ok", len(fs.Mappings()))
		case "survivors":
			fmt.Println("ok", len(srv.Survivors()))
		case "check":
			rep, err := fs.Check(ctx)
			if err == nil && !rep.OK() {
				err = fmt.Errorf("%+v", rep.Problems)
			}
			report(err)
		case "close":
			err := srv.Close(ctx)
			if err == nil {
				err = fs.Unmount(ctx)
			}
			report(err)
			return nil
		}
	}
	return nil
}

func report(err error) {
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("ok")
}

// appliance is such a process.
type appliance struct {
	worker // its lines work the same way
	dir    string
}

func newImage(t testing.TB) string {
	t.Helper()
	needAttach(t)
	dir, err := os.MkdirTemp(scratch, "appliance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	region, err := pmem.Create(filepath.Join(dir, "image"), 64<<20, pmem.Options{})
	if err == nil {
		err = core.Mkfs(region, core.MkfsOptions{})
	}
	if err == nil {
		err = region.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { checkImage(t, dir) })
	return dir
}

// checkImage is the full check, offline.
func checkImage(t testing.TB, dir string) {
	region, err := pmem.Open(filepath.Join(dir, "image"), pmem.Options{})
	if err != nil {
		t.Errorf("check: %v", err)
		return
	}
	defer region.Close()
	if rep, err := core.Check(context.Background(), region, nil); err != nil || !rep.OK() {
		t.Errorf("check: %v %+v", err, rep)
	}
}

// startAppliance serves the image in dir; the answer tells what was taken back.
func startAppliance(t testing.TB, dir string) (a *appliance, clients, mappings, survivors int) {
	t.Helper()
	a = &appliance{dir: dir}
	a.t = t
	a.cmd = exec.Command(os.Args[0], serverArg, filepath.Join(dir, "image"), a.socket(), filepath.Join(dir, "rec"))
	a.cmd.Stderr = os.Stderr
	var err error
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	var out io.ReadCloser
	if out, err = a.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	a.out = bufio.NewReader(out)
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.kill)
	s := a.read()
	if n, _ := fmt.Sscanf(s, "ok %d %d %d", &clients, &mappings, &survivors); n != 3 {
		t.Fatalf("appliance: %s", s)
	}
	return a, clients, mappings, survivors
}

func (a *appliance) socket() string { return filepath.Join(a.dir, "sock") }

func (a *appliance) waitParked(n uint64) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("%d stores held", n), func() bool { return a.do("parked") == n })
}

// close stops it in good order and waits for its end.
func (a *appliance) close() {
	a.t.Helper()
	a.do("close")
	if err := a.cmd.Wait(); err != nil {
		a.t.Errorf("appliance: %v", err)
	}
}

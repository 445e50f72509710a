package core

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// An image on a FUSE file whose reads and writes of chosen ranges answer EIO: a
// medium with real bad pages. The server is a process of its own (the test
// binary plays it): a process that maps a file it serves itself stands still at
// its next garbage collection, with the thread that faults.

// fuseEnv tells the test binary to serve: the backing file, then the directory.
const fuseEnv = "PERMAFROST_TEST_FUSE"

func TestMain(m *testing.M) {
	if at := os.Getenv(fuseEnv); at != "" {
		backing, dir, _ := strings.Cut(at, "|")
		if err := serveFaulty(backing, dir); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// faultyNode is the file.
type faultyNode struct {
	fusefs.Inode
	backing *os.File // immutable

	mu     sync.Mutex
	reads  [][2]int64 // ranges whose reads fail; guarded by mu
	writes [][2]int64 // ranges whose writes fail; guarded by mu
}

var (
	_ fusefs.NodeOpener    = (*faultyNode)(nil)
	_ fusefs.NodeGetattrer = (*faultyNode)(nil)
	_ fusefs.NodeReader    = (*faultyNode)(nil)
	_ fusefs.NodeWriter    = (*faultyNode)(nil)
	_ fusefs.NodeFsyncer   = (*faultyNode)(nil)
)

func (n *faultyNode) Open(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (n *faultyNode) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	st, err := n.backing.Stat()
	if err != nil {
		return fusefs.ToErrno(err)
	}
	out.Mode, out.Nlink, out.Size, out.Blocks = syscall.S_IFREG|0o600, 1, uint64(st.Size()), uint64(st.Size())/512
	return 0
}

// bad reports whether [off, off+size) touches one of the ranges.
func (n *faultyNode) bad(ranges *[][2]int64, off int64, size int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range *ranges {
		if off < r[0]+r[1] && r[0] < off+int64(size) {
			return true
		}
	}
	return false
}

func (n *faultyNode) Read(_ context.Context, _ fusefs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if n.bad(&n.reads, off, len(p)) {
		return nil, syscall.EIO
	}
	m, err := n.backing.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return nil, fusefs.ToErrno(err)
	}
	return fuse.ReadResultData(p[:m]), 0
}

func (n *faultyNode) Write(_ context.Context, _ fusefs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	if n.bad(&n.writes, off, len(p)) {
		return 0, syscall.EIO
	}
	m, err := n.backing.WriteAt(p, off)
	return uint32(m), fusefs.ToErrno(err)
}

func (n *faultyNode) Fsync(context.Context, fusefs.FileHandle, uint32) syscall.Errno { return 0 }

// serveFaulty mounts a directory with the one file "image" in it, and takes
// orders from stdin until that ends.
func serveFaulty(backing, dir string) error {
	f, err := os.OpenFile(backing, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	node := &faultyNode{backing: f}
	root := &fusefs.Inode{}
	srv, err := fusefs.Mount(dir, root, &fusefs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faulty", Name: "faulty"},
		OnAdd: func(ctx context.Context) {
			root.AddChild("image", root.NewPersistentInode(ctx, node, fusefs.StableAttr{Mode: syscall.S_IFREG}), true)
		},
	})
	if err != nil {
		return err
	}
	fmt.Println("ok")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var what string
		var off, size int64
		if _, err := fmt.Sscan(in.Text(), &what, &off, &size); err != nil {
			return err
		}
		node.mu.Lock()
		switch what {
		case "read":
			node.reads = append(node.reads, [2]int64{off, size})
		case "write":
			node.writes = append(node.writes, [2]int64{off, size})
		case "mend":
			node.reads, node.writes = nil, nil
		}
		node.mu.Unlock()
		if what == "read" { // what the page cache has of it is forgotten
			if errno := node.NotifyContent(off, size); errno != 0 && errno != syscall.ENOENT {
				return errno
			}
		}
		fmt.Println("ok")
	}
	return srv.Unmount()
}

// faultyFile is such a file, as the test sees it.
type faultyFile struct {
	t    testing.TB
	path string
	in   io.WriteCloser
	out  *bufio.Reader
	cmd  *exec.Cmd
}

// newFaultyFile serves a backing file.
func newFaultyFile(t testing.TB, backing string) *faultyFile {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting FUSE needs root here")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no FUSE: ", err)
	}
	dir := filepath.Join(filepath.Dir(backing), "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f := &faultyFile{t: t, path: filepath.Join(dir, "image"), cmd: exec.Command(os.Args[0])}
	f.cmd.Env = append(os.Environ(), fuseEnv+"="+backing+"|"+dir)
	f.cmd.Stderr = os.Stderr
	var err error
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	f.out = bufio.NewReader(out)
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.in.Close()
		stuck := time.AfterFunc(10*time.Second, func() { _ = f.cmd.Process.Kill() })
		_ = f.cmd.Wait()
		stuck.Stop()
		_ = syscall.Unmount(dir, syscall.MNT_DETACH) // if it could not
	})
	f.answer()
	return f
}

func (f *faultyFile) answer() {
	f.t.Helper()
	if line, err := f.out.ReadString('\n'); err != nil || line != "ok\n" {
		f.t.Fatalf("the FUSE server says %q, %v", line, err)
	}
}

// order makes accesses ("read", "write") of a range fail from now on, or mends
// all of them ("mend").
func (f *faultyFile) order(what string, off, size int64) {
	f.t.Helper()
	if _, err := fmt.Fprintln(f.in, what, off, size); err != nil {
		f.t.Fatal(err)
	}
	f.answer()
}

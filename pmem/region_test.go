package pmem

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shmDir is a directory on tmpfs that the test leaves empty.
func shmDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pmem-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// newMemfd is a region that the test closes.
func newMemfd(t testing.TB, size int64, o Options) *Region {
	t.Helper()
	r, err := CreateMemfd("pmem-test", size, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return r
}

func mustWrite(t testing.TB, r *Region, off int64, p []byte) {
	t.Helper()
	b := r.Begin()
	defer b.End()
	if err := b.Write(off, p); err != nil {
		t.Fatal(err)
	}
	if err := b.Fence(); err != nil {
		t.Fatal(err)
	}
}

func TestCreateOpenRoundTrip(t *testing.T) {
	path := filepath.Join(shmDir(t), "image")
	r, err := Create(path, 1<<20, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Size() != 1<<20 || r.Path() != path || r.Domain() != DomainVolatile {
		t.Fatalf("size %d path %s domain %v", r.Size(), r.Path(), r.Domain())
	}
	if uintptr(unsafe.Pointer(unsafe.SliceData(r.Bytes(0, 1))))%hugeBytes != 0 {
		t.Error("base not aligned to huge pages")
	}
	mustWrite(t, r, 4090, []byte("permafrost"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second close: %v", err)
	}

	r, err = Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := make([]byte, 10)
	if n, err := r.ReadAt(p, 4090); n != 10 || err != nil || string(p) != "permafrost" {
		t.Errorf("read %d %v %q", n, err, p)
	}
	onDisk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(onDisk[4090:4100], []byte("permafrost")) || len(onDisk) != 1<<20 {
		t.Error("the file does not hold what was written")
	}
}

func TestUseAfterClose(t *testing.T) {
	r := newMemfd(t, 1<<16, Options{})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if r.Size() != 0 || r.Bytes(0, 1) != nil {
		t.Error("a closed region still has bytes")
	}
	if _, err := r.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := r.Grow(1 << 20); !errors.Is(err, ErrClosed) {
		t.Errorf("grow: %v", err)
	}
	b := r.Begin()
	if err := b.Write(0, []byte{1}); !errors.Is(err, ErrClosed) {
		t.Errorf("write: %v", err)
	}
	b.End()
	b.End()
	if err := b.Write(0, []byte{1}); !errors.Is(err, ErrBatchEnded) {
		t.Errorf("write after end: %v", err)
	}
	if err := b.Fence(); !errors.Is(err, ErrBatchEnded) {
		t.Errorf("fence after end: %v", err)
	}
}

func TestReadAtEnds(t *testing.T) {
	const size = 10000 // not a multiple of anything
	r := newMemfd(t, size, Options{})
	for _, c := range []struct {
		off  int64
		want int
		n    int
		err  error
	}{
		{0, size, size, nil},
		{0, size + 1, size, io.EOF},
		{size - 1, 1, 1, nil},
		{size - 1, 2, 1, io.EOF},
		{size, 1, 0, io.EOF},
		{size, 0, 0, nil},
		{-1, 1, 0, ErrOutOfRange},
		{1<<63 - 1, 8, 0, io.EOF},
	} {
		n, err := r.ReadAt(make([]byte, c.want), c.off)
		if n != c.n || !errors.Is(err, c.err) {
			t.Errorf("ReadAt(%d, %d) = %d, %v; want %d, %v", c.want, c.off, n, err, c.n, c.err)
		}
	}
}

func TestRangesOutside(t *testing.T) {
	const size = 1 << 16
	r := newMemfd(t, size, Options{})
	for _, c := range [][2]int64{{-1, 1}, {0, size + 1}, {size, 1}, {1, size}, {1<<63 - 1, 1}, {0, -1}, {-5, 1<<63 - 1}} {
		off, n := c[0], c[1]
		if r.Bytes(off, n) != nil {
			t.Errorf("Bytes(%d, %d) is not nil", off, n)
		}
		b := r.Begin()
		if err := b.Zero(off, n); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("Zero(%d, %d): %v", off, n, err)
		}
		if err := b.Fence(); !errors.Is(err, ErrFenceFailed) || !errors.Is(err, ErrOutOfRange) {
			t.Errorf("the fence after it: %v", err)
		}
		b.End()
		b = r.Begin()
		if err := b.Flush(off, n); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("Flush(%d, %d): %v", off, n, err)
		}
		b.End()
		if n >= 0 && n <= 2*size {
			b = r.Begin()
			if err := b.Write(off, make([]byte, n)); !errors.Is(err, ErrOutOfRange) {
				t.Errorf("Write(%d, %d): %v", off, n, err)
			}
			b.End()
		}
	}
	// Failure stays with its batch.
	b := r.Begin()
	defer b.End()
	if err := b.Write(size, nil); err != nil {
		t.Errorf("nothing at the end: %v", err)
	}
	if err := b.Fence(); err != nil {
		t.Errorf("a fresh batch: %v", err)
	}
}

func TestOpenRefusals(t *testing.T) {
	dir := shmDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(at("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		want error
	}{
		{dir, ErrNotRegular},
		{at("pipe"), ErrNotRegular},
		{"/dev/null", ErrNotRegular},
		{at("empty"), ErrTooSmall},
		{at("nothing"), fs.ErrNotExist},
	} {
		r, err := Open(c.path, Options{})
		if !errors.Is(err, c.want) {
			t.Errorf("open %s: %v, want %v", c.path, err, c.want)
		}
		if err == nil {
			r.Close()
		}
	}
	if _, err := Create(at("empty"), 4096, Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create over a file: %v", err)
	}
	for _, size := range []int64{0, -1} {
		if _, err := Create(at("new"), size, Options{}); !errors.Is(err, ErrBadSize) {
			t.Errorf("create of %d bytes: %v", size, err)
		}
		if _, err := CreateMemfd("new", size, Options{}); !errors.Is(err, ErrBadSize) {
			t.Errorf("memfd of %d bytes: %v", size, err)
		}
	}
	if _, err := os.Stat(at("new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused create left a file: %v", err)
	}
}

// TestNoPermission gives up the file system's privileges on its own thread,
// which ends with the goroutine.
func TestNoPermission(t *testing.T) {
	dir := shmDir(t)
	path := filepath.Join(dir, "image")
	if err := os.WriteFile(path, make([]byte, 4096), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		if os.Getuid() == 0 {
			// The thread keeps its other identity: it must not serve others.
			lockThreadForGood()
			const nobody = 65534
			if _, _, e := syscall.RawSyscall(syscall.SYS_SETFSUID, nobody, 0, 0); e != 0 {
				done <- e
				return
			}
		}
		_, err := Open(path, Options{})
		done <- err
	}()
	if err := <-done; !errors.Is(err, fs.ErrPermission) {
		t.Errorf("open: %v", err)
	}
}

func TestOverwrite(t *testing.T) {
	path := filepath.Join(shmDir(t), "image")
	if err := os.WriteFile(path, bytes.Repeat([]byte{7}, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Create(path, 4096, Options{Overwrite: true})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.Bytes(0, r.Size()), make([]byte, 4096)) {
		t.Error("the old content is still there")
	}
	client, err := r.DuplicateForClients()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := Create(path, 4096, Options{Overwrite: true}); !errors.Is(err, ErrLocked) {
		t.Errorf("overwriting what a server uses: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, 4096, Options{Overwrite: true}); !errors.Is(err, ErrStillMapped) {
		t.Errorf("overwriting what a client uses: %v", err)
	}
}

func TestOpenFDSharesTheFile(t *testing.T) {
	path := filepath.Join(shmDir(t), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := OpenFD(f, Options{}); !errors.Is(err, ErrTooSmall) {
		t.Errorf("empty file: %v", err)
	}
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	r, err := OpenFD(f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	mustWrite(t, r, 77, []byte{1, 2, 3})
	p := make([]byte, 3)
	if _, err := f.ReadAt(p, 77); err != nil || !bytes.Equal(p, []byte{1, 2, 3}) {
		t.Errorf("the caller's descriptor reads %v, %v", p, err)
	}
	// Opening filled the hole.
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*statBlockBytes < 1<<20 {
		t.Errorf("%d blocks allocated", st.Blocks)
	}
}

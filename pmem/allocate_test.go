package pmem

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// smallTmpfs mounts a tmpfs of its own; it needs the right to mount.
func smallTmpfs(t *testing.T, sizeBytes string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("pmem-test", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size="+sizeBytes); err != nil {
		t.Skipf("no right to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// allocatedBytes is what the file takes on its file system.
func allocatedBytes(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	mustDo(t, unix.Stat(path, &st))
	return st.Blocks * statBlockBytes
}

func TestFullFileSystem(t *testing.T) {
	dir := smallTmpfs(t, "2m")
	path := filepath.Join(dir, "image")
	if _, err := Create(path, 3<<20, Options{}); !errors.Is(err, ErrNoSpace) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("create: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the refused create left a file: %v", err)
	}

	r, err := Create(path, 1<<20, Options{})
	mustDo(t, err)
	mustWrite(t, r, 1<<20-3, []byte("end"))
	if err := r.Grow(4 << 20); !errors.Is(err, ErrNoSpace) {
		t.Errorf("grow: %v", err)
	}
	// Past the early check, the kernel's word counts; and what it gave before it
	// refused is taken back.
	mustDo(t, os.WriteFile(filepath.Join(dir, "other"), make([]byte, 512<<10), 0o600))
	if err := growUnchecked(r, 4<<20); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("fallocate: %v", err)
	}
	if err := r.Grow(2 << 20); !errors.Is(err, ErrNoSpace) {
		t.Errorf("grow beside another file: %v", err)
	}
	st, err := os.Stat(path)
	mustDo(t, err)
	if st.Size() != 1<<20 || r.Size() != 1<<20 || allocatedBytes(t, path) != 1<<20 {
		t.Errorf("file %d, allocated %d, region %d bytes", st.Size(), allocatedBytes(t, path), r.Size())
	}
	if string(r.Bytes(1<<20-3, 3)) != "end" {
		t.Error("the region lost its end")
	}
	mustDo(t, r.Grow(1<<20+4096)) // what fits still does
	mustDo(t, r.Close())

	// A sparse file that cannot be filled is refused, not met by SIGBUS later.
	sparse := filepath.Join(dir, "sparse")
	mustDo(t, os.WriteFile(sparse, []byte("x"), 0o600))
	mustDo(t, os.Truncate(sparse, 8<<20))
	if _, err := Open(sparse, Options{}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("open of a sparse file: %v", err)
	}
	if text, err := os.ReadFile(sparse); err != nil || text[0] != 'x' || len(text) != 8<<20 {
		t.Errorf("the refused file changed: %d bytes, %v", len(text), err)
	}
}

// growUnchecked is the kernel's answer to a growth of the file.
func growUnchecked(r *Region, size int64) error {
	old := r.Size()
	err := unix.Fallocate(int(r.file.Fd()), 0, old, size-old)
	return errors.Join(err, r.file.Truncate(old))
}

func TestFileSizeLimit(t *testing.T) {
	var old unix.Rlimit
	mustDo(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	limit := old
	limit.Cur = 1 << 20
	mustDo(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))
	defer func() { mustDo(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &old)) }()
	path := filepath.Join(shmDir(t), "image")
	if _, err := Create(path, 1<<20+1, Options{}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("past the limit: %v", err)
	}
	r, err := Create(path, 1<<20, Options{})
	mustDo(t, err)
	mustDo(t, r.Close())
}

// TestFillHoles is the way of file systems without fallocate: data stays,
// holes and what lies past the end become allocated zeros.
func TestFillHoles(t *testing.T) {
	for _, data := range [][][2]int64{
		{},
		{{0, 4096}},
		{{8192, 4096}, {3 << 20, 8192}},
		{{5<<20 - 4096, 4096}},
		{{0, 5 << 20}},
	} {
		path := filepath.Join(shmDir(t), "image")
		f, err := os.Create(path)
		mustDo(t, err)
		const had, size = 5 << 20, 6<<20 + 100
		want := make([]byte, size)
		mustDo(t, f.Truncate(had))
		for _, d := range data {
			copy(want[d[0]:], bytes.Repeat([]byte{0xA7}, int(d[1])))
			_, err := f.WriteAt(want[d[0]:d[0]+d[1]], d[0])
			mustDo(t, err)
		}
		mustDo(t, fillHoles(f, 0, size))
		mustDo(t, f.Close())
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: the content changed, %v", data, err)
		}
		if n := allocatedBytes(t, path); n < size {
			t.Errorf("%v: only %d bytes allocated", data, n)
		}
	}
}

package exercise

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var ext4Features = Features{ZeroRange: true, Direct: true, Tmpfile: true, Exchange: true, XattrMax: 400, MappedMtime: true, Holes: true, SeekHoles: true}

// disk is an ext4 of a test's own, on a file in memory.
type disk struct {
	image, dir, other string
	frozen            int // freezes so far
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small disk takes root")
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		if mkfs, err = exec.LookPath("/usr/sbin/mkfs.ext4"); err != nil {
			t.Skip("mkfs.ext4 is not installed")
		}
	}
	base := tmpfs(t)
	d := &disk{image: filepath.Join(base, "disk"), dir: filepath.Join(base, "mnt"), other: filepath.Join(base, "copy")}
	for _, p := range []string{d.dir, d.other} {
		if err := os.Mkdir(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(64<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", "-b", "4096", d.image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop,noatime", d.image, d.dir).CombinedOutput(); err != nil {
		t.Skipf("a file cannot be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.dir, 0); err != nil {
			t.Error("unmount:", err)
			_ = unix.Unmount(d.dir, unix.MNT_DETACH)
		}
	})
	return d
}

// frozenDisk is a disk under FIFREEZE.
type frozenDisk struct {
	*disk
	f *os.File // the mount point
}

const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

func (d *disk) freeze(context.Context) (Frozen, error) {
	f, err := os.Open(d.dir)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &frozenDisk{d, f}, nil
}

func (d *frozenDisk) Thaw(context.Context) error {
	return errors.Join(unix.IoctlSetInt(int(d.f.Fd()), fiThaw, 0), d.f.Close())
}

func (d *frozenDisk) Hash() (string, error) {
	b, err := os.ReadFile(d.image)
	return fmt.Sprintf("%x", sha256.Sum256(b)), err
}

// Copy looks at one freeze in four: mounting a second disk takes most of a second.
func (d *frozenDisk) Copy(_ context.Context, judge func(string) error) error {
	if d.frozen++; d.frozen%4 != 0 {
		return nil
	}
	b, err := os.ReadFile(d.image)
	if err != nil {
		return err
	}
	copied := d.image + ".copy"
	defer os.Remove(copied)
	if err := os.WriteFile(copied, b, 0o600); err != nil {
		return err
	}
	if out, err := exec.Command("mount", "-o", "loop,ro", copied, d.other).CombinedOutput(); err != nil {
		return fmt.Errorf("mount the copy: %w: %s", err, out)
	}
	err = judge(d.other)
	for try := 0; ; try++ { // udev may look at a new device for a moment
		if e := unix.Unmount(d.other, 0); e != unix.EBUSY || try == 100 {
			return errors.Join(err, e)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// damages are what TestFindsDamage does to the files of a run behind its back.
var damages = map[string]func(t *testing.T, dir string){
	"a byte changes": func(t *testing.T, dir string) {
		spoilFile(t, dir, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	},
	"a byte is added":       func(t *testing.T, dir string) { spoilFile(t, dir, func(b []byte) []byte { return append(b, 0) }) },
	"the last byte is lost": func(t *testing.T, dir string) { spoilFile(t, dir, func(b []byte) []byte { return b[:len(b)-1] }) },
	"a page becomes zeros": func(t *testing.T, dir string) {
		spoilFile(t, dir, func(b []byte) []byte {
			for at := 0; at < len(b); at += pageSize {
				if p := b[at:min(at+pageSize, len(b))]; len(bytes.Trim(p, "\x00")) > 0 {
					clear(p)
					break
				}
			}
			return b
		})
	},
	"a name appears": func(t *testing.T, dir string) {
		if err := os.WriteFile(filepath.Join(runDir(t, dir), "unasked"), nil, 0o600); err != nil {
			t.Error(err)
		}
	},
	"a name goes":      onFile(os.Remove),
	"the mode changes": onFile(func(path string) error { return os.Chmod(path, 0o777) }),
	"mtime goes back": func(t *testing.T, dir string) { // of all: one might be changed next, and say so rightly
		_ = filepath.WalkDir(runDir(t, dir), func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				err = os.Chtimes(p, time.Time{}, time.Unix(5, 0))
			}
			if err != nil {
				t.Error(err)
			}
			return nil
		})
	},
	"an unnoticed link": func(t *testing.T, dir string) {
		onFile(func(path string) error {
			return os.Link(path, filepath.Join(dir, fmt.Sprint("link-", time.Now().UnixNano())))
		})(t, dir)
	},
	"an attribute appears": onFile(func(path string) error { return unix.Setxattr(path, "user.unasked", []byte("x"), 0) }),
}

// onFile does it to a file of the run; a shrunk run may have none.
func onFile(spoil func(path string) error) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if path := someFile(t, dir); path != "" {
			if err := spoil(path); err != nil {
				t.Error(err)
			}
		}
	}
}

// runDir is the directory of the run under way.
func runDir(t *testing.T, dir string) string {
	t.Helper()
	newest, at := "", time.Time{}
	found, _ := filepath.Glob(filepath.Join(dir, "exercise-*"))
	for _, p := range found {
		if st, err := os.Stat(p); err == nil && !birth(p, st).Before(at) {
			newest, at = p, birth(p, st)
		}
	}
	return newest
}

func birth(path string, st fs.FileInfo) time.Time {
	var stx unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BTIME, &stx) == nil && stx.Mask&unix.STATX_BTIME != 0 {
		return time.Unix(stx.Btime.Sec, int64(stx.Btime.Nsec))
	}
	return st.ModTime()
}

// someFile is the first file of the run that has data, or else any.
func someFile(t *testing.T, dir string) string {
	t.Helper()
	first, whole := "", ""
	_ = filepath.WalkDir(runDir(t, dir), func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if st, err := e.Info(); whole == "" && err == nil && st.Size() > 0 {
			if b, err := os.ReadFile(p); err == nil && len(bytes.Trim(b, "\x00")) > 0 {
				whole = p
			}
		}
		first = p
		return nil
	})
	if whole != "" {
		return whole
	}
	return first
}

func spoilFile(t *testing.T, dir string, change func([]byte) []byte) {
	t.Helper()
	path := someFile(t, dir)
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return // a shrunk run may have none that has data
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Error(err)
		return
	}
	b = change(b)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Error(err)
		return
	}
	_, err = f.WriteAt(b, 0)
	if err := errors.Join(err, f.Truncate(int64(len(b))), f.Close(), os.Chtimes(path, time.Time{}, st.ModTime())); err != nil {
		t.Error(err)
	}
}

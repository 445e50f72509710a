package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mountFixture is a server, always a process of its own, with its file system
// mounted: a test may use the mount, which its own server may not.
type mountFixture struct {
	*testServer
	mnt       string
	copyEvery int          // one frozen copy in so many is mounted for judge; 0: all
	copies    atomic.Int64 // asked for
	fellBack  atomic.Int64 // freezes of standStill that could not collect
}

// needMount skips the test where nothing can be mounted.
func needMount(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no FUSE here: ", err)
	}
	f.Close()
	if _, err := exec.LookPath("fusermount3"); os.Getuid() != 0 && err != nil {
		t.Skip("mounting as an ordinary user takes fusermount3")
	}
}

// newMountPoint is an empty directory that every user can reach.
func newMountPoint(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "permafrost-mount-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Not RemoveAll: should the unmount have failed, it would empty the image.
		if err := os.Remove(dir); err != nil {
			t.Errorf("the mount is still there: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

// newMountFixture serves a new image of that size; the image is checked when the
// test ends.
func newMountFixture(t testing.TB, size string, args ...string) *mountFixture {
	t.Helper()
	needMount(t)
	mnt := newMountPoint(t)
	return &mountFixture{testServer: newServer(t, "", append([]string{"--create", size, "--mount", mnt}, args...)...), mnt: mnt}
}

// sub makes a directory of a test's own on the mount.
func (m *mountFixture) sub(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(m.mnt, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// frozenMount is a freeze of a fixture that stands.
type frozenMount struct {
	m    *mountFixture
	id   uint64
	hold string
	mode string // how mapped stores were stopped: collect, notify or none
}

// freeze asks for one. The lease bounds what a test that hangs may hold up.
func (m *mountFixture) freeze(ctx context.Context) (*frozenMount, error) {
	var fr struct {
		ID    uint64            `json:"id"`
		Hold  string            `json:"hold"`
		Modes map[string]string `json:"modes"`
	}
	if _, err := m.client.call(ctx, "POST", "/freeze", params("holder", "mount-test", "lease", "90s", "patience", "20s"), &fr); err != nil {
		return nil, err
	}
	return &frozenMount{m, fr.ID, fr.Hold, fr.Modes["mount"]}, nil
}

// Thaw ends the freeze, and is an error unless it was kept without a gap.
func (f *frozenMount) Thaw(ctx context.Context) error {
	var r wireThaw
	if _, err := f.m.client.call(ctx, "POST", "/thaw", params("hold", f.hold), &r); err != nil {
		return err
	}
	if !r.Held || !r.Thawed || !r.Changed {
		return fmt.Errorf("the thaw of a hold that stood says %+v", r)
	}
	return nil
}

var imageHashSeed = maphash.MakeSeed()

// Hash is of every byte of the image.
func (f *frozenMount) Hash() (string, error) {
	in, err := os.Open(f.m.image)
	if err != nil {
		return "", err
	}
	defer in.Close()
	var h maphash.Hash
	h.SetSeed(imageHashSeed)
	_, err = io.CopyBuffer(struct{ io.Writer }{&h}, struct{ io.Reader }{in}, make([]byte, 1<<20))
	return fmt.Sprintf("%x", h.Sum64()), err
}

// Copy copies the image, checks the copy, and has some of them judged as mounted
// by a second server.
func (f *frozenMount) Copy(ctx context.Context, judge func(dir string) error) error {
	copied := filepath.Join(f.m.dir, fmt.Sprintf("copy-%d.pmem", f.id))
	defer os.Remove(copied)
	if err := copyFile(copied, f.m.image); err != nil {
		return err
	}
	if err := checkCopy(ctx, copied); err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	if every := int64(f.m.copyEvery); every > 1 && f.m.copies.Add(1)%every != 1 {
		return nil
	}
	return f.m.serveCopy(copied, judge)
}

// serveCopy mounts a copy of the image by a server of its own while judge looks
// at it. A server that does not end well is an error.
func (m *mountFixture) serveCopy(image string, judge func(dir string) error, args ...string) (err error) {
	dir, err := os.MkdirTemp(m.dir, "second-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	mnt, err := os.MkdirTemp("", "permafrost-second-")
	if err != nil {
		return err
	}
	if err := os.Chmod(mnt, 0o755); err != nil {
		return err
	}
	defer func() {
		if e := os.Remove(mnt); e != nil {
			err = errors.Join(err, fmt.Errorf("the second server left its mount: %w", e), unix.Unmount(mnt, unix.MNT_DETACH))
		}
	}()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	s, err := startServerOf(exe, log, append([]string{"--pmem", image, "--state", filepath.Join(dir, "state"), "--socket", filepath.Join(dir, "p.sock"),
		"--attach-socket", filepath.Join(dir, "a.sock"), "--listen", "127.0.0.1:0", "--mount", mnt}, args...)...)
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("the second server: %w\n%s", err, text)
	}
	err = judge(mnt)
	s.end()
	return err
}

// inTime fails the test if f does not end; what it does may be held in the kernel.
func inTime(t testing.TB, limit time.Duration, what string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	case <-time.After(limit):
		t.Fatalf("%s did not end within %s", what, limit)
	}
}

// mountFull says how many freezes or operations a test makes: a few in make
// test, all in make mount-full, which sets the variable.
func mountFull(t testing.TB, variable string, few int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s: %q is no number of that kind", variable, text)
	}
	return n
}

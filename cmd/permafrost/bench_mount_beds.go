package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mountBed is a file system that `bench mount` measures, mounted. Immutable
// once made; end is called once.
type mountBed struct {
	name   string
	what   string         // what it is, for people
	dir    string         // an empty directory on it
	cached bool           // its files are the page cache
	server *serverProcess // ours; nil for a rival
	end    func()
}

// The beds in the order of the table's columns; the first is ours.
const (
	bedOurs    = "permafrost"
	bedExt4    = "ext4"
	bedTmpfs   = "tmpfs"
	bedFuse2fs = "fuse2fs"
)

var mountBeds = []string{bedOurs, bedExt4, bedTmpfs, bedFuse2fs}

// mountImageBytes holds what the rows leave, twice the sequential file, and
// 100,000 inodes.
const mountImageBytes = 512 << 20

// ext4Options give ext4 inodes for every row, and no work after its mkfs.
var ext4Options = []string{"-b", "4096", "-N", "131072", "-E", "lazy_itable_init=0,lazy_journal_init=0"}

// benchDir makes a directory whose name says whose it is.
func benchDir(parent string) (string, error) {
	return os.MkdirTemp(parent, fmt.Sprintf("permafrost-bench-%d-", os.Getpid()))
}

func newMountBed(name string, b *benchMountCmd) (*mountBed, error) {
	switch name {
	case bedOurs:
		return newOurBed(b)
	case bedExt4:
		dir, end, err := loopMount("ext4", mountImageBytes, ext4Options...)
		return &mountBed{name: name, what: "the kernel's, on a loop device over an image on tmpfs", dir: dir, end: end}, err
	case bedTmpfs:
		dir, err := benchDir("/dev/shm")
		return &mountBed{name: name, what: "/dev/shm itself", dir: dir, cached: true, end: func() { _ = os.RemoveAll(dir) }}, err
	case bedFuse2fs:
		return newFuse2fsBed()
	}
	return nil, fmt.Errorf("no file system %q", name)
}

// newOurBed starts an appliance with its image on tmpfs and its state on disk.
func newOurBed(b *benchMountCmd) (bed *mountBed, err error) {
	base, err := benchDir("/dev/shm")
	if err != nil {
		return nil, err
	}
	state, err := benchDir(b.Disk)
	if err != nil {
		_ = os.RemoveAll(base)
		return nil, err
	}
	dir := filepath.Join(base, "mnt")
	bed = &mountBed{name: bedOurs, what: "permafrost serve --mount, image on tmpfs", dir: dir}
	bed.end = func() {
		if bed.server != nil {
			bed.server.end()
		}
		if unmountSurely(dir) {
			_ = os.RemoveAll(base)
		}
		_ = os.RemoveAll(state)
	}
	image := filepath.Join(base, "image")
	if err = errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(image, 0o755)); err == nil {
		args := []string{"--pmem", filepath.Join(image, "fs.pmem"), "--create", fmt.Sprint(mountImageBytes), "--state", state,
			"--socket", filepath.Join(state, "rest.sock"), "--listen", "127.0.0.1:0", "--mount", dir}
		if b.ServerProfile != "" {
			args = append(args, "--cpu-profile", b.ServerProfile)
		}
		bed.server, err = startServer(args...)
	}
	if err != nil {
		bed.end()
		return nil, err
	}
	return bed, nil
}

// newFuse2fsBed mounts an ext4 image by the user-space peer.
func newFuse2fsBed() (bed *mountBed, err error) {
	base, err := benchDir("/dev/shm")
	if err != nil {
		return nil, err
	}
	dir, image := filepath.Join(base, "mnt"), filepath.Join(base, "image")
	bed = &mountBed{name: bedFuse2fs, what: "fuse2fs of e2fsprogs with big_writes, image on tmpfs", dir: dir}
	var server *exec.Cmd
	exited := make(chan error, 1)
	bed.end = func() {
		unmounted := unmountSurely(dir)
		if server != nil {
			endOf(server, exited)
		}
		if unmounted {
			_ = os.RemoveAll(base)
		}
	}
	defer func() {
		if err != nil {
			bed.end()
			bed = nil
		}
	}()
	if err = errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(image, nil, 0o600), os.Truncate(image, mountImageBytes)); err != nil {
		return bed, err
	}
	if err = makeKernelFS("ext4", image, ext4Options...); err != nil {
		return bed, err
	}
	cmd := exec.Command("fuse2fs", "-f", image, dir, "-o", "big_writes")
	if err = cmd.Start(); err != nil {
		return bed, fmt.Errorf("%w (install fuse2fs)", err)
	}
	server = cmd
	go func() { exited <- server.Wait() }()
	return bed, awaitMount(dir, exited)
}

// awaitMount waits until something is mounted at dir, or its server has ended.
func awaitMount(dir string, exited chan error) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if there, err := isMountPoint(dir); err != nil || there {
			return err
		}
		select {
		case err := <-exited:
			exited <- err // for end
			return fmt.Errorf("the server of %s ended: %v", dir, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("nothing is mounted at %s after 30 s", dir)
}

// endOf waits for a server whose mount is gone, and ends it if it stays.
func endOf(server *exec.Cmd, exited chan error) {
	for _, sig := range []syscall.Signal{0, unix.SIGTERM, unix.SIGKILL} {
		if sig != 0 {
			_ = server.Process.Signal(sig) // it may have ended
		}
		select {
		case <-exited:
			return
		case <-time.After(3 * time.Second):
		}
	}
}

// readAheadKB is the read-ahead of the mount that dir is on, as the kernel has
// it; 0 if it does not say.
func readAheadKB(dir string) int {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return 0
	}
	kb := 0
	_, _ = fmt.Sscan(strings.TrimSpace(string(text)), &kb)
	return kb
}

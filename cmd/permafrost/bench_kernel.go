package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// benchKernelCmd measures the rival: the kernel's own FIFREEZE, on a loop
// device over an image on tmpfs, with the same mapped process as bench freeze.
// It needs root and the file system's mkfs.
type benchKernelCmd struct {
	FS         string        `name:"fs" help:"ext4, xfs or btrfs." enum:"ext4,xfs,btrfs" default:"ext4"`
	Inodes     int           `help:"Files made (and so cached) beforehand." default:"1000"`
	DirtyFiles int           `help:"Files with dirty pages." default:"0"`
	DirtyPages int           `help:"Dirty pages before each freeze, over all files." default:"0"`
	Stride     int           `help:"Every so many'th page of a file is dirtied." default:"1"`
	Hot        bool          `help:"The writer stores on."`
	Rounds     int           `help:"Freezes measured." default:"50"`
	Idle       time.Duration `help:"Rest before each freeze." default:"0s"`
	JSON       bool          `name:"json" help:"One line of JSON."`
}

type kernelFigures struct {
	FreezeUS   quantiles `json:"freeze_us"`
	ThawUS     quantiles `json:"thaw_us"`
	FS         string    `json:"fs"`
	Inodes     int       `json:"inodes"`
	DirtyFiles int       `json:"dirty_files"`
	DirtyPages int       `json:"dirty_pages"`
	Stride     int       `json:"stride"`
	Hot        bool      `json:"hot"`
	IdleMS     float64   `json:"idle_ms"`
	Rounds     int       `json:"rounds"`
}

// Of linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

func (b *benchKernelCmd) Run(c *console) error {
	if b.DirtyPages > 0 && b.DirtyFiles == 0 {
		b.DirtyFiles = 1
	}
	bytes := int64(b.Inodes)*1024 + int64(b.DirtyPages)*int64(b.Stride)*4096 + 1<<30
	dir, unmount, err := loopMount(b.FS, bytes)
	if err != nil {
		return err
	}
	defer unmount()
	for i := range b.Inodes {
		sub := filepath.Join(dir, fmt.Sprintf("d%06d", i/1000))
		if i%1000 == 0 {
			if err := os.Mkdir(sub, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%03d", i%1000)), nil, 0o644); err != nil {
			return err
		}
	}
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var w *benchWriter
	if b.DirtyPages > 0 {
		if w, err = startBenchWriter("--plain", dir, b.DirtyFiles, b.DirtyPages/b.DirtyFiles, b.Stride); err != nil {
			return err
		}
		defer w.end()
	}
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		return err
	}
	fig := kernelFigures{FS: b.FS, Inodes: b.Inodes, DirtyFiles: b.DirtyFiles, DirtyPages: b.DirtyPages, Stride: b.Stride, Hot: b.Hot,
		IdleMS: float64(b.Idle.Microseconds()) / 1e3, Rounds: b.Rounds}
	var freezes, thaws []time.Duration
	for range b.Rounds {
		if w != nil {
			if err := w.dirty(b.Hot); err != nil {
				return err
			}
		}
		time.Sleep(b.Idle)
		start := time.Now()
		if err := unix.IoctlSetInt(int(root.Fd()), fiFreeze, 0); err != nil {
			return fmt.Errorf("FIFREEZE: %w", err)
		}
		freezes = append(freezes, time.Since(start))
		start = time.Now()
		if err := unix.IoctlSetInt(int(root.Fd()), fiThaw, 0); err != nil {
			return fmt.Errorf("FITHAW: %w", err)
		}
		thaws = append(thaws, time.Since(start))
		if w != nil && b.Hot {
			if err := w.quiet(); err != nil {
				return err
			}
		}
	}
	fig.FreezeUS, fig.ThawUS = quantilesOf(freezes), quantilesOf(thaws)
	return benchOut(c, b.JSON, fig)
}

// loopMount makes a file system of the kernel's on a loop device over tmpfs;
// options are further ones of its mkfs.
func loopMount(fs string, bytes int64, options ...string) (dir string, unmount func(), err error) {
	if os.Geteuid() != 0 {
		return "", nil, fmt.Errorf("mounting a loop device needs root")
	}
	base, err := benchDir("/dev/shm")
	if err != nil {
		return "", nil, err
	}
	fail := func(err error) (string, func(), error) { _ = os.RemoveAll(base); return "", nil, err }
	image, dir := filepath.Join(base, "image"), filepath.Join(base, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fail(err)
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return fail(err)
	}
	if err := os.Truncate(image, bytes); err != nil {
		return fail(err)
	}
	if err := makeKernelFS(fs, image, options...); err != nil {
		return fail(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		return fail(fmt.Errorf("mount: %w: %s", err, strings.TrimSpace(string(out))))
	}
	return dir, func() {
		if unmountSurely(dir) {
			_ = os.RemoveAll(base)
		}
	}, nil
}

func makeKernelFS(fs, image string, options ...string) error {
	force := map[string]string{"ext4": "-F", "xfs": "-f", "btrfs": "-f"}[fs]
	out, err := exec.Command("mkfs."+fs, append(append([]string{force, "-q"}, options...), image)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.%s: %w: %s (install e2fsprogs, xfsprogs or btrfs-progs)", fs, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// unmountSurely takes a mount away: in the orderly way, then by force, which
// fails what waits for a server in user space, then from the tree alone. False:
// it is still there, and nothing below it may be removed.
func unmountSurely(dir string) bool {
	gone := func() bool {
		there, err := isMountPoint(dir)
		return err == nil && !there
	}
	for _, flags := range []int{0, unix.MNT_FORCE, unix.MNT_DETACH} {
		if gone() {
			return true
		}
		_ = unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW) // judged by whether it is gone
	}
	return gone()
}

// isMountPoint says whether something is mounted at dir.
func isMountPoint(dir string) (bool, error) {
	there, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	return len(there) > 0, err
}

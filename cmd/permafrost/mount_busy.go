package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"permafrost/mount"
	"permafrost/pmem"
)

// endingTime is how long a server may take to give up an image whose mount is gone:
// umount(8) does not wait for it.
const endingTime = 2 * shutdownTime

// imageInUse says whether a server has the image. What cannot be looked at is not
// in use: whoever opens it in earnest says why.
func imageInUse(image string) bool {
	served, err := pmem.Served(image)
	return err == nil && served
}

// ownMounts lists our mounts.
func ownMounts() []*mountinfo.Info {
	mounts, _ := mountinfo.GetMounts(mountinfo.FSTypeFilter(mount.FSType)) // no /proc: nothing to learn
	return mounts
}

// awaitImage waits for a server that is ending to give up an image: one that is
// in use and is not mounted. That it is in use still is for whoever opens it to say.
func awaitImage(ctx context.Context, image string) {
	for end := time.Now().Add(endingTime); time.Now().Before(end) && ctx.Err() == nil && imageInUse(image); time.Sleep(20 * time.Millisecond) {
		for _, m := range ownMounts() {
			if m.Source == image {
				return
			}
		}
	}
}

// umountCmd is umount(8) that waits for the server as well.
type umountCmd struct {
	Dir string `arg:"" help:"Where it is mounted." type:"path"`
}

// Run unmounts, and returns when the image is closed and can be copied, checked or
// mounted again; or, where serve goes on without its mount, at once.
func (u *umountCmd) Run(c *console) error {
	dir := u.Dir
	if parent, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil { // the mount itself may be dead
		dir = filepath.Join(parent, filepath.Base(dir))
	}
	image := ""
	for _, m := range ownMounts() {
		if m.Mountpoint == dir {
			image = m.Source
		}
	}
	if image == "" {
		return fmt.Errorf("%s is not where an image is mounted", dir)
	}
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EPERM) {
		var out []byte
		if out, err = exec.Command("fusermount3", "-u", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("unmount %s: %w: %s", dir, err, strings.TrimSpace(string(out)))
		}
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("unmount %s: %w: programs have files open there (see \"permafrost mappings\"), or a directory of it as their own", dir, err)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	for end := time.Now().Add(endingTime); imageInUse(image); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			c.notef("permafrost: %s is unmounted, and a server has %s still\n", dir, image)
			return nil
		}
	}
	return nil
}

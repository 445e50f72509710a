package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	fsName = "permafrost"
	// FSType is the type of our mounts in /proc/self/mountinfo.
	FSType = "fuse." + fsName
)

// Errors of a mount point.
var (
	ErrMounted   = errors.New("something is mounted there already")
	ErrNotEmpty  = errors.New("the mount point is not empty")
	ErrNoFUSE    = errors.New("this machine has no /dev/fuse")
	ErrForbidden = errors.New("not permitted to mount")
)

// mountedAt is the topmost mount at a directory; nil: nothing is mounted there.
func mountedAt(dir string) (*mountinfo.Info, error) {
	all, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != dir, false })
	if err != nil {
		return nil, fmt.Errorf("what is mounted: %w", err)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all[len(all)-1], nil
}

// Prepare makes a directory fit to be mounted on: it makes its path absolute, takes away
// a dead mount of ours that a server left which was killed, and refuses what
// cannot be mounted on or should not. state is the server's state directory,
// image its image, which need not be there yet.
//
// Errors: ErrMounted, ErrNotEmpty, ErrNoFUSE, those of the file system; each says what to do.
func Prepare(dir, state, image string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	// The parent may have symbolic links; the mount point itself may be a dead
	// mount, which cannot be looked at.
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return "", fmt.Errorf("mount point %s: %w: make it with \"mkdir -p %s\"", dir, reason(err), dir)
	}
	dir = filepath.Join(parent, filepath.Base(dir))
	if err := cleanUp(dir); err != nil {
		return "", err
	}
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("mount point %s: %w: make it with \"mkdir -p %s\"", dir, reason(err), dir)
	case err != nil:
		return "", fmt.Errorf("mount point %s: %w", dir, reason(err))
	case !st.IsDir():
		return "", fmt.Errorf("mount point %s is not a directory: choose an empty one", dir)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	if there, err := mountedAt(dir); err != nil {
		return "", err
	} else if there != nil {
		return "", fmt.Errorf("%s: %w: choose another directory, or \"umount %s\" first", dir, ErrMounted, dir)
	}
	if err := keepsVisible(dir, state, filepath.Dir(image)); err != nil {
		return "", err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("mount point %s: %w", dir, reason(err))
	}
	if len(names) > 0 {
		return "", fmt.Errorf("%s: %w (%s and %d more): what is in it would be hidden; choose an empty directory", dir, ErrNotEmpty, names[0].Name(), len(names)-1)
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return "", fmt.Errorf("%w: load the module with \"modprobe fuse\"; in a container give it the device, such as --device /dev/fuse --cap-add SYS_ADMIN", ErrNoFUSE)
	}
	return dir, nil
}

// keepsVisible refuses a mount point in the state directory, and one that would
// hide that or the image.
func keepsVisible(dir, state, imageDir string) error {
	for _, own := range []string{state, imageDir} {
		own, err := filepath.EvalSymlinks(own)
		if err == nil && within(own, dir) {
			return fmt.Errorf("mount point %s holds %s, where the server keeps its files: mounting there would hide them; choose another directory", dir, own)
		}
	}
	if state, err := filepath.EvalSymlinks(state); err == nil && within(dir, state) {
		return fmt.Errorf("mount point %s lies in the state directory %s, which is for the server's own files; choose another directory", dir, state)
	}
	return nil
}

func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// within says whether a is b or lies in it.
func within(a, b string) bool {
	return a == b || strings.HasPrefix(a, strings.TrimSuffix(b, "/")+"/")
}

// cleanUp detaches mounts of ours at dir whose server is gone.
func cleanUp(dir string) error {
	for range 16 { // they may lie on one another
		there, err := mountedAt(dir)
		if err != nil || there == nil || there.FSType != FSType {
			return err
		}
		var st unix.Statfs_t // stat(2) may be answered out of the kernel's cache
		if err := unix.Statfs(dir, &st); err != unix.ENOTCONN && err != unix.ECONNABORTED {
			return nil // alive
		}
		if err := detach(dir); err != nil {
			return fmt.Errorf("%s has a dead mount of a server that was killed, and it cannot be taken away: %w; try \"umount -l %s\"", dir, err, dir)
		}
	}
	return nil
}

// detach takes a mount away at once; who has files open keeps them until then.
func detach(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == unix.EPERM {
		return fusermount("-u", "-z", dir)
	}
	return err
}

// tune sets what the kernel lets only be set from outside: how far it reads
// ahead. 128 KiB, its default, makes sequential reads of a mapping 20 times slower.
func (m *Mount) tune() error {
	there, err := mountedAt(m.opt.Dir)
	if err != nil {
		return err
	}
	if there == nil {
		return fmt.Errorf("the mount at %s is not there: somebody has unmounted it", m.opt.Dir)
	}
	m.minor = uint32(there.Minor)
	knob := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", there.Major, there.Minor)
	if err := os.WriteFile(knob, []byte(strconv.Itoa(m.opt.ReadAhead>>10)), 0); err != nil {
		m.log.Warn("reads of large files through the mount will be slower", "why", err)
	}
	f, err := openControl(m.minor, "waiting", os.O_RDONLY)
	if err != nil {
		m.log.Warn("whether the kernel has given us all that it wrote back is judged by time", "why", err)
		return nil
	}
	m.waiting = f.Name()
	return f.Close()
}

const control = "/sys/fs/fuse/connections"

// openControl opens a file of the kernel's own account of a FUSE connection, mounting
// that file system where nobody has.
func openControl(minor uint32, name string, flags int) (*os.File, error) {
	path := filepath.Join(control, strconv.Itoa(int(minor)), name)
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := unix.Mount("fusectl", control, "fusectl", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && err != unix.EBUSY {
			return nil, fmt.Errorf("mount %s: %w", control, err)
		}
		f, err = os.OpenFile(path, flags, 0)
	}
	return f, err
}

// abort ends the connection: every request is answered with an error. The last
// resort of an unmount that somebody's request holds up.
func (m *Mount) abort() error {
	f, err := openControl(m.minor, "abort", os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write([]byte("1"))
	return err
}

// unmount takes the mount away: in order if nobody uses it, else detached.
func (m *Mount) unmount() error {
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Unmount(m.opt.Dir, unix.UMOUNT_NOFOLLOW)
		if err == unix.EPERM {
			err = fusermount("-u", m.opt.Dir)
		}
		if err == nil || errors.Is(err, syscall.EINVAL) { // EINVAL: somebody has unmounted it
			return nil
		}
		if time.Since(began) > unmountTime {
			return detach(m.opt.Dir)
		}
	}
}

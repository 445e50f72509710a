package pmem

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Options change how a pmem file is opened. The zero value is right for a
// server.
type Options struct {
	// Domain overrides the domain found by trying. For tests only: a domain that
	// flushes too little loses data.
	Domain Domain
	// Reserve is how many bytes of addresses to keep for Grow; 0 is 64 times the
	// size, within 16 GiB and 4 TiB. Less is taken where the process is limited.
	Reserve int64
	// Overwrite lets Create take a file that exists; all it held is lost.
	Overwrite bool
}

// Open maps the pmem file at path, takes its lock and fills its holes. Errors:
// ErrNotRegular, ErrTooSmall, ErrLocked, ErrNoSpace, ErrNoAddressSpace,
// fs.ErrNotExist, fs.ErrPermission.
func Open(path string, o Options) (*Region, error) {
	f, err := openRegular(path, 0)
	if err != nil {
		return nil, fmt.Errorf("pmem: open %s: %w", path, err)
	}
	r, err := finishOpen(f, o)
	if err != nil {
		return nil, fmt.Errorf("pmem: open %s: %w", path, err)
	}
	return r, nil
}

// OpenFD maps the file of an open descriptor, which stays the caller's. Errors
// are those of Open.
func OpenFD(f *os.File, o Options) (*Region, error) {
	own, err := reopen(f)
	if err == nil {
		var r *Region
		if r, err = finishOpen(own, o); err == nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("pmem: open the file of descriptor %s: %w", f.Name(), err)
}

// finishOpen locks, fills and maps f, which it owns from here on.
func finishOpen(f *os.File, o Options) (*Region, error) {
	lock, err := checkAndLock(f)
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	size, err := fillOpened(f)
	if err != nil {
		closeAll(f, lock)
		return nil, err
	}
	return newRegion(f, lock, size, o)
}

// Create makes a pmem file of size bytes at path, all zeros, its blocks
// allocated and its name durable, and maps it. A file that it made and could
// not finish is removed. Errors: those of Open, ErrBadSize, fs.ErrExist without
// Overwrite, ErrStillMapped with it.
func Create(path string, size int64, o Options) (*Region, error) {
	if size <= 0 {
		return nil, fmt.Errorf("pmem: create %s of %d bytes: %w: it must be positive", path, size, ErrBadSize)
	}
	f, err := openRegular(path, unix.O_CREAT|unix.O_EXCL)
	made := err == nil
	if errors.Is(err, fs.ErrExist) && o.Overwrite {
		f, err = openRegular(path, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("pmem: create %s: %w", path, err)
	}
	r, err := finishCreate(f, size, o)
	if err == nil {
		if err = syncParent(path); err == nil {
			return r, nil
		}
		_ = r.Close() // empty; the first error tells more
	}
	err = fmt.Errorf("pmem: create %s of %d bytes: %w", path, size, err)
	if made {
		if e := os.Remove(path); e != nil {
			err = fmt.Errorf("%w; taking it back: %w", err, e)
		}
	}
	return nil, err
}

// CreateMemfd makes a pmem file without a name, which ends with its last
// descriptor and mapping. Errors are those of Create.
func CreateMemfd(name string, size int64, o Options) (*Region, error) {
	if size <= 0 {
		return nil, fmt.Errorf("pmem: create memfd %s of %d bytes: %w: it must be positive", name, size, ErrBadSize)
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err == nil {
		var r *Region
		if r, err = finishCreate(os.NewFile(uintptr(fd), "memfd:"+name), size, o); err == nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("pmem: create memfd %s of %d bytes: %w", name, size, err)
}

// finishCreate locks, empties, allocates and maps f, which it owns from here on.
func finishCreate(f *os.File, size int64, o Options) (*Region, error) {
	lock, err := checkAndLock(f)
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	if err := emptyAndAllocate(f, lock, size); err != nil {
		closeAll(f, lock)
		return nil, err
	}
	return newRegion(f, lock, size, o)
}

// emptyAndAllocate drops what f held and gives it size bytes of zeros.
func emptyAndAllocate(f, lock *os.File, size int64) error {
	mapped, err := clientsHold(lock)
	if err != nil {
		return fmt.Errorf("look for mappings: %w", err)
	}
	if mapped {
		return fmt.Errorf("%w: end them first", ErrStillMapped)
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := allocate(f, 0, size); err != nil {
		if e := f.Truncate(0); e != nil { // give back what was allocated
			err = fmt.Errorf("%w; taking it back: %w", err, e)
		}
		return err
	}
	return f.Sync()
}

// newRegion reserves addresses and maps f. On an error it closes both files.
func newRegion(f, lock *os.File, size int64, o Options) (*Region, error) {
	base, reserved, err := reserve(size, o.Reserve)
	if err != nil {
		closeAll(f, lock)
		return nil, err
	}
	r := &Region{file: f, lock: lock, base: base, reserved: reserved}
	if err := r.mapFirst(size, o.Domain); err != nil {
		if e := r.release(); e != nil {
			err = fmt.Errorf("%w; taking it back: %w", err, e)
		}
		return nil, err
	}
	return r, nil
}

// openRegular opens path read-write and never waits, whatever device stands
// there.
func openRegular(path string, flags int) (*os.File, error) {
	const ownerOnly = 0o600 // the image holds every user's data
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK|flags, ownerOnly)
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), path), nil
	case errors.Is(err, unix.EISDIR):
		return nil, fmt.Errorf("%w but a directory: name a file in it", ErrNotRegular)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("%w: name a file on a DAX mount, on tmpfs or on disk", ErrNotRegular)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: run as its owner, or give this user read and write permission", err)
	case errors.Is(err, unix.EROFS):
		return nil, fmt.Errorf("%w: remount it writable or copy the file elsewhere", err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: make it first, or check the path", err)
	case errors.Is(err, fs.ErrExist):
		return nil, fmt.Errorf("%w: open it, choose another path, or say that it may be overwritten", err)
	default:
		return nil, err
	}
}

// checkAndLock refuses what is no regular file and takes the server's lock.
func checkAndLock(f *os.File) (lock *os.File, err error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: name a file on a DAX mount, on tmpfs or on disk", ErrNotRegular)
	}
	return lockServer(f)
}

// closeAll gives up files after a failure that tells more than theirs would.
func closeAll(files ...*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// syncParent makes the name of a new file durable.
func syncParent(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	err = dir.Sync()
	if e := dir.Close(); err == nil {
		err = e
	}
	if errors.Is(err, unix.EINVAL) { // a file system without it
		return nil
	}
	return err
}

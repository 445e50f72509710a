package pmem

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Locks on single bytes of the pmem file, as open-file-description locks: they
// belong to a descriptor and everything made from it, also its mappings.
const (
	serverLockByte = 0 // exclusive: the server has it
	clientLockByte = 1 // shared: each descriptor for clients has it
)

// reopen opens the same file anew, whatever its name leads to by now.
func reopen(f *os.File) (*os.File, error) {
	name := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s anew through /proc: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// lockByte is the struct flock for one byte.
func lockByte(kind int16, at int64) *unix.Flock_t {
	return &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: at, Len: 1}
}

// lockServer takes the server's lock on a descriptor of its own (P7). It never
// waits.
func lockServer(f *os.File) (*os.File, error) {
	lock, err := reopen(f)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, lockByte(unix.F_WRLCK, serverLockByte))
	if err == nil {
		return lock, nil
	}
	_ = lock.Close() // holds nothing
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("%w: talk to that server, or stop it and try again", ErrLocked)
	}
	return nil, fmt.Errorf("lock: %w", err)
}

// Served says whether a server has the pmem file at path now. It takes no lock.
func Served(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("pmem: %w", err)
	}
	defer f.Close()
	probe := lockByte(unix.F_WRLCK, serverLockByte)
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, probe); err != nil {
		return false, fmt.Errorf("pmem: look at the lock of %s: %w", path, err)
	}
	return probe.Type != unix.F_UNLCK, nil
}

// DuplicateForClients opens the pmem file anew with a shared lock that lives
// until the last descriptor and the last mapping made from it are gone, in
// whatever process. The caller closes its copy once it is passed on. Holding it
// is holding the whole image.
func (r *Region) DuplicateForClients() (*os.File, error) {
	f, err := reopen(r.file)
	if err != nil {
		return nil, fmt.Errorf("pmem: descriptor for clients: %w", err)
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, lockByte(unix.F_RDLCK, clientLockByte))
	if err != nil {
		_ = f.Close() // holds nothing
		return nil, fmt.Errorf("pmem: descriptor for clients of %s: lock: %w", r.Path(), err)
	}
	return f, nil
}

// SurvivingMappings reports whether descriptors for clients, or mappings made
// from them, exist. Asked before the first DuplicateForClients it tells of
// those that a former server gave out.
func (r *Region) SurvivingMappings() (bool, error) {
	found, err := clientsHold(r.lock)
	if err != nil {
		return false, fmt.Errorf("pmem: look for mappings of %s: %w", r.Path(), err)
	}
	return found, nil
}

// clientsHold asks whether an exclusive lock of the clients' byte would be
// refused. It takes none, so that it disturbs no DuplicateForClients.
func clientsHold(lock *os.File) (bool, error) {
	probe := lockByte(unix.F_WRLCK, clientLockByte)
	if err := unix.FcntlFlock(lock.Fd(), unix.F_OFD_GETLK, probe); err != nil {
		return false, err
	}
	return probe.Type != unix.F_UNLCK, nil
}

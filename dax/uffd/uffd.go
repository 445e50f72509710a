package uffd

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's numbers, from include/uapi/linux/userfaultfd.h. The encodings
// are those of the generic ioctl layout, which amd64 and arm64 share.
const (
	apiVersion = 0xAA

	ioctlAPI          = 0xC018AA3F
	ioctlRegister     = 0xC020AA00
	ioctlWake         = 0x8010AA02
	ioctlWriteProtect = 0xC018AA06
	ioctlNew          = 0xAA00 // on /dev/userfaultfd

	registerModeWP     = 1 << 1
	writeProtectModeWP = 1 << 0
	rangeWriteProtect  = 1 << 6 // in the answer's bit set of range calls
)

// Features of the handshake, as the kernel numbers them.
const (
	featurePagefaultFlagWP      = 1 << 0
	featureEventFork            = 1 << 1
	featureEventRemap           = 1 << 2
	featureEventRemove          = 1 << 3
	featureEventUnmap           = 1 << 6
	featureThreadID             = 1 << 8
	featureExactAddress         = 1 << 11
	featureWPHugetlbfsShmem     = 1 << 12
	featureWPUnpopulated        = 1 << 13
	featuresNeeded              = featurePagefaultFlagWP | featureEventFork | featureEventRemap | featureEventRemove | featureEventUnmap | featureThreadID | featureExactAddress | featureWPHugetlbfsShmem | featureWPUnpopulated
	deviceName                  = "/dev/userfaultfd"
	descriptorName              = "anon_inode:[userfaultfd]"
	flags                   int = unix.O_CLOEXEC | unix.O_NONBLOCK
)

// Errors of this package, wrapped with what was attempted.
var (
	// ErrUnsupported: the kernel, its settings or our privileges do not allow
	// synchronous write protection with events.
	ErrUnsupported = errors.New("userfaultfd write protection is not available")
	// ErrNotUffd: a descriptor is something else.
	ErrNotUffd = errors.New("not a userfaultfd descriptor")
)

// FD is one userfaultfd descriptor. The caller's lock serialises all methods
// but Wait and Pending; Close ends a Wait in progress.
type FD struct {
	fd uintptr // immutable; valid until Close

	// The runtime's poller is joined by the first Wait, not before: until its
	// handshake a descriptor polls as an error, which the runtime remembers, and
	// a Wait that met that would end instead of seeing the stores to come.
	mu     sync.Mutex
	file   *os.File        // guarded by mu: owns the descriptor from the first Wait on
	raw    syscall.RawConn // guarded by mu
	closed bool            // guarded by mu

	arg [4]uint64 // guarded by the caller's lock: ioctl argument, here so that none is allocated
	buf [readBatch * messageSize]byte
}

// New makes a descriptor for this process's own address space, also for faults
// taken by the kernel on its behalf (a full one). A process must not serve its
// own descriptor; New is for clients and for the server's probe.
func New() (int, error) {
	fd, _, errno := syscall.Syscall(unix.SYS_USERFAULTFD, uintptr(flags), 0, 0)
	if errno == 0 {
		return int(fd), nil
	}
	if errno != unix.EPERM {
		return -1, fmt.Errorf("%w: userfaultfd(2): %w", ErrUnsupported, errno)
	}
	dev, err := os.OpenFile(deviceName, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%w: userfaultfd(2) is not permitted and neither is %w", ErrUnsupported, err)
	}
	defer dev.Close()
	return NewFromDevice(int(dev.Fd()))
}

// NewFromDevice makes a full descriptor from an open /dev/userfaultfd, which a
// privileged process may have opened and passed on.
func NewFromDevice(device int) (int, error) {
	fd, _, errno := syscall.Syscall(unix.SYS_IOCTL, uintptr(device), ioctlNew, uintptr(flags))
	if errno != 0 {
		return -1, fmt.Errorf("%w: USERFAULTFD_IOC_NEW: %w", ErrUnsupported, errno)
	}
	return int(fd), nil
}

// OpenDevice opens /dev/userfaultfd for passing it to clients that may not make
// full descriptors themselves. ErrUnsupported where there is none.
func OpenDevice() (*os.File, error) {
	dev, err := os.OpenFile(deviceName, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return dev, nil
}

// Take wraps a descriptor that this process received and owns it from now on,
// also when it fails. It makes it non-blocking, for all holders of it.
func Take(fd int) (*FD, error) {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err == nil && name != descriptorName {
		err = fmt.Errorf("%w: descriptor is %s", ErrNotUffd, name)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd) // the first error is the one to tell
		return nil, fmt.Errorf("take descriptor %d: %w", fd, err)
	}
	return &FD{fd: uintptr(fd)}, nil
}

// Handshake asks for write protection with all events. fresh is false if the
// descriptor had its handshake before, in a former server's life.
// ErrUnsupported says what the kernel or the privileges lack.
func (f *FD) Handshake() (fresh bool, err error) {
	f.arg = [4]uint64{apiVersion, featuresNeeded}
	switch errno := f.ioctl(ioctlAPI); {
	case errno == 0:
		return true, nil
	case errno == unix.EPERM:
		return false, fmt.Errorf("%w: following forks needs CAP_SYS_PTRACE (run the server as root, in a container with --cap-add SYS_PTRACE)", ErrUnsupported)
	case errno != unix.EINVAL:
		return false, fmt.Errorf("UFFDIO_API: %w", errno)
	}
	// EINVAL is both "too old a kernel" and "had its handshake". A range call
	// tells them apart: before the handshake it is EINVAL for every range, and
	// waking nobody succeeds after it.
	if errno := f.Wake(1<<30, uint64(os.Getpagesize())); errno == 0 {
		return false, nil
	}
	return false, fmt.Errorf("%w: this kernel lacks features %#x (Linux 6.4 or newer is needed)", ErrUnsupported, uint64(featuresNeeded))
}

// Register puts [addr, addr+length) under the descriptor's care. EINVAL where
// the memory is not tmpfs or memfd, EBUSY where another descriptor has it,
// EPERM where the mapping can never be writable.
func (f *FD) Register(addr, length uint64) error {
	f.arg = [4]uint64{addr, length, registerModeWP, 0}
	if errno := f.ioctl(ioctlRegister); errno != 0 {
		return errno
	}
	if f.arg[3]&rangeWriteProtect == 0 {
		return unix.EINVAL
	}
	return nil
}

// WriteProtect protects (on) or grants [addr, addr+length); granting wakes the
// storers waiting there. Zero, EAGAIN (U3), ESRCH (U2) or ENOENT: part of the
// range is not registered, and what lies behind that part was not reached.
func (f *FD) WriteProtect(addr, length uint64, on bool) unix.Errno {
	f.arg = [4]uint64{addr, length, 0}
	if on {
		f.arg[2] = writeProtectModeWP
	}
	return f.ioctl(ioctlWriteProtect)
}

// Wake lets the storers that wait in the range try again; nothing is granted.
func (f *FD) Wake(addr, length uint64) unix.Errno {
	f.arg = [4]uint64{addr, length}
	return f.ioctl(ioctlWake)
}

// ioctl may sleep on the other process's mmap lock, so it is a Syscall that the
// scheduler knows of, never a RawSyscall.
func (f *FD) ioctl(op uintptr) unix.Errno {
	for {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.fd, op, uintptr(unsafe.Pointer(&f.arg)))
		if errno != unix.EINTR {
			return errno
		}
	}
}

// Wait calls drain, and again whenever the descriptor may have become
// readable, until drain returns true. It sleeps in the runtime's poller, not in
// a thread. drain must read until nothing is left. os.ErrClosed after Close.
func (f *FD) Wait(drain func() bool) error {
	raw, err := f.poller()
	if err != nil {
		return fmt.Errorf("wait for userfaultfd: %w", err)
	}
	return raw.Read(func(uintptr) bool { return drain() })
}

// Pending reports whether there is something to read, without reading it. Only
// inside Wait's drain, which keeps the descriptor open; it needs no lock.
func (f *FD) Pending() bool {
	set := [1]unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(set[:], 0)
	return n > 0 || err != nil && err != unix.EINTR // an error is Read's to tell
}

func (f *FD) poller() (syscall.RawConn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, os.ErrClosed
	}
	if f.file == nil {
		file := os.NewFile(f.fd, "userfaultfd")
		raw, err := file.SyscallConn()
		if err != nil {
			return nil, err
		}
		f.file, f.raw = file, raw
	}
	return f.raw, nil
}

// Close gives the descriptor up. If it was the last copy, its process's ranges
// become ordinary memory and its waiting storers go on.
func (f *FD) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return os.ErrClosed
	}
	f.closed = true
	if f.file != nil {
		return f.file.Close()
	}
	return unix.Close(int(f.fd))
}

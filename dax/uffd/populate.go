package uffd

import (
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// populateMost bounds one call: the kernel pins that many bytes at a time.
const populateMost = 2 << 20

// nowhere is address space that cannot be read.
var nowhere = sync.OnceValues(func() ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, populateMost, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve address space: %w", err)
	}
	return mem, nil
})

// Populate makes the page-table entries of [addr, addr+length) of process pid
// writable, as a store to each page would; no byte changes. It is an
// optimisation for pages just granted (U6) and may do less than asked. It takes
// CAP_SYS_PTRACE over the process. Lengths over 2 MiB are cut.
//
// It is process_vm_writev with a source that cannot be read: the kernel pins
// the target pages for writing, which faults them in, then fails to copy the
// first byte (mm/process_vm_access.c). madvise(MADV_POPULATE_WRITE) does the
// same for one's own memory, but not for another process's.
//
// If a page is write-protected it waits, beyond the reach of signals, until
// somebody grants it.
func Populate(pid int, addr, length uint64) {
	src, err := nowhere()
	if err != nil || length == 0 {
		return
	}
	length = min(length, populateMost)
	local := unix.Iovec{Base: unsafe.SliceData(src), Len: length}
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: int(length)}
	// A Syscall that the scheduler knows of: it may wait for the mmap lock. Its
	// error is EFAULT when all went well.
	_, _, _ = syscall.Syscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(pid),
		uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
}

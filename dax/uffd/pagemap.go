package uffd

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PAGEMAP_SCAN, from include/uapi/linux/fs.h (Linux 6.7 and newer).
const (
	ioctlPagemapScan = 0xC0606610

	pageWritten = 1 << 1 // mapped without write protection
	pagePresent = 1 << 3
	pageSwapped = 1 << 4 // also a page never touched that carries a protection marker
)

// pmScanArg is struct pm_scan_arg.
type pmScanArg struct {
	size, flags             uint64
	start, end, walkEnd     uint64
	vec, vecLen, maxPages   uint64
	categoryInverted        uint64
	categoryMask            uint64
	categoryAnyof, returned uint64
}

// Region is a run of addresses [Start, End) of a process.
type Region struct {
	Start, End, categories uint64
}

// Compile-time: the kernel's sizes.
var (
	_ [96]byte = [unsafe.Sizeof(pmScanArg{})]byte{}
	_ [24]byte = [unsafe.Sizeof(Region{})]byte{}
)

// Unprotected finds the pages of [addr, addr+length) of process pid that a
// store would reach without a fault being told: those mapped writable, and
// those that carry no page-table entry at all, not even a protection marker
// (granted once, then dropped by madvise or reclaim). The process must be
// write-protected through userfaultfd there. Runs ascend and do not overlap.
//
// Why this needs no second look: a page that is not reported is protected, and
// only the owner of the descriptor can change that.
func Unprotected(pid int, addr, length uint64) ([]Region, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, fmt.Errorf("look for written pages of process %d: %w", pid, err)
	}
	defer f.Close()
	written, err := scan(f, pmScanArg{start: addr, end: addr + length, categoryMask: pageWritten})
	if err != nil {
		return nil, err
	}
	bare, err := scan(f, pmScanArg{start: addr, end: addr + length,
		categoryInverted: pagePresent | pageSwapped, categoryMask: pagePresent | pageSwapped})
	if err != nil {
		return nil, err
	}
	return mergeRegions(written, bare), nil
}

func scan(f *os.File, arg pmScanArg) ([]Region, error) {
	vec := make([]Region, 512)
	var pin runtime.Pinner // arg carries the address of vec as a number
	pin.Pin(&vec[0])
	defer pin.Unpin()
	arg.size = uint64(unsafe.Sizeof(arg))
	arg.vec, arg.vecLen = uint64(uintptr(unsafe.Pointer(&vec[0]))), uint64(len(vec))
	arg.returned = arg.categoryMask
	var out []Region
	for arg.start < arg.end {
		n, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), ioctlPagemapScan, uintptr(unsafe.Pointer(&arg)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return nil, fmt.Errorf("PAGEMAP_SCAN of %s, %#x to %#x: %w", f.Name(), arg.start, arg.end, errno)
		}
		out = append(out, vec[:n]...)
		if arg.walkEnd <= arg.start {
			return nil, fmt.Errorf("PAGEMAP_SCAN of %s stopped at %#x", f.Name(), arg.start)
		}
		arg.start = arg.walkEnd
	}
	return out, nil
}

// mergeRegions is the union of two ascending lists.
func mergeRegions(a, b []Region) []Region {
	var out []Region
	for len(a) > 0 || len(b) > 0 {
		var r Region
		if len(b) == 0 || len(a) > 0 && a[0].Start <= b[0].Start {
			r, a = a[0], a[1:]
		} else {
			r, b = b[0], b[1:]
		}
		if k := len(out); k > 0 && r.Start <= out[k-1].End {
			out[k-1].End = max(out[k-1].End, r.End)
			continue
		}
		out = append(out, Region{Start: r.Start, End: r.End})
	}
	return out
}

package pmem

import (
	"errors"
	"fmt"
	"syscall"
)

// Errors of Open, OpenFD, Create and CreateMemfd. They come wrapped with the
// path, and with what to do about it.
var (
	// ErrNotRegular: a directory, device, pipe or socket stands at the path.
	ErrNotRegular = errors.New("not a regular file")
	// ErrTooSmall: the file has no bytes to map.
	ErrTooSmall = errors.New("the file is empty")
	// ErrLocked: another server has the pmem file open.
	ErrLocked = errors.New("the pmem file is in use by another server")
	// ErrStillMapped: processes still map the file that was to be overwritten.
	ErrStillMapped = errors.New("the pmem file is still mapped by other processes")
	// ErrBadSize: the size asked for cannot be that of a pmem file.
	ErrBadSize = errors.New("bad size")
)

// Errors of Create and Grow.
var (
	// ErrNoSpace: the file's blocks could not all be allocated.
	ErrNoSpace = errors.New("not enough space to allocate the pmem file")
	// ErrNoAddressSpace: the mapping cannot be (made) that large in this process.
	ErrNoAddressSpace = errors.New("not enough address space to map the pmem file")
	// ErrShrink: Grow was asked for less than there is.
	ErrShrink = errors.New("a pmem file cannot shrink")
)

// Errors of a region and its batches.
var (
	// ErrOutOfRange: the range does not lie inside the medium.
	ErrOutOfRange = errors.New("range outside the pmem file")
	// ErrClosed: the region was closed.
	ErrClosed = errors.New("the pmem file is closed")
	// ErrBatchEnded: the batch was used after its End.
	ErrBatchEnded = errors.New("the batch has ended")
	// ErrFenceFailed: this fence or an earlier one failed; what was written since
	// the last successful one may be lost. The region must be opened anew.
	ErrFenceFailed = errors.New("the fence failed")
)

// MediaError says that the processor could not reach a byte of the medium: the
// page has a media error, or the file was truncated under its mapping.
// errors.Is(err, syscall.EIO) holds for it.
type MediaError struct {
	Off int64  // byte offset of the fault in the pmem file; immutable
	Op  string // what was attempted: load, read, write, zero or flush; immutable
}

// Error names the operation and the offset.
func (e *MediaError) Error() string {
	return fmt.Sprintf("pmem: %s at byte %d (%#x): media error, or the file was truncated while in use", e.Op, e.Off, e.Off)
}

// Is reports EIO, so that callers need not know this type to answer right.
func (e *MediaError) Is(target error) bool { return target == syscall.EIO }

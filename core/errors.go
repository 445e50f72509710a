package core

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/core/tree"
)

// ioError wraps a failed read of metadata or data as ErrIO, with the block at
// fault where it is known.
func ioError(err error, what string, args ...any) error {
	msg := fmt.Sprintf(what, args...)
	if b, ok := mediaBlock(err); ok { // damage names its block itself
		return fmt.Errorf("%s: block %d: %w: %w", msg, b, ErrIO, err)
	}
	return fmt.Errorf("%s: %w: %w", msg, ErrIO, err)
}

// treeError makes the tree's errors of changes into the file system's.
func (fs *FS) treeError(err error) error {
	switch {
	case errors.Is(err, tree.ErrNoSpace):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, tree.ErrState), errors.Is(err, tree.ErrReadOnly), errors.Is(err, tree.ErrClosed):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	if _, damaged := tree.DamagedBlock(err); damaged {
		return ioError(err, "change the metadata") // who meets it is told so; the next one finds it read-only
	}
	if fs.store.Err() != nil {
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return ioError(err, "change the metadata")
}

// DamagedBlock is the block of the image that an error of this package is
// about: one that the processor could not reach, or metadata that breaks a rule.
func DamagedBlock(err error) (b format.Block, ok bool) { return tree.DamagedBlock(err) }

// writable is ErrReadOnly, with its cause, once the file system cannot change.
func (fs *FS) writable() error {
	if err := fs.store.Failed(); err != nil {
		return fmt.Errorf("%w after an error, restart to recover: %w", ErrReadOnly, err)
	}
	if err := fs.store.Err(); err != nil {
		return fmt.Errorf("%w until the image is repaired: %w", ErrReadOnly, err)
	}
	if fs.opt.ReadOnly {
		return fmt.Errorf("%w: it was opened so", ErrReadOnly)
	}
	return nil
}

// errnos maps sentinels to errno, first match wins.
var errnos = []struct { // immutable
	err error
	no  syscall.Errno
}{
	{ErrNotFound, syscall.ENOENT}, {ErrExists, syscall.EEXIST}, {ErrNotDir, syscall.ENOTDIR},
	{ErrIsDir, syscall.EISDIR}, {ErrNotEmpty, syscall.ENOTEMPTY}, {ErrNameTooLong, syscall.ENAMETOOLONG},
	{ErrReadOnly, syscall.EROFS}, {ErrNoSpace, syscall.ENOSPC}, {ErrTooBig, syscall.EFBIG},
	{ErrTooManyLink, syscall.EMLINK}, {ErrMapped, syscall.ETXTBSY}, {ErrNoData, syscall.ENODATA},
	{ErrStale, syscall.ESTALE}, {ErrLoop, syscall.ELOOP}, {ErrNotSupp, syscall.EOPNOTSUPP},
	{ErrNXIO, syscall.ENXIO}, {ErrPrecond, syscall.ECANCELED}, {ErrInvalid, syscall.EINVAL},
	{ErrIO, syscall.EIO}, {freeze.ErrTooManyHeld, syscall.EAGAIN}, {freeze.ErrFrozen, syscall.EAGAIN},
	{freeze.ErrFreezeLost, syscall.ESTALE}, {freeze.ErrHoldEnded, syscall.ESTALE}, {ErrRecovering, syscall.EAGAIN}, {context.Canceled, syscall.EINTR},
	{context.DeadlineExceeded, syscall.ETIMEDOUT},
}

// Errno is the errno of an error of this package: 0 for nil, EIO for a stranger.
func (fs *FS) Errno(err error) int {
	if err == nil {
		return 0
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return int(e.no)
		}
	}
	return int(syscall.EIO)
}

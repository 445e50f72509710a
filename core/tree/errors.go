package tree

import (
	"errors"
	"fmt"

	"permafrost/core/format"
)

// Errors of lookups and transactions, wrapped with what was attempted.
var (
	// ErrNotFound: no record has that key, or none at or below it.
	ErrNotFound = errors.New("no such record")
	// ErrNoSpace: the reservation cannot be met, not even after commits. Free
	// something (Reserve.Emergency lets that through) or grow the image.
	ErrNoSpace = errors.New("no space left in the image")
	// ErrState: the store is in the ERROR state (T11); Store.Err is the cause.
	// Remount to leave it.
	ErrState = errors.New("the file system is in the ERROR state and read-only; restart to recover the last commit")
	// ErrReadOnly: the image was opened read-only.
	ErrReadOnly = errors.New("the image was opened read-only")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the image is closed")
	// ErrBadRecord: the key or the value is out of bounds.
	ErrBadRecord = errors.New("bad record")
	// ErrBadRange: blocks outside the allocatable part of the image.
	ErrBadRange = errors.New("blocks out of range")
	// ErrBadFree: a block was freed that is not in use, or twice.
	ErrBadFree = errors.New("block freed that was not in use")
	// ErrInUse: a block that was to be free belongs to somebody.
	ErrInUse = errors.New("block in use")
	// ErrEnded: the transaction has ended.
	ErrEnded = errors.New("the transaction has ended")
)

// stateError is ErrState with its cause.
func stateError(cause error) error { return fmt.Errorf("%w: %w", ErrState, cause) }

func damaged(b format.Block, form string, args ...any) error {
	return &format.DamageError{Block: b, What: fmt.Sprintf(form, args...)}
}

package format

import (
	"errors"
	"fmt"
)

// Errors of opening an image. Each is wrapped with what was found; the text
// says what to do.
var (
	// ErrNotOurs: the file holds no Permafrost superblock.
	ErrNotOurs = errors.New("not a Permafrost image; make one with `permafrost mkfs`")
	// ErrNewerFormat: the image needs a newer program.
	ErrNewerFormat = errors.New("the image has a newer format than this program knows; use a newer permafrost")
	// ErrTruncated: the file is shorter than its superblock says.
	ErrTruncated = errors.New("the image is truncated; restore it from a backup or extend the file to its full size")
	// ErrTooSmall: the file cannot hold an image.
	ErrTooSmall = errors.New("the image is too small; an image needs at least 1 MiB")
	// ErrTooLarge: the file is larger than the format can address.
	ErrTooLarge = errors.New("the image is too large; an image has at most 2^52 bytes")
	// ErrDamaged: a checksum or a validity rule failed.
	ErrDamaged = errors.New("the image is damaged; run `permafrost check` on it")
)

// DamageError says which block broke which rule. It wraps ErrDamaged.
type DamageError struct {
	Block Block  // the block at fault
	What  string // the rule it broke
}

// Error implements error.
func (e *DamageError) Error() string {
	return fmt.Sprintf("block %d: %s: %v", e.Block, e.What, ErrDamaged)
}

// Unwrap makes errors.Is(err, ErrDamaged) hold.
func (e *DamageError) Unwrap() error { return ErrDamaged }

func damaged(b Block, form string, args ...any) error {
	return &DamageError{Block: b, What: fmt.Sprintf(form, args...)}
}

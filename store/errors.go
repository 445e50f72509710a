package store

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"syscall"

	"github.com/mattn/go-sqlite3"
)

// Errors of Open, wrapped with the path and with what to do about them. The
// same errors are the reasons of a Degraded ledger.
var (
	ErrNoDirectory = errors.New("the directory of the ledger is missing")
	ErrReadOnly    = errors.New("the ledger cannot be written")
	ErrLocked      = errors.New("the ledger is locked by another process")
	ErrNotLedger   = errors.New("not a Permafrost ledger")
	ErrNewer       = errors.New("the ledger was written by a newer version")
	ErrDamaged     = errors.New("the ledger is damaged")
	ErrFull        = errors.New("no space left for the ledger")
	ErrReplaced    = errors.New("the ledger file was removed or replaced")
)

// Errors of use.
var (
	ErrClosed      = errors.New("the ledger is closed")
	ErrUnavailable = errors.New("the ledger is not open")
	ErrConflict    = errors.New("the freeze id belongs to another freeze")
	ErrBadRecord   = errors.New("bad record")
	ErrBadQuery    = errors.New("bad query")
	// ErrSlow ends a subscription that did not keep up.
	ErrSlow = errors.New("the subscriber was too slow and was cut: read again from the last id it saw")
	// ErrTooMany refuses a subscription.
	ErrTooMany = errors.New("too many subscribers")

	errOrphan = errors.New("its parent row is not in the ledger")
)

// rejected tells whether err is about the row and not about the database:
// trying again cannot help (L7).
func rejected(err error) bool {
	if errors.Is(err, ErrConflict) || errors.Is(err, errOrphan) || errors.Is(err, ErrBadRecord) {
		return true
	}
	var se sqlite3.Error
	if !errors.As(err, &se) {
		return false
	}
	switch se.Code {
	case sqlite3.ErrConstraint, sqlite3.ErrMismatch, sqlite3.ErrTooBig:
		return true
	}
	return false
}

// needsReopen tells whether the connection itself can no longer be trusted, so
// that the next attempt has to open the file again. A full disk or a lock
// passes; a read-only connection stays read-only when the file no longer is.
func needsReopen(err error) bool {
	if errors.Is(err, ErrReplaced) {
		return true
	}
	var se sqlite3.Error
	if !errors.As(err, &se) {
		return true
	}
	switch se.Code {
	case sqlite3.ErrBusy, sqlite3.ErrLocked, sqlite3.ErrFull:
		return false
	}
	return true
}

// schemaError is how SQLite refuses a statement for what the schema says.
var schemaError = regexp.MustCompile(`no such|no column|already exists|syntax error|malformed|unrecognized token`)

// explain turns an error of SQLite or of the file system into one of the
// sentinels above and says what to do. Others pass unchanged.
func explain(path string, err error) error {
	var se sqlite3.Error
	if errors.As(err, &se) {
		switch se.Code {
		case sqlite3.ErrFull:
			return full(path, err)
		case sqlite3.ErrReadonly, sqlite3.ErrPerm, sqlite3.ErrAuth:
			return readOnly(path, err)
		case sqlite3.ErrBusy, sqlite3.ErrLocked:
			return fmt.Errorf("%w: %s (%w): another program has it open for writing, perhaps an sqlite3 shell: close it",
				ErrLocked, path, err)
		case sqlite3.ErrNotADB:
			return notLedger(path, "it is not an SQLite database")
		case sqlite3.ErrCorrupt:
			return damaged(path, err.Error())
		case sqlite3.ErrError: // our statements are constants: it is the schema that is not ours any more
			if schemaError.MatchString(err.Error()) {
				return damaged(path, err.Error())
			}
		case sqlite3.ErrIoErr, sqlite3.ErrCantOpen:
			// SQLite reports a full disk as an I/O error when it strikes in the
			// shared-memory file; the system's error number tells.
			switch se.SystemErrno {
			case syscall.ENOSPC, syscall.EDQUOT:
				return full(path, err)
			case syscall.EROFS, syscall.EACCES, syscall.EPERM:
				return readOnly(path, err)
			}
			return fmt.Errorf("ledger %s: %w (system error: %v): check the disk and the state directory", path, err, se.SystemErrno)
		}
		return fmt.Errorf("ledger %s: %w", path, err)
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return full(path, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return readOnly(path, err)
	}
	return err
}

func full(path string, err error) error {
	return fmt.Errorf("%w: %s (%w): free some space on that disk, or start with another --state", ErrFull, path, err)
}

func readOnly(path string, err error) error {
	return fmt.Errorf("%w: %s (%w): make the file and its directory writable for this user, or start with another --state",
		ErrReadOnly, path, err)
}

func notLedger(path, why string) error {
	return fmt.Errorf("%w: %s: %s: it was left untouched; move it away, or start with another --state",
		ErrNotLedger, path, why)
}

func damaged(path, why string) error {
	return fmt.Errorf("%w: %s: %s: move it and its -wal and -shm files away (a new ledger is then begun) or restore a copy",
		ErrDamaged, path, why)
}

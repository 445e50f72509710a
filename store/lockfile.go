package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockFile keeps a second appliance away from the same ledger. It is a file of
// its own, because SQLite's locks come and go with each transaction. The lock
// ends with the process, however that ends.
type lockFile struct{ f *os.File }

func lockName(path string) string { return path + ".lock" }

// takeLock locks lockName(path). Errors: ErrLocked with the holder's pid,
// ErrReadOnly, ErrFull.
func takeLock(path string) (*lockFile, error) {
	name := lockName(path)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, explain(path, err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		pid, _ := io.ReadAll(io.LimitReader(f, 20))
		f.Close()
		return nil, fmt.Errorf("%w: %s is in use by another permafrost (pid %s): stop it, or start with another --state",
			ErrLocked, path, orUnknown(strings.TrimSpace(string(pid))))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	// The pid is for people; a full disk must not stand in the way of it.
	if f.Truncate(0) == nil {
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &lockFile{f}, nil
}

func orUnknown(pid string) string {
	if pid == "" {
		return "unknown"
	}
	return pid
}

// release unlocks. The file stays: removing it would let two processes lock
// two files of one name.
func (l *lockFile) release() error { return l.f.Close() }

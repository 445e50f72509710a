package core

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"permafrost/core/format"
)

// inode is an inode in memory: the write-back cache of its record (T4) and the
// place its lock stands. It is kept small, for millions are cached at once:
// what only mapped inodes need hangs off pages.
//
// Invariant C1: attributes change only with mu held for writing and inside a
// Tx. So the sealer, who runs when no Tx is open, reads them without mu.
type inode struct {
	mu    sync.RWMutex          // rank inode; see doc.go
	ino   format.Ino            // immutable
	a     format.Inode          // guarded by mu and an open Tx, as C1 says
	refs  atomic.Int32          // pins: operations, handles, uploads, mappings
	flags atomic.Uint32         // flag...; each says who may set it
	pages atomic.Pointer[pages] // dirty tracking; nil until first mapped, then immutable
}

const (
	// flagDeferred: the inode stands on the list of records that the next seal
	// writes. Set inside a Tx with mu held, cleared by the sealer.
	flagDeferred = 1 << iota
	// flagGone: the inode was freed; its number is never used again (T9).
	// Set with mu held for writing.
	flagGone
	// flagOrphan: it has no name and an orphan record; the last put hands it
	// to the reaper. Set and cleared with mu held for writing.
	flagOrphan
	// flagLinkable: an orphan that Tmpfile made and that never had a name: Link may
	// give it one, until the reaper begins to free it. Set before the inode is
	// cached, cleared with mu held for writing.
	flagLinkable
	// flagUsed: looked up since eviction last came by. Set by anyone.
	flagUsed
)

func (in *inode) is(flag uint32) bool { return in.flags.Load()&flag != 0 }
func (in *inode) set(flag uint32)     { in.flags.Or(flag) }
func (in *inode) unset(flag uint32)   { in.flags.And(^flag) }
func (in *inode) typeLocked() uint32  { return in.a.Mode & format.TypeMask }
func (in *inode) isDirLocked() bool   { return in.typeLocked() == format.TypeDir }
func (in *inode) sizeLocked() int64   { return int64(in.a.Size) }

// aliveLocked is ErrStale for an inode that was freed while the caller waited
// for its lock.
func (in *inode) aliveLocked() error {
	if in.is(flagGone) {
		return fmt.Errorf("inode %d: %w", in.ino, ErrStale)
	}
	return nil
}

// dirLocked is nil for a directory that can take part in an operation.
func (in *inode) dirLocked() error {
	if err := in.aliveLocked(); err != nil {
		return err
	}
	if !in.isDirLocked() {
		return fmt.Errorf("inode %d: %w", in.ino, ErrNotDir)
	}
	return nil
}

// fileLocked is nil for a regular file.
func (in *inode) fileLocked() error {
	if err := in.aliveLocked(); err != nil {
		return err
	}
	switch in.typeLocked() {
	case format.TypeRegular:
		return nil
	case format.TypeDir:
		return fmt.Errorf("inode %d: %w", in.ino, ErrIsDir)
	}
	return fmt.Errorf("inode %d is not a regular file: %w", in.ino, ErrInvalid)
}

// attrLocked copies the attributes.
func (in *inode) attrLocked() Attr {
	a := &in.a
	return Attr{
		Ino: in.ino, Mode: a.Mode, UID: a.UID, GID: a.GID, Nlink: a.Nlink, Rdev: a.Rdev,
		Size: int64(a.Size), Blocks: a.Blocks,
		Atime: nsTime(a.Atime), Mtime: nsTime(a.Mtime), Ctime: nsTime(a.Ctime), Btime: nsTime(a.Btime),
		Generation: a.Gen,
	}
}

func nsTime(ns int64) time.Time { return time.Unix(0, ns).UTC() }

// timeNS refuses times that a record cannot hold (before 1678, after 2262).
func timeNS(t time.Time) (int64, error) {
	if y := t.UTC().Year(); y < 1679 || y > 2261 {
		return 0, fmt.Errorf("time %s: only the years 1679 to 2261 can be stored: %w", t, ErrInvalid)
	}
	return t.UnixNano(), nil
}

// nowNS is the wall clock in nanoseconds.
func nowNS() int64 { return time.Now().UnixNano() }

package core

import (
	"context"
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// cutRecords is how many extents one transaction of a truncate, punch or
// reclaim takes away at most.
const cutRecords = 32

// beginCut begins a transaction that takes up to limit extents away, beside
// extra records. On a full image it takes fewer: taking away is how room is
// made, and the space kept for it may not reach for many at once.
//
// Errors: as begin.
func (fs *FS) beginCut(extra int) (t txn, limit int, err error) {
	for limit = cutRecords; ; limit /= 4 {
		t, err = fs.begin(limit+extra, 0, true)
		if limit < 4 || !errors.Is(err, ErrNoSpace) {
			return t, limit, err
		}
	}
}

// Truncate sets the size of a file. Bytes it gains read as zeros.
//
// Errors: ErrMapped when pages that would go are mapped through attach; ErrTooBig,
// ErrIsDir, ErrInvalid, ErrStale, ErrReadOnly, ErrIO, and the gate's.
func (fs *FS) Truncate(ctx context.Context, ino format.Ino, size int64) error {
	_, err := fs.SetAttr(ctx, ino, SetAttr{Size: &size})
	return err
}

// SetAttr changes attributes; a size as Truncate does.
//
// Errors: as Truncate.
func (fs *FS) SetAttr(ctx context.Context, ino format.Ino, s SetAttr) (a Attr, err error) {
	err = fs.withSpace(ctx, func() error {
		a, err = fs.trySetAttr(ctx, ino, s)
		return err
	})
	return a, err
}

func (fs *FS) trySetAttr(ctx context.Context, ino format.Ino, s SetAttr) (Attr, error) {
	var touched, bytes int64 // what reads differently then
	locked := false
	defer func() {
		if locked {
			fs.tellInode(ctx, ino, touched, bytes)
		}
	}()
	var atime, mtime int64
	var err error
	if s.Atime != nil {
		if atime, err = timeNS(*s.Atime); err != nil {
			return Attr{}, err
		}
	}
	if s.Mtime != nil {
		if mtime, err = timeNS(*s.Mtime); err != nil {
			return Attr{}, err
		}
	}
	op := freeze.OpSetattr
	if s.Size != nil {
		op = freeze.OpTruncate
		if *s.Size < 0 {
			return Attr{}, fmt.Errorf("truncate inode %d to %d: %w", ino, *s.Size, ErrInvalid)
		}
	}
	in, err := fs.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer fs.put(in)
	pass, err := fs.enterWrite(ctx, op, ino)
	if err != nil {
		return Attr{}, err
	}
	defer pass.Exit()
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.aliveLocked(); err != nil {
		return Attr{}, err
	}
	locked = true
	if s.Size != nil {
		touched, bytes = in.resizedLocked(*s.Size)
		if err := fs.resizeLocked(in, *s.Size); err != nil {
			return Attr{}, fmt.Errorf("truncate inode %d to %d: %w", ino, *s.Size, err)
		}
	}
	if s.Mode != nil || s.UID != nil || s.GID != nil || s.Atime != nil || s.Mtime != nil {
		t, err := fs.begin(1, 0, s.Size != nil) // with the size changed, the rest must follow
		if err != nil {
			return Attr{}, fmt.Errorf("set attributes of inode %d: %w", ino, err)
		}
		if s.Mode != nil {
			in.a.Mode = in.typeLocked() | *s.Mode&0o7777
		}
		if s.UID != nil {
			in.a.UID = *s.UID
		}
		if s.GID != nil {
			in.a.GID = *s.GID
		}
		if s.Atime != nil {
			in.a.Atime = atime
		}
		if s.Mtime != nil {
			in.a.Mtime = mtime
		}
		in.a.Ctime = nowNS()
		t.dirtyAttrs(in)
		if err := t.end(); err != nil {
			return Attr{}, err
		}
	}
	fs.ops.count(op)
	return in.attrLocked(), nil
}

// resizedLocked is the bytes that read differently, or are new, once the size is
// another.
func (in *inode) resizedLocked(size int64) (off, n int64) {
	if old := in.sizeLocked(); size >= old {
		return old, size - old
	}
	return size, -1
}

// resizeLocked moves the end of a file. Shrinking goes from the end down, each
// transaction leaving a shorter file, so that a crash in the middle leaves no
// block past the end.
func (fs *FS) resizeLocked(in *inode, size int64) error {
	if err := in.fileLocked(); err != nil {
		return err
	}
	if size > in.sizeLocked() {
		return fs.growLocked(in, size)
	}
	keep := pagesUp(size)
	if in.mappedBeyond(keep) {
		return ErrMapped
	}
	for {
		t, limit, err := fs.beginCut(2)
		if err != nil {
			return err
		}
		done, err := t.cutExtents(in, keep, maxPage, limit)
		if err != nil {
			t.fail(err)
		}
		if done {
			in.a.Size = uint64(size)
		} else if t.err == nil {
			// What is left ends at the last extent.
			if e, ok, err := fs.extentAt(in.ino, maxPage-1); err != nil {
				t.fail(err)
			} else if ok {
				in.a.Size = min(in.a.Size, uint64(e.end())*format.PageSize)
			}
		}
		t.stamp(in, nowNS())
		if err := t.end(); err != nil || done {
			return err
		}
	}
}

// growLocked moves the end of a file up.
func (fs *FS) growLocked(in *inode, size int64) error {
	fs.threads.take()
	defer fs.threads.give()
	b := fs.m.Begin()
	defer b.End()
	err := fs.clearTail(in, b, size)
	b.Order()
	if err != nil {
		return err
	}
	t, err := fs.begin(1, 0, true)
	if err != nil {
		return err
	}
	return t.endWrite(in, size)
}

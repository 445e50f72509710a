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
func (fs *FS) SetAttr(ctx context.Context, ino format.Ino, s SetAttr) (Attr, error) {
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
	if s.Size != nil {
		if err := fs.resizeLocked(in, *s.Size); err != nil {
			return Attr{}, fmt.Errorf("truncate inode %d to %d: %w", ino, *s.Size, err)
		}
	}
	if s.Mode != nil || s.UID != nil || s.GID != nil || s.Atime != nil || s.Mtime != nil {
		t, err := fs.begin(1, 0, false)
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

// Fallocate allocates, punches or zeroes a range of a file as fallocate(2).
//
// Errors: ErrMapped for a punch of mapped pages; ErrNoSpace, ErrTooBig,
// ErrInvalid for an empty or negative range; else as WriteAt.
func (fs *FS) Fallocate(ctx context.Context, ino format.Ino, mode FallocMode, off, n int64) error {
	if off < 0 || n <= 0 || mode < FallocAllocate || mode > FallocZeroRangeKeepSize {
		return fmt.Errorf("fallocate inode %d, mode %d, %d bytes at %d: %w", ino, mode, n, off, ErrInvalid)
	}
	if n > format.MaxFileSize-off {
		return fmt.Errorf("fallocate inode %d: past 2^63-1 bytes: %w", ino, ErrTooBig)
	}
	in, err := fs.get(ino)
	if err != nil {
		return err
	}
	defer fs.put(in)
	if mode != FallocPunchHole {
		if err := fs.roomFor(in, pageOf(off), pagesUp(off+n)); err != nil {
			return fmt.Errorf("fallocate %d bytes of inode %d: %w", n, ino, err)
		}
	}
	// A chunk at a time, so that a freeze need not wait for a large range.
	for at := off; at < off+n; {
		end := min(off+n, at+min(chunkSize-at%chunkSize, off+n-at))
		if mode == FallocPunchHole {
			end = off + n // costs records, not bytes
		}
		if err := fs.fallocChunk(ctx, in, mode, at, end); err != nil {
			return fmt.Errorf("fallocate inode %d at %d: %w", ino, at, err)
		}
		at = end
	}
	fs.ops.count(freeze.OpFallocate)
	return nil
}

func (fs *FS) fallocChunk(ctx context.Context, in *inode, mode FallocMode, off, end int64) error {
	pass, err := fs.enterWrite(ctx, freeze.OpFallocate, in.ino)
	if err != nil {
		return err
	}
	defer pass.Exit()
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.fileLocked(); err != nil {
		return err
	}
	size := in.sizeLocked()
	switch mode {
	case FallocPunchHole:
		return fs.punchLocked(in, off, end)
	case FallocZeroRange, FallocZeroRangeKeepSize:
		if err := fs.zeroLocked(in, off, min(end, size)); err != nil {
			return err
		}
	}
	if _, err := fs.allocateLocked(in, pageOf(off), pagesUp(end)); err != nil {
		return err
	}
	if end > size && (mode == FallocAllocate || mode == FallocZeroRange) {
		return fs.growLocked(in, end)
	}
	return nil
}

// zeroLocked overwrites [off, end) with zeros where there are blocks.
func (fs *FS) zeroLocked(in *inode, off, end int64) error {
	if off >= end {
		return nil
	}
	fs.threads.take()
	defer fs.threads.give()
	b := fs.m.Begin()
	defer b.End()
	err := fs.pieces(in.ino, pageOf(off), pagesUp(end), func(p format.Page, blk format.Block, n uint64) error {
		if blk == 0 {
			return nil
		}
		start := int64(p) * format.PageSize
		from, to := max(off, start), min(end, pageStart(p+format.Page(n)))
		if err := b.Zero(blockOff(blk)+from-start, to-from); err != nil {
			return ioError(err, "clear page %d", p)
		}
		return nil
	})
	b.Order()
	if err != nil {
		return err
	}
	t, err := fs.begin(1, 0, true)
	if err != nil {
		return err
	}
	t.stamp(in, nowNS())
	return t.end()
}

// punchLocked takes whole pages of [off, end) away and zeroes the rest of it.
func (fs *FS) punchLocked(in *inode, off, end int64) error {
	first, last := pagesUp(off), pageOf(end)
	if end >= in.sizeLocked() {
		last = max(last, pagesUp(end)) // the page of the end of the file goes whole
	}
	if first >= last { // inside one page
		return fs.zeroLocked(in, off, end)
	}
	if in.mappedWithin(first, last) {
		return ErrMapped
	}
	if err := fs.zeroLocked(in, off, pageStart(first)); err != nil {
		return err
	}
	if err := fs.zeroLocked(in, pageStart(last), end); err != nil {
		return err
	}
	for {
		t, limit, err := fs.beginCut(2)
		if err != nil {
			return err
		}
		done, err := t.cutExtents(in, first, last, limit)
		if err != nil {
			t.fail(err)
		}
		t.stamp(in, nowNS())
		if err := t.end(); err != nil || done {
			return err
		}
	}
}

// roomFor refuses an allocation that cannot succeed before its first chunk is
// made. It is a look, not a reservation.
func (fs *FS) roomFor(in *inode, first, end format.Page) error {
	missing := uint64(0)
	in.mu.RLock()
	err := fs.pieces(in.ino, first, end, func(_ format.Page, b format.Block, n uint64) error {
		if b == 0 {
			missing += n
		}
		return nil
	})
	in.mu.RUnlock()
	if sp := fs.store.Space(); err == nil && missing > sp.Free+sp.PendingFree-min(sp.Kept, sp.Free) {
		err = fmt.Errorf("%d blocks are needed, %d are free: %w", missing, sp.Free, ErrNoSpace)
	}
	return err
}

// maxAllocate is how many pages one transaction allocates and zeroes.
const maxAllocate = chunkSize / format.PageSize

// allocateLocked gives every hole in the pages [first, end) a zeroed block, and
// reports whether there was one. At most maxAllocate pages lie in the range.
func (fs *FS) allocateLocked(in *inode, first, end format.Page) (bool, error) {
	if end-first > maxAllocate+1 {
		return false, fmt.Errorf("allocate %d pages at once: %w", end-first, ErrInvalid)
	}
	var gaps []gap
	missing := uint64(0)
	err := fs.pieces(in.ino, first, end, func(p format.Page, b format.Block, n uint64) error {
		if b == 0 {
			gaps = append(gaps, gap{p, n})
			missing += n
		}
		return nil
	})
	if err != nil || missing == 0 {
		return false, err
	}
	fs.threads.take()
	defer fs.threads.give()
	b := fs.m.Begin()
	defer b.End()
	t, err := fs.begin(recordsForRun(missing), int(missing), false)
	if err != nil {
		return false, err
	}
	fresh, err := t.allocGaps(in, gaps)
	for i := 0; err == nil && i < len(fresh); i++ {
		if e := b.Zero(blockOff(fresh[i].Block), int64(fresh[i].Count)*format.BlockSize); e != nil {
			err = ioError(e, "clear block %d", fresh[i].Block)
		}
	}
	b.Order()
	if err != nil {
		for _, x := range fresh {
			t.tx.FreeData(x.Block, x.Count)
		}
		return false, errors.Join(err, t.end())
	}
	for _, x := range fresh {
		t.putExtent(in, x)
	}
	in.a.Ctime = nowNS()
	t.dirtyAttrs(in)
	return true, t.end()
}

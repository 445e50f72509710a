package core

import (
	"context"
	"errors"
	"fmt"
	"math"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

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
		if err := fs.roomFor(ctx, in, pageOf(off), pagesUp(off+n)); err != nil {
			return fmt.Errorf("fallocate %d bytes of inode %d: %w", n, ino, err)
		}
	}
	// A chunk at a time, so that a freeze need not wait for a large range.
	for at := off; at < off+n; {
		end := min(off+n, at+min(chunkSize-at%chunkSize, off+n-at))
		if mode == FallocPunchHole {
			end = off + n // costs records, not bytes
		}
		if err := fs.withSpace(ctx, func() error { return fs.fallocChunk(ctx, in, mode, at, end) }); err != nil {
			return fmt.Errorf("fallocate inode %d at %d: %w", ino, at, err)
		}
		at = end
	}
	fs.ops.count(freeze.OpFallocate)
	return nil
}

func (fs *FS) fallocChunk(ctx context.Context, in *inode, mode FallocMode, off, end int64) error {
	var touched, bytes int64 // what reads differently then
	locked := false
	defer func() {
		if locked {
			fs.tellInode(ctx, in.ino, touched, bytes)
		}
	}()
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
	locked = true
	switch mode {
	case FallocAllocate:
		if end > size {
			touched, bytes = size, end-size
		}
	case FallocPunchHole, FallocZeroRange, FallocZeroRangeKeepSize:
		touched = min(off, size)
		bytes = end - touched
	}
	var old []Extent // what is there to be zeroed; new blocks are zeros
	switch mode {
	case FallocPunchHole:
		return fs.punchLocked(in, off, end)
	case FallocZeroRange, FallocZeroRangeKeepSize:
		if old, err = fs.extentsLocked(in, pageOf(off), pagesUp(end), 2*maxAllocate); err != nil {
			return err
		}
	}
	if _, err := fs.allocateLocked(in, pageOf(off), pagesUp(end)); err != nil {
		return err // without space nothing was zeroed
	}
	if err := fs.zeroExtents(in, old, off, min(end, size)); err != nil {
		return err
	}
	if end > size && (mode == FallocAllocate || mode == FallocZeroRange) {
		return fs.growLocked(in, end)
	}
	return nil
}

// zeroLocked overwrites [off, end) with zeros where there are blocks. Past the
// end of the file nothing is stored: a crash may leave an older, greater size, of
// which those bytes are part.
func (fs *FS) zeroLocked(in *inode, off, end int64) error {
	if end = min(end, in.sizeLocked()); off >= end {
		return nil
	}
	exts, err := fs.extentsLocked(in, pageOf(off), pagesUp(end), math.MaxInt)
	if err != nil {
		return err
	}
	return fs.zeroExtents(in, exts, off, end)
}

// zeroExtents overwrites the part of some extents in [off, end) with zeros.
func (fs *FS) zeroExtents(in *inode, exts []Extent, off, end int64) error {
	if off >= end || len(exts) == 0 {
		return nil
	}
	fs.threads.take()
	defer fs.threads.give()
	b := fs.m.Begin()
	defer b.End()
	var err error
	for _, e := range exts {
		start := int64(e.Page) * format.PageSize
		from, to := max(off, start), min(end, pageStart(e.end()))
		if err != nil || from >= to {
			continue
		}
		if err = b.Zero(blockOff(e.Block)+from-start, to-from); err != nil {
			err = fs.dataError(err, in.ino, e, "clear page %d", e.Page)
		}
	}
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
func (fs *FS) roomFor(ctx context.Context, in *inode, first, end format.Page) error {
	return fs.withSpace(ctx, func() error { return fs.tryRoomFor(in, first, end) })
}

func (fs *FS) tryRoomFor(in *inode, first, end format.Page) error {
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
	for try := 0; ; try++ {
		retired, err := fs.allocateGaps(in, gaps, missing, try > 0)
		if !retired || try == maxRetired {
			return err == nil, err
		}
	}
}

// allocateGaps gives the gaps zeroed blocks. retired tells that it failed for a
// bad block, which nobody will be given again.
func (fs *FS) allocateGaps(in *inode, gaps []gap, missing uint64, apart bool) (retired bool, err error) {
	fs.threads.take()
	defer fs.threads.give()
	b := fs.m.Begin()
	defer b.End()
	t, err := fs.begin(recordsForRun(missing), int(missing), false)
	if err != nil {
		return false, err
	}
	fresh, err := t.allocGaps(in, gaps, apart)
	for i := 0; err == nil && i < len(fresh); i++ {
		if e := b.Zero(blockOff(fresh[i].Block), int64(fresh[i].Count)*format.BlockSize); e != nil {
			err = ioError(e, "clear block %d", fresh[i].Block)
		}
	}
	b.Order()
	if err != nil {
		retired = t.giveBack(fresh, err)
		if e := t.end(); e != nil {
			return false, errors.Join(err, e)
		}
		return retired, err
	}
	for _, x := range fresh {
		t.putExtent(in, x)
	}
	in.a.Ctime = nowNS()
	t.dirtyAttrs(in)
	return false, t.end()
}

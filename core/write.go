package core

import (
	"context"
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem"
	"permafrost/pmem/plant"
)

// chunkSize is how much of a write passes the gate and holds the locks at a
// time, in bytes.
const chunkSize = 1 << 20

// WriteAt writes p at off, a chunk at a time: between chunks a freeze may
// come, and the rest of the write waits for the thaw. n < len(p) comes with an
// error; what was written stays.
//
// Errors: ErrStale, ErrIsDir, ErrInvalid, ErrTooBig, ErrNoSpace, ErrReadOnly,
// ErrIO, and the gate's.
func (fs *FS) WriteAt(ctx context.Context, ino format.Ino, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("write inode %d at %d: %w", ino, off, ErrInvalid)
	}
	if int64(len(p)) > format.MaxFileSize-off {
		return 0, fmt.Errorf("write inode %d at %d: past 2^63-1 bytes: %w", ino, off, ErrTooBig)
	}
	in, err := fs.get(ino)
	if err != nil {
		return 0, err
	}
	defer fs.put(in)
	done := 0
	for {
		at := off + int64(done)
		n := min(len(p)-done, chunkSize-int(at%chunkSize))
		m, _, err := fs.writeChunk(ctx, in, p[done:done+n], at, placeGiven)
		done += m
		if err != nil || done == len(p) {
			return done, err
		}
	}
}

// Append writes p at the end of the file and tells where that was. Up to 1 MiB
// is appended in one piece, or not at all; longer data in pieces that other
// appenders may come between, and of which the first stay when one fails.
//
// Errors: as WriteAt.
func (fs *FS) Append(ctx context.Context, ino format.Ino, p []byte) (off int64, err error) {
	in, err := fs.get(ino)
	if err != nil {
		return 0, err
	}
	defer fs.put(in)
	for first := true; first || len(p) > 0; first = false {
		n, at, err := fs.writeChunk(ctx, in, p[:min(len(p), chunkSize)], 0, placeEnd)
		if first {
			off = at
		}
		if err != nil {
			return off, err
		}
		p = p[n:]
	}
	return off, nil
}

// WriteBack writes what a cache has kept of a file, at most 1 MiB and in one
// piece of the file from off on: only what lies within the file, which may have
// become shorter since. It neither makes a file longer nor fails for what is past its end.
//
// Errors: as WriteAt.
func (fs *FS) WriteBack(ctx context.Context, ino format.Ino, p []byte, off int64) error {
	if off < 0 || len(p) > chunkSize {
		return fmt.Errorf("write back %d bytes of inode %d at %d: %w", len(p), ino, off, ErrInvalid)
	}
	in, err := fs.get(ino)
	if err != nil {
		return err
	}
	defer fs.put(in)
	_, _, err = fs.writeChunk(WroteBack(ctx), in, p, off, placeWithin)
	return err
}

// place is where a write goes.
type place int

const (
	placeGiven  place = iota // where the caller says
	placeEnd                 // at the end of the file, all or nothing
	placeWithin              // where the caller says, as far as the file reaches
)

// writeChunk writes at most chunkSize bytes inside one pass of the gate. Where
// space is short it writes as much as there is room for, but appends all or
// nothing.
func (fs *FS) writeChunk(ctx context.Context, in *inode, p []byte, off int64, where place) (n int, at int64, err error) {
	err = fs.withSpace(ctx, func() error {
		var m int
		m, at, err = fs.tryWriteChunk(ctx, in, p[n:], off+int64(n), where)
		n += m
		return err
	})
	return n, at, err
}

func (fs *FS) tryWriteChunk(ctx context.Context, in *inode, p []byte, off int64, where place) (int, int64, error) {
	var touched, bytes int64 // what reads differently then
	defer func() {
		if bytes > 0 {
			fs.tellInode(ctx, in.ino, touched, bytes)
		}
	}()
	pass, err := fs.enterWrite(ctx, freeze.OpWrite, in.ino)
	if err != nil {
		return 0, 0, err
	}
	defer pass.Exit()
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.fileLocked(); err != nil {
		return 0, 0, err
	}
	switch where {
	case placeWithin:
		p = p[:min(int64(len(p)), max(in.sizeLocked()-off, 0))]
	case placeEnd:
		off = in.sizeLocked()
		if int64(len(p)) > format.MaxFileSize-off {
			return 0, off, fmt.Errorf("append to inode %d: past 2^63-1 bytes: %w", in.ino, ErrTooBig)
		}
	}
	if len(p) == 0 {
		return 0, off, nil
	}
	touched = min(off, in.sizeLocked())
	bytes = off + int64(len(p)) - touched
	done := 0
	for part := len(p); done < len(p); {
		part = min(part, len(p)-done)
		err := fs.writeLocked(in, p[done:done+part], off+int64(done))
		if errors.Is(err, ErrNoSpace) && part > format.PageSize && where != placeEnd {
			part = (part/2 + format.PageSize - 1) &^ (format.PageSize - 1)
			if part >= len(p)-done {
				part = format.PageSize
			}
			continue
		}
		if err != nil {
			return done, off, fmt.Errorf("write inode %d at %d: %w", in.ino, off+int64(done), err)
		}
		done += part
	}
	fs.ops.count(freeze.OpWrite)
	return done, off, nil
}

// gap is a run of pages of a write that have no block yet.
type gap struct {
	page  format.Page
	count uint64
}

// writeLocked writes one piece: in place where there are blocks, into new ones
// where there are none. New blocks are filled and ordered before a record
// points at them, so that the group's commit covers both.
func (fs *FS) writeLocked(in *inode, p []byte, off int64) error {
	first, end := pageOf(off), pagesUp(off+int64(len(p)))
	e, ok, err := fs.extentAt(in.ino, first)
	if err != nil {
		return err
	}
	if ok && e.end() >= end { // the common case: one extent has it all
		return fs.overwrite(in, p, off, []Extent{e})
	}
	var room [8]gap
	gaps, missing := room[:0], uint64(0)
	var inPlace [4]Extent
	exts := inPlace[:0]
	err = fs.pieces(in.ino, first, end, func(pg format.Page, b format.Block, n uint64) error {
		if b == 0 {
			gaps = append(gaps, gap{pg, n})
			missing += n
		} else {
			exts = append(exts, Extent{Page: pg, Block: b, Count: n})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if missing > 0 {
		return fs.writeNew(in, p, off, exts, gaps, missing)
	}
	return fs.overwrite(in, p, off, exts)
}

// overwrite is writeLocked without gaps. No block is needed, so the copy does
// not hold up a seal.
func (fs *FS) overwrite(in *inode, p []byte, off int64, exts []Extent) error {
	fs.threads.take()
	defer fs.threads.give()
	b := fs.m.Begin()
	defer b.End()
	err := fs.copyIn(in, b, p, off, exts)
	b.Order()
	if err != nil {
		return err
	}
	t, err := fs.begin(1, 0, true)
	if err != nil {
		return err
	}
	return t.endWrite(in, off+int64(len(p)))
}

// writeNew is writeLocked with gaps: blocks are reserved before the first byte
// is written, so that a full image costs nothing that was there. Of new blocks
// that turn out to be bad others take the place.
func (fs *FS) writeNew(in *inode, p []byte, off int64, exts []Extent, gaps []gap, missing uint64) error {
	for try := 0; ; try++ {
		retired, err := fs.tryWriteNew(in, p, off, exts, gaps, missing, try > 0)
		if !retired || try == maxRetired {
			return err
		}
	}
}

// tryWriteNew is one attempt. retired tells that it failed for a bad block, which
// nobody will be given again.
func (fs *FS) tryWriteNew(in *inode, p []byte, off int64, exts []Extent, gaps []gap, missing uint64, apart bool) (retired bool, err error) {
	fs.threads.take()
	defer fs.threads.give()
	b := fs.m.Begin()
	defer b.End()
	t, err := fs.begin(recordsForRun(missing), int(missing), false)
	if err != nil {
		return false, err
	}
	fresh, err := t.allocGaps(in, gaps, apart)
	if err == nil {
		err = fs.copyIn(in, b, p, off, exts)
	}
	for i := 0; err == nil && i < len(fresh); i++ {
		err = fs.fillBlocks(b, fresh[i], p, off)
	}
	if !plant.On(plant.DataOrder) {
		b.Order() // also before blocks go back: their next owner must write last
	}
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
	return false, t.endWrite(in, off+int64(len(p)))
}

// endWrite moves the end of the file and the times, and ends the Tx.
func (t *txn) endWrite(in *inode, end int64) error {
	if end > in.sizeLocked() {
		in.a.Size = uint64(end)
	}
	t.stamp(in, nowNS())
	return t.end()
}

// recordsForRun is how many record operations n neighbouring pages may cost in
// the tree's reckoning, where each is reckoned as far from all others: they
// share their leaves, so a thirty-second of them is generous.
func recordsForRun(n uint64) int { return 3 + int(n/32) }

// allocGaps finds blocks for all gaps, next to the file's others unless apart.
// On failure it returns what it got.
func (t *txn) allocGaps(in *inode, gaps []gap, apart bool) ([]Extent, error) {
	var out []Extent
	hint := format.Block(0)
	if p := gaps[0].page; p > 0 && !apart {
		prev, ok, err := t.fs.extentAt(in.ino, p-1)
		if err != nil {
			return nil, err
		}
		if ok && prev.end() == p {
			hint = prev.Block + format.Block(prev.Count)
		}
	}
	for _, g := range gaps {
		for g.count > 0 {
			b, n, err := t.tx.AllocData(hint, g.count)
			if err != nil {
				return out, t.fs.treeError(err)
			}
			out = append(out, Extent{Page: g.page, Block: b, Count: n})
			g.page += format.Page(n)
			g.count -= n
			hint = b + format.Block(n)
		}
	}
	return out, nil
}

// copyIn overwrites blocks that the file has, and first clears what lies
// between the old end of the file and the write in the page of that end: bytes
// past the end are undefined until the end passes them (D2).
func (fs *FS) copyIn(in *inode, b pmem.Batch, p []byte, off int64, exts []Extent) error {
	if err := fs.clearTail(in, b, off); err != nil {
		return err
	}
	for _, x := range exts {
		from := max(off, int64(x.Page)*format.PageSize)
		to := min(off+int64(len(p)), pageStart(x.end()))
		at := blockOff(x.Block) + from - int64(x.Page)*format.PageSize
		if err := b.Write(at, p[from-off:to-off]); err != nil {
			return fs.dataError(err, in.ino, x, "write page %d", x.Page)
		}
	}
	return nil
}

// clearTail zeroes [end of file, upTo) within the page that holds the end,
// before the end moves to upTo or beyond.
func (fs *FS) clearTail(in *inode, b pmem.Batch, upTo int64) error {
	size := in.sizeLocked()
	upTo = min(upTo, pageStart(pagesUp(size)))
	if size >= upTo || plant.On(plant.TailClear) {
		return nil
	}
	e, ok, err := fs.extentAt(in.ino, pageOf(size))
	if err != nil || !ok || e.end() <= pageOf(size) {
		return err
	}
	at := blockOff(e.at(pageOf(size))) + size%format.PageSize
	if err := b.Zero(at, upTo-size); err != nil {
		return fs.dataError(err, in.ino, e, "clear the last page of inode %d", in.ino)
	}
	return nil
}

// fillBlocks fills new blocks with the write's bytes, and with zeros where it
// does not reach.
func (fs *FS) fillBlocks(b pmem.Batch, x Extent, p []byte, off int64) error {
	start := int64(x.Page) * format.PageSize
	from, to := max(off, start), min(off+int64(len(p)), pageStart(x.end()))
	at, stop := blockOff(x.Block), int64(x.Count)*format.PageSize
	if from > start {
		if err := b.Zero(at, from-start); err != nil {
			return ioError(err, "clear block %d", x.Block)
		}
	}
	if err := b.Write(at+from-start, p[from-off:to-off]); err != nil {
		return ioError(err, "write block %d", x.Block)
	}
	if to-start < stop && !plant.On(plant.BlockFill) {
		if err := b.Zero(at+to-start, stop-(to-start)); err != nil {
			return ioError(err, "clear block %d", x.Block)
		}
	}
	return nil
}

package core

import (
	"context"
	"fmt"
	"io"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// ReadAt copies bytes of a file; holes read as zeros. n < len(p) comes with an
// error, io.EOF at the end of the file.
//
// Errors: ErrStale, ErrIsDir, ErrInvalid, ErrIO with the block.
func (fs *FS) ReadAt(ctx context.Context, ino format.Ino, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read inode %d at %d: %w", ino, off, ErrInvalid)
	}
	in, err := fs.get(ino)
	if err != nil {
		return 0, err
	}
	defer fs.put(in)
	n, err := fs.readShared(in, p, off)
	if err != nil && err != io.EOF {
		return n, err
	}
	fs.touchAtime(ctx, in)
	return n, err
}

func (fs *FS) readShared(in *inode, p []byte, off int64) (int, error) {
	in.mu.RLock()
	defer in.mu.RUnlock()
	if err := in.fileLocked(); err != nil {
		return 0, err
	}
	size := in.sizeLocked()
	if off >= size {
		return 0, io.EOF
	}
	short := int64(len(p)) > size-off
	if short {
		p = p[:size-off]
	}
	if len(p) == 0 {
		return 0, nil
	}
	e, ok, err := fs.extentAt(in.ino, pageOf(off))
	if err != nil {
		return 0, err
	}
	if ok && e.end() >= pagesUp(off+int64(len(p))) { // the common case: one extent has it all
		n, err := fs.readExtent(in.ino, e, p, off)
		if err == nil && short {
			err = io.EOF
		}
		return n, err
	}
	done := 0
	err = fs.pieces(in.ino, pageOf(off), pagesUp(off+int64(len(p))), func(pg format.Page, b format.Block, n uint64) error {
		// The piece covers file bytes [start, start+n pages); we are at off+done.
		skip := off + int64(done) - int64(pg)*format.PageSize
		part := p[done:]
		if have := int64(n)*format.PageSize - skip; int64(len(part)) > have {
			part = part[:have]
		}
		m, err := len(part), error(nil)
		if b == 0 {
			clear(part)
		} else {
			m, err = fs.readExtent(in.ino, Extent{Page: pg, Block: b, Count: n}, part, off+int64(done))
		}
		done += m
		return err
	})
	if err == nil && short {
		err = io.EOF
	}
	return done, err
}

// readExtent copies bytes of an extent, from byte off of the file on. What lies
// before a bad page is read, and the error is that of the first one: a long copy
// may meet any of them, so the second one goes page by page.
func (fs *FS) readExtent(ino format.Ino, x Extent, p []byte, off int64) (n int, err error) {
	at := blockOff(x.Block) + off - int64(x.Page)*format.PageSize
	if _, err = fs.m.ReadAt(p, at); err == nil {
		return len(p), nil
	}
	for n < len(p) {
		end := min(n+format.PageSize-int((at+int64(n))%format.PageSize), len(p))
		if _, err := fs.m.ReadAt(p[n:end], at+int64(n)); err != nil {
			return n, fs.dataError(err, ino, x, "read page %d of inode %d", pageOf(off+int64(n)), ino)
		}
		n = end
	}
	return n, nil
}

// relatime is how old an access time may get before a read renews it, in ns.
const relatime = 24 * 3600 * 1e9

// atimeStaleLocked is relatime: a read moves the access time only if it is older
// than the last change or than a day, and not while frozen.
func (fs *FS) atimeStaleLocked(in *inode, now int64) bool {
	if in.a.Atime > in.a.Mtime && in.a.Atime > in.a.Ctime && now-in.a.Atime <= relatime {
		return false
	}
	return !fs.opt.ReadOnly && !fs.awaiting.Load() && !fs.startWrite.Closed()
}

// touchAtime renews the access time after a read, if it is stale. No lock is
// held.
func (fs *FS) touchAtime(ctx context.Context, in *inode) {
	now := nowNS()
	in.mu.RLock()
	stale := fs.atimeStaleLocked(in, now)
	in.mu.RUnlock()
	if stale && fs.setAtime(in, now) {
		fs.tellInode(ctx, in.ino, 0, 0)
	}
}

func (fs *FS) setAtime(in *inode, now int64) bool {
	pass, ok := fs.startWrite.Try(freeze.OpSetattr, uint64(in.ino))
	if !ok {
		return false
	}
	defer pass.Exit()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.aliveLocked() != nil {
		return false
	}
	// No room or no health is no reason to fail a read.
	t, err := fs.begin(1, 0, false)
	if err != nil {
		return false
	}
	in.a.Atime = now
	t.dirtyAttrs(in)
	_ = t.end()
	return true
}

// SeekData is the first byte of data at or after off: allocated pages, as far
// as the file reaches.
//
// Errors: ErrNXIO past the end or where only a hole follows.
func (fs *FS) SeekData(_ context.Context, ino format.Ino, off int64) (int64, error) {
	return fs.seek(ino, off, false)
}

// SeekHole is the first byte of a hole at or after off; the end of the file is
// one.
//
// Errors: ErrNXIO past the end.
func (fs *FS) SeekHole(_ context.Context, ino format.Ino, off int64) (int64, error) {
	return fs.seek(ino, off, true)
}

func (fs *FS) seek(ino format.Ino, off int64, hole bool) (int64, error) {
	in, err := fs.get(ino)
	if err != nil {
		return 0, err
	}
	defer fs.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	if err := in.fileLocked(); err != nil {
		return 0, err
	}
	size := in.sizeLocked()
	if off < 0 || off >= size {
		return 0, fmt.Errorf("seek from %d in %d bytes: %w", off, size, ErrNXIO)
	}
	found := int64(-1)
	err = fs.pieces(ino, pageOf(off), pagesUp(size), func(p format.Page, b format.Block, _ uint64) error {
		if (b == 0) == hole {
			found = max(off, int64(p)*format.PageSize)
			return errFound
		}
		return nil
	})
	switch {
	case found >= 0:
		return found, nil
	case err != nil:
		return 0, err
	case hole:
		return size, nil
	}
	return 0, fmt.Errorf("no data from %d on: %w", off, ErrNXIO)
}

// errFound ends a walk early. Never returned.
var errFound = fmt.Errorf("found") // immutable

// Extents lists at most limit extents of a file from a page on.
func (fs *FS) Extents(_ context.Context, ino format.Ino, from format.Page, limit int) ([]Extent, error) {
	in, err := fs.get(ino)
	if err != nil {
		return nil, err
	}
	defer fs.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	if err := in.aliveLocked(); err != nil || limit <= 0 {
		return nil, err
	}
	return fs.extentsLocked(in, from, maxPage, limit)
}

// extentsLocked lists the allocated pieces of a range of pages.
func (fs *FS) extentsLocked(in *inode, first, end format.Page, limit int) ([]Extent, error) {
	var out []Extent
	err := fs.pieces(in.ino, first, end, func(p format.Page, b format.Block, n uint64) error {
		if b != 0 {
			out = append(out, Extent{Page: p, Block: b, Count: n})
		}
		if len(out) == limit {
			return errFound
		}
		return nil
	})
	if err != nil && err != errFound {
		return nil, err
	}
	return out, nil
}

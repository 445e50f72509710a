package core

import (
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// maxPage is one past the last page a file can have.
const maxPage = format.Page((format.MaxFileSize + 1) / format.PageSize)

// pageOf is the page that holds a byte; pagesUp counts pages up to a byte.
func pageOf(off int64) format.Page { return format.Page(off / format.PageSize) }
func pagesUp(n int64) format.Page {
	return format.Page((uint64(n) + format.PageSize - 1) / format.PageSize)
}

// pageStart is where a page begins in its file. One past the last page there can
// be begins one past the largest offset; the largest offset stands for it.
func pageStart(p format.Page) int64 {
	if p >= maxPage {
		return format.MaxFileSize
	}
	return int64(p) * format.PageSize
}

// end is one past the extent's last page.
func (e Extent) end() format.Page { return e.Page + format.Page(e.Count) }

// at is the block of a page of the extent.
func (e Extent) at(p format.Page) format.Block { return e.Block + format.Block(p-e.Page) }

// decodeExtent reads an extent record.
func decodeExtent(k tree.Key, v []byte) (Extent, error) {
	var e format.Extent
	if err := e.Decode(v); err != nil {
		return Extent{}, err
	}
	x := Extent{Page: format.Page(k.Off), Block: e.Block, Count: e.Count}
	if k.Off >= uint64(maxPage) || x.end() > maxPage {
		return Extent{}, fmt.Errorf("%w: extent at page %d past the largest file", format.ErrBadRecord, k.Off)
	}
	return x, nil
}

// extentAt is the extent with the greatest first page not above p; ok tells
// whether there is one. It need not reach p.
func (fs *FS) extentAt(ino format.Ino, p format.Page) (e Extent, ok bool, err error) {
	var buf [format.ExtentSize]byte
	k, v, err := fs.store.SeekLE(key(ino, format.KindExtent, uint64(p)), buf[:0])
	if errors.Is(err, tree.ErrNotFound) {
		return e, false, nil
	}
	if err == nil && (k.Ino != ino || k.Kind != format.KindExtent) {
		return e, false, nil
	}
	if err == nil {
		e, err = decodeExtent(k, v)
	}
	if err != nil {
		return e, false, ioError(err, "find page %d of inode %d", p, ino)
	}
	return e, true, nil
}

// pieces calls fn for the pages [first, end) in order, cut at extents: block 0
// is a hole. With the inode's lock it is a snapshot.
func (fs *FS) pieces(ino format.Ino, first, end format.Page, fn func(p format.Page, b format.Block, n uint64) error) error {
	at := first
	e, ok, err := fs.extentAt(ino, at)
	if err != nil {
		return err
	}
	if ok && e.end() > at {
		n := min(e.end(), end) - at
		if err := fn(at, e.at(at), uint64(n)); err != nil {
			return err
		}
		at += n
	}
	if at >= end {
		return nil
	}
	var stop error
	err = fs.store.Scan(key(ino, format.KindExtent, uint64(at)), key(ino, format.KindExtent, uint64(end)), func(k tree.Key, v []byte) bool {
		e, err := decodeExtent(k, v)
		if err != nil {
			stop = ioError(err, "read the extents of inode %d", ino)
			return false
		}
		if e.Page < at {
			stop = ioError(format.ErrBadRecord, "the extents of inode %d overlap at page %d", ino, e.Page)
			return false
		}
		if e.Page > at {
			if stop = fn(at, 0, uint64(e.Page-at)); stop != nil {
				return false
			}
		}
		n := min(e.end(), end) - e.Page
		stop = fn(e.Page, e.Block, uint64(n))
		at = e.Page + n
		return stop == nil
	})
	switch {
	case err != nil:
		return ioError(err, "read the extents of inode %d", ino)
	case stop != nil:
		return stop
	case at < end:
		return fn(at, 0, uint64(end-at))
	}
	return nil
}

// putExtent maps free pages of a locked inode to blocks, as part of the extent
// before them if they follow it on both sides.
func (t *txn) putExtent(in *inode, x Extent) {
	in.a.Blocks += x.Count
	if x.Page > 0 {
		prev, ok, err := t.fs.extentAt(in.ino, x.Page-1)
		if err != nil {
			t.fail(err)
			return
		}
		if ok && prev.end() == x.Page && prev.Block+format.Block(prev.Count) == x.Block && prev.Count+x.Count <= format.MaxExtent {
			x.Page, x.Block, x.Count = prev.Page, prev.Block, prev.Count+x.Count
		}
	}
	t.writeExtent(in.ino, x)
}

func (t *txn) writeExtent(ino format.Ino, x Extent) {
	var b [format.ExtentSize]byte
	format.Extent{Block: x.Block, Count: x.Count}.Encode(b[:])
	t.put(key(ino, format.KindExtent, uint64(x.Page)), b[:])
}

// cutExtents takes the pages [first, end) of a locked inode away and frees
// their blocks, from the end on, at most limit records. It reports whether
// nothing is left in the range.
func (t *txn) cutExtents(in *inode, first, end format.Page, limit int) (done bool, err error) {
	for n := 0; end > first; n++ {
		e, ok, err := t.fs.extentAt(in.ino, end-1)
		if err != nil {
			return false, err
		}
		if !ok || e.end() <= first {
			return true, nil
		}
		if n == limit {
			return false, nil
		}
		from, to := max(e.Page, first), min(e.end(), end)
		switch {
		case from > e.Page:
			t.writeExtent(in.ino, Extent{Page: e.Page, Block: e.Block, Count: uint64(from - e.Page)})
		default:
			t.del(key(in.ino, format.KindExtent, uint64(e.Page)))
		}
		if to < e.end() {
			t.writeExtent(in.ino, Extent{Page: to, Block: e.at(to), Count: uint64(e.end() - to)})
		}
		if t.err != nil {
			return false, nil // end tells
		}
		t.tx.FreeData(e.at(from), uint64(to-from))
		in.a.Blocks -= uint64(to - from)
		end = from
	}
	return true, nil
}

// blockOff is where a block begins in the image, in bytes.
func blockOff(b format.Block) int64 { return int64(b) * format.BlockSize }

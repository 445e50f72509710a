package core

import (
	"context"
	"sync"

	"permafrost/core/format"
)

// View is bytes of a file where they lie in the image, for who can hand them on
// without a copy of their own. The zero View is empty.
//
// Until Release the bytes are that file's: whoever would change them, or free
// their blocks, waits. So it is to be held shortly, and meanwhile nothing may be
// waited for that needs the inode, an operation of this file system on it least
// of all. Programs that have the file mapped through attach store to it as
// always.
type View struct {
	fs *FS
	in *inode // pinned, and locked for reading
	p  []byte
}

// Bytes are the bytes. They must not be stored to, nor kept after Release.
//
// They are memory of the region: a page that the medium cannot read raises
// SIGBUS in who loads from it (see pmem.Medium.Bytes), and is EFAULT from a system
// call that does. Then it is to Release and to ask ReadAt, whose error names the block and
// which puts it on the bad-block list; from then on View gives no bytes of that page.
func (v *View) Bytes() []byte { return v.p }

// Release gives the bytes back. To release a View again, or an empty one, does
// nothing.
func (v *View) Release() {
	if v.in == nil {
		return
	}
	v.in.mu.RUnlock()
	v.fs.put(v.in)
	*v = View{}
}

// View is ReadAt in place: the n bytes of a regular file from off on, fewer only
// where the file ends. It holds for what lies in one run of blocks; else, and
// whenever anything is wrong, ok is false, there is nothing to release, and ReadAt
// answers: so for holes, at and past the end of the file, for zero bytes, and for pages on the
// bad-block list.
func (fs *FS) View(ctx context.Context, ino format.Ino, off int64, n int) (v View, ok bool) {
	if off < 0 || n <= 0 {
		return View{}, false
	}
	in, err := fs.get(ino)
	if err != nil {
		return View{}, false
	}
	in.mu.RLock()
	p := fs.viewLocked(in, off, int64(n))
	if p != nil && fs.atimeStaleLocked(in, nowNS()) {
		in.mu.RUnlock()
		fs.touchAtime(ctx, in)
		in.mu.RLock()
		p = fs.viewLocked(in, off, int64(n))
	}
	if p == nil {
		in.mu.RUnlock()
		fs.put(in)
		return View{}, false
	}
	return View{fs: fs, in: in, p: p}, true
}

// probes are where a byte of each page of a view is read to.
var probes = sync.Pool{New: func() any { return new([1]byte) }}

// viewLocked is the bytes of a View, or nil.
func (fs *FS) viewLocked(in *inode, off, n int64) []byte {
	if in.fileLocked() != nil {
		return nil
	}
	if n = min(n, in.sizeLocked()-off); n <= 0 {
		return nil
	}
	first, end := pageOf(off), pagesUp(off+n)
	e, ok, err := fs.extentAt(in.ino, first)
	if err != nil || !ok || e.end() <= first {
		return nil
	}
	run := Extent{Page: first, Block: e.at(first), Count: uint64(end - first)}
	for e.end() < end { // extents that were made one by one may lie side by side
		at, block := e.end(), e.Block+format.Block(e.Count)
		if e, ok, err = fs.extentAt(in.ino, at); err != nil || !ok || e.Page != at || e.Block != block {
			return nil
		}
	}
	if fs.store.HasBadBlock(run.Block, run.Count) || fs.bad.has(run) {
		return nil
	}
	// A page that cannot be read shows here rather than in a system call, whose
	// error nobody could put on the bad-block list.
	one := probes.Get().(*[1]byte)
	defer probes.Put(one)
	at := blockOff(run.Block) + off%format.PageSize
	for probe := at; probe < at+n; probe = probe&^(format.PageSize-1) + format.PageSize {
		if _, err := fs.m.ReadAt(one[:], probe); err != nil {
			return nil
		}
	}
	return fs.m.Bytes(at, n)
}

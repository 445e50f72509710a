package core

import (
	"context"
	"fmt"
	"io"
	"sync"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// Upload is a file in the making: an inode without a name that Commit puts in
// place of a name at once, so that readers see old or new. Close without Commit
// drops it; so does a crash. It is used by one goroutine at a time.
type Upload struct {
	fs   *FS             // immutable
	ctx  context.Context // immutable: the request's; ends waits at the gate
	in   *inode          // immutable; pinned until Close
	size int64           // written so far
	once sync.Once       // Close
}

// Precondition is checked under the directory's lock at Commit; old is nil if
// the name is free.
type Precondition func(old *Attr) error

// NewUpload makes the inode. ctx holds for the whole upload.
//
// Errors: as Create.
func (fs *FS) NewUpload(ctx context.Context, n NewNode) (u *Upload, err error) {
	err = fs.withSpace(ctx, func() error {
		u, err = fs.tryNewUpload(ctx, n)
		return err
	})
	return u, err
}

func (fs *FS) tryNewUpload(ctx context.Context, n NewNode) (*Upload, error) {
	if err := regularNode(&n); err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	pass, err := fs.enterWrite(ctx, freeze.OpUpload, 0)
	if err != nil {
		return nil, err
	}
	defer pass.Exit()
	in, err := fs.makeUnnamed(n, 0)
	if err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	fs.ops.count(freeze.OpUpload)
	return &Upload{fs: fs, ctx: unseenByAll(ctx), in: in}, nil
}

// ReadFrom appends what r has, a chunk at a time: it is read into memory first
// and then passes the gate, so that a slow sender never holds it.
//
// Errors: r's, and those of WriteAt.
func (u *Upload) ReadFrom(r io.Reader) (int64, error) {
	buf := make([]byte, firstChunk) // grows with the body: thousands of small uploads may be under way
	total := int64(0)
	for {
		if total > 0 && len(buf) < chunkSize {
			buf = make([]byte, min(4*len(buf), chunkSize))
		}
		n, rerr := fill(r, buf)
		if n > 0 {
			m, err := u.fs.WriteAt(u.ctx, u.in.ino, buf[:n], u.size)
			u.size += int64(m)
			total += int64(m)
			if err != nil {
				return total, err
			}
		}
		switch {
		case rerr == io.EOF:
			return total, nil
		case rerr != nil:
			return total, rerr
		}
	}
}

// fill reads until buf is full or r ends. It is io.ReadFull but for the error,
// which is r's own: a body that broke off says io.ErrUnexpectedEOF, and that is
// not the end of the file.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// firstChunk is how much of an upload is read at first, in bytes.
const firstChunk = 64 << 10

// Ino is the number of the inode in the making.
func (u *Upload) Ino() format.Ino { return u.in.ino }

// Commit gives the file its name, in place of what had it.
//
// Errors: pre's; ErrIsDir when the name is a directory's; else as Create.
func (u *Upload) Commit(ctx context.Context, dir format.Ino, name string, pre Precondition) (a Attr, replaced bool, err error) {
	err = u.fs.withSpace(ctx, func() error {
		a, replaced, err = u.tryCommit(ctx, dir, name, pre)
		return err
	})
	return a, replaced, err
}

func (u *Upload) tryCommit(ctx context.Context, dir format.Ino, name string, pre Precondition) (a Attr, replaced bool, err error) {
	fs := u.fs
	var e nameEntry
	defer func() {
		if fs.changed(err) {
			fs.tellEntry(ctx, dir, name)
			fs.tellInode(ctx, u.in.ino, 0, -1)
			fs.tellInode(ctx, e.ino, 0, 0)
		}
	}()
	if err := checkName(name); err != nil {
		return Attr{}, false, fmt.Errorf("upload: %w", err)
	}
	pass, err := fs.enterWrite(ctx, freeze.OpUpload, dir)
	if err != nil {
		return Attr{}, false, err
	}
	defer pass.Exit()
	d, err := fs.get(dir)
	if err != nil {
		return Attr{}, false, err
	}
	defer fs.put(d)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.dirLocked(); err != nil {
		return Attr{}, false, err
	}
	if d.a.Nlink == 0 {
		return Attr{}, false, fmt.Errorf("directory %d was removed: %w", dir, ErrNotFound)
	}
	e, err = fs.findName(dir, name)
	switch {
	case err != nil:
		return Attr{}, false, err
	case e.cookie == 0:
		return Attr{}, false, fmt.Errorf("%q in directory %d: too many names of one hash: %w", name, dir, ErrNoSpace)
	case e.typ == format.TypeDir:
		return Attr{}, false, fmt.Errorf("%q: %w", name, ErrIsDir)
	}
	var old *inode
	if e.ino != 0 {
		if old, err = fs.get(e.ino); err != nil {
			return Attr{}, false, err
		}
		defer fs.put(old)
	}
	unlock := lockPair(u.in, old)
	defer unlock()
	if a, err = u.commitLocked(d, old, e.cookie, name, pre); err != nil {
		return Attr{}, false, fmt.Errorf("upload %q: %w", name, err)
	}
	return a, old != nil, nil
}

// lockPair locks one or two inodes that are not directories, by number.
func lockPair(a, b *inode) (unlock func()) {
	if b == nil {
		a.mu.Lock()
		return a.mu.Unlock
	}
	if b.ino < a.ino {
		a, b = b, a
	}
	a.mu.Lock()
	b.mu.Lock()
	return func() {
		b.mu.Unlock()
		a.mu.Unlock()
	}
}

func (u *Upload) commitLocked(d, old *inode, cookie uint64, name string, pre Precondition) (Attr, error) {
	fs := u.fs
	if err := u.in.aliveLocked(); err != nil {
		return Attr{}, err
	}
	if u.in.a.Nlink != 0 {
		return Attr{}, fmt.Errorf("it was committed before: %w", ErrInvalid)
	}
	if pre != nil {
		var was *Attr
		if old != nil {
			a := old.attrLocked()
			was = &a
		}
		if err := pre(was); err != nil {
			return Attr{}, err
		}
	}
	t, err := fs.begin(recordsToDrop+4, 0, false)
	if err != nil {
		return Attr{}, err
	}
	now := nowNS()
	if old != nil {
		t.dropName(d, cookie, old, now)
		if err := t.dropLink(old, format.Link{Parent: d.ino, Cookie: cookie}, now); err != nil {
			t.fail(err)
		}
	}
	u.in.a.Parent, u.in.a.Cookie, u.in.a.Nlink = d.ino, cookie, 1
	t.addName(d, cookie, name, u.in, now)
	t.stamp(u.in, now)
	t.adoptOrphan(u.in)
	if err := t.end(); err != nil {
		return Attr{}, err
	}
	return u.in.attrLocked(), nil
}

// Close ends the upload; without Commit the file is gone.
func (u *Upload) Close() error {
	u.once.Do(func() { u.fs.put(u.in) })
	return nil
}

package core

import (
	"context"
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/core/tree"
)

// Create makes a regular or special file.
//
// Errors: ErrExists, ErrNotFound or ErrStale for a directory that was removed,
// ErrNotDir, ErrInvalid, ErrNameTooLong, ErrNoSpace, ErrReadOnly, and the gate's.
func (fs *FS) Create(ctx context.Context, dir format.Ino, name string, n NewNode) (Attr, error) {
	switch n.Mode & format.TypeMask {
	case format.TypeDir, format.TypeSymlink:
		return Attr{}, fmt.Errorf("create %q: directories and symlinks have calls of their own: %w", name, ErrInvalid)
	case 0:
		n.Mode |= format.TypeRegular
	}
	n.Target = ""
	return fs.makeNode(ctx, freeze.OpCreate, dir, name, n)
}

// Mkdir makes a directory. Errors as Create, and ErrTooManyLink.
func (fs *FS) Mkdir(ctx context.Context, dir format.Ino, name string, n NewNode) (Attr, error) {
	n.Mode = n.Mode&^format.TypeMask | format.TypeDir
	n.Target = ""
	return fs.makeNode(ctx, freeze.OpMkdir, dir, name, n)
}

// Symlink makes a symbolic link to n.Target. Errors as Create.
func (fs *FS) Symlink(ctx context.Context, dir format.Ino, name string, n NewNode) (Attr, error) {
	n.Mode = n.Mode&^format.TypeMask | format.TypeSymlink
	switch {
	case n.Target == "":
		return Attr{}, fmt.Errorf("symlink %q without a target: %w", name, ErrInvalid)
	case len(n.Target) > format.MaxTarget:
		return Attr{}, fmt.Errorf("symlink %q: target of %d bytes, at most %d are allowed: %w",
			name, len(n.Target), format.MaxTarget, ErrNameTooLong)
	}
	for i := range len(n.Target) {
		if n.Target[i] == 0 {
			return Attr{}, fmt.Errorf("symlink %q: target holds a NUL byte: %w", name, ErrInvalid)
		}
	}
	return fs.makeNode(ctx, freeze.OpSymlink, dir, name, n)
}

// makeNode makes an inode of any type under a new name.
func (fs *FS) makeNode(ctx context.Context, op freeze.Op, dir format.Ino, name string, n NewNode) (a Attr, err error) {
	err = fs.withSpace(ctx, func() error {
		a, err = fs.tryMakeNode(ctx, op, dir, name, n)
		return err
	})
	return a, err
}

func (fs *FS) tryMakeNode(ctx context.Context, op freeze.Op, dir format.Ino, name string, n NewNode) (a Attr, err error) {
	defer func() {
		if fs.changed(err) {
			fs.tellEntry(ctx, dir, name)
		}
	}()
	if err := checkName(name); err != nil {
		return Attr{}, fmt.Errorf("%s: %w", op, err)
	}
	if !format.ValidType(n.Mode) || n.Mode>>16 != 0 {
		return Attr{}, fmt.Errorf("%s %q: mode %#o: %w", op, name, n.Mode, ErrInvalid)
	}
	pass, err := fs.enterWrite(ctx, op, dir)
	if err != nil {
		return Attr{}, err
	}
	defer pass.Exit()
	d, err := fs.get(dir)
	if err != nil {
		return Attr{}, err
	}
	defer fs.put(d)
	d.mu.Lock()
	defer d.mu.Unlock()
	cookie, err := fs.roomLocked(d, name)
	if err != nil {
		return Attr{}, fmt.Errorf("%s: %w", op, err)
	}
	if n.Mode&format.TypeMask == format.TypeDir && d.a.Nlink >= format.MaxLinks {
		return Attr{}, fmt.Errorf("%s %q: directory %d has %d links: %w", op, name, dir, d.a.Nlink, ErrTooManyLink)
	}
	in, err := fs.makeLocked(d, cookie, name, n)
	if err != nil {
		return Attr{}, fmt.Errorf("%s %q: %w", op, name, err)
	}
	a = in.attrLocked() // nobody else can change it: the name is locked
	fs.put(in)
	fs.ops.count(op)
	return a, nil
}

// makeLocked makes the inode and its name in the locked directory. The inode
// comes back pinned.
func (fs *FS) makeLocked(d *inode, cookie uint64, name string, n NewNode) (*inode, error) {
	t, err := fs.begin(4+len(n.Target)/format.ChunkSize, 0, false)
	if err != nil {
		return nil, err
	}
	n.inheritLocked(d)
	in := t.newInode(n)
	in.a.Parent, in.a.Cookie, in.a.Nlink = d.ino, cookie, 1
	if in.isDirLocked() {
		in.a.Nlink = 2
	}
	if n.Target != "" {
		in.a.Size = uint64(len(n.Target))
		t.putTarget(in.ino, n.Target)
	}
	t.putInode(in)
	t.addName(d, cookie, name, in, in.a.Btime)
	// Cached before the group can be sealed: nobody finds the name before the
	// directory's lock is released.
	fs.adopt(in)
	if err := t.end(); err != nil {
		fs.put(in)
		return nil, err
	}
	return in, nil
}

// inheritLocked is InheritGroup in a locked directory.
func (n *NewNode) inheritLocked(d *inode) {
	if !n.InheritGroup || d.a.Mode&modeSetgid == 0 {
		return
	}
	n.GID = d.a.GID
	if n.Mode&format.TypeMask == format.TypeDir {
		n.Mode |= modeSetgid
	}
}

// modeSetgid is S_ISGID.
const modeSetgid = 0o2000

// newInode numbers and counts an inode without a name.
func (t *txn) newInode(n NewNode) *inode {
	now := nowNS()
	in := &inode{ino: t.tx.NextIno()}
	in.a = format.Inode{Mode: n.Mode, UID: n.UID, GID: n.GID, Rdev: n.Rdev,
		Atime: now, Mtime: now, Ctime: now, Btime: now, Gen: t.gen}
	t.tx.AddInodes(1)
	return in
}

// putTarget stores a symlink's target in chunks.
func (t *txn) putTarget(ino format.Ino, target string) {
	for i := uint64(0); len(target) > 0; i++ {
		n := min(len(target), format.ChunkSize)
		t.put(key(ino, format.KindSymlink, i), []byte(target[:n]))
		target = target[n:]
	}
}

// roomLocked is the cookie for a new name in a locked directory.
func (fs *FS) roomLocked(d *inode, name string) (uint64, error) {
	if err := d.dirLocked(); err != nil {
		return 0, err
	}
	if d.a.Nlink == 0 {
		return 0, fmt.Errorf("directory %d was removed: %w", d.ino, ErrNotFound)
	}
	e, err := fs.findName(d.ino, name)
	switch {
	case err != nil:
		return 0, err
	case e.ino != 0:
		return 0, fmt.Errorf("%q in directory %d: %w", name, d.ino, ErrExists)
	case e.cookie == 0:
		return 0, fmt.Errorf("%q in directory %d: too many names of one hash: %w", name, d.ino, ErrNoSpace)
	}
	return e.cookie, nil
}

// Readlink reads a symlink's target.
//
// Errors: ErrInvalid for anything else, ErrStale, ErrIO.
func (fs *FS) Readlink(_ context.Context, ino format.Ino) (string, error) {
	in, err := fs.get(ino)
	if err != nil {
		return "", err
	}
	defer fs.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	if err := in.aliveLocked(); err != nil {
		return "", err
	}
	if in.typeLocked() != format.TypeSymlink {
		return "", fmt.Errorf("inode %d is not a symlink: %w", ino, ErrInvalid)
	}
	var target []byte
	var buf [format.ChunkSize]byte
	for i := uint64(0); uint64(len(target)) < in.a.Size; i++ {
		v, err := fs.store.Get(key(ino, format.KindSymlink, i), buf[:0])
		if err == nil && len(v) == 0 {
			err = fmt.Errorf("%w: empty chunk", format.ErrBadRecord)
		}
		if err != nil {
			return "", ioError(err, "read the target of symlink %d", ino)
		}
		target = append(target, v...)
	}
	if uint64(len(target)) != in.a.Size {
		return "", ioError(format.ErrBadRecord, "symlink %d: a target of %d bytes, its record says %d", ino, len(target), in.a.Size)
	}
	return string(target), nil
}

// Link gives an inode that has a name another one, or its first to one that
// Tmpfile made and whose maker keeps it.
//
// Errors: ErrInvalid for a directory, ErrTooManyLink, ErrNotFound for an inode
// whose last name is gone; else as Create.
func (fs *FS) Link(ctx context.Context, ino, dir format.Ino, name string) (a Attr, err error) {
	err = fs.withSpace(ctx, func() error {
		a, err = fs.tryLink(ctx, ino, dir, name)
		return err
	})
	return a, err
}

func (fs *FS) tryLink(ctx context.Context, ino, dir format.Ino, name string) (a Attr, err error) {
	defer func() {
		if fs.changed(err) {
			fs.tellEntry(ctx, dir, name)
			fs.tellInode(ctx, ino, 0, 0)
		}
	}()
	if err := checkName(name); err != nil {
		return Attr{}, fmt.Errorf("link: %w", err)
	}
	if ino == dir {
		return Attr{}, fmt.Errorf("link %q to a directory: %w", name, ErrInvalid)
	}
	pass, err := fs.enterWrite(ctx, freeze.OpLink, ino)
	if err != nil {
		return Attr{}, err
	}
	defer pass.Exit()
	d, err := fs.get(dir)
	if err != nil {
		return Attr{}, err
	}
	defer fs.put(d)
	in, err := fs.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer fs.put(in)
	// The type never changes, so it may be read before the locks are taken; a
	// directory must not be locked below another that may be its child.
	in.mu.RLock()
	isDir := in.isDirLocked()
	in.mu.RUnlock()
	if isDir {
		return Attr{}, fmt.Errorf("link %q to directory %d: %w", name, ino, ErrInvalid)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	cookie, err := fs.roomLocked(d, name)
	if err != nil {
		return Attr{}, fmt.Errorf("link: %w", err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	return fs.linkLocked(d, in, cookie, name)
}

func (fs *FS) linkLocked(d, in *inode, cookie uint64, name string) (Attr, error) {
	if err := in.aliveLocked(); err != nil {
		return Attr{}, err
	}
	first := in.a.Nlink == 0
	if first && !in.is(flagLinkable) {
		return Attr{}, fmt.Errorf("link %q: inode %d has no name any more: %w", name, in.ino, ErrNotFound)
	}
	if in.a.Nlink >= format.MaxLinks {
		return Attr{}, fmt.Errorf("link %q: inode %d has %d names: %w", name, in.ino, in.a.Nlink, ErrTooManyLink)
	}
	t, err := fs.begin(4, 0, false)
	if err != nil {
		return Attr{}, fmt.Errorf("link %q: %w", name, err)
	}
	if first {
		in.a.Parent, in.a.Cookie = d.ino, cookie
		t.adoptOrphan(in)
	} else if err := t.addBackPointer(in, format.Link{Parent: d.ino, Cookie: cookie}); err != nil {
		return Attr{}, errors.Join(err, t.end())
	}
	now := nowNS()
	in.a.Nlink++
	in.a.Ctime = now
	t.dirtyAttrs(in)
	t.addName(d, cookie, name, in, now)
	if err := t.end(); err != nil {
		return Attr{}, err
	}
	fs.ops.count(freeze.OpLink)
	return in.attrLocked(), nil
}

// ReadDir lists at most limit names after cursor (0: from the start).
//
// Errors: ErrNotDir, ErrStale, ErrIO.
func (fs *FS) ReadDir(ctx context.Context, dir format.Ino, cursor uint64, limit int) ([]DirEntry, error) {
	in, err := fs.get(dir)
	if err != nil {
		return nil, err
	}
	defer fs.put(in)
	in.mu.RLock()
	err = in.dirLocked()
	n := in.a.Size
	in.mu.RUnlock()
	if err != nil || cursor == ^uint64(0) || limit <= 0 {
		return nil, err
	}
	out := make([]DirEntry, 0, min(uint64(limit), n))
	var bad error
	err = fs.store.Scan(key(dir, format.KindDirent, cursor+1), key(dir, format.KindDirent+1, 0), func(k tree.Key, v []byte) bool {
		var d format.Dirent
		if bad = d.Decode(v); bad != nil {
			return false
		}
		out = append(out, DirEntry{Name: string(d.Name), Ino: d.Ino, Type: d.Type, Cursor: k.Off})
		return len(out) < limit && ctx.Err() == nil
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, ioError(err, "list directory %d", dir)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fs.touchAtime(ctx, in)
	return out, nil
}

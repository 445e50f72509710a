package core

import (
	"context"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// Tmpfile makes a regular file without a name, as open(2) does with O_TMPFILE
// in a directory. It is pinned, as by Acquire, for the caller, who calls
// Release; then it is freed, unless Link has given it a name. A crash frees it too.
//
// Errors: as Create.
func (fs *FS) Tmpfile(ctx context.Context, dir format.Ino, n NewNode) (a Attr, err error) {
	err = fs.withSpace(ctx, func() error {
		a, err = fs.tryTmpfile(ctx, dir, n)
		return err
	})
	return a, err
}

func (fs *FS) tryTmpfile(ctx context.Context, dir format.Ino, n NewNode) (Attr, error) {
	if err := regularNode(&n); err != nil {
		return Attr{}, fmt.Errorf("tmpfile in directory %d: %w", dir, err)
	}
	pass, err := fs.enterWrite(ctx, freeze.OpCreate, dir)
	if err != nil {
		return Attr{}, err
	}
	defer pass.Exit()
	d, err := fs.get(dir)
	if err != nil {
		return Attr{}, err
	}
	defer fs.put(d)
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.dirLocked(); err != nil {
		return Attr{}, err
	}
	if d.a.Nlink == 0 {
		return Attr{}, fmt.Errorf("tmpfile: directory %d was removed: %w", dir, ErrNotFound)
	}
	n.inheritLocked(d)
	in, err := fs.makeUnnamed(n, flagLinkable)
	if err != nil {
		return Attr{}, fmt.Errorf("tmpfile in directory %d: %w", dir, err)
	}
	fs.ops.count(freeze.OpCreate)
	return in.attrLocked(), nil // nobody else knows its number yet
}

// regularNode refuses all but regular files, which a mode without a type means.
func regularNode(n *NewNode) error {
	if n.Mode&format.TypeMask == 0 {
		n.Mode |= format.TypeRegular
	}
	if n.Mode&format.TypeMask != format.TypeRegular || n.Mode>>16 != 0 {
		return fmt.Errorf("mode %#o is not that of a regular file: %w", n.Mode, ErrInvalid)
	}
	n.Target = ""
	return nil
}

// makeUnnamed makes an inode without a name, pinned, as an orphan from the
// start (O1). flags are set on it before anybody can find it.
func (fs *FS) makeUnnamed(n NewNode, flags uint32) (*inode, error) {
	t, err := fs.begin(3, 0, false)
	if err != nil {
		return nil, err
	}
	in := t.newInode(n)
	in.set(flags)
	t.putInode(in)
	t.orphan(in)
	fs.adopt(in)
	if err := t.end(); err != nil {
		fs.put(in)
		return nil, err
	}
	return in, nil
}

package mount

import (
	"context"
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/format"
)

// background is the context of what is never held.
var background = context.Background() // immutable

// Lookup finds a name. That there is none is cached as well.
func (m *requests) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	defer m.began(opLookup).end()
	a, err := m.fs.Lookup(background, format.Ino(h.NodeId), name)
	if errors.Is(err, core.ErrNotFound) {
		out.SetEntryTimeout(forever) // node 0: a negative entry
		return fuse.OK
	}
	if err != nil {
		return m.status(err)
	}
	m.entry(out, &a)
	return fuse.OK
}

// Forget ends what a removed inode is kept for. Nothing else is counted: a node is its
// inode's number, which is not given twice.
func (m *requests) Forget(node, _ uint64) { m.remains.forget(m.fs, format.Ino(node)) }

// node is a new inode of a caller in a directory: in one that is set-gid it is of
// its group, and a directory in it is set-gid as well.
func node(h *fuse.InHeader, mode uint32) core.NewNode {
	return core.NewNode{Mode: mode, UID: h.Uid, GID: h.Gid, InheritGroup: true}
}

// made answers a request that made a name.
func (m *Mount) made(out *fuse.EntryOut, a *core.Attr, err error) fuse.Status {
	if err != nil {
		return m.status(err)
	}
	m.entry(out, a)
	return fuse.OK
}

// Mknod makes a regular or special file.
func (m *requests) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	defer m.began(opCreate).end()
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	n := node(&in.InHeader, in.Mode)
	n.Rdev = in.Rdev
	a, err := m.fs.Create(m.fromHere(ctx), format.Ino(in.NodeId), name, n)
	return m.made(out, &a, err)
}

// Mkdir makes a directory.
func (m *requests) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	defer m.began(opMkdir).end()
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	n := node(&in.InHeader, in.Mode&0o7777|format.TypeDir)
	a, err := m.fs.Mkdir(m.fromHere(ctx), format.Ino(in.NodeId), name, n)
	return m.made(out, &a, err)
}

// Symlink makes a symbolic link.
func (m *requests) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	defer m.began(opSymlink).end()
	ctx, c, st := m.ctx(cancel, h)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	n := node(h, 0o777)
	n.Target = target
	a, err := m.fs.Symlink(m.fromHere(ctx), format.Ino(h.NodeId), name, n)
	return m.made(out, &a, err)
}

// Readlink reads a symbolic link.
func (m *requests) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	defer m.began(opReadlink).end()
	target, err := m.fs.Readlink(background, format.Ino(h.NodeId))
	return []byte(target), m.status(err)
}

// Link makes a hard link.
func (m *requests) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	defer m.began(opLink).end()
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	a, err := m.fs.Link(m.fromHere(ctx), format.Ino(in.Oldnodeid), format.Ino(in.NodeId), name)
	return m.made(out, &a, err)
}

// Unlink removes a name of anything but a directory.
func (m *requests) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	defer m.began(opUnlink).end()
	ctx, c, st := m.ctx(cancel, h)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	after := m.beforeRemoval(format.Ino(h.NodeId), name)
	err := m.fs.Unlink(m.fromHere(ctx), format.Ino(h.NodeId), name)
	after(err)
	return m.status(err)
}

// Rmdir removes an empty directory.
func (m *requests) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	defer m.began(opRmdir).end()
	ctx, c, st := m.ctx(cancel, h)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	after := m.beforeRemoval(format.Ino(h.NodeId), name)
	err := m.fs.Rmdir(m.fromHere(ctx), format.Ino(h.NodeId), name)
	after(err)
	return m.status(err)
}

// Rename is rename(2) and renameat2(2) with RENAME_NOREPLACE and RENAME_EXCHANGE.
func (m *requests) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	defer m.began(opRename).end()
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	mode, after := core.RenameReplace, func(error) {}
	switch in.Flags {
	case 0:
		after = m.beforeRemoval(format.Ino(in.Newdir), newName)
	case unix.RENAME_NOREPLACE:
		mode = core.RenameNoReplace
	case unix.RENAME_EXCHANGE:
		mode = core.RenameExchange
	default: // RENAME_WHITEOUT
		return fuse.EINVAL
	}
	err := m.fs.Rename(m.fromHere(ctx), format.Ino(in.NodeId), oldName, format.Ino(in.Newdir), newName, mode)
	after(err)
	return m.status(err)
}

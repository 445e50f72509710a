package mount

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"permafrost/core"
	"permafrost/core/format"
)

// forever is how long the kernel may keep a name or attributes: changes by
// another way in are told to it (notices.go).
const forever = 24 * time.Hour

// status is the errno of an error of core.
func (m *Mount) status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	return fuse.Status(m.fs.Errno(err))
}

// fill copies attributes as stat(2) has them.
func (m *Mount) fill(out *fuse.Attr, a *core.Attr) {
	*out = fuse.Attr{
		Ino: uint64(a.Ino), Size: uint64(a.Size), Blocks: a.Blocks * (format.BlockSize / 512),
		Atime: uint64(a.Atime.Unix()), Atimensec: uint32(a.Atime.Nanosecond()),
		Mtime: uint64(a.Mtime.Unix()), Mtimensec: uint32(a.Mtime.Nanosecond()),
		Ctime: uint64(a.Ctime.Unix()), Ctimensec: uint32(a.Ctime.Nanosecond()),
		Mode: a.Mode, Nlink: a.Nlink, Owner: fuse.Owner{Uid: a.UID, Gid: a.GID},
		Rdev: a.Rdev, Blksize: format.BlockSize,
	}
	if m.opt.Flags.Owner != nil {
		out.Uid = *m.opt.Flags.Owner
	}
	if m.opt.Flags.Group != nil {
		out.Gid = *m.opt.Flags.Group
	}
	if a.Mode&format.TypeMask == format.TypeDir {
		// The number of entries is what core counts; programs expect bytes.
		out.Size = max(uint64(a.Size)*direntBytes, format.BlockSize)
	}
}

// direntBytes is about what an entry takes.
const direntBytes = 32

// entry answers a request that found or made a name.
func (m *Mount) entry(out *fuse.EntryOut, a *core.Attr) {
	out.NodeId = uint64(a.Ino)
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	m.fill(&out.Attr, a)
}

// GetAttr is stat(2).
func (m *requests) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer m.began(opGetattr).end()
	a, err := m.fs.GetAttr(background, format.Ino(in.NodeId))
	if err != nil {
		return m.status(err)
	}
	out.SetTimeout(forever)
	m.fill(&out.Attr, &a)
	return fuse.OK
}

// SetAttr is chmod, chown, truncate and utimensat. It passes startPageFault: a
// write-back may wait in the kernel for a truncate of the same inode to end.
func (m *requests) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if _, ok := in.GetSize(); ok {
		defer m.collect.resizing()() // before it is seen as begun, as in writeBack
	}
	defer m.began(opSetattr).end()
	m.whileSealed()
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	var s core.SetAttr
	if mode, ok := in.GetMode(); ok {
		s.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		s.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		s.GID = &gid
	}
	if t, ok := in.GetATime(); ok {
		s.Atime = &t
	}
	if t, ok := in.GetMTime(); ok {
		s.Mtime = &t
	}
	ino := format.Ino(in.NodeId)
	if size, ok := in.GetSize(); ok {
		if size > 1<<63-1 {
			return fuse.Status(m.fs.Errno(core.ErrTooBig))
		}
		n := int64(size)
		s.Size = &n
	}
	if s.Mode == nil && (in.Valid&fuse.FATTR_KILL_SUIDGID != 0 || s.UID != nil || s.GID != nil) {
		if st := m.dropPrivileges(ino, &s); st != fuse.OK {
			return st
		}
	}
	var a core.Attr
	var err error
	if s == (core.SetAttr{}) {
		a, err = m.fs.GetAttr(ctx, ino)
	} else {
		a, err = m.fs.SetAttr(core.WroteBack(m.fromHere(ctx)), ino, s)
	}
	if err != nil {
		return m.status(err)
	}
	out.SetTimeout(forever)
	m.fill(&out.Attr, &a)
	return fuse.OK
}

// dropPrivileges adds the loss of set-uid and of set-gid to a change, where the
// file has them (FUSE_HANDLE_KILLPRIV_V2: it is the server's to do). Set-gid
// without group execution is no privilege.
func (m *Mount) dropPrivileges(ino format.Ino, s *core.SetAttr) fuse.Status {
	a, err := m.fs.GetAttr(background, ino)
	if err != nil {
		return m.status(err)
	}
	if a.Mode&format.TypeMask != format.TypeRegular {
		return fuse.OK
	}
	if mode := a.Mode & 0o7777; privileged(mode) {
		mode = withoutPrivileges(mode)
		s.Mode = &mode
	}
	return fuse.OK
}

const (
	setUID    = 0o4000
	setGID    = 0o2000
	groupExec = 0o010
)

func privileged(mode uint32) bool {
	return mode&setUID != 0 || mode&(setGID|groupExec) == setGID|groupExec
}

func withoutPrivileges(mode uint32) uint32 {
	mode &^= setUID
	if mode&groupExec != 0 {
		mode &^= setGID
	}
	return mode
}

// StatFs is statfs(2). Inodes take space like everything else: what is free is
// free for either.
func (m *requests) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	defer m.began(opStatfs).end()
	s := m.fs.Status()
	free := s.Space.Free / format.BlockSize
	*out = fuse.StatfsOut{
		Blocks: s.Space.Total / format.BlockSize, Bfree: free, Bavail: free,
		Files: s.InodesTotal + free, Ffree: free,
		Bsize: format.BlockSize, Frsize: format.BlockSize, NameLen: format.MaxName,
	}
	return fuse.OK
}

// Access is not asked with default_permissions; the kernel may ask all the same.
func (m *requests) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

package mount

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/format"
)

// openFlags is how every file is opened: its pages stay cached from the last time,
// and a close asks for nothing. Both keep stat, cat and close of a file with
// dirty mapped pages from waiting while frozen.
const openFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH

// Open opens a file. Without FUSE_ATOMIC_O_TRUNC the kernel truncates by a
// SETATTR of its own.
func (m *requests) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer m.began(opOpen).end()
	h, st := m.handles.open(m.Mount, &in.InHeader, in.Flags, false)
	if st != fuse.OK {
		return st
	}
	out.Fh, out.OpenFlags = h, openFlags
	return fuse.OK
}

// Create makes and opens a file. Should somebody else have made one since the
// kernel looked, it is told to look again (ESTALE), and asks to open that: it
// checks permissions then, which it does not for a file that was made here.
func (m *requests) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer m.began(opCreate).end()
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	n := node(&in.InHeader, in.Mode&0o7777|format.TypeRegular)
	dir := format.Ino(in.NodeId)
	a, err := m.fs.Create(m.fromHere(ctx), dir, name, n)
	if errors.Is(err, core.ErrExists) && in.Flags&unix.O_EXCL == 0 {
		return fuse.Status(unix.ESTALE)
	}
	if err != nil {
		return m.status(err)
	}
	h := fuse.InHeader{NodeId: uint64(a.Ino), Caller: in.Caller}
	if out.Fh, st = m.handles.open(m.Mount, &h, in.Flags, false); st != fuse.OK {
		return st // removed in the meantime
	}
	out.OpenFlags = openFlags
	m.entry(&out.EntryOut, &a)
	return fuse.OK
}

// Tmpfile makes and opens a file without a name (O_TMPFILE), which linkat can
// give one.
func (m *requests) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	defer m.began(opCreate).end()
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	n := node(&in.InHeader, in.Mode&0o7777|format.TypeRegular)
	a, err := m.fs.Tmpfile(m.fromHere(ctx), format.Ino(in.NodeId), n)
	if err != nil {
		return m.status(err)
	}
	out.Fh = m.handles.add(m.Mount, &in.InHeader, a.Ino, in.Flags, false) // pinned by Tmpfile
	out.OpenFlags = openFlags
	m.entry(&out.EntryOut, &a)
	return fuse.OK
}

// Release closes a file: no descriptor and no mapping of this open is left.
func (m *requests) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	defer m.began(opRelease).end()
	m.handles.close(m.Mount, in.Fh)
}

// Flush is asked at a close in spite of FOPEN_NOFLUSH by kernels before 5.16.
func (m *requests) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fsync makes a file durable. The kernel has written back what mappings stored
// to it before it asks.
func (m *requests) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer m.began(opFsync).end()
	ctx, c := m.syncCtx(cancel, &in.InHeader)
	defer c.end()
	_, err := m.fs.Fsync(ctx, format.Ino(in.NodeId), 0, 0)
	return m.status(err)
}

// Fallocate allocates, punches and zeroes.
func (m *requests) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	defer m.began(opFallocate).end()
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	var mode core.FallocMode
	switch in.Mode {
	case 0:
		mode = core.FallocAllocate
	case unix.FALLOC_FL_KEEP_SIZE:
		mode = core.FallocKeepSize
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		mode = core.FallocPunchHole
	case unix.FALLOC_FL_ZERO_RANGE:
		mode = core.FallocZeroRange
	case unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
		mode = core.FallocZeroRangeKeepSize
	default:
		return notSupported
	}
	if in.Offset > 1<<63-1 || in.Length > 1<<63-1-in.Offset {
		return fuse.Status(m.fs.Errno(core.ErrTooBig))
	}
	return m.status(m.fs.Fallocate(m.fromHere(ctx), format.Ino(in.NodeId), mode, int64(in.Offset), int64(in.Length)))
}

// Lseek is lseek(2) with SEEK_DATA and SEEK_HOLE; the kernel knows the others.
//
// The kernel does not write back before it asks. In a file that may be mapped
// writably a hole of ours may have been stored to, so all of it is data, which is
// always a true answer.
func (m *requests) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	defer m.began(opLseek).end()
	ino, off := format.Ino(in.NodeId), int64(in.Offset)
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	var at int64
	var err error
	switch {
	case m.handles.writes(ino):
		a, gerr := m.fs.GetAttr(background, ino)
		if gerr != nil {
			return m.status(gerr)
		}
		if off < 0 || off >= a.Size {
			return fuse.Status(unix.ENXIO)
		}
		at = off
		if in.Whence == unix.SEEK_HOLE {
			at = a.Size
		}
	case in.Whence == unix.SEEK_DATA:
		at, err = m.fs.SeekData(background, ino, off)
	default:
		at, err = m.fs.SeekHole(background, ino, off)
	}
	out.Offset = uint64(at)
	return m.status(err)
}

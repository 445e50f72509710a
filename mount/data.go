package mount

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
)

// inPlace is the answer to a READ whose bytes the kernel copies out of the image
// itself.
type inPlace struct {
	view core.View
	one  [1][]byte
}

// Bytes is fuse.ReadResult.
func (r *inPlace) Bytes([]byte) ([]byte, fuse.Status) { return r.view.Bytes(), fuse.OK }

// Slices has go-fuse write them with the header in one writev.
func (r *inPlace) Slices() ([][]byte, fuse.Status) {
	r.one[0] = r.view.Bytes()
	return r.one[:], fuse.OK
}

// Size is fuse.ReadResult.
func (r *inPlace) Size() int { return len(r.view.Bytes()) }

// Done is called when the reply is written.
func (r *inPlace) Done() { r.view.Release() }

// Read answers with the bytes in place where they lie in one run of blocks, else
// with a copy in the reply's buffer. On real pmem always with a copy: a bad line
// is a machine check in the kernel when it copies, and an error when we do.
func (m *requests) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	defer m.began(opRead).end()
	if in.Offset > 1<<63-1 {
		return nil, fuse.EINVAL
	}
	if m.inPlace {
		if v, ok := m.fs.View(background, format.Ino(in.NodeId), int64(in.Offset), int(in.Size)); ok {
			return &inPlace{view: v}, fuse.OK
		}
	}
	buf = buf[:min(len(buf), int(in.Size))]
	n, err := m.fs.ReadAt(background, format.Ino(in.NodeId), buf, int64(in.Offset))
	if err != nil && err != io.EOF {
		return nil, m.status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Write is write(2), or the kernel writing back what a mapping stored.
func (m *requests) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		return m.writeBack(in, data)
	}
	defer m.began(opWrite).end()
	if in.Offset > 1<<63-1 {
		return 0, fuse.Status(m.fs.Errno(core.ErrTooBig))
	}
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return 0, st
	}
	defer c.end()
	ino, off := format.Ino(in.NodeId), int64(in.Offset)
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		var s core.SetAttr
		if st := m.dropPrivileges(ino, &s); st != fuse.OK {
			return 0, st
		}
		if s.Mode != nil {
			if _, err := m.fs.SetAttr(m.fromHere(ctx), ino, s); err != nil {
				return 0, m.status(err)
			}
		}
	}
	h := m.handles.get(in.Fh)
	if h != nil && h.appends {
		at, err := m.fs.Append(m.fromHere(ctx), ino, data)
		if err != nil {
			return 0, m.status(err)
		}
		if at != off { // the file had grown by another way in: the kernel cached this at the wrong place
			m.notices.InodeChanged(ino, min(at, off), -1)
		}
		return uint32(len(data)), fuse.OK
	}
	n, err := m.fs.WriteAt(m.fromHere(ctx), ino, data, off)
	if err != nil && n == 0 {
		return 0, m.status(err)
	}
	return uint32(n), fuse.OK
}

// writeBack takes what a mapping stored: pages that were dirty in the page
// cache. Whoever stored has gone on long ago, so there is nobody to be killed. It
// never makes a file longer: past the end there is no page of it.
func (m *requests) writeBack(in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	// In this order: a request that is seen as begun is seen as arrived too, else a
	// pass of the collect freeze could take it for one of another kind.
	ino := format.Ino(in.NodeId)
	applied, answered := m.collect.arrives(ino, in.Offset, len(data))
	defer answered()
	defer m.began(opWriteback).end()
	m.whileSealed()
	h := m.handles.get(in.Fh)
	who := freeze.Waiter{WayIn: wayIn}
	if h != nil { // a writable open of the file: one who may have stored
		who.PID, who.UID, who.Comm = int(h.pid), h.uid, h.comm
	}
	ctx := core.WithCaller(m.life, who)
	ctx = m.fromHere(core.WhenHeld(ctx, m.collect.countHeld))
	if err := m.fs.WriteBack(ctx, ino, data, int64(in.Offset)); err != nil {
		if errors.Is(err, context.Canceled) { // the mount has ended
			return 0, fuse.EIO
		}
		return 0, m.status(err)
	}
	applied()
	m.collect.holdReply(m.Mount, ino, in.Offset, who)
	return uint32(len(data)), fuse.OK
}

// copyBuffers are what a copy within the file system goes through.
var copyBuffers = sync.Pool{New: func() any { return new([copyChunk]byte) }}

const copyChunk = 1 << 20

// CopyFileRange copies within the file system, without a way through the caller.
// The kernel has written back what mappings stored to the source.
func (m *requests) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	defer m.began(opCopy).end()
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return 0, st
	}
	defer c.end()
	if in.OffIn > 1<<63-1 || in.OffOut > 1<<63-1 {
		return 0, fuse.EINVAL
	}
	ctx = m.fromHere(ctx)
	buf := copyBuffers.Get().(*[copyChunk]byte)
	defer copyBuffers.Put(buf)
	done := uint64(0)
	for want := min(in.Len, 1<<30); done < want; {
		part := buf[:min(want-done, copyChunk)]
		n, err := m.fs.ReadAt(ctx, format.Ino(in.NodeId), part, int64(in.OffIn+done))
		if err != nil && err != io.EOF && n == 0 {
			if done > 0 {
				break
			}
			return 0, m.status(err)
		}
		if n == 0 {
			break
		}
		w, werr := m.fs.WriteAt(ctx, format.Ino(in.NodeIdOut), part[:n], int64(in.OffOut+done))
		done += uint64(w)
		if werr != nil {
			if done > 0 {
				break
			}
			return 0, m.status(werr)
		}
		if n < len(part) {
			break
		}
	}
	return uint32(done), fuse.OK
}

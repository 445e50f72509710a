package mount

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"

	"permafrost/core"
	"permafrost/core/format"
)

// Places in a directory stream. Names follow, at core's cursors, which begin at 256.
const (
	placeDot    = 1
	placeDotDot = 2
)

// dirChunk is how many names are taken out of the tree at a time.
const dirChunk = 128

// OpenDir opens a directory.
func (m *requests) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer m.began(opOpendir).end()
	h, st := m.handles.open(m.Mount, &in.InHeader, in.Flags, true)
	if st != fuse.OK {
		return st
	}
	out.Fh, out.OpenFlags = h, dirFlags
	return fuse.OK
}

// ReleaseDir closes a directory.
func (m *requests) ReleaseDir(in *fuse.ReleaseIn) {
	defer m.began(opRelease).end()
	m.handles.close(m.Mount, in.Fh)
}

// FsyncDir makes the names of a directory durable.
func (m *requests) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer m.began(opFsync).end()
	ctx, c := m.syncCtx(cancel, &in.InHeader)
	defer c.end()
	_, err := m.fs.Fsync(ctx, format.Ino(in.NodeId), 0, 0)
	return m.status(err)
}

// ReadDir lists names.
func (m *requests) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer m.began(opReaddir).end()
	return m.list(in, out, func(e *core.DirEntry) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: e.Type, Off: e.Cursor})
	})
}

// ReadDirPlus lists names with their attributes, which the kernel keeps.
func (m *requests) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer m.began(opReaddir).end()
	return m.list(in, out, func(e *core.DirEntry) bool {
		x := out.AddDirLookupEntry(fuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: e.Type, Off: e.Cursor})
		if x == nil {
			return false
		}
		if e.Cursor <= placeDotDot {
			return true // the kernel wants no attributes of these
		}
		a, err := m.fs.GetAttr(background, e.Ino)
		if err != nil { // removed since: the name alone
			return true
		}
		m.entry(x, &a)
		return true
	})
}

// list adds names from a place on until one does not fit.
func (m *Mount) list(in *fuse.ReadIn, out *fuse.DirEntryList, add func(*core.DirEntry) bool) fuse.Status {
	dir, at := format.Ino(in.NodeId), in.Offset
	if at < placeDot {
		if !add(&core.DirEntry{Name: ".", Ino: dir, Type: format.TypeDir, Cursor: placeDot}) {
			return fuse.OK
		}
		at = placeDot
	}
	if at < placeDotDot {
		if !add(&core.DirEntry{Name: "..", Ino: format.RootIno, Type: format.TypeDir, Cursor: placeDotDot}) {
			return fuse.OK
		}
		at = placeDotDot
	}
	if at == placeDotDot {
		at = 0
	}
	for {
		names, err := m.fs.ReadDir(background, dir, at, dirChunk)
		if errors.Is(err, core.ErrStale) {
			return fuse.OK // a directory that was removed is empty
		}
		if err != nil {
			return m.status(err)
		}
		for i := range names {
			if !add(&names[i]) {
				return fuse.OK
			}
		}
		if len(names) < dirChunk {
			return fuse.OK
		}
		at = names[len(names)-1].Cursor
	}
}

package dax

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/dax/wire"
)

// tracker is what the server needs of a mapping in core. See core.Mapping,
// which it is; unit tests of the layers below stand in for it.
type tracker interface {
	ID() uint64
	Ino() format.Ino
	Mkwrite(first format.Page, ahead uint64, grant func(core.PageRun) error) error
	ParkAs(who core.Process, client any, page format.Page, resume func()) (unpark func() bool)
	AtThaw(resume func()) (cancel func() bool)
	Sync(ctx context.Context, r core.PageRun) (core.SyncResult, error)
	SetRanges(runs []core.PageRun)
	Unmap(ctx context.Context) error
}

// volume is what the server needs of a file system.
type volume interface {
	Map(ctx context.Context, ino format.Ino, r core.MapRequest) (tracker, []core.Extent, error)
	Adopt(ino format.Ino, r core.MapRequest, written []core.PageRun) (tracker, []core.Extent, error)
	Attr(ctx context.Context, ino format.Ino, path string) (core.Attr, error)
	Create(ctx context.Context, path string, n core.NewNode) (core.Attr, error)
	Errno(err error) int
}

// coreVolume is the real one.
type coreVolume struct{ fs *core.FS }

func (v coreVolume) Map(ctx context.Context, ino format.Ino, r core.MapRequest) (tracker, []core.Extent, error) {
	m, ext, err := v.fs.Map(ctx, ino, r)
	if err != nil {
		return nil, nil, err
	}
	return m, ext, nil
}

func (v coreVolume) Adopt(ino format.Ino, r core.MapRequest, written []core.PageRun) (tracker, []core.Extent, error) {
	m, ext, err := v.fs.AdoptMapping(ino, r, written)
	if err != nil {
		return nil, nil, err
	}
	return m, ext, nil
}

// Attr looks a file up by inode or, if that is zero, by path.
func (v coreVolume) Attr(ctx context.Context, ino format.Ino, path string) (core.Attr, error) {
	if ino != 0 {
		return v.fs.GetAttr(ctx, ino)
	}
	return v.fs.Resolve(ctx, path)
}

// Create makes a regular file, or finds the one that is there by now.
func (v coreVolume) Create(ctx context.Context, path string, n core.NewNode) (core.Attr, error) {
	dir, name, err := v.fs.ResolveParent(ctx, path)
	if err != nil {
		return core.Attr{}, err
	}
	a, err := v.fs.Create(ctx, dir.Ino, name, n)
	if errors.Is(err, core.ErrExists) {
		return v.fs.Resolve(ctx, path)
	}
	return a, err
}

func (v coreVolume) Errno(err error) int { return v.fs.Errno(err) }

// refusal makes an error frame of an error: what failed, with the code and the
// errno a program acts on.
func (s *Server) refusal(err error) *wire.Error {
	var e *wire.Error
	if errors.As(err, &e) {
		return e
	}
	out := &wire.Error{Errno: uint32(s.vol.Errno(err)), Code: wire.CodeFile, Text: err.Error()}
	switch {
	case errors.Is(err, freeze.ErrFrozen), errors.Is(err, core.ErrRecovering):
		out.Code, out.Errno = wire.CodeFrozen, uint32(unix.EBUSY)
	case errors.Is(err, wire.ErrProtocol):
		out.Code, out.Errno = wire.CodeProtocol, uint32(unix.EPROTO)
	case errors.Is(err, context.Canceled):
		out.Errno = uint32(unix.ECANCELED)
	}
	if out.Errno == 0 {
		out.Errno = uint32(unix.EIO)
	}
	return out
}

// refuse builds an error frame's content directly.
func refuse(code wire.Code, errno unix.Errno, format string, args ...any) *wire.Error {
	return &wire.Error{Errno: uint32(errno), Code: code, Text: fmt.Sprintf(format, args...)}
}

package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"permafrost/dax/wire"
)

const (
	pageSize  = 4096
	guardSize = pageSize // unmapped behind each mapping, so that mremap cannot grow it in place
)

// MapOptions say what to map.
type MapOptions struct {
	Path   string // in the image
	Offset int64  // bytes, a multiple of 4096
	Length int64  // bytes; rounded up to a multiple of 4096
	Write  bool   // stores are meant
	Create bool   // make the file if there is none
	Grow   bool   // make the file long enough
	NoWait bool   // while frozen fail with EBUSY instead of waiting for the thaw
	Mode   uint32 // permission bits of a file that is made; 0644 if 0
}

// Mapping is part of a file in this process's memory.
type Mapping struct {
	c   *Client    // immutable
	id  uint64     // immutable: the server's name for it
	ino uint64     // immutable
	o   MapOptions // immutable; Length is rounded up

	mu   sync.Mutex
	base unsafe.Pointer // guarded by mu: nil once unmapped
	told bool           // guarded by mu: the server knows that it is unmapped
}

// Synced is what a Sync made durable.
type Synced struct {
	Generation   uint64
	Pages, Bytes uint64
	Duration     time.Duration
}

func (o *MapOptions) flags() (f uint32) {
	for _, b := range []struct {
		on  bool
		bit uint32
	}{{o.Write, wire.MapWrite}, {o.Create, wire.MapCreate}, {o.Grow, wire.MapGrow}, {o.NoWait, wire.MapNoWait}} {
		if b.on {
			f |= b.bit
		}
	}
	return f
}

// Map maps part of a file. When it returns, stores are tracked: a freeze holds
// them. Errors: *wire.Error for what the server refuses, ErrLost, ErrClosed.
func (c *Client) Map(ctx context.Context, o MapOptions) (*Mapping, error) {
	o.Length = (o.Length + pageSize - 1) &^ (pageSize - 1)
	if o.Mode == 0 {
		o.Mode = 0o644
	}
	m, err := c.mapFile(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes at %d of %s: %w", o.Length, o.Offset, o.Path, err)
	}
	return m, nil
}

func (c *Client) mapFile(ctx context.Context, o MapOptions) (*Mapping, error) {
	var e wire.Extents
	var pieces []wire.Piece
	q := &wire.Map{Flags: o.flags(), Mode: o.Mode, Offset: uint64(o.Offset), Length: uint64(o.Length), Path: o.Path}
	if err := c.ask(ctx, q, func(f *wire.Frame) error {
		if err := answerOf(f, &e); err != nil {
			return err
		}
		pieces = append(pieces, e.Pieces...)
		return nil
	}); err != nil {
		return nil, err
	}
	m := &Mapping{c: c, id: e.Mapping, ino: e.Ino, o: o}
	err := m.place(pieces)
	if err == nil {
		err = c.ask(ctx, &wire.Mapped{Mapping: m.id, Addr: uint64(uintptr(m.base))},
			func(f *wire.Frame) error { return answerOf(f, &wire.OK{}) })
	}
	if err != nil {
		return nil, errors.Join(err, m.drop(ctx))
	}
	c.mu.Lock()
	c.mappings[m] = struct{}{}
	c.mu.Unlock()
	return m, nil
}

// place maps the pieces side by side, in an area reserved for them.
func (m *Mapping) place(pieces []wire.Piece) error {
	length := uintptr(m.o.Length)
	base, err := unix.MmapPtr(-1, 0, nil, length+guardSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("reserve %d bytes of addresses: %w", m.o.Length, err)
	}
	m.base = base
	prot := unix.PROT_READ
	if m.o.Write {
		prot |= unix.PROT_WRITE
	} else if err := mprotect(base, length, unix.PROT_READ); err != nil { // holes read as zeros
		return fmt.Errorf("map: %w", err)
	}
	image := int(m.c.Image().Fd())
	for _, p := range pieces {
		off := int64(p.File) - m.o.Offset
		if off < 0 || p.Length == 0 || p.Length > uint64(m.o.Length-off) || p.File%pageSize != 0 || p.Length%pageSize != 0 {
			return fmt.Errorf("%w: a piece of %d bytes at %d of a mapping of %d at %d", wire.ErrProtocol, p.Length, p.File, m.o.Length, m.o.Offset)
		}
		if _, err := unix.MmapPtr(image, int64(p.Image), unsafe.Add(base, off), uintptr(p.Length), prot, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
			return fmt.Errorf("map %d bytes of the image at %d: %w", p.Length, p.Image, err)
		}
	}
	return nil
}

func mprotect(p unsafe.Pointer, n uintptr, prot int) error {
	return unix.Mprotect(unsafe.Slice((*byte)(p), n), prot)
}

// Bytes is the mapped memory. It must not be touched after Unmap.
func (m *Mapping) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.base == nil {
		return nil
	}
	return unsafe.Slice((*byte)(m.base), m.o.Length)
}

// Ino is the inode number of the mapped file.
func (m *Mapping) Ino() uint64 { return m.ino }

// Sync makes n bytes at off of the mapping durable, as msync; n zero: to its
// end.
func (m *Mapping) Sync(ctx context.Context, off, n int64) (Synced, error) {
	var s wire.Synced
	err := m.c.ask(ctx, &wire.Sync{Mapping: m.id, Offset: uint64(off), Length: uint64(n)},
		func(f *wire.Frame) error { return answerOf(f, &s) })
	if err != nil {
		return Synced{}, fmt.Errorf("sync %d bytes at %d of %s: %w", n, off, m.o.Path, err)
	}
	return Synced{Generation: s.Generation, Pages: s.Pages, Bytes: s.Bytes, Duration: time.Duration(s.Nanoseconds)}, nil
}

// Unmap ends the mapping; what was stored is made durable. It does not wait
// for a thaw. The memory is gone even if an error is returned.
func (m *Mapping) Unmap(ctx context.Context) error {
	if err := m.drop(ctx); err != nil {
		return fmt.Errorf("unmap %s: %w", m.o.Path, err)
	}
	return nil
}

func (m *Mapping) drop(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.base != nil {
		if err := unix.MunmapPtr(m.base, uintptr(m.o.Length)+guardSize); err != nil {
			return fmt.Errorf("munmap: %w", err)
		}
		m.base = nil
	}
	if m.told {
		return nil
	}
	m.c.mu.Lock()
	delete(m.c.mappings, m)
	m.c.mu.Unlock()
	err := m.c.ask(ctx, &wire.Unmap{Mapping: m.id}, func(f *wire.Frame) error { return answerOf(f, &wire.OK{}) })
	if err == nil || errors.Is(err, unix.EBADF) { // EBADF: it has seen the munmap and forgotten
		m.told, err = true, nil
	}
	return err
}

// Remap maps more or less of the same file, at a new address, and ends this
// mapping: the safe mremap. Both show the same storage.
func (m *Mapping) Remap(ctx context.Context, length int64) (*Mapping, error) {
	o := m.o
	o.Length, o.Create = length, false
	n, err := m.c.Map(ctx, o)
	if err != nil {
		return nil, err
	}
	return n, m.Unmap(ctx)
}

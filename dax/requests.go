package dax

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/dax/wire"
)

// protectChunk is how much of a new mapping is protected in one hold of evMu.
const protectChunk = 16 << 20 // bytes: about half a millisecond

// mapPatience is how long a new mapping may take to be protected while its
// client changes its address space.
const mapPatience = 10 * time.Second

// request carries out one request and sends its answer. An error is to be sent
// as an error frame.
func (c *client) request(ctx context.Context, conn *wire.Conn, f *wire.Frame) error {
	answer := func(m wire.Message) error { return conn.Send(wire.Pack(m, f.Seq)) }
	switch f.Type {
	case wire.TypeMap:
		var q wire.Map
		if err := wire.Unpack(f, &q); err != nil {
			return err
		}
		return c.doMap(ctx, conn, f.Seq, &q)
	case wire.TypeMapped:
		var q wire.Mapped
		if err := wire.Unpack(f, &q); err != nil {
			return err
		}
		if err := c.doMapped(ctx, &q); err != nil {
			return err
		}
		return answer(&wire.OK{})
	case wire.TypeUnmap:
		var q wire.Unmap
		if err := wire.Unpack(f, &q); err != nil {
			return err
		}
		if err := c.doUnmap(ctx, q.Mapping); err != nil {
			return err
		}
		return answer(&wire.OK{})
	case wire.TypeSync:
		var q wire.Sync
		if err := wire.Unpack(f, &q); err != nil {
			return err
		}
		a, err := c.doSync(ctx, &q)
		if err != nil {
			return err
		}
		return answer(a)
	case wire.TypeStat:
		var q wire.Stat
		if err := wire.Unpack(f, &q); err != nil {
			return err
		}
		a, err := c.srv.vol.Attr(c.caller(ctx, "stat"), format.Ino(q.Ino), q.Path)
		if err != nil {
			return err
		}
		return answer(attrMessage(a))
	}
	return fmt.Errorf("%w: unexpected %s frame", wire.ErrProtocol, f.Type)
}

// caller names the client to whoever asks who is held.
func (c *client) caller(ctx context.Context, op string) context.Context {
	return core.WithCaller(ctx, freeze.Waiter{Op: op, WayIn: wayIn, PID: c.proc.PID, Comm: c.proc.Comm, UID: c.proc.UID})
}

func attrMessage(a core.Attr) *wire.Attr {
	return &wire.Attr{Ino: uint64(a.Ino), Bytes: uint64(a.Size), Blocks: a.Blocks, Generation: uint64(a.Generation),
		Atime: a.Atime.UnixNano(), Mtime: a.Mtime.UnixNano(), Ctime: a.Ctime.UnixNano(), Btime: a.Btime.UnixNano(),
		Mode: a.Mode, Links: a.Nlink, UID: a.UID, GID: a.GID}
}

// checkMap finds what is wrong with a map request by itself.
func checkMap(q *wire.Map) error {
	const known = wire.MapWrite | wire.MapCreate | wire.MapGrow | wire.MapNoWait
	const most = 1<<63 - 1
	switch {
	case q.Flags&^known != 0:
		return refuse(wire.CodeFile, unix.EINVAL, "map: unknown flags %#x", q.Flags&^known)
	case q.Length == 0 || q.Offset%pageBytes != 0 || q.Length%pageBytes != 0:
		return refuse(wire.CodeFile, unix.EINVAL, "map: offset %d and length %d must be multiples of %d, and length not 0", q.Offset, q.Length, pageBytes)
	case q.Offset > most || q.Length > most-q.Offset:
		return refuse(wire.CodeFile, unix.EFBIG, "map: offset %d and length %d reach past the largest file", q.Offset, q.Length)
	case q.Flags&(wire.MapCreate|wire.MapGrow) != 0 && q.Flags&wire.MapWrite == 0:
		return refuse(wire.CodeFile, unix.EINVAL, "map: creating or growing a file needs the write flag")
	case q.Ino == 0 && q.Path == "":
		return refuse(wire.CodeFile, unix.ENOENT, "map: name a file by path or inode number")
	case q.Flags&wire.MapCreate != 0 && q.Path == "":
		return refuse(wire.CodeFile, unix.EINVAL, "map: creating a file needs its path")
	}
	return nil
}

func (c *client) doMap(ctx context.Context, conn *wire.Conn, seq uint32, q *wire.Map) error {
	if err := checkMap(q); err != nil {
		return err
	}
	ctx = c.caller(ctx, "map")
	if q.Flags&wire.MapNoWait != 0 {
		ctx = core.TryOnly(ctx)
	}
	if err := c.enterMap(); err != nil {
		return err
	}
	defer c.leaveMap()
	a, err := c.srv.vol.Attr(ctx, format.Ino(q.Ino), q.Path)
	if errors.Is(err, core.ErrNotFound) && q.Flags&wire.MapCreate != 0 {
		a, err = c.srv.vol.Create(ctx, q.Path, core.NewNode{Mode: unix.S_IFREG | q.Mode&0o7777, UID: c.proc.UID, GID: c.proc.UID})
	}
	if err != nil {
		return err
	}
	mp := &mapping{c: c, id: c.srv.mappingIDs.Add(1), ino: a.Ino, since: time.Now(),
		first: format.Page(q.Offset / pageBytes), pages: q.Length / pageBytes, writable: q.Flags&wire.MapWrite != 0}
	mp.told = []core.PageRun{{First: mp.first, Count: mp.pages}}
	r := core.MapRequest{Offset: int64(q.Offset), Length: int64(q.Length), Writable: mp.writable,
		Grow: q.Flags&wire.MapGrow != 0, WayIn: wayIn, Process: c.proc}
	if mp.writable {
		r.Protector = mp
	}
	if mp.core, mp.pieces, err = c.srv.vol.Map(ctx, a.Ino, r); err != nil {
		return err
	}
	c.evMu.Lock()
	c.mappings[mp.id] = mp
	c.evMu.Unlock()
	if a, err = c.srv.vol.Attr(ctx, a.Ino, ""); err == nil {
		err = sendExtents(conn, seq, mp, uint64(a.Size))
	}
	if err != nil {
		c.endAll([]*mapping{mp})
		return err
	}
	return nil
}

// enterMap counts a map request in, within the limits.
func (c *client) enterMap() error {
	c.evMu.Lock()
	defer c.evMu.Unlock()
	if len(c.mappings)+c.refs >= c.srv.opt.MaxMappings {
		return refuse(wire.CodeLimit, unix.ENOMEM, "map: a client may have %d mappings; unmap one first", c.srv.opt.MaxMappings)
	}
	c.refs++
	return nil
}

func (c *client) leaveMap() {
	c.evMu.Lock()
	c.refs--
	c.kickLocked()
	c.evMu.Unlock()
}

// sendExtents answers a map request in as many frames as it takes.
func sendExtents(conn *wire.Conn, seq uint32, mp *mapping, fileBytes uint64) error {
	e := wire.Extents{Mapping: mp.id, Ino: uint64(mp.ino), Offset: uint64(mp.first) * pageBytes,
		Length: mp.pages * pageBytes, FileBytes: fileBytes}
	left := mp.pieces
	for {
		n := min(len(left), wire.MaxPieces)
		e.Pieces = e.Pieces[:0]
		for _, x := range left[:n] {
			e.Pieces = append(e.Pieces, wire.Piece{File: uint64(x.Page) * pageBytes,
				Image: uint64(x.Block) * format.BlockSize, Length: x.Count * pageBytes})
		}
		left = left[n:]
		f := wire.Pack(&e, seq)
		if len(left) > 0 {
			f.Flags |= wire.FlagMore
		}
		if err := conn.Send(f); err != nil || len(left) == 0 {
			return err
		}
	}
}

// lookup finds a mapping of this client.
func (c *client) lookup(id uint64, op string) (*mapping, error) {
	c.evMu.Lock()
	defer c.evMu.Unlock()
	if mp := c.mappings[id]; mp != nil && !mp.ended {
		return mp, nil
	}
	return nil, refuse(wire.CodeFile, unix.EBADF, "%s: no mapping %d of this client", op, id)
}

// doMapped takes the client's address of a mapping and brings it under the
// server's protection (A5).
func (c *client) doMapped(ctx context.Context, q *wire.Mapped) error {
	mp, err := c.lookup(q.Mapping, "mapped")
	if err != nil {
		return err
	}
	length := mp.pages * pageBytes
	if q.Addr == 0 || q.Addr%pageBytes != 0 || q.Addr+length < q.Addr {
		return refuse(wire.CodeFile, unix.EINVAL, "mapped: address %#x is not a page's", q.Addr)
	}
	if err := c.place(mp, q.Addr); err != nil {
		return err
	}
	if mp.writable {
		ctx, cancel := context.WithTimeout(ctx, mapPatience)
		defer cancel()
		err = c.protectNew(ctx, mp, q.Addr, length)
	}
	if err == nil {
		err = c.keepRecord(mp)
	}
	if err != nil {
		c.evMu.Lock()
		root := c.rootLocked()
		root.spans.remove(q.Addr, q.Addr+length)
		c.viewLocked(mp, root)
		c.evMu.Unlock()
		c.endAll([]*mapping{mp})
		return err
	}
	c.kick()
	return nil
}

// place enters the mapping in the process's table, before it is protected: what
// happens to the range from now on is followed.
func (c *client) place(mp *mapping, addr uint64) error {
	c.evMu.Lock()
	defer c.evMu.Unlock()
	root := c.rootLocked()
	if root == nil || root.gone {
		return refuse(wire.CodeFile, unix.ESRCH, "mapped: the process has ended")
	}
	if mp.addr != 0 {
		return refuse(wire.CodeFile, unix.EALREADY, "mapped: mapping %d has its address", mp.id)
	}
	mp.addr = addr
	if !mp.writable {
		return nil
	}
	if err := root.drainLocked(); err != nil {
		return err
	}
	end := addr + mp.pages*pageBytes
	if i := root.spans.first(addr); i < len(root.spans.list) && root.spans.list[i].addr < end {
		mp.addr = 0
		return refuse(wire.CodeFile, unix.EEXIST, "mapped: another mapping lies at %#x", root.spans.list[i].addr)
	}
	if err := root.fd.Register(addr, end-addr); err != nil {
		mp.addr = 0
		return refuse(wire.CodeUnsupported, unix.EINVAL,
			"mapped: %#x to %#x cannot be write-protected: %v (map exactly the pieces of the image that were given, shared and writable)", addr, end, err)
	}
	root.spans.add(span{addr: addr, pages: mp.pages, page: mp.first, m: mp})
	c.viewLocked(mp, root)
	return nil
}

// protectNew protects a whole new range, a chunk at a time.
func (c *client) protectNew(ctx context.Context, mp *mapping, addr, length uint64) error {
	for off := uint64(0); off < length; off += protectChunk {
		run := []core.PageRun{{First: mp.first + format.Page(off/pageBytes), Count: min(protectChunk, length-off) / pageBytes}}
		if err := mp.protect(ctx, run); err != nil {
			return err
		}
	}
	c.evMu.Lock()
	defer c.evMu.Unlock()
	if shown := mp.shownLocked(); !equalRuns(shown, mp.wholeRun()) {
		return refuse(wire.CodeFile, unix.EFAULT, "mapped: the range changed while it was being protected")
	}
	return nil
}

func (mp *mapping) wholeRun() []core.PageRun {
	return []core.PageRun{{First: mp.first, Count: mp.pages}}
}

// doUnmap ends a mapping that the client has unmapped, and flushes it.
func (c *client) doUnmap(ctx context.Context, id uint64) error {
	mp, err := c.lookup(id, "unmap")
	if err != nil {
		return err
	}
	c.evMu.Lock()
	shown := false
	if root := c.rootLocked(); root != nil && !root.gone {
		if err := root.drainLocked(); err != nil {
			c.evMu.Unlock()
			return err
		}
		for _, v := range mp.views {
			shown = shown || v.m == root && len(v.spans) > 0
		}
		root.kickLocked()
	}
	addr := mp.addr
	c.evMu.Unlock()
	if shown {
		return refuse(wire.CodeFile, unix.EBUSY, "unmap: the memory is still mapped: call munmap first, then unmap")
	}
	if !mp.writable || addr == 0 {
		err = mp.end(ctx)
		c.forget(mp)
	} else {
		var over bool
		if over, err = mp.publish(ctx); over {
			c.forget(mp)
		}
	}
	if e := c.keepRecord(mp); err == nil {
		err = e
	}
	c.kick()
	return err
}

// doSync is msync of part of a mapping.
func (c *client) doSync(ctx context.Context, q *wire.Sync) (*wire.Synced, error) {
	mp, err := c.lookup(q.Mapping, "sync")
	if err != nil {
		return nil, err
	}
	length := mp.pages * pageBytes
	if q.Length == 0 && q.Offset < length {
		q.Length = length - q.Offset
	}
	if q.Offset > length || q.Length > length-q.Offset {
		return nil, refuse(wire.CodeFile, unix.ENOMEM, "sync: %d bytes at %d are not within the mapping of %d bytes", q.Length, q.Offset, length)
	}
	from, to := q.Offset/pageBytes, (q.Offset+q.Length+pageBytes-1)/pageBytes
	r, err := mp.core.Sync(c.caller(ctx, "sync"), core.PageRun{First: mp.first + format.Page(from), Count: to - from})
	if err != nil {
		return nil, err
	}
	return &wire.Synced{Generation: uint64(r.Generation), Pages: r.Pages, Bytes: r.Bytes, Nanoseconds: uint64(r.Duration)}, nil
}

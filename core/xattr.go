package core

import (
	"context"
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/core/tree"
)

// xattrStep is the distance of collision indexes in an attribute's offset;
// below it is the chunk number.
const xattrStep = 1 << 8

func checkXattr(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("extended attribute without a name: %w", ErrInvalid)
	case len(name) > format.MaxXattrName:
		return fmt.Errorf("extended attribute %.40q...: %w", name, ErrNameTooLong)
	}
	for i := range len(name) {
		if name[i] == 0 {
			return fmt.Errorf("extended attribute %q: name holds a NUL byte: %w", name, ErrInvalid)
		}
	}
	return nil
}

// xattrPlace is where an attribute stands, or would.
type xattrPlace struct {
	off    uint64 // of its first record
	found  bool
	chunks int // records it takes, if found
	head   format.XattrHead
	record [format.ChunkSize]byte // head points into it
}

// findXattr needs the inode's lock.
func (fs *FS) findXattr(in *inode, name string, at *xattrPlace) error {
	base := format.XattrBase(fs.seed.SumString(name) & fs.hashMask)
	free := ^uint64(0)
	for i := uint64(0); i < format.MaxCollisions; i++ {
		off := base + i*xattrStep
		v, err := fs.store.Get(key(in.ino, format.KindXattr, off), at.record[:0])
		if errors.Is(err, tree.ErrNotFound) {
			free = min(free, off)
			// A removed attribute leaves a gap; what lies behind it is seen by the
			// greatest offset of this hash.
			k, _, err := fs.store.SeekLE(key(in.ino, format.KindXattr, base+format.MaxCollisions*xattrStep-1), at.record[:0])
			if err != nil && !errors.Is(err, tree.ErrNotFound) {
				return ioError(err, "find attribute %q of inode %d", name, in.ino)
			}
			if err != nil || k.Ino != in.ino || k.Kind != format.KindXattr || k.Off <= off {
				break
			}
			continue
		}
		if err == nil {
			err = at.head.Decode(v)
		}
		if err != nil {
			return ioError(err, "find attribute %q of inode %d", name, in.ino)
		}
		if string(at.head.Name) == name {
			at.off, at.found, at.chunks = off, true, at.head.XattrChunks()
			return nil
		}
	}
	if free == ^uint64(0) {
		return fmt.Errorf("attribute %q of inode %d: too many names of one hash: %w", name, in.ino, ErrNoSpace)
	}
	at.off, at.found = free, false
	return nil
}

// GetXattr reads an extended attribute.
//
// Errors: ErrNoData, ErrInvalid, ErrNameTooLong, ErrStale, ErrIO.
func (fs *FS) GetXattr(_ context.Context, ino format.Ino, name string) ([]byte, error) {
	if err := checkXattr(name); err != nil {
		return nil, err
	}
	in, err := fs.get(ino)
	if err != nil {
		return nil, err
	}
	defer fs.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	if err := in.aliveLocked(); err != nil {
		return nil, err
	}
	var at xattrPlace
	if err := fs.findXattr(in, name, &at); err != nil {
		return nil, err
	}
	if !at.found {
		return nil, fmt.Errorf("attribute %q of inode %d: %w", name, ino, ErrNoData)
	}
	out := make([]byte, 0, at.head.Length)
	out = append(out, at.head.Value...)
	var buf [format.ChunkSize]byte
	for i := 1; i < at.chunks; i++ {
		v, err := fs.store.Get(key(ino, format.KindXattr, at.off+uint64(i)), buf[:0])
		if err != nil {
			return nil, ioError(err, "read attribute %q of inode %d", name, ino)
		}
		out = append(out, v...)
	}
	if uint64(len(out)) != at.head.Length {
		return nil, ioError(format.ErrBadRecord, "attribute %q of inode %d: %d of %d bytes", name, ino, len(out), at.head.Length)
	}
	return out, nil
}

// SetXattr writes an extended attribute, in one transaction. create refuses
// one that exists, replace one that does not.
//
// Errors: ErrExists, ErrNoData, ErrTooBig for a value over 64 KiB,
// ErrNameTooLong, ErrInvalid, ErrNoSpace, ErrStale, ErrReadOnly, and the gate's.
func (fs *FS) SetXattr(ctx context.Context, ino format.Ino, name string, v []byte, create, replace bool) error {
	if err := checkXattr(name); err != nil {
		return err
	}
	if len(v) > format.MaxXattrValue {
		return fmt.Errorf("attribute %q: %d bytes, at most %d are allowed: %w", name, len(v), format.MaxXattrValue, ErrTooBig)
	}
	return fs.changeXattr(ctx, freeze.OpSetxattr, ino, func(in *inode, at *xattrPlace, t func(records int) (txn, error)) error {
		if err := fs.findXattr(in, name, at); err != nil {
			return err
		}
		switch {
		case create && at.found:
			return fmt.Errorf("attribute %q of inode %d: %w", name, ino, ErrExists)
		case replace && !at.found:
			return fmt.Errorf("attribute %q of inode %d: %w", name, ino, ErrNoData)
		}
		chunks := 1 + len(v)/format.ChunkSize + 1
		tx, err := t(at.chunks + chunks)
		if err != nil {
			return err
		}
		old := at.chunks
		rec, rest := format.AppendXattrHead(at.record[:0], name, v)
		tx.put(key(ino, format.KindXattr, at.off), rec)
		n := 1
		for ; len(rest) > 0; n++ {
			part := rest[:min(len(rest), format.ChunkSize)]
			tx.put(key(ino, format.KindXattr, at.off+uint64(n)), part)
			rest = rest[len(part):]
		}
		for ; n < old; n++ {
			tx.del(key(ino, format.KindXattr, at.off+uint64(n)))
		}
		return tx.endXattr(in)
	})
}

// RemoveXattr removes an extended attribute. Errors: ErrNoData; else as SetXattr.
func (fs *FS) RemoveXattr(ctx context.Context, ino format.Ino, name string) error {
	if err := checkXattr(name); err != nil {
		return err
	}
	return fs.changeXattr(ctx, freeze.OpRemovexattr, ino, func(in *inode, at *xattrPlace, t func(records int) (txn, error)) error {
		if err := fs.findXattr(in, name, at); err != nil {
			return err
		}
		if !at.found {
			return fmt.Errorf("attribute %q of inode %d: %w", name, ino, ErrNoData)
		}
		tx, err := t(at.chunks)
		if err != nil {
			return err
		}
		for i := range at.chunks {
			tx.del(key(ino, format.KindXattr, at.off+uint64(i)))
		}
		return tx.endXattr(in)
	})
}

// endXattr stamps ctime and ends the Tx.
func (t *txn) endXattr(in *inode) error {
	in.a.Ctime = nowNS()
	t.dirtyAttrs(in)
	return t.end()
}

// changeXattr passes the gate, locks the inode and runs change, which opens
// its Tx by begin once it knows how many records it needs. change may be run again
// from the start.
func (fs *FS) changeXattr(ctx context.Context, op freeze.Op, ino format.Ino,
	change func(in *inode, at *xattrPlace, begin func(records int) (txn, error)) error) error {
	return fs.withSpace(ctx, func() error { return fs.tryChangeXattr(ctx, op, ino, change) })
}

func (fs *FS) tryChangeXattr(ctx context.Context, op freeze.Op, ino format.Ino,
	change func(in *inode, at *xattrPlace, begin func(records int) (txn, error)) error) (err error) {
	defer func() {
		if fs.changed(err) {
			fs.tellInode(ctx, ino, 0, 0)
		}
	}()
	in, err := fs.get(ino)
	if err != nil {
		return err
	}
	defer fs.put(in)
	pass, err := fs.enterWrite(ctx, op, ino)
	if err != nil {
		return err
	}
	defer pass.Exit()
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.aliveLocked(); err != nil {
		return err
	}
	err = change(in, new(xattrPlace), func(records int) (txn, error) {
		// Chunks of one attribute are neighbours: four large values share a leaf.
		return fs.begin(2+(records+1)/2, 0, op == freeze.OpRemovexattr)
	})
	if err == nil {
		fs.ops.count(op)
	}
	return err
}

// ListXattr lists the names of an inode's extended attributes.
//
// Errors: ErrStale, ErrIO.
func (fs *FS) ListXattr(_ context.Context, ino format.Ino) ([]string, error) {
	in, err := fs.get(ino)
	if err != nil {
		return nil, err
	}
	defer fs.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	if err := in.aliveLocked(); err != nil {
		return nil, err
	}
	var names []string
	var bad error
	err = fs.store.Scan(key(ino, format.KindXattr, 0), key(ino, format.KindXattr+1, 0), func(k tree.Key, v []byte) bool {
		if k.Off%xattrStep != 0 {
			return true // a later chunk
		}
		var h format.XattrHead
		if bad = h.Decode(v); bad != nil {
			return false
		}
		names = append(names, string(h.Name))
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, ioError(err, "list the attributes of inode %d", ino)
	}
	return names, nil
}

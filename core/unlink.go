package core

import (
	"context"
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem/plant"
)

// Unlink removes a name of anything but a directory. An inode whose last name
// goes is freed at once, or when its last handle and mapping are gone.
//
// Errors: ErrNotFound, ErrIsDir, ErrNotDir, ErrStale, ErrReadOnly, ErrIO, and
// the gate's. It needs no free space.
func (fs *FS) Unlink(ctx context.Context, dir format.Ino, name string) error {
	return fs.remove(ctx, freeze.OpUnlink, dir, name)
}

// Rmdir removes an empty directory.
//
// Errors: as Unlink, but ErrNotDir for what is no directory, and ErrNotEmpty.
func (fs *FS) Rmdir(ctx context.Context, dir format.Ino, name string) error {
	return fs.remove(ctx, freeze.OpRmdir, dir, name)
}

func (fs *FS) remove(ctx context.Context, op freeze.Op, dir format.Ino, name string) (err error) {
	var e nameEntry
	defer func() {
		if fs.changed(err) {
			fs.tellEntry(ctx, dir, name)
			fs.tellInode(ctx, e.ino, 0, 0)
		}
	}()
	if err := checkName(name); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	pass, err := fs.enterWrite(ctx, op, dir)
	if err != nil {
		return err
	}
	defer pass.Exit()
	d, err := fs.get(dir)
	if err != nil {
		return err
	}
	defer fs.put(d)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.dirLocked(); err != nil {
		return err
	}
	if e, err = fs.findName(dir, name); err != nil {
		return err
	}
	if e.ino == 0 {
		return fmt.Errorf("%s %q in directory %d: %w", op, name, dir, ErrNotFound)
	}
	in, err := fs.get(e.ino)
	if err != nil {
		return err
	}
	defer fs.put(in)
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := removable(op == freeze.OpRmdir, in); err != nil {
		return fmt.Errorf("%s %q: %w", op, name, err)
	}
	if err := fs.removeLocked(d, in, e.cookie); err != nil {
		return fmt.Errorf("%s %q: %w", op, name, err)
	}
	fs.ops.count(op)
	return nil
}

// removable says whether the inode's name can be taken as a directory's or as
// another's.
func removable(wantDir bool, in *inode) error {
	isDir := in.isDirLocked()
	switch {
	case isDir && !wantDir:
		return ErrIsDir
	case !isDir && wantDir:
		return ErrNotDir
	case isDir && in.a.Size > 0:
		return ErrNotEmpty
	}
	return nil
}

func (fs *FS) removeLocked(d, in *inode, cookie uint64) error {
	t, err := fs.begin(recordsToDrop, 0, true)
	if err != nil {
		return err
	}
	now := nowNS()
	t.dropName(d, cookie, in, now)
	err = t.dropLink(in, format.Link{Parent: d.ino, Cookie: cookie}, now)
	return errors.Join(err, t.end())
}

// recordsToDrop bounds the records that removing a name touches: entry,
// directory, back-pointer, inode, orphan or the records freed inline.
const recordsToDrop = 5 + inlineExtents

// inlineExtents is how many extents an unlink frees itself; more are left to
// the reaper.
const inlineExtents = 4

// dropLink takes one name from a locked inode whose entry is being removed.
// After the last one the inode is freed here, if it is small and nobody else
// has it pinned, or becomes an orphan.
func (t *txn) dropLink(in *inode, l format.Link, now int64) error {
	if t.err != nil {
		return nil // end tells
	}
	in.a.Ctime = now
	if !in.isDirLocked() && in.a.Nlink > 1 {
		in.a.Nlink--
		err := t.dropBackPointer(in, l)
		if err != nil {
			t.fail(err)
		}
		t.dirtyAttrs(in)
		return nil
	}
	in.a.Nlink, in.a.Parent, in.a.Cookie = 0, 0, 0
	if (in.refs.Load() == 1 || plant.On(plant.MappedFreed)) && t.freeSmall(in) {
		return nil
	}
	t.orphan(in)
	t.dirtyAttrs(in)
	return nil
}

// orphan keeps an inode without a name: its record lets the next mount free it
// if we cannot.
func (t *txn) orphan(in *inode) {
	if !plant.On(plant.NoOrphan) {
		t.put(key(format.OrphanIno, format.KindOrphan, uint64(in.ino)), nil)
	}
	in.set(flagOrphan)
	t.fs.reaper.pending.Add(1)
}

// adoptOrphan ends that: the locked inode is given a name in this Tx.
func (t *txn) adoptOrphan(in *inode) {
	t.del(key(format.OrphanIno, format.KindOrphan, uint64(in.ino)))
	in.unset(flagOrphan | flagLinkable)
	t.fs.reaper.pending.Add(-1)
}

// freeSmall frees an inode that owns a few extents or a symlink's target and
// nothing else, and reports whether it did. The inode's greatest key tells:
// kinds ascend, attributes last.
func (t *txn) freeSmall(in *inode) bool {
	var buf [format.ChunkSize]byte
	k, _, err := t.fs.store.SeekLE(key(in.ino, ^uint8(0), ^uint64(0)), buf[:0])
	if err != nil || k.Ino != in.ino {
		return false // the reaper will meet it again, and say so
	}
	switch k.Kind {
	case format.KindInode:
	case format.KindSymlink:
		if k.Off > (format.MaxTarget-1)/format.ChunkSize {
			return false // no target has so many chunks: whoever scans takes what is there
		}
		for i := uint64(0); i <= k.Off; i++ {
			t.del(key(in.ino, format.KindSymlink, i))
		}
	case format.KindExtent:
		done, err := t.cutExtents(in, 0, maxPage, inlineExtents)
		if err != nil {
			t.fail(err)
		}
		if !done {
			return false
		}
	default:
		return false
	}
	t.freeInode(in)
	return true
}

// freeInode deletes the record of an inode that owns nothing any more.
func (t *txn) freeInode(in *inode) {
	t.del(key(in.ino, format.KindInode, 0))
	t.tx.AddInodes(-1)
	in.set(flagGone)
	in.unset(flagOrphan)
	t.fs.forget(in)
}

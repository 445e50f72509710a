package core

import (
	"context"
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/core/tree"
	"permafrost/pmem/plant"
)

// Rename moves a name, in one transaction. RenameReplace puts it in place of
// what stands at the new name, RenameNoReplace refuses that, RenameExchange
// swaps two names that must both exist.
//
// Errors: ErrNotFound, ErrExists, ErrNotEmpty, ErrIsDir, ErrNotDir, ErrInvalid
// for a directory moved into itself, ErrTooManyLink; else as Create.
func (fs *FS) Rename(ctx context.Context, odir format.Ino, oname string, ndir format.Ino, nname string, m RenameMode) error {
	return fs.withSpace(ctx, func() error { return fs.tryRename(ctx, odir, oname, ndir, nname, m) })
}

func (fs *FS) tryRename(ctx context.Context, odir format.Ino, oname string, ndir format.Ino, nname string, m RenameMode) (err error) {
	r := renaming{fs: fs, mode: m, oname: oname, nname: nname}
	defer func() {
		if fs.changed(err) {
			r.tell(ctx, odir, ndir)
		}
	}()
	if err := errors.Join(checkName(oname), checkName(nname)); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	if m < RenameReplace || m > RenameExchange {
		return fmt.Errorf("rename %q: mode %d: %w", oname, m, ErrInvalid)
	}
	pass, err := fs.enterWrite(ctx, freeze.OpRename, odir)
	if err != nil {
		return err
	}
	defer pass.Exit()
	defer r.unpin()
	if r.od, err = r.pin(odir); err != nil {
		return err
	}
	if r.nd, err = r.pin(ndir); err != nil {
		return err
	}
	if odir != ndir {
		// Held: the tree of directories keeps its shape.
		fs.renameMu.Lock()
		defer fs.renameMu.Unlock()
	}
	if err := r.run(); err != nil {
		return fmt.Errorf("rename %q to %q: %w", oname, nname, err)
	}
	fs.ops.count(freeze.OpRename)
	return nil
}

// renaming is one rename on its way. Used by one goroutine.
type renaming struct {
	fs           *FS
	mode         RenameMode
	oname, nname string
	od, nd       *inode // directories
	in, old      *inode // what moves; what stands at the new name, or nil
	oe, ne       nameEntry
	pinned       []*inode
}

// tell tells both names, and what they meant.
func (r *renaming) tell(ctx context.Context, odir, ndir format.Ino) {
	r.fs.tellEntry(ctx, odir, r.oname)
	r.fs.tellEntry(ctx, ndir, r.nname)
	r.fs.tellInode(ctx, r.oe.ino, 0, 0)
	r.fs.tellInode(ctx, r.ne.ino, 0, 0)
}

func (r *renaming) pin(ino format.Ino) (*inode, error) {
	in, err := r.fs.get(ino)
	if err == nil {
		r.pinned = append(r.pinned, in)
	}
	return in, err
}

func (r *renaming) unpin() {
	for _, in := range r.pinned {
		r.fs.put(in)
	}
}

// run locks in the order of doc.go: the directories, ancestor first, then what
// their names mean, by number.
func (r *renaming) run() error {
	below, err := r.lockDirs()
	if err != nil {
		return err
	}
	defer r.unlockDirs()
	if same, err := r.findLocked(); err != nil || same {
		return err
	}
	if err := r.checkLoop(below); err != nil {
		return err
	}
	first, second := r.in, r.old
	if second != nil && second.ino < first.ino {
		first, second = second, first
	}
	first.mu.Lock()
	defer first.mu.Unlock()
	if second != nil {
		second.mu.Lock()
		defer second.mu.Unlock()
	}
	if err := r.checkLocked(); err != nil {
		return err
	}
	return r.applyLocked()
}

// lineage is how two directories lie to each other.
type lineage struct {
	oldUnderNew []format.Ino // ancestors of od up to the root, od included
	newUnderOld []format.Ino // the same of nd
}

// lockDirs locks both directories. With renameMu held no directory changes its
// parent, so ancestry found before locking stays true.
func (r *renaming) lockDirs() (lineage, error) {
	var l lineage
	if r.od == r.nd {
		r.od.mu.Lock()
		return l, nil
	}
	var err error
	if l.oldUnderNew, err = r.fs.ancestors(r.od); err != nil {
		return l, err
	}
	if l.newUnderOld, err = r.fs.ancestors(r.nd); err != nil {
		return l, err
	}
	odFirst := r.od.ino < r.nd.ino
	if contains(l.newUnderOld, r.od.ino) {
		odFirst = true
	} else if contains(l.oldUnderNew, r.nd.ino) {
		odFirst = false
	}
	if odFirst {
		r.od.mu.Lock()
		r.nd.mu.Lock()
	} else {
		r.nd.mu.Lock()
		r.od.mu.Lock()
	}
	return l, nil
}

func (r *renaming) unlockDirs() {
	r.od.mu.Unlock()
	if r.od != r.nd {
		r.nd.mu.Unlock()
	}
}

func contains(list []format.Ino, ino format.Ino) bool {
	for _, i := range list {
		if i == ino {
			return true
		}
	}
	return false
}

// ancestors lists a directory and those above it, up to the root, locking one
// at a time. Needs renameMu to stay true.
func (fs *FS) ancestors(d *inode) ([]format.Ino, error) {
	list := []format.Ino{d.ino}
	d.mu.RLock()
	parent := d.a.Parent
	d.mu.RUnlock()
	for at := d.ino; at != format.RootIno && parent != 0; {
		at = parent
		list = append(list, at)
		if at == format.RootIno {
			break
		}
		p, err := fs.get(at)
		if err != nil {
			return nil, err
		}
		p.mu.RLock()
		parent = p.a.Parent
		p.mu.RUnlock()
		fs.put(p)
		if len(list) > 1<<20 {
			return nil, ioError(format.ErrBadRecord, "directory %d lies in a loop", d.ino)
		}
	}
	return list, nil
}

// findLocked finds what the names mean. same: both mean one inode, and nothing
// is to be done.
func (r *renaming) findLocked() (same bool, err error) {
	if err := errors.Join(r.od.dirLocked(), r.nd.dirLocked()); err != nil {
		return false, err
	}
	if r.oe, err = r.fs.findName(r.od.ino, r.oname); err != nil {
		return false, err
	}
	if r.ne, err = r.fs.findName(r.nd.ino, r.nname); err != nil {
		return false, err
	}
	switch {
	case r.oe.ino == 0:
		return false, fmt.Errorf("%q: %w", r.oname, ErrNotFound)
	case r.ne.ino == 0 && r.mode == RenameExchange:
		return false, fmt.Errorf("%q: %w", r.nname, ErrNotFound)
	case r.ne.ino != 0 && r.mode == RenameNoReplace:
		return false, fmt.Errorf("%q: %w", r.nname, ErrExists)
	case r.ne.ino == 0 && r.nd.a.Nlink == 0:
		return false, fmt.Errorf("directory %d was removed: %w", r.nd.ino, ErrNotFound)
	case r.ne.ino == 0 && r.ne.cookie == 0:
		return false, fmt.Errorf("%q: too many names of one hash: %w", r.nname, ErrNoSpace)
	case r.oe.ino == r.ne.ino:
		return true, nil // two links of one inode: POSIX does nothing
	}
	if r.in, err = r.pin(r.oe.ino); err != nil {
		return false, err
	}
	if r.ne.ino != 0 {
		r.old, err = r.pin(r.ne.ino)
	}
	return false, err
}

// checkLoop refuses to move a directory under itself, and to replace a
// directory that holds the one that moves. It runs before the two are locked,
// for they would be locked child first.
func (r *renaming) checkLoop(l lineage) error {
	if contains(l.newUnderOld, r.in.ino) {
		return fmt.Errorf("directory %d would be moved into itself: %w", r.in.ino, ErrInvalid)
	}
	if r.old != nil && contains(l.oldUnderNew, r.old.ino) {
		if r.mode == RenameExchange {
			return fmt.Errorf("directory %d would be moved into itself: %w", r.old.ino, ErrInvalid)
		}
		return fmt.Errorf("directory %d: %w", r.old.ino, ErrNotEmpty)
	}
	return nil
}

// checkLocked verifies what needs all locks.
func (r *renaming) checkLocked() error {
	if err := r.in.aliveLocked(); err != nil {
		return err
	}
	dir := r.in.isDirLocked()
	if r.old == nil {
		if dir && r.od != r.nd && r.nd.a.Nlink >= format.MaxLinks {
			return fmt.Errorf("directory %d: %w", r.nd.ino, ErrTooManyLink)
		}
		return nil
	}
	if err := r.old.aliveLocked(); err != nil {
		return err
	}
	if r.mode == RenameExchange {
		odir := r.old.isDirLocked()
		if dir != odir && r.od != r.nd {
			into := r.nd
			if odir {
				into = r.od
			}
			if into.a.Nlink >= format.MaxLinks {
				return fmt.Errorf("directory %d: %w", into.ino, ErrTooManyLink)
			}
		}
		return nil
	}
	return removable(dir, r.old)
}

// applyLocked changes the records, all locks held.
func (r *renaming) applyLocked() error {
	if plant.On(plant.RenameSplit) && r.mode == RenameReplace && r.old != nil {
		if err := r.dropOld(); err != nil {
			return err
		}
	}
	t, err := r.fs.begin(recordsToDrop+6, 0, false)
	if err != nil {
		return err
	}
	now := nowNS()
	if r.mode == RenameExchange {
		err = r.exchange(&t, now)
	} else {
		err = r.move(&t, now)
	}
	if err != nil {
		t.fail(err)
	}
	return t.end()
}

// dropOld is the planted fault RenameSplit.
func (r *renaming) dropOld() error {
	t, err := r.fs.begin(recordsToDrop, 0, true)
	if err != nil {
		return err
	}
	t.dropName(r.nd, r.ne.cookie, r.old, nowNS())
	err = t.dropLink(r.old, format.Link{Parent: r.nd.ino, Cookie: r.ne.cookie}, nowNS())
	r.old = nil
	if err := errors.Join(err, t.end()); err != nil {
		return err
	}
	_, err = r.fs.store.Commit(context.Background(), tree.CommitOptions{})
	return err
}

func (r *renaming) move(t *txn, now int64) error {
	from := format.Link{Parent: r.od.ino, Cookie: r.oe.cookie}
	to := format.Link{Parent: r.nd.ino, Cookie: r.ne.cookie}
	if r.old != nil {
		t.dropName(r.nd, to.Cookie, r.old, now)
		if err := t.dropLink(r.old, to, now); err != nil {
			return err
		}
	}
	t.dropName(r.od, from.Cookie, r.in, now)
	t.addName(r.nd, to.Cookie, r.nname, r.in, now)
	return t.movePointer(r.in, from, to, now)
}

func (r *renaming) exchange(t *txn, now int64) error {
	a := format.Link{Parent: r.od.ino, Cookie: r.oe.cookie}
	b := format.Link{Parent: r.nd.ino, Cookie: r.ne.cookie}
	t.dropName(r.od, a.Cookie, r.in, now)
	t.dropName(r.nd, b.Cookie, r.old, now)
	t.addName(r.od, a.Cookie, r.oname, r.old, now)
	t.addName(r.nd, b.Cookie, r.nname, r.in, now)
	if err := t.movePointer(r.in, a, b, now); err != nil {
		return err
	}
	return t.movePointer(r.old, b, a, now)
}

// movePointer makes an inode's back-pointer follow a name that moved.
func (t *txn) movePointer(in *inode, from, to format.Link, now int64) error {
	if t.err != nil {
		return nil // end tells
	}
	if in.a.Parent == from.Parent && in.a.Cookie == from.Cookie {
		in.a.Parent, in.a.Cookie = to.Parent, to.Cookie
	} else {
		off, err := t.fs.findLink(in.ino, from, false)
		if err != nil {
			return err
		}
		t.del(key(in.ino, format.KindLink, off))
		if err := t.addBackPointer(in, to); err != nil {
			return err
		}
	}
	in.a.Ctime = now
	t.dirtyAttrs(in)
	return nil
}

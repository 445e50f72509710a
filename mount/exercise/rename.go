package exercise

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// rename moves any name to any place, over what is there.
func (r *run) rename() error {
	all := r.walk()
	if len(all) == 0 {
		return r.create()
	}
	from, to := all[r.rng.IntN(len(all))], r.somewhere()
	flags := uint(0)
	if r.chance(4) {
		flags = unix.RENAME_NOREPLACE
	}
	r.note("rename %q to %q, flags %d", from.path, to.path, flags)
	err := unix.Renameat2(unix.AT_FDCWD, r.path(from.path), unix.AT_FDCWD, r.path(to.path), flags)
	r.done()
	if want := from.renameErrors(to, flags != 0); want != nil {
		return expect(err, want...)
	}
	if err != nil {
		return err
	}
	if from.node == to.node { // two names of one file, or one name: nothing happens
		return r.checkPath(from.path, from.node)
	}
	if to.node != nil {
		to.drop()
	}
	delete(from.dir.names, from.name)
	to.put(from.node)
	if err := r.gone(from.path); err != nil {
		return err
	}
	return r.checkPath(to.path, from.node)
}

// renameErrors lists what a rename may answer that must fail; nil: it must succeed.
func (from entry) renameErrors(to entry, noReplace bool) []error {
	into := from.node.kind == kindDir && to.dir.within(from.node) // below itself
	switch {
	case noReplace && to.node != nil && into:
		return []error{unix.EEXIST, unix.EINVAL}
	case noReplace && to.node != nil:
		return []error{unix.EEXIST}
	case into:
		return []error{unix.EINVAL}
	case to.node == nil || to.node == from.node:
		return nil
	case to.node.kind == kindDir && from.dir.within(to.node): // over a directory that it is in
		return []error{unix.ENOTEMPTY, unix.EISDIR}
	case from.node.kind == kindDir && to.node.kind != kindDir:
		return []error{unix.ENOTDIR}
	case from.node.kind != kindDir && to.node.kind == kindDir:
		return []error{unix.EISDIR}
	case to.node.kind == kindDir && len(to.node.names) > 0:
		return []error{unix.ENOTEMPTY}
	}
	return nil
}

// exchange swaps two names.
func (r *run) exchange() error {
	all := r.walk()
	if len(all) < 2 {
		return nil
	}
	a, b := all[r.rng.IntN(len(all))], all[r.rng.IntN(len(all))]
	r.note("exchange %q and %q", a.path, b.path)
	err := unix.Renameat2(unix.AT_FDCWD, r.path(a.path), unix.AT_FDCWD, r.path(b.path), unix.RENAME_EXCHANGE)
	if a.node != b.node && (a.node.kind == kindDir && b.dir.within(a.node) || b.node.kind == kindDir && a.dir.within(b.node)) {
		r.done()
		return expect(err, unix.EINVAL)
	}
	if err != nil {
		if refused(err, r.cfg.Features.Exchange) {
			return nil
		}
		return err
	}
	r.done()
	if a.node == b.node {
		return nil
	}
	a.put(b.node)
	b.put(a.node)
	if err := r.checkPath(a.path, b.node); err != nil {
		return fmt.Errorf("after the exchange: %w", err)
	}
	return r.checkPath(b.path, a.node)
}

package core

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"permafrost/core/format"
)

// Watcher is a way in that caches, told of what has changed by another way than
// its own: what it has cached of that is to be dropped. It may be told of more than has
// changed, and of one change more than once; what it is told names no order.
//
// It is told by the goroutine that made the change, after the change, with no
// lock and no gate held and outside of any transaction; of a freeze's own sync
// within the window. It must not wait, for the operation would wait with it: it
// queues. It is called by many goroutines at once.
type Watcher interface {
	// InodeChanged: the inode's attributes, extended ones too, are others or it
	// is gone; and its n bytes from off on read differently, or are new (n < 0: all
	// from off on; n == 0: none). Never a symlink's target: it does not change.
	InodeChanged(ino format.Ino, off, n int64)
	// EntryChanged: a name of a directory was added, removed, or means another
	// inode. Of the directory's attributes InodeChanged tells.
	EntryChanged(dir format.Ino, name string)
}

// watchers is who is told.
type watchers struct {
	mu   sync.Mutex                // a leaf
	list atomic.Pointer[[]Watcher] // the slice is immutable; replaced with mu held; nil: none
}

type watcherKey struct{}

// unseen stands in a context for every watcher.
type unseen struct{}

// Watch has w told of changes from now on. w is comparable, as a pointer is.
// After stop it may still be told by operations that are under way.
//
// What a mapping of attach stores goes unseen while its page is dirty. So of each
// run of pages InodeChanged tells twice: when the mapping is allowed to store to them,
// and when they have become clean.
func (fs *FS) Watch(w Watcher) (stop func()) {
	fs.watchers.change(func(l []Watcher) []Watcher { return append(l, w) })
	return sync.OnceFunc(func() {
		fs.watchers.change(func(l []Watcher) []Watcher {
			i := slices.Index(l, w)
			return slices.Delete(l, i, i+1)
		})
	})
}

// change replaces the list by what fn makes of a copy of it.
func (s *watchers) change(fn func([]Watcher) []Watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var l []Watcher
	if old := s.list.Load(); old != nil {
		l = slices.Clone(*old)
	}
	if l = fn(l); len(l) == 0 {
		s.list.Store(nil)
		return
	}
	s.list.Store(&l)
}

// FromWatcher marks operations as w's own: it is not told of what they change,
// nor when a mapping that Map made under ctx is allowed to store. Others are. Of
// pages that have become clean all are told, whoever stored to them.
func FromWatcher(ctx context.Context, w Watcher) context.Context {
	return context.WithValue(ctx, watcherKey{}, w)
}

// unseenByAll is for changes of what nobody can have cached.
func unseenByAll(ctx context.Context) context.Context {
	return context.WithValue(ctx, watcherKey{}, unseen{})
}

// each calls fn for every watcher but from.
func (s *watchers) each(from any, fn func(Watcher)) {
	l := s.list.Load()
	if l == nil || from == (unseen{}) {
		return
	}
	for _, w := range *l {
		if any(w) != from {
			fn(w)
		}
	}
}

// any says whether somebody is to be told.
func (s *watchers) any() bool { return s.list.Load() != nil }

// tellInode tells that an inode has changed, n bytes from off on of it (n < 0: to
// the end; 0: attributes only). No lock is held and no gate. Inode 0 is none.
func (fs *FS) tellInode(ctx context.Context, ino format.Ino, off, n int64) {
	if ino != 0 && fs.watchers.any() {
		fs.watchers.each(ctx.Value(watcherKey{}), func(w Watcher) { w.InodeChanged(ino, off, n) })
	}
}

// tellEntry tells that a name has changed, and the directory with it.
func (fs *FS) tellEntry(ctx context.Context, dir format.Ino, name string) {
	if fs.watchers.any() {
		fs.watchers.each(ctx.Value(watcherKey{}), func(w Watcher) {
			w.EntryChanged(dir, name)
			w.InodeChanged(dir, 0, 0)
		})
	}
}

// changed says whether an operation on names that returned err may have changed
// something: in the ERROR state even one that failed may have.
func (fs *FS) changed(err error) bool { return err == nil || fs.store.Failed() != nil }

// tellRun tells that pages of an inode may hold other bytes.
func (fs *FS) tellRun(from any, ino format.Ino, r PageRun) {
	fs.watchers.each(from, func(w Watcher) {
		w.InodeChanged(ino, pageStart(r.First), int64(r.Count)*format.PageSize)
	})
}

// cleaned is pages of one inode that a sync made clean.
type cleaned struct {
	ino  format.Ino
	runs []PageRun
}

// noteCleaned copies the cleaning pages, if somebody is to be told of them. Needs
// the sync lock.
func (fs *FS) noteCleaned(in *inode, pg *pages) cleaned {
	if !fs.watchers.any() {
		return cleaned{}
	}
	return cleaned{ino: in.ino, runs: slices.Clone(pg.cleaning)}
}

// tellCleaned tells of pages that programs have stored to, whoever made them
// clean.
func (fs *FS) tellCleaned(c cleaned) {
	for _, r := range c.runs {
		fs.tellRun(nil, c.ino, r)
	}
}

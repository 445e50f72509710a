package core

import (
	"context"
	"fmt"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/core/tree"
	"permafrost/pmem/plant"
)

// syncGroup is how many inodes share one fence in a sync of everything.
const syncGroup = 1024

// syncer is the scratch space of syncs of everything, which take turns.
type syncer struct {
	sem  chan struct{} // capacity 1
	list []*inode      // guarded by sem

	cleaned []cleaned // guarded by sem: what is to be told, if somebody watches
}

// target is the file system as the freezer sees it.
type target struct{ fs *FS }

// Dirty is how much the sync path would walk now. O(1).
func (t target) Dirty() (inodes, pages uint64) {
	return uint64(t.fs.dirty.inodes.Load()), uint64(t.fs.dirty.pages.Load())
}

// SyncDirty is the sync path over everything dirty.
func (t target) SyncDirty(ctx context.Context, o freeze.SyncOptions) (freeze.Flushed, error) {
	return t.fs.syncDirty(ctx, o)
}

// FinalCommit makes the metadata durable under a record marked with the freeze.
func (t target) FinalCommit(ctx context.Context, freezeID uint64) (uint64, error) {
	gen, err := t.fs.store.Commit(ctx, tree.CommitOptions{FreezeID: freezeID})
	if err != nil {
		return 0, t.fs.waitError(err)
	}
	return uint64(gen), nil
}

// Modes says how each way in stopped its mappings.
func (t target) Modes() map[string]string {
	attach := "none"
	t.fs.mappings.mu.Lock()
	if len(t.fs.mappings.m) > 0 {
		attach = "protect"
	}
	t.fs.mappings.mu.Unlock()
	return map[string]string{"attach": attach, "mount": t.fs.caches.collectMode()}
}

// syncDirty syncs what stands on the dirty list, a group of inodes to a fence.
func (fs *FS) syncDirty(ctx context.Context, o freeze.SyncOptions) (freeze.Flushed, error) {
	var sum freeze.Flushed
	if fs.dirty.inodes.Load() > 0 || o.WalkAll {
		select {
		case fs.syncer.sem <- struct{}{}:
		case <-ctx.Done():
			return sum, fmt.Errorf("another sync is in progress: %w", context.Cause(ctx))
		}
		var err error
		if o.WalkAll {
			sum, err = fs.syncCached(ctx, o)
		} else {
			sum, err = fs.syncListed(ctx, o)
		}
		clean := fs.syncer.cleaned
		fs.syncer.cleaned = nil
		<-fs.syncer.sem
		for _, c := range clean {
			fs.tellCleaned(c)
		}
		if err != nil {
			return sum, err
		}
	}
	if o.Commit {
		return sum, fs.commitDirty(ctx)
	}
	return sum, nil
}

// syncListed walks the dirty list, and nothing but the dirty list.
func (fs *FS) syncListed(ctx context.Context, o freeze.SyncOptions) (freeze.Flushed, error) {
	var sum freeze.Flushed
	s := &fs.syncer
	s.list = fs.dirty.appendTo(s.list[:0])
	defer func() {
		for i, in := range s.list {
			fs.put(in)
			s.list[i] = nil
		}
	}()
	for at := 0; at < len(s.list); at += syncGroup {
		f, err := fs.syncGroup(ctx, s.list[at:min(at+syncGroup, len(s.list))], o)
		sum.Add(f)
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// syncCached is the rival strategy: it visits every cached inode, takes its
// locks, and protects every page of every mapping. Kept to measure against.
func (fs *FS) syncCached(ctx context.Context, o freeze.SyncOptions) (freeze.Flushed, error) {
	var sum freeze.Flushed
	one := make([]*inode, 1)
	err := fs.cached(func(in *inode) error {
		in.mu.RLock()
		mapped := in.pages.Load() != nil
		in.mu.RUnlock()
		if !mapped {
			return nil
		}
		one[0] = in
		f, err := fs.syncGroup(ctx, one, o)
		sum.Add(f)
		return err
	})
	return sum, err
}

// syncGroup syncs some inodes with one fence. On failure every page that is not
// known to be clean is dirty.
func (fs *FS) syncGroup(ctx context.Context, group []*inode, o freeze.SyncOptions) (freeze.Flushed, error) {
	var sum freeze.Flushed
	var found []FoundInode
	locked, err := 0, error(nil)
	for _, in := range group {
		pg := in.pages.Load()
		if err = pg.lockSync(ctx); err != nil {
			break
		}
		locked++
		if err = fs.protectPages(ctx, in, pg, 0, maxPage, o.WalkAll); err != nil {
			break
		}
	}
	group = group[:locked]
	if err == nil {
		err = fs.flushGroup(group)
	}
	for _, in := range group {
		pg := in.pages.Load()
		since := pg.dirtySince()
		if err == nil && fs.watchers.any() && len(pg.cleaning) > 0 {
			fs.syncer.cleaned = append(fs.syncer.cleaned, fs.noteCleaned(in, pg))
		}
		n := fs.finish(in, pg, err)
		pg.unlockSync()
		if n == 0 {
			continue
		}
		sum.Add(freeze.Flushed{Inodes: 1, Pages: n, Bytes: n * format.PageSize})
		if o.FreezeID != 0 || len(group) >= largeSync {
			found = append(found, FoundInode{Ino: in.ino, Pages: n, Bytes: n * format.PageSize, DirtySince: since})
		}
	}
	if len(found) > 0 {
		fs.found.add(FoundEvent{FreezeID: o.FreezeID, Window: o.InWindow, Inodes: found})
	}
	return sum, err
}

// largeSync is how many inodes a sync outside a freeze must find to be listed.
const largeSync = 64

// flushGroup flushes the cleaning pages of inodes whose sync locks are held,
// and fences once.
func (fs *FS) flushGroup(group []*inode) error {
	some := false
	for _, in := range group {
		some = some || len(in.pages.Load().cleaning) > 0
	}
	if !some || plant.On(plant.FreezeFlush) {
		return nil
	}
	b := fs.m.Begin()
	defer b.End()
	for _, in := range group {
		if err := fs.flushPages(in, in.pages.Load(), b); err != nil {
			return err
		}
	}
	return fs.fenceError(b.Fence())
}

// dirtySince is when the dirty period began that is being cleaned.
func (pg *pages) dirtySince() time.Time {
	pg.mu.Lock()
	defer pg.mu.Unlock()
	return pg.since
}

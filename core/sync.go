package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem"
	"permafrost/pmem/plant"
)

// This file is the one sync path. fsync, msync, unmap, sync and freeze take
// these steps, in this order, for the dirty pages of one inode or of many:
//
//	protectPages   dirty -> cleaning; write-protect them in every mapping
//	flushPages     write their lines back
//	Fence          one for all of them
//	finish         cleaning -> clean
//
// and then make the metadata durable. A store after protectPages faults and
// tags its page again.

// syncPatience bounds the wait for clients when the caller's context does not.
const syncPatience = 10 * time.Second

// Fsync makes n bytes of a file from off on durable (n <= 0: to the end), and
// the inode's attributes. Of a clean inode it touches no line.
//
// Errors: ErrStale, ErrInvalid, ErrIO, ErrReadOnly in the ERROR state, those of
// the mappings' protectors (which name the client), ctx's.
func (fs *FS) Fsync(ctx context.Context, ino format.Ino, off, n int64) (SyncResult, error) {
	if off < 0 {
		return SyncResult{}, fmt.Errorf("fsync inode %d at %d: %w", ino, off, ErrInvalid)
	}
	in, err := fs.get(ino)
	if err != nil {
		return SyncResult{}, err
	}
	defer fs.put(in)
	end := maxPage
	if n > 0 && n <= format.MaxFileSize-off {
		end = pagesUp(off + n)
	}
	return fs.fsync(ctx, in, pageOf(off), end, "fsync")
}

// Sync is msync: the sync path over part of this mapping's inode.
//
// Errors: as Fsync.
func (m *Mapping) Sync(ctx context.Context, r PageRun) (SyncResult, error) {
	return m.fs.fsync(ctx, m.in, r.First, r.end(), "msync")
}

// fsync syncs the pages [first, end) of one pinned inode.
func (fs *FS) fsync(ctx context.Context, in *inode, first, end format.Page, kind string) (SyncResult, error) {
	start := time.Now()
	var res SyncResult
	if pg := in.pages.Load(); pg != nil && pg.listed.Load() {
		n, err := fs.syncPages(ctx, in, pg, first, end)
		if err != nil {
			return res, fmt.Errorf("%s inode %d: %w", kind, in.ino, err)
		}
		if n > 0 {
			res.Flushed = freeze.Flushed{Inodes: 1, Pages: n, Bytes: n * format.PageSize}
		}
	}
	in.mu.RLock()
	err := in.aliveLocked()
	gen := in.a.Gen
	in.mu.RUnlock()
	if err == nil && gen > fs.store.DurableGeneration() && !fs.opt.ReadOnly && !plant.On(plant.DurableWait) {
		err = fs.waitError(fs.store.WaitDurable(ctx, gen))
	}
	if err != nil {
		return res, fmt.Errorf("%s inode %d: %w", kind, in.ino, err)
	}
	res.Generation = fs.store.DurableGeneration()
	res.Duration = time.Since(start)
	fs.fsyncs.Add(1)
	fs.events.emitSync(kind, in.ino, &res)
	return res, nil
}

// waitError makes the errors of waiting for a generation the file system's.
func (fs *FS) waitError(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fs.treeError(err)
}

// syncPages is the sync path for one inode. It returns the pages flushed.
func (fs *FS) syncPages(ctx context.Context, in *inode, pg *pages, first, end format.Page) (uint64, error) {
	var clean cleaned
	defer func() { fs.tellCleaned(clean) }()
	ctx, cancel := context.WithTimeout(ctx, syncPatience)
	defer cancel()
	if err := pg.lockSync(ctx); err != nil {
		return 0, err
	}
	defer pg.unlockSync()
	if err := fs.protectPages(ctx, in, pg, first, end, false); err != nil {
		return 0, err
	}
	if len(pg.cleaning) == 0 {
		return 0, nil
	}
	fs.threads.take()
	defer fs.threads.give()
	b := fs.m.Begin()
	defer b.End()
	if plant.On(plant.FlushLate) {
		_ = b.Fence()
	}
	err := fs.flushPages(in, pg, b)
	if err == nil && !plant.On(plant.FlushLate) {
		err = fs.fenceError(b.Fence())
	}
	if err == nil {
		clean = fs.noteCleaned(in, pg)
	}
	n := fs.finish(in, pg, err)
	return n, err
}

// fenceError is the error of a fence: the first one that fails is the ERROR
// state (T11), for the kernel may have dropped what it could not write.
func (fs *FS) fenceError(err error) error {
	if err == nil {
		return nil
	}
	fs.store.Fail(fmt.Errorf("fence of file data: %w", err))
	return ioError(err, "fence")
}

// lockSync waits for its turn to sync the inode. Whoever holds it may be
// waiting for a client: hence a channel, and a context.
func (pg *pages) lockSync(ctx context.Context) error {
	select {
	case pg.sem <- struct{}{}:
		return nil
	default:
	}
	select {
	case pg.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("another sync of the inode is in progress: %w", context.Cause(ctx))
	}
}

func (pg *pages) unlockSync() { <-pg.sem }

// protectPages moves the dirty pages of [first, end) to the cleaning set and
// takes every mapping's right to store to them. Needs the sync lock. all
// protects whole mappings, dirty or not: the rival strategy. On failure nothing
// has moved.
func (fs *FS) protectPages(ctx context.Context, in *inode, pg *pages, first, end format.Page, all bool) error {
	pg.mu.Lock()
	defer pg.mu.Unlock()
	if pg.tagged > 0 {
		pg.cleaning = appendRuns(pg.cleaning[:0], pg.dirty, uint64(first), uint64(end), int(maxMappedPage))
	}
	if len(pg.cleaning) == 0 && !all {
		return nil
	}
	maps := pg.mappings()
	for _, m := range maps {
		ranges := m.ranges.Load()
		if ranges == nil || !m.writable {
			continue
		}
		runs := *ranges
		if !all {
			if runs = clipRuns(pg.cleaning, runs); len(runs) == 0 {
				continue
			}
		}
		if err := m.prot.Protect(ctx, runs); err != nil {
			pg.cleaning = pg.cleaning[:0]
			return fmt.Errorf("write-protect mapping %d of %s (pid %d): %w", m.id, m.process.Comm, m.process.PID, err)
		}
	}
	n := countPages(pg.cleaning)
	pg.flushing = n
	pg.tagged -= n
	if pg.tagged == 0 {
		pg.dirty.Clear()
	} else {
		for _, r := range pg.cleaning {
			pg.dirty.RemoveRange(uint64(r.First), uint64(r.end()))
		}
	}
	if pg.tagged == 0 {
		for _, m := range maps {
			m.granted.Store(0)
		}
	}
	return nil
}

// flushPages starts the write-back of the cleaning pages' lines. Needs the
// sync lock; the blocks of mapped pages stay where they are, so no inode lock.
func (fs *FS) flushPages(in *inode, pg *pages, b pmem.Batch) error {
	if plant.On(plant.TagsEarly) {
		return nil
	}
	var e Extent // the one found last: runs are many where extents are few
	for _, r := range pg.cleaning {
		for at := r.First; at < r.end(); {
			if at < e.Page || at >= e.end() {
				var ok bool
				var err error
				if e, ok, err = fs.extentAt(in.ino, at); err != nil {
					return err
				}
				if !ok || at >= e.end() {
					e = Extent{}
					at++ // unmapped and punched since
					continue
				}
			}
			n := min(e.end(), r.end()) - at
			if err := b.Flush(blockOff(e.at(at)), int64(n)*format.BlockSize); err != nil {
				return fs.dataError(err, in.ino, e, "flush page %d of inode %d", at, in.ino)
			}
			at += n
		}
	}
	return nil
}

// finish ends what protectPages began: the pages are clean, or dirty again if
// err says that the flush failed. It returns the pages cleaned.
func (fs *FS) finish(in *inode, pg *pages, err error) uint64 {
	pg.mu.Lock()
	defer pg.mu.Unlock()
	n := pg.flushing
	runs := pg.cleaning
	pg.cleaning, pg.flushing = pg.cleaning[:0], 0
	fs.dirty.pages.Add(-int64(n))
	if err != nil {
		now := time.Now()
		for _, r := range runs {
			fs.tagLocked(in, pg, r, now)
		}
		n = 0
	}
	fs.settleLocked(in, pg)
	if cap(pg.cleaning) > 4096 {
		pg.cleaning = nil // a rare burst need not stay allocated
	}
	return n
}

// Sync is sync(2): the sync path over everything dirty, and a commit.
//
// Errors: as Fsync.
func (fs *FS) Sync(ctx context.Context) (SyncResult, error) {
	start := time.Now()
	flushed, err := fs.syncDirty(ctx, freeze.SyncOptions{Commit: true})
	if err != nil {
		return SyncResult{Flushed: flushed}, fmt.Errorf("sync: %w", err)
	}
	fs.fsyncs.Add(1)
	res := SyncResult{Generation: fs.store.DurableGeneration(), Flushed: flushed, Duration: time.Since(start)}
	fs.events.emitSync("sync", 0, &res)
	fs.kickFound()
	return res, nil
}

// WaitDurable returns when all operations that had finished before the call are
// durable, and the newest durable generation.
//
// Errors: ErrReadOnly in the ERROR state, ctx's.
func (fs *FS) WaitDurable(ctx context.Context) (format.Generation, error) {
	if fs.opt.ReadOnly {
		return fs.store.DurableGeneration(), nil
	}
	// Dirty first: should a seal come between the two, we wait for one
	// generation too many rather than too few.
	dirty := fs.store.Dirty()
	gen := fs.store.OpenGeneration()
	if !dirty {
		gen--
	}
	if err := fs.store.WaitDurable(ctx, gen); err != nil {
		return 0, fs.waitError(err)
	}
	return fs.store.DurableGeneration(), nil
}

// commitDirty commits the open group if it has changes.
func (fs *FS) commitDirty(ctx context.Context) error {
	if fs.opt.ReadOnly {
		return nil
	}
	_, err := fs.WaitDurable(ctx)
	return err
}

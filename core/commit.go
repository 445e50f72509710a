package core

import (
	"context"
	"sync/atomic"
	"time"

	"permafrost/core/freeze"
)

// commitStats is what Status tells of commits.
type commitStats struct {
	total   atomic.Uint64 // timed and freezes' commits
	lastAt  atomic.Int64  // ns since 1970 of the last timed or freeze commit
	latency atomic.Int64  // of that, ns
}

// commitTimed commits the open group every CommitInterval if it has changes,
// and when the tree says that it has grown large. It is internal work: while
// the gate is closed it does nothing, and nothing can become dirty.
func (fs *FS) commitTimed() {
	defer fs.wg.Done()
	tick := time.NewTicker(fs.opt.CommitInterval)
	defer tick.Stop()
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-tick.C:
		case <-fs.store.CommitNeeded():
		}
		fs.commitNow()
	}
}

func (fs *FS) commitNow() {
	if !fs.store.Dirty() || fs.store.Failed() != nil {
		return
	}
	pass, ok := fs.startInternal.Try(freeze.OpCommit, 0)
	if !ok {
		return
	}
	defer pass.Exit()
	start := time.Now()
	if err := fs.commitDirty(context.WithoutCancel(fs.ctx)); err != nil {
		return // the store has entered the ERROR state, which Status shows
	}
	fs.noteCommit(start)
	fs.reaper.queue.wake() // those that found no space may find it now
	fs.bad.wake()
}

// noteCommit records a timed commit that began at start.
func (fs *FS) noteCommit(start time.Time) {
	d := time.Since(start)
	fs.commits.total.Add(1)
	fs.commits.lastAt.Store(start.UnixNano())
	fs.commits.latency.Store(int64(d))
	fs.events.emit(Event{Commit: &CommitEvent{Generation: fs.store.DurableGeneration(), Duration: d}})
}

package core

import (
	"context"
	"errors"
	"time"
)

// Bounds of the search for space.
const (
	spaceTries = 3           // times that one operation looks for space
	spaceWait  = time.Second // longest wait for the reaper in one of them
)

// Keeper is implemented by a Cache that keeps removed inodes for a moment.
type Keeper interface {
	// GiveBack releases those that it need not keep any more. It waits a moment for
	// word that it need not.
	GiveBack(ctx context.Context)
}

// withSpace runs an operation, and again when it found the image full while
// space was about to come free: that of files that were removed a moment ago is
// freed in the background, and a program that removes one to make room for another
// must find it. It is called with no lock held and outside the gates.
func (fs *FS) withSpace(ctx context.Context, operation func() error) error {
	for try := 0; ; try++ {
		before := fs.reaper.steps.Load()
		err := operation()
		if err == nil || !errors.Is(err, ErrNoSpace) || try == spaceTries || !fs.findSpace(ctx, before) {
			return err
		}
	}
}

// findSpace waits until what was removed is freed. False: nothing was, since the
// reaper had come so far.
func (fs *FS) findSpace(ctx context.Context, before uint64) bool {
	if ctx.Value(tryOnlyKey{}) != nil {
		return false
	}
	if gate := fs.freezer.StartWrite(); gate.Closed() { // which holds the reaper
		return fs.gateOf(ctx) == gate // the operation is held until the thaw, and finds more space then
	}
	if k, ok := fs.caches.get().(Keeper); ok {
		k.GiveBack(ctx)
	}
	if idle := fs.reaper.queue.whenIdle(); idle != nil {
		late := time.NewTimer(spaceWait)
		defer late.Stop()
		select {
		case <-idle:
		case <-late.C:
		case <-ctx.Done():
		case <-fs.ctx.Done():
		}
	}
	return fs.reaper.steps.Load() != before
}

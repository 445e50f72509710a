package core

import (
	"context"
	"io"
	"time"

	"permafrost/core/freeze"
)

// Freeze brings the image to one durable point and holds it there.
//
// Errors: *freeze.Refusal; see freeze.Freezer.Freeze.
func (fs *FS) Freeze(ctx context.Context, r freeze.Request) (freeze.Record, freeze.Hold, error) {
	if err := fs.writable(); err != nil {
		return freeze.Record{}, freeze.Hold{}, err
	}
	if err := fs.awaitHoldable(ctx, &r); err != nil {
		return freeze.Record{}, freeze.Hold{}, err
	}
	return fs.freezer.Freeze(ctx, r)
}

// awaitHoldable refuses a freeze while a mapping that survived a restart has
// neither been taken back nor ended: its stores could not be held, and the
// freeze would be a lie. It waits for that as long as the freeze's patience.
func (fs *FS) awaitHoldable(ctx context.Context, r *freeze.Request) error {
	select {
	case <-fs.adopted:
		return nil
	default:
	}
	patience := r.Patience
	if patience <= 0 {
		patience = freeze.DefaultPatience
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-fs.adopted:
		return nil
	case <-fs.freezer.Closing():
		return &freeze.Refusal{Err: freeze.ErrClosed, Holders: []string{r.Holder}, Detail: "nothing was frozen: the appliance is stopping"}
	case <-late.C:
	case <-ctx.Done():
	}
	return &freeze.Refusal{Err: freeze.ErrTimedOut, Cause: context.Cause(ctx), Holders: []string{r.Holder},
		WaitingFor: []string{"mappings of before the restart, which cannot be held: see /readyz for the processes"},
		Detail:     "nothing was frozen: end those processes, or wait for them, and freeze again"}
}

// Thaw ends a hold and tells whether it was kept.
//
// Errors: *freeze.Refusal; see freeze.Freezer.Thaw.
func (fs *FS) Thaw(_ context.Context, r freeze.ThawRequest) (freeze.ThawResult, error) {
	return fs.freezer.Thaw(r)
}

// Renew prolongs a hold.
//
// Errors: *freeze.Refusal; see freeze.Freezer.Renew.
func (fs *FS) Renew(_ context.Context, r freeze.RenewRequest) (freeze.Record, freeze.Hold, error) {
	return fs.freezer.Renew(r)
}

// Abandon takes back a hold whose requester could not be given the answer; see
// freeze.Freezer.Abandon.
func (fs *FS) Abandon(holdID string) { fs.freezer.Abandon(holdID) }

// ReadImage copies image bytes of a standing freeze: after the copy it checks
// that the freeze still stands, else freeze.ErrFreezeLost and p is void. io.EOF
// comes with the bytes before the end of the image.
//
// Errors: freeze.ErrFreezeLost, ErrIO.
func (fs *FS) ReadImage(freezeID uint64, p []byte, off int64) (int, error) {
	n, err := fs.m.ReadAt(p, off)
	if !fs.freezer.StillHeld(freezeID) {
		clear(p[:n])
		return 0, &freeze.Refusal{Err: freeze.ErrFreezeLost, FreezeID: freezeID,
			Detail: "the image is not of that freeze any more: freeze and read again"}
	}
	if err != nil && err != io.EOF {
		return n, ioError(err, "read the image at %d", off)
	}
	return n, err
}

// Blocked lists the held callers, oldest first.
func (fs *FS) Blocked() []freeze.Blocked { return fs.freezer.Blocked(0, 0) }

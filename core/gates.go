package core

import (
	"context"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

type (
	callerKey  struct{}
	tryOnlyKey struct{}
)

// WithCaller names who does an operation, for /blocked: operations that are
// held wait under this name. Op and Ino are filled in by the operation.
func WithCaller(ctx context.Context, w freeze.Waiter) context.Context {
	return context.WithValue(ctx, callerKey{}, w)
}

// TryOnly makes gate waits fail at once with freeze.ErrFrozen (or
// ErrRecovering); otherwise an
// operation waits until ctx is done.
func TryOnly(ctx context.Context) context.Context {
	return context.WithValue(ctx, tryOnlyKey{}, true)
}

// enterWrite passes the gate of modifications, with no lock held, and waits
// while it is closed as ctx allows. The caller exits the pass.
//
// Errors: ErrReadOnly, ErrRecovering; freeze.ErrFrozen and freeze.ErrTooManyHeld in a
// *freeze.Refusal.
func (fs *FS) enterWrite(ctx context.Context, op freeze.Op, ino format.Ino) (freeze.Pass, error) {
	if err := fs.writable(); err != nil {
		return freeze.Pass{}, err
	}
	if fs.awaiting.Load() {
		if err := fs.awaitAdopted(ctx); err != nil {
			return freeze.Pass{}, err
		}
	}
	p, ok := fs.startWrite.Try(op, uint64(ino))
	if ok {
		return p, nil
	}
	if ctx.Value(tryOnlyKey{}) != nil {
		done, cancel := context.WithCancelCause(ctx)
		cancel(errTryOnly)
		ctx = done
	}
	p, err := fs.startWrite.Enter(ctx, op, uint64(ino), func() freeze.Waiter {
		w, _ := ctx.Value(callerKey{}).(freeze.Waiter) // zero if the caller gave no name
		if w.Path == "" {
			if paths := fs.Paths(ino, 1); len(paths) > 0 {
				w.Path = paths[0]
			}
		}
		return w
	})
	if err != nil {
		return freeze.Pass{}, err
	}
	// The file system may have failed while we waited.
	if err := fs.writable(); err != nil {
		p.Exit()
		return freeze.Pass{}, err
	}
	return p, nil
}

var errTryOnly = fmt.Errorf("the caller would not wait") // immutable

// awaitAdopted holds modifications until mappings that survived a restart are
// taken back (Options.DeferOrphans).
func (fs *FS) awaitAdopted(ctx context.Context) error {
	if ctx.Value(tryOnlyKey{}) != nil {
		return fmt.Errorf("%w: they are not all taken back yet", ErrRecovering)
	}
	select {
	case <-fs.adopted:
		return nil
	case <-fs.ctx.Done():
		return fmt.Errorf("%w: %w", ErrReadOnly, freeze.ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("%w: they are not all taken back yet: %w", ErrRecovering, context.Cause(ctx))
	}
}

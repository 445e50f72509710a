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
	heldKey    struct{}
)

// WithCaller names who does an operation, for /blocked: operations that are
// held wait under this name. Op and Ino are filled in by the operation.
func WithCaller(ctx context.Context, w freeze.Waiter) context.Context {
	return context.WithValue(ctx, callerKey{}, w)
}

// WithCallerFunc is WithCaller for who would have to look the name up: who is asked
// each time an operation has to wait, with no lock held, and else never.
func WithCallerFunc(ctx context.Context, who func() freeze.Waiter) context.Context {
	return context.WithValue(ctx, callerKey{}, who)
}

// caller is what WithCaller or WithCallerFunc has put into ctx; the zero Waiter if
// the caller gave no name.
func caller(ctx context.Context) freeze.Waiter {
	switch w := ctx.Value(callerKey{}).(type) {
	case freeze.Waiter:
		return w
	case func() freeze.Waiter:
		return w()
	}
	return freeze.Waiter{}
}

// TryOnly makes gate waits fail at once with freeze.ErrFrozen (or
// ErrRecovering); otherwise an
// operation waits until ctx is done.
func TryOnly(ctx context.Context) context.Context {
	return context.WithValue(ctx, tryOnlyKey{}, true)
}

// WhenHeld has begin called, with no lock held, each time an operation starts to
// wait at the gate, and what begin returns when that wait has ended. Operations
// that need not wait call neither.
func WhenHeld(ctx context.Context, begin func() (end func())) context.Context {
	return context.WithValue(ctx, heldKey{}, begin)
}

// held calls what WhenHeld has put into ctx, and returns its end.
func held(ctx context.Context) (end func()) {
	if begin, ok := ctx.Value(heldKey{}).(func() func()); ok {
		return begin()
	}
	return func() {}
}

// enterWrite passes the gate of modifications (startWrite, but for WroteBack),
// with no lock held, and waits while it is closed as ctx allows. The caller exits the pass.
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
	gate := fs.gateOf(ctx)
	p, ok := gate.Try(op, uint64(ino))
	if ok {
		return p, nil
	}
	if ctx.Value(tryOnlyKey{}) != nil {
		done, cancel := context.WithCancelCause(ctx)
		cancel(errTryOnly)
		ctx = done
	} else {
		defer held(ctx)()
	}
	p, err := gate.Enter(ctx, op, uint64(ino), func() freeze.Waiter {
		w := caller(ctx)
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
	default:
	}
	defer held(ctx)()
	select {
	case <-fs.adopted:
		return nil
	case <-fs.freezer.Closing(): // before the unmount, which waits for those inside requests
		return fmt.Errorf("%w: they were not all taken back", freeze.ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("%w: they are not all taken back yet: %w", ErrRecovering, context.Cause(ctx))
	}
}

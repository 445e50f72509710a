package core

import (
	"context"
	"sync"

	"permafrost/core/freeze"
)

// Cache is a way in whose programs store into a cache that is not ours, the
// page cache behind the mount. Its stores come to us when they are written back.
type Cache interface {
	// Preclean begins the write-back, with the gates open.
	Preclean(ctx context.Context, freezeID uint64)
	// Collect has everything written back that was stored before the freeze was
	// requested, at level Write: operations under WroteBack still pass. It says
	// how firmly programs are held ("collect" or "notify", freeze.md). An error
	// rolls the freeze back.
	Collect(ctx context.Context, freezeID uint64) (mode string, err error)
}

// caches is the one cache there may be.
type caches struct {
	mu   sync.Mutex
	c    Cache  // guarded by mu; nil: none
	mode string // guarded by mu: of the last freeze
}

// AddCache lets freezes collect from c, until remove is called.
//
// Errors: ErrExists if there is one: one mount a file system.
func (fs *FS) AddCache(c Cache) (remove func(), err error) {
	fs.caches.mu.Lock()
	defer fs.caches.mu.Unlock()
	if fs.caches.c != nil {
		return nil, ErrExists
	}
	fs.caches.c = c
	return func() {
		fs.caches.mu.Lock()
		defer fs.caches.mu.Unlock()
		fs.caches.c = nil
	}, nil
}

func (c *caches) get() Cache {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.c
}

// collectMode is how the last freeze held the programs of the cache.
func (c *caches) collectMode() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c == nil || c.mode == "" {
		return "none"
	}
	return c.mode
}

// Collects says whether there is a cache to collect from.
func (t target) Collects() bool { return t.fs.caches.get() != nil }

// Preclean begins the write-back of the cache.
func (t target) Preclean(ctx context.Context, freezeID uint64) {
	if c := t.fs.caches.get(); c != nil {
		c.Preclean(ctx, freezeID)
	}
}

// Collect has the cache written back.
func (t target) Collect(ctx context.Context, freezeID uint64) error {
	c := t.fs.caches.get()
	if c == nil {
		return nil
	}
	mode, err := c.Collect(ctx, freezeID)
	t.fs.caches.mu.Lock()
	t.fs.caches.mode = mode
	t.fs.caches.mu.Unlock()
	return err
}

type wroteBackKey struct{}

// WroteBack marks an operation as the write-back of stores that were made
// before, or as one that such a write-back may have to wait for: it passes
// startPageFault instead of startWrite, as a first store does, so that a freeze
// at level Write still takes it.
func WroteBack(ctx context.Context) context.Context {
	return context.WithValue(ctx, wroteBackKey{}, true)
}

// gateOf is the gate that an operation passes.
func (fs *FS) gateOf(ctx context.Context) *freeze.Gate {
	if ctx.Value(wroteBackKey{}) != nil {
		return fs.startPageFault
	}
	return fs.startWrite
}

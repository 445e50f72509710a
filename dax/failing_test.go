package dax

import (
	"context"
	"fmt"
	"sync/atomic"

	"permafrost/core"
	"permafrost/core/format"
)

// failing is a file system in its ERROR state, as mappings see it: no store is
// granted any more.
type failing struct {
	volume
	now *atomic.Bool // from when on
}

func (v failing) Map(ctx context.Context, ino format.Ino, r core.MapRequest) (tracker, []core.Extent, error) {
	t, x, err := v.volume.Map(ctx, ino, r)
	if err != nil || !v.now.Load() {
		return t, x, err
	}
	return failingMapping{t}, x, nil
}

type failingMapping struct{ tracker }

func (failingMapping) Mkwrite(p format.Page, _ uint64, _ func(core.PageRun) error) error {
	return fmt.Errorf("store to page %d: %w", p, core.ErrReadOnly)
}

package core

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"permafrost/core/format"
)

// full is a small image without a free block, most of it one file of many
// extents: every second page.
func full(t *testing.T) (w *world, big format.Ino) {
	t.Helper()
	w = newWorld(t, 8<<20, func(o *Options) { o.CommitInterval = 5 * time.Millisecond })
	big = w.file(root, "big")
	page := pattern(1, format.PageSize)
	fill := func(do func(i int64) error) {
		for i := int64(0); ; i++ {
			if err := do(i); errors.Is(err, ErrNoSpace) {
				return
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(func(i int64) error { _, err := w.fs.WriteAt(ctx, big, page, 2*i*format.PageSize); return err })
	fill(func(i int64) error { _, err := w.fs.Mkdir(ctx, root, fmt.Sprint(i), NewNode{Mode: 0o755}); return err })
	return w, big
}

// TestFullImageMakesRoom: on an image without a free block everything that
// makes room succeeds, however many extents it takes away, and a freeze does.
func TestFullImageMakesRoom(t *testing.T) {
	for name, cut := range map[string]func(w *world, big format.Ino) error{
		"truncate": func(w *world, big format.Ino) error { return w.fs.Truncate(ctx, big, 0) },
		"punch": func(w *world, big format.Ino) error {
			return w.fs.Fallocate(ctx, big, FallocPunchHole, 0, 1<<40)
		},
		"unlink": func(w *world, _ format.Ino) error { return w.fs.Unlink(ctx, root, "big") },
	} {
		t.Run(name, func(t *testing.T) {
			w, big := full(t)
			w.freeze()
			w.thaw()
			if err := cut(w, big); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { return w.fs.Status().PendingOrphans == 0 })
			w.write(w.file(root, "new"), 0, pattern(2, 1<<20))
		})
	}
}

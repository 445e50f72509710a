package core

import (
	"errors"
	"fmt"
	"testing"

	"permafrost/core/format"
)

// TestSpaceOfTheRemoved: who removes a file to make room finds the room at once,
// whatever the next operation is.
func TestSpaceOfTheRemoved(t *testing.T) {
	w := newWorld(t, 16<<20)
	// Every second page: what has many extents takes a while to be freed.
	fill := func(name string) (size int64) {
		t.Helper()
		f, page := w.file(root, name), pattern(1, format.PageSize)
		for {
			_, err := w.fs.WriteAt(ctx, f, page, 2*size)
			if errors.Is(err, ErrNoSpace) {
				return size
			}
			w.ok(err)
			size += format.PageSize
		}
	}
	// A plain write takes as much as there is room for, and is seldom refused: an append
	// goes the same way, and is all or nothing.
	for name, next := range map[string]func(size int64) error{
		"append": func(size int64) error {
			_, err := w.fs.Append(ctx, w.file(root, "next"), pattern(2, 1<<20))
			return err
		},
		"fallocate": func(size int64) error {
			return w.fs.Fallocate(ctx, w.file(root, "next"), FallocAllocate, 0, size*3/4)
		},
		"map": func(size int64) error {
			m, _, err := w.fs.Map(ctx, w.file(root, "next"), MapRequest{Length: size * 3 / 4 &^ (format.PageSize - 1), Writable: true, Grow: true, Protector: newTable()})
			if err == nil {
				err = m.Unmap(ctx)
			}
			return err
		},
		"xattr": func(size int64) (err error) {
			f := w.file(root, "next")
			for i := 0; i < 40 && err == nil; i++ {
				err = w.fs.SetXattr(ctx, f, fmt.Sprint("user.", i), pattern(3, 65536), true, false)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				size := fill("fill")
				w.ok(w.fs.Unlink(ctx, root, "fill"))
				if err := next(size); err != nil {
					t.Fatal(err)
				}
				w.ok(w.fs.Unlink(ctx, root, "next"))
			}
		})
	}
}

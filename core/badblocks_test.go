package core

import (
	"testing"

	"permafrost/core/format"
)

// The status tells how many blocks were retired, by this mount or an earlier one.
func TestStatusCountsBadBlocks(t *testing.T) {
	w := newWorld(t, 4<<20)
	if n := w.fs.Status().BadBlocks; n != 0 {
		t.Fatalf("%d bad blocks in a new image", n)
	}
	tx, err := w.fs.begin(2, 0, false)
	w.ok(err)
	err = tx.tx.RetireBlock(format.Block(600))
	tx.fail(err)
	w.ok(tx.end())
	if n := w.fs.Status().BadBlocks; n != 1 {
		t.Errorf("%d bad blocks, want 1", n)
	}
	w.unmount()
	w.mount()
	if n := w.fs.Status().BadBlocks; n != 1 {
		t.Errorf("%d bad blocks after a remount, want 1", n)
	}
}

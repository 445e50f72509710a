package core

import (
	"context"
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

// A repair keeps the list: bad blocks that files own stay theirs, and those of a
// file that it loses are retired.
func TestRepairKeepsBadBlocks(t *testing.T) {
	w := newWorld(t, 16<<20)
	f, g := w.file(root, "f"), w.file(root, "g")
	w.write(f, 0, pattern(1, 20_000))
	w.write(g, 0, pattern(2, 20_000))
	of, og := w.blockAt(f, 3), w.blockAt(g, 2)
	tx, err := w.fs.begin(10, 0, false)
	w.ok(err)
	w.ok(tx.tx.MarkBadData(of, format.BadData{Ino: f, Page: 3}))
	w.ok(tx.tx.MarkBadData(og, format.BadData{Ino: g, Page: 2}))
	w.ok(tx.tx.RetireFree(2000))
	w.ok(tx.end())
	tx, err = w.fs.begin(10, 0, false) // g loses its extent
	w.ok(err)
	tx.del(key(g, format.KindExtent, 0))
	w.ok(tx.end())
	w.durable()
	w.unmount()
	if r, err := Check(context.Background(), w.m, nil); err != nil || r.OK() {
		t.Fatal("the check finds nothing:", err)
	}
	r, err := Repair(context.Background(), w.m, RepairOptions{})
	w.ok(err)
	if r.Repaired == nil {
		t.Fatal("nothing was repaired")
	}
	w.check()
	w.mount()
	list := w.badBlocks()
	want := map[format.Block]BadBlock{of: {Block: of, Ino: f, Page: 3, Path: "/f"}, og: {Block: og}, 2000: {Block: 2000}}
	if len(list) != len(want) {
		t.Fatalf("%+v, want %+v", list, want)
	}
	for b, x := range want {
		if list[b] != x {
			t.Errorf("block %d: %+v, want %+v", b, list[b], x)
		}
	}
	w.fill(list)
}

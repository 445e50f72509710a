package core

import (
	"testing"
	"time"
)

// What freezes find is told, with paths, and freezes' own events come.
func TestEvents(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	p := w.mapFile(f, 8)
	w.ok(p.store(5, 'x'))
	w.freeze()
	w.thaw()
	w.ok(p.m.Unmap(ctx))
	want := map[string]bool{"commit": true, "map": true, "found": true, "frozen": true, "thawed": true, "unmap": true}
	end := time.After(10 * time.Second)
	for seq := uint64(0); len(want) > 0; {
		select {
		case e := <-w.fs.Events():
			if e.Seq <= seq {
				t.Fatal("sequence", e.Seq, "after", seq)
			}
			seq = e.Seq
			switch {
			case e.Map != nil && !e.Map.Ended:
				delete(want, "map")
			case e.Map != nil && e.Map.Path == "/f":
				delete(want, "unmap")
			case e.Found != nil && e.Found.FreezeID == 1 && e.Found.Inodes[0].Path == "/f" && e.Found.Inodes[0].Pages == 1:
				delete(want, "found")
			case e.Commit != nil && e.Commit.FreezeID == 1:
				delete(want, "commit")
			case e.Freeze != nil:
				delete(want, string(e.Freeze.Kind))
			}
		case <-end:
			t.Fatal("missing:", want)
		}
	}
}

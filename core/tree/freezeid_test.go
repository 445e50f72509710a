package tree

import (
	"bytes"
	"context"
	"errors"
	"testing"
)

// TestLastFreezeID: the greatest freeze id outlives later commits, mounts,
// clean closes, fallbacks and a rewrite. Nobody else need remember it.
func TestLastFreezeID(t *testing.T) {
	bg := context.Background()
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	if i := s.Info(); i.LastFreezeID != 0 {
		t.Fatalf("a new image knows freeze %d", i.LastFreezeID)
	}
	for _, id := range []uint64{7, 5} { // 5 is not how ids go; it must not lower what is known
		if _, err := s.Commit(bg, CommitOptions{FreezeID: id}); err != nil {
			t.Fatal(err)
		}
	}
	for mount := range 3 {
		for range 2 * int(s.super.Slots) { // the ring has turned: no slot is of the freeze
			if _, err := s.commitForced(); err != nil {
				t.Fatal(err)
			}
		}
		if mount == 1 { // as a crash leaves it
			m = m.clone()
		} else if err := s.Close(bg); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, m, testOptions())
		if i := s.Info(); i.LastFreezeID != 7 || i.MountedFreezeID != 0 {
			t.Fatalf("mount %d knows %+v", mount, i)
		}
	}
	if _, err := s.Commit(bg, CommitOptions{FreezeID: 9}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(bg); err != nil {
		t.Fatal(err)
	}
	sv, err := OpenSalvage(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := sv.Choose(0); err != nil {
		t.Fatal(err)
	}
	keep := NewBlockSet(sv.super.Blocks)
	keep.Add(0, uint64(sv.super.Blocks)/2) // the tree lies there
	rec, err := sv.Rewrite(bg, RewriteOptions{Keep: keep})
	if err != nil || rec.LastFreezeID != 9 {
		t.Fatalf("rewritten as %+v, %v", rec, err)
	}
}

// commitForced commits whether there are changes or not.
func (s *Store) commitForced() (uint64, error) {
	g := s.OpenGeneration()
	return uint64(g), s.commitPast(context.Background(), g)
}

// TestCommitGivenUp: a freeze's final commit whose freeze was given up writes
// nothing, even if nothing keeps it from committing: the image may be the next
// freeze's by now.
func TestCommitGivenUp(t *testing.T) {
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	before := m.clone()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Commit(ctx, CommitOptions{FreezeID: 3}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if !bytes.Equal(m.data, before.data) {
		t.Fatal("the image was changed")
	}
	finish(t, s, m)
}

package tree

import (
	"errors"
	"slices"
	"testing"

	"permafrost/core/format"
)

// TestRetireBlock retires a free block and one of file data; neither is
// allocated again, by this mount or the next.
func TestRetireBlock(t *testing.T) {
	m := mkfs(t, 4<<20)
	s := mustOpen(t, m, testOptions())
	var owned format.Block
	update(t, s, Reserve{Nodes: 10, DataBlocks: 4}, func(tx *Tx) {
		b, n, err := tx.AllocData(0, 4)
		if n != 4 || err != nil {
			t.Fatal(n, err)
		}
		if err := tx.Put(Key{Ino: 1, Kind: kindData}, dataValue(b, 3)); err != nil {
			t.Fatal(err)
		}
		owned = b + 3
	})
	free := s.Space().Free
	wantBad := func(want uint64) {
		t.Helper()
		if n := s.BadBlockCount(); n != want {
			t.Fatalf("%d bad blocks, want %d", n, want)
		}
	}
	wantBad(0)
	const loose = format.Block(500)
	for range 2 {
		update(t, s, Reserve{Nodes: 10}, func(tx *Tx) {
			for _, b := range []format.Block{owned, loose} {
				if err := tx.RetireBlock(b); err != nil {
					t.Fatal(err)
				}
			}
			if err := tx.RetireBlock(3); !errors.Is(err, ErrBadRange) {
				t.Fatalf("retired a block of the ring: %v", err)
			}
		})
	}
	wantBad(2) // retiring again counts nothing
	checkStore(t, s)
	if got := s.Space(); got.Free+got.PendingFree < free-4 || got.Free > free-1 {
		t.Fatalf("%+v, %d blocks were free", got, free)
	}
	finish(t, s, m)
	s = mustOpen(t, m, testOptions())
	wantBad(2)
	var bad []format.Block
	if err := s.BadBlocks(func(b format.Block) bool { bad = append(bad, b); return true }); err != nil {
		t.Fatal(err)
	}
	want := []format.Block{owned, loose}
	slices.Sort(want)
	if !slices.Equal(bad, want) {
		t.Fatalf("bad blocks %v, want %v", bad, want)
	}
	// Everything that can be allocated is, and those two are not among it.
	var got []run
	update(t, s, Reserve{Nodes: 10, DataBlocks: 700}, func(tx *Tx) {
		for {
			b, n, err := tx.AllocData(0, 700)
			if errors.Is(err, ErrNoSpace) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range want {
				if x >= b && x < b+format.Block(n) {
					t.Fatalf("bad block %d was allocated", x)
				}
			}
			got = append(got, run{b, n})
		}
		for _, r := range got {
			tx.FreeData(r.start, r.n)
		}
	})
	finish(t, s, m)
}

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
	want := []format.Block{owned, loose}
	slices.Sort(want)
	wantList(t, s, BadBlock{Block: want[0]}, BadBlock{Block: want[1]})
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

func wantList(t *testing.T, s *Store, want ...BadBlock) {
	t.Helper()
	got, err := s.BadBlocks(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("bad blocks %+v, want %+v", got, want)
	}
}

// A bad block of a file stays the file's until that gives it up, and nobody
// gets it then: not in this mount and not in the next; not in the generation
// that freed it and not when T5 lets the blocks around it go.
func TestBadDataBlock(t *testing.T) {
	m := mkfs(t, 4<<20)
	s := mustOpen(t, m, testOptions())
	file := Key{Ino: 1, Kind: kindData}
	owner := format.BadData{Ino: 1, Page: 2}
	var start format.Block
	alloc := func() {
		update(t, s, Reserve{Nodes: 10, DataBlocks: 8}, func(tx *Tx) {
			b, n, err := tx.AllocData(0, 8)
			if n != 8 || err != nil {
				t.Fatal(n, err)
			}
			start = b
			if err := tx.Put(file, dataValue(b, n)); err != nil {
				t.Fatal(err)
			}
		})
	}
	free := func(mark func(tx *Tx)) {
		update(t, s, Reserve{Nodes: 10}, func(tx *Tx) {
			mark(tx)
			if _, err := tx.Delete(file); err != nil {
				t.Fatal(err)
			}
			tx.FreeData(start, 8)
		})
	}
	mark := func(tx *Tx) {
		for range 2 {
			if err := tx.MarkBadData(start+2, owner); err != nil {
				t.Fatal(err)
			}
		}
	}
	commits := func() {
		for range keepCommits + 1 {
			put(t, s, Key{Ino: 9, Kind: 1}, []byte("x"))
			checkStore(t, s)
		}
	}
	noneLeft := func(bad ...format.Block) {
		t.Helper()
		update(t, s, Reserve{DataBlocks: int(s.Space().Free) - 100}, func(tx *Tx) {
			for {
				b, n, err := tx.AllocData(0, 1000)
				if errors.Is(err, ErrNoSpace) {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range bad {
					if x >= b && x < b+format.Block(n) {
						t.Fatalf("bad block %d was allocated", x)
					}
				}
				defer tx.FreeData(b, n)
			}
		})
	}

	// Marked, remounted, freed.
	alloc()
	first := start + 2
	update(t, s, Reserve{Nodes: 10}, mark)
	checkStore(t, s)
	finish(t, s, m)
	s = mustOpen(t, m, testOptions())
	wantList(t, s, BadBlock{Block: first, Ino: 1, Page: 2})
	free(func(*Tx) {})
	wantList(t, s, BadBlock{Block: first})
	commits()
	noneLeft(first)

	// Marked and freed in the generation that allocated it.
	alloc()
	second := start + 2
	free(mark)
	commits()
	noneLeft(first, second)

	// Found bad when it was freed already, and waits for T5.
	alloc()
	commits()
	third := start + 5
	free(func(*Tx) {})
	update(t, s, Reserve{Nodes: 10}, func(tx *Tx) {
		if err := tx.MarkBadData(third, owner); !errors.Is(err, ErrBadFree) {
			t.Fatal("marked a freed block:", err)
		}
		if err := tx.RetireFree(third); err != nil {
			t.Fatal(err)
		}
	})
	pending := s.Space().PendingFree
	commits()
	if got := s.Space().PendingFree; got >= pending {
		t.Fatalf("%d blocks are pending, there were %d", got, pending)
	}
	noneLeft(first, second, third)

	// One that is somebody's is not retired in passing.
	alloc()
	update(t, s, Reserve{Nodes: 10}, func(tx *Tx) {
		if err := tx.RetireFree(start); !errors.Is(err, ErrInUse) {
			t.Fatal("retired a block of a file:", err)
		}
	})
	list := []format.Block{first, second, third}
	slices.Sort(list)
	for range 2 {
		wantList(t, s, BadBlock{Block: list[0]}, BadBlock{Block: list[1]}, BadBlock{Block: list[2]})
		if got, err := s.BadBlocks(list[1], 1); err != nil || len(got) != 1 || got[0].Block != list[1] {
			t.Fatal(got, err)
		}
		checkStore(t, s)
		finish(t, s, m)
		s = mustOpen(t, m, testOptions())
		noneLeft(list...)
	}
	finish(t, s, m)
}

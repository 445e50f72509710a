package tree

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"permafrost/core/format"
	"permafrost/pmem"
)

// TestNoSpace fills an image, deletes from it by emergency transactions, and
// finds the space it had.
func TestNoSpace(t *testing.T) {
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	// The blocks freed by the mount's own start are back after two commits.
	free := s.Space().Free
	n := 0
	for {
		tx, err := s.Begin(Reserve{Nodes: s.NodesFor(1), DataBlocks: 2})
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, got, err := tx.AllocData(0, 2)
		if err == nil {
			err = tx.Put(Key{Ino: format.Ino(n + 1), Kind: kindData}, dataValue(b, got))
		}
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
		n++
	}
	sp := s.Space()
	if sp.Free > sp.Kept+uint64(s.NodesFor(1))+2 || n < 50 {
		t.Fatalf("full after %d records with %+v", n, sp)
	}
	if sp.Reserved != 0 {
		t.Fatalf("a failed Begin keeps its reservation: %+v", sp)
	}
	checkStore(t, s)
	for i := range n {
		tx, err := s.Begin(Reserve{Nodes: s.NodesFor(1), Emergency: true})
		if err != nil {
			t.Fatalf("delete %d of %d: %v", i, n, err)
		}
		k := Key{Ino: format.Ino(i + 1), Kind: kindData}
		v, err := s.Get(k, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Delete(k); err != nil {
			t.Fatal(err)
		}
		testExtents(k, v, tx.FreeData)
		tx.End()
	}
	for range keepCommits + 1 {
		if _, err := s.Commit(context.Background(), CommitOptions{FreezeID: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if sp := s.Space(); sp.Free != free || sp.PendingFree != 0 || sp.Used+sp.Free != sp.TotalBlocks {
		t.Fatalf("space leaked: %d free at first, now %+v", free, sp)
	}
	finish(t, s, m)
}

// TestGroupBound: Begin commits a group that has reached its bound (T6), and
// CommitNeeded tells before.
func TestGroupBound(t *testing.T) {
	m := mkfs(t, 256<<20)
	s := mustOpen(t, m, testOptions())
	v := make([]byte, format.MaxValue)
	g := s.OpenGeneration()
	told, most := false, int64(0)
	for i := 0; s.OpenGeneration() == g; i++ {
		put(t, s, Key{Ino: format.Ino(i + 1)}, v)
		most = max(most, s.openNodes.Load())
		select {
		case <-s.CommitNeeded():
			told = true
		default:
		}
	}
	if !told || most < maxGroupNodes || most > maxGroupNodes+100 {
		t.Fatalf("told %v, the group grew to %d nodes", told, most)
	}
	finish(t, s, m)
}

// TestBadFree: freeing what is not in use is the ERROR state (T11).
func TestBadFree(t *testing.T) {
	free := map[string]func(tx *Tx, b format.Block){
		"twice":        func(tx *Tx, b format.Block) { tx.FreeData(b, 4); tx.FreeData(b+1, 1) },
		"never used":   func(tx *Tx, b format.Block) { tx.FreeData(b+100, 1) },
		"fixed part":   func(tx *Tx, b format.Block) { tx.FreeData(0, 1) },
		"outside":      func(tx *Tx, b format.Block) { tx.FreeData(1<<30, 1) },
		"across free":  func(tx *Tx, b format.Block) { tx.FreeData(b, 5) },
		"dying blocks": nil,
	}
	for name, fn := range free {
		t.Run(name, func(t *testing.T) {
			m := mkfs(t, 4<<20)
			s := mustOpen(t, m, testOptions())
			var b format.Block
			update(t, s, Reserve{Nodes: 10, DataBlocks: 4}, func(tx *Tx) {
				var n uint64
				var err error
				if b, n, err = tx.AllocData(0, 4); n != 4 || err != nil {
					t.Fatal(n, err)
				}
				if err := tx.Put(Key{Ino: 1, Kind: kindData}, dataValue(b, n)); err != nil {
					t.Fatal(err)
				}
			})
			checkStore(t, s)
			if fn == nil { // freed in one group, again in the next
				fn = func(tx *Tx, b format.Block) { tx.FreeData(b, 4) }
				update(t, s, Reserve{Nodes: 10}, func(tx *Tx) {
					if _, err := tx.Delete(Key{Ino: 1, Kind: kindData}); err != nil {
						t.Fatal(err)
					}
					fn(tx, b)
				})
				checkStore(t, s)
			}
			update(t, s, Reserve{Nodes: 10}, func(tx *Tx) { fn(tx, b) })
			if _, err := s.Commit(context.Background(), CommitOptions{}); !errors.Is(err, ErrState) {
				t.Fatalf("commit after a bad free: %v", err)
			}
			checkImage(t, m)
		})
	}
}

// TestBadRecords: what cannot be stored is refused, and nothing is lost.
func TestBadRecords(t *testing.T) {
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	tx, err := s.Begin(Reserve{Nodes: 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Put(Key{Ino: 1}, make([]byte, format.MaxValue+1)); !errors.Is(err, ErrBadRecord) {
		t.Fatalf("value too long: %v", err)
	}
	if err := tx.Put(format.MaxKey, nil); !errors.Is(err, ErrBadRecord) {
		t.Fatalf("key too great: %v", err)
	}
	if err := tx.Put(Key{Ino: 1}, make([]byte, format.MaxValue)); err != nil {
		t.Fatal(err)
	}
	tx.End()
	tx.End()
	if err := tx.Put(Key{Ino: 2}, nil); !errors.Is(err, ErrEnded) {
		t.Fatalf("put after the end: %v", err)
	}
	if _, err := s.Begin(Reserve{Nodes: -1}); err == nil {
		t.Fatal("reserved less than nothing")
	}
	finish(t, s, m)
	if _, err := s.Begin(Reserve{}); !errors.Is(err, ErrClosed) {
		t.Fatalf("begin after close: %v", err)
	}
	if _, err := s.Get(Key{Ino: 1}, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("get after close: %v", err)
	}
	ro := mustOpen(t, m, Options{ReadOnly: true})
	if _, err := ro.Begin(Reserve{}); !errors.Is(err, ErrReadOnly) {
		t.Fatalf("begin, read-only: %v", err)
	}
	if v, err := ro.Get(Key{Ino: 1}, nil); err != nil || len(v) != format.MaxValue {
		t.Fatalf("get, read-only: %v", err)
	}
	if err := ro.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestGrow grows an image under a transaction's eyes and uses the new part.
func TestGrow(t *testing.T) {
	m := mkfs(t, 1<<20)
	m.data = append(make([]byte, 0, 2<<30), m.data...) // what is not touched costs nothing
	s := mustOpen(t, m, testOptions())
	put(t, s, Key{Ino: 1}, []byte("kept"))
	if err := s.Grow(context.Background(), 1<<19); !errors.Is(err, ErrBadRange) {
		t.Fatalf("shrink: %v", err)
	}
	for _, size := range []int64{3 << 20, 5<<20 + 4096, 1 << 30, 1<<30 + 64<<20} {
		free := s.Space().Free
		old := s.Space().TotalBlocks
		if err := s.Grow(context.Background(), size); err != nil {
			t.Fatal(err)
		}
		if sp := s.Space(); sp.TotalBlocks != uint64(size/format.BlockSize) || sp.Free != free+sp.TotalBlocks-old {
			t.Fatalf("grown to %d: %+v, %d were free", size, sp, free)
		}
		checkStore(t, s)
	}
	update(t, s, Reserve{Nodes: 10, DataBlocks: 1 << 17}, func(tx *Tx) {
		b, n, err := tx.AllocData(0, 1<<17)
		if err != nil || n != 1<<17 || b%chunkBlocks != 0 {
			t.Fatal(b, n, err)
		}
		if err := tx.Put(Key{Ino: 2, Kind: kindData}, dataValue(b, n)); err != nil {
			t.Fatal(err)
		}
	})
	finish(t, s, m)
	s = mustOpen(t, m, testOptions())
	if v, err := s.Get(Key{Ino: 1}, nil); err != nil || string(v) != "kept" {
		t.Fatal(v, err)
	}
	finish(t, s, m)
}

// TestScanCallsBack: fn of Scan and DeleteRange may use the store.
func TestScanCallsBack(t *testing.T) {
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	for i := range 200 {
		put(t, s, Key{Ino: format.Ino(i + 1)}, bytes.Repeat([]byte{1}, 100))
	}
	n := 0
	err := s.Scan(Key{Ino: 10}, Key{Ino: 150}, func(k Key, v []byte) bool {
		update(t, s, Reserve{Nodes: 10}, func(tx *Tx) {
			if _, err := tx.Delete(k); err != nil {
				t.Fatal(err)
			}
		})
		n++
		return n < 100
	})
	if err != nil || n != 100 {
		t.Fatal(n, err)
	}
	update(t, s, Reserve{Nodes: 40}, func(tx *Tx) {
		got, err := tx.DeleteRange(Key{}, format.MaxKey, 1000, func(k Key, v []byte) {
			if _, err := s.Get(k, nil); !errors.Is(err, ErrNotFound) {
				t.Fatalf("%v is still there: %v", k, err)
			}
		})
		if got != 100 || err != nil {
			t.Fatal(got, err)
		}
	})
	finish(t, s, m)
}

// TestMediaError truncates the pmem file under its mapping: what cannot be read
// is an I/O error, in lookups and in changes, and never a crash.
func TestMediaError(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "tree-test")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "pmem")
	r, err := pmem.Create(path, 4<<20, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := Format(r, FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, r, Options{})
	for i := range 2000 {
		put(t, s, Key{Ino: format.Ino(i + 1)}, bytes.Repeat([]byte{1}, 100))
	}
	checkStore(t, s)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, r, Options{})      // by snapshot: the leaves were not touched
	const left = 10 * format.BlockSize // superblocks and ring
	if err := os.Truncate(path, left); err != nil {
		t.Fatal(err)
	}
	want := func(what string, err error) {
		t.Helper()
		var me *pmem.MediaError
		if !errors.As(err, &me) || !errors.Is(err, syscall.EIO) || me.Off < left {
			t.Fatalf("%s: %v", what, err)
		}
	}
	tx, err := s.Begin(Reserve{Nodes: 10}) // before anybody meets the damage (T14)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(Key{Ino: 1000}, nil)
	want("get", err)
	_, _, err = s.SeekLE(Key{Ino: 1000}, nil)
	want("seek", err)
	want("scan", s.Scan(Key{}, format.MaxKey, func(Key, []byte) bool { return true }))
	if _, err := s.Begin(Reserve{Nodes: 10}); !errors.Is(err, ErrState) {
		t.Fatalf("begin after damage was met: %v", err)
	}
	want("put", tx.Put(Key{Ino: 1000}, nil))
	_, err = tx.Delete(Key{Ino: 1000})
	want("delete", err)
	_, err = tx.DeleteRange(Key{}, format.MaxKey, 10, nil)
	want("delete range", err)
	tx.End()
	if s.Failed() != nil {
		t.Fatalf("nothing was changed: %v", s.Failed())
	}
	want("the reason", s.Err())
	if err := os.Truncate(path, 4<<20); err != nil { // the lost part reads as zeros
		t.Fatal(err)
	}
	if _, err := s.Get(Key{Ino: 1000}, nil); !errors.Is(err, format.ErrDamaged) {
		t.Fatalf("get of a zeroed node: %v", err)
	}
}

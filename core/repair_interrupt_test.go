package core

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"testing"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// failing is a medium whose writes and fences fail from the n-th on.
type failing struct {
	pmem.Medium
	left int
}

type failingBatch struct {
	pmem.Batch
	m *failing
}

func (m *failing) Begin() pmem.Batch { return &failingBatch{m.Medium.Begin(), m} }

func (m *failing) fails() error {
	if m.left == 0 {
		return errFailing
	}
	m.left--
	return nil
}

func (b *failingBatch) Write(off int64, p []byte) error {
	if err := b.m.fails(); err != nil {
		return err
	}
	return b.Batch.Write(off, p)
}

func (b *failingBatch) Fence() error {
	if err := b.m.fails(); err != nil {
		return err
	}
	return b.Batch.Fence()
}

// A repair that ends after any of its writes or fences leaves an image whose
// repair gives the same files.
func TestRepairInterrupted(t *testing.T) {
	p := newSmallPatient(t)
	p.raw(func(s *tree.Store, tx *tree.Tx) {
		for _, i := range ills[:10] {
			if i.name != "blocks of a node" {
				i.harm(p, s, tx)
			}
		}
	})
	leaves := p.nodes(0)
	p.flip(leaves[len(leaves)/2], 900)
	sick := p.bytes()
	_, want := p.repair(RepairOptions{})
	interrupted := 0
	for n := 0; ; n++ {
		p.store(sick)
		report, err := Repair(ctx, &failing{Medium: p.m, left: n}, RepairOptions{})
		if err == nil {
			break
		}
		if !errors.Is(err, errFailing) {
			t.Fatal(n, err)
		}
		interrupted++
		var after map[string]found
		if r, err := Check(ctx, p.m, nil); err == nil && r.OK() {
			// The commit was made; what failed came after. The report tells all.
			if report == nil || report.Repaired == nil || len(report.Problems) == 0 {
				t.Errorf("%d: the image is repaired and nothing is told", n)
			}
			after = p.contents()
		} else {
			_, after = p.repair(RepairOptions{})
		}
		if !maps.Equal(after, want) {
			t.Errorf("after %d writes and fences the repair gives something else", n)
		}
	}
	if interrupted < 8 {
		t.Errorf("%d points to fail at", interrupted)
	}
}

func TestRepairCancelled(t *testing.T) {
	p := newPatient(t)
	p.flip(p.nodes(0)[3], 100)
	whole := p.bytes()
	for calls := range 5 {
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		_, err := Repair(ctx, p.m, RepairOptions{Progress: func(uint64, uint64) {
			if n++; n > calls {
				cancel()
			}
		}})
		cancel()
		if n > calls && !errors.Is(err, context.Canceled) {
			t.Error(calls, err)
		}
		if err == nil {
			break
		}
		if !bytes.Equal(whole, p.bytes()) {
			t.Fatal("a cancelled repair changed the image")
		}
	}
}

// An image without a free block cannot be repaired, and says so; nothing changes.
func TestRepairFull(t *testing.T) {
	p := newSmallPatient(t)
	p.raw(func(s *tree.Store, tx *tree.Tx) {
		seen := uint64(0)
		for s.Space().Free > 0 {
			b, n, err := tx.AllocData(0, 1<<20)
			if errors.Is(err, tree.ErrNoSpace) {
				break
			}
			p.ok(err)
			p.put(tx, key(p.before["/dir-0/file-0-1"].ino, format.KindExtent, seen), extentRecord(b, n))
			seen += n
		}
		p.change(s, tx, "/dir-0/file-0-1", func(a *format.Inode) { a.Blocks, a.Size = seen, seen*format.PageSize })
	})
	p.before = p.contents()
	// The floor is left: a repair of one leaf fits.
	p.raw(func(s *tree.Store, tx *tree.Tx) {
		p.change(s, tx, "/dir-3/file-3-3", func(a *format.Inode) { a.Nlink = 3 })
	})
	_, after := p.repair(RepairOptions{})
	p.same(after)
	// Now nothing is left.
	p.raw(func(s *tree.Store, tx *tree.Tx) {
		p.change(s, tx, "/dir-3/file-3-3", func(a *format.Inode) { a.Nlink = 3 })
		p.put(tx, key(p.before["/dir-0/file-0-2"].ino, format.KindExtent, 0), extentRecord(18, 8192-18))
	})
	whole := p.bytes()
	_, err := Repair(ctx, p.m, RepairOptions{})
	if !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	if !bytes.Equal(whole, p.bytes()) {
		t.Fatal("a repair that failed changed the image")
	}
}

package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"permafrost/core/format"
	"permafrost/pmem"
)

// reseal makes a changed node's checksum right again.
func reseal(n *format.Node) uint32 { return n.Seal() }

// nodeAt is the node in block b of the medium.
func (m *heapMedium) nodeAt(b format.Block) *format.Node {
	return (*format.Node)(m.data[int64(b)*format.BlockSize:][:format.BlockSize])
}

// fallBackTo damages the roots of the commits after generation g, and returns
// the newest commit that is left: g, or a later one of the same tree. It
// returns 0 without damage if a later root is a node of g's own tree (the tree
// has lost a level since): then no root can be damaged without g's tree.
func fallBackTo(t *testing.T, m *heapMedium, g format.Generation) (left format.Generation) {
	t.Helper()
	im, err := readImage(m)
	if err != nil {
		t.Fatal(err)
	}
	keep := format.Block(0)
	for _, rec := range im.commits {
		if rec.Generation == g {
			keep = rec.Roots[0].Block
		}
	}
	for _, rec := range im.commits {
		if r := rec.Roots[0]; rec.Generation > g && r.Block != keep && r.Birth <= g {
			return 0
		}
	}
	for _, rec := range im.commits {
		switch b := rec.Roots[0].Block; {
		case rec.Generation < g:
		case b != keep:
			m.nodeAt(b)[0] = ^byte(rec.Roots[0].CRC) // its checksum is wrong now
		case left == 0:
			left = rec.Generation
		}
	}
	return left
}

// TestFallBack mounts the commits before the newest: T5 keeps them whole.
func TestFallBack(t *testing.T) {
	rnd := newRand(t)
	h := newHarness(t, rnd, 1<<20)
	shrunk := 0
	for range 300 {
		// At least one change a commit, so that every commit has its own root.
		for ok := false; !ok; {
			before := h.s.Dirty()
			h.step()
			ok = before || h.s.Dirty()
		}
		h.commit(0)
		g := h.s.DurableGeneration()
		for back := range format.Generation(format.MaxFallback + 1) {
			want := h.durable[g-back]
			if want == nil {
				continue
			}
			c := h.m.clone()
			left := fallBackTo(t, c, g-back)
			if left == 0 {
				shrunk++
				continue
			}
			s, err := Open(c, testOptions())
			if err != nil {
				t.Fatalf("fall back %d commits: %v", back, err)
			}
			if i := s.Info(); i.Mounted != left || i.FellBack != int(g-left) {
				t.Fatalf("mounted %d, fell back %d; want %d, %d", i.Mounted, i.FellBack, left, g-left)
			}
			old := h.s
			h.s = s
			h.verify(want)
			h.s = old
			finish(t, s, c)
		}
	}
	if shrunk > 100 {
		t.Errorf("%d of some 900 fall-backs were not tried", shrunk)
	}
	finish(t, h.s, h.m)
}

// TestFallBackAfterMount cuts the power in the first commit after a mount: each
// commit that the next mount may fall back to is whole, although the allocator
// knew nothing of those before the mounted one.
func TestFallBackAfterMount(t *testing.T) {
	rnd := newRand(t)
	h := newHarness(t, rnd, 1<<20)
	for range 60 {
		for range 4 {
			h.step()
			h.commit(0)
		}
		if rnd.IntN(2) == 0 {
			if err := h.s.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			h.durable[h.s.DurableGeneration()] = h.now.clone()
		}
		h.open(h.m)
		for range 1 + rnd.IntN(10) {
			h.step()
		}
		g := stopFences(h.m)
		done := make(chan error, 1)
		go func() {
			_, err := h.s.Commit(context.Background(), CommitOptions{FreezeID: 1})
			done <- err
		}()
		<-g.stopped
		c := h.m.clone() // the nodes are stored, the record is not
		close(g.pass)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		h.durable[h.s.DurableGeneration()] = h.now.clone()
		im, err := readImage(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range im.commits {
			d := c.clone()
			if fallBackTo(t, d, rec.Generation) == 0 {
				continue
			}
			old := h.s
			h.s = mustOpen(t, d, testOptions())
			h.verify(h.durable[rec.Generation])
			finish(t, h.s, d)
			h.s = old
		}
	}
	finish(t, h.s, h.m)
}

// sample is a closed image with a tree of two levels, data, and a snapshot.
func sample(t *testing.T) *heapMedium {
	t.Helper()
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	for i := range 100 {
		put(t, s, Key{Ino: format.Ino(i + 1)}, bytes.Repeat([]byte{byte(i)}, 120))
		if i%10 == 0 {
			checkStore(t, s)
		}
	}
	update(t, s, Reserve{Nodes: 10, DataBlocks: 3}, func(tx *Tx) {
		b, n, err := tx.AllocData(0, 3)
		if err != nil || n != 3 {
			t.Fatal(n, err)
		}
		if err := tx.Put(Key{Ino: 500, Kind: kindData}, dataValue(b, n)); err != nil {
			t.Fatal(err)
		}
	})
	finish(t, s, m)
	return m
}

// TestDamage plants every kind of damage and looks at who notices it.
func TestDamage(t *testing.T) {
	clean := sample(t)
	im, err := readImage(clean)
	if err != nil {
		t.Fatal(err)
	}
	rec := im.commits[0]
	rootBlock := rec.Roots[0].Block
	leaf := clean.nodeAt(rootBlock).Child(1).Block
	other := clean.nodeAt(rootBlock).Child(0).Block
	slot := int64(slotBlock(im.super, rec.Generation)) * format.BlockSize
	at := func(b format.Block, off int64) int64 { return int64(b)*format.BlockSize + off }

	// relink changes leaf and makes the checksums of the path right again, as a
	// program error would.
	relink := func(m *heapMedium, change func(leaf, root *format.Node, rec *format.CommitRecord)) {
		r := *rec
		l, root := m.nodeAt(leaf), m.nodeAt(rootBlock)
		change(l, root, &r)
		p := root.Child(1)
		if p.Block == leaf {
			p.CRC = reseal(l)
			root.SetChild(1, p)
		}
		r.Roots[0].CRC = reseal(root)
		var buf [format.CommitSize]byte
		r.Encode(&buf)
		copy(m.data[slot:], buf[:])
	}
	cases := []struct {
		name  string
		plant func(m *heapMedium)
		open  error // Open's error, nil: it opens
		check bool  // check finds it, if it can read the image
	}{
		{"superblock", func(m *heapMedium) { m.data[50] ^= 1 }, nil, true},
		{"superblock copy", func(m *heapMedium) { m.data[at(1, 50)] ^= 1 }, nil, true},
		{"both superblocks", func(m *heapMedium) { m.data[50] ^= 1; m.data[at(1, 50)] ^= 1 }, format.ErrDamaged, false},
		{"not ours", func(m *heapMedium) { clear(m.data[:2*format.BlockSize]) }, format.ErrNotOurs, false},
		{"truncated", func(m *heapMedium) { m.data = m.data[:len(m.data)-format.BlockSize] }, format.ErrTruncated, false},
		{"cut to nothing", func(m *heapMedium) { m.data = m.data[:100] }, format.ErrTooSmall, false},
		{"ring", func(m *heapMedium) {
			for g := range format.Generation(im.super.Slots) {
				m.data[at(slotBlock(im.super, g), 20)] ^= 3 // two bits: one would be mended
			}
		}, format.ErrDamaged, false},
		{"three newest slots", func(m *heapMedium) {
			for back := range format.Generation(3) {
				m.data[at(slotBlock(im.super, rec.Generation-back), 20)] ^= 3
			}
		}, format.ErrDamaged, false},
		{"newest root", func(m *heapMedium) { m.data[at(rootBlock, 2000)] ^= 1 }, nil, true},
		{"leaf", func(m *heapMedium) { m.data[at(leaf, 2000)] ^= 1 }, nil, true},
		{"misdirected write", func(m *heapMedium) { *m.nodeAt(leaf) = *m.nodeAt(other) }, nil, true},
		{"snapshot", func(m *heapMedium) { m.data[at(rec.Snapshot, 100)] ^= 1 }, nil, true},
		{"leaf beyond its bounds", func(m *heapMedium) {
			relink(m, func(l, _ *format.Node, _ *format.CommitRecord) { l.SetKey(l.Count()-1, Key{Ino: 1 << 40}) })
		}, nil, true},
		{"a separator above a key", func(m *heapMedium) {
			relink(m, func(l, root *format.Node, _ *format.CommitRecord) { root.SetKey(1, l.Key(0).Next()) })
		}, nil, true},
		{"keys out of order", func(m *heapMedium) {
			relink(m, func(l, _ *format.Node, _ *format.CommitRecord) { l.SetKey(1, l.Key(0)) })
		}, nil, true},
		{"two owners of a node", func(m *heapMedium) {
			relink(m, func(_, root *format.Node, _ *format.CommitRecord) { root.SetChild(1, root.Child(0)) })
		}, nil, true},
		{"two owners of data", func(m *heapMedium) {
			last := m.nodeAt(rootBlock)
			l := m.nodeAt(last.Child(last.Count() - 1).Block)
			data := append([]byte(nil), l.Value(l.Count()-1)...)
			relink(m, func(l, root *format.Node, _ *format.CommitRecord) {
				k := l.Key(0)
				k.Kind = kindData
				l.Replace(0, data)
				l.SetKey(0, k)
			})
		}, nil, true},
		{"node count", func(m *heapMedium) {
			relink(m, func(_, _ *format.Node, r *format.CommitRecord) { r.Counters.Nodes++ })
		}, format.ErrDamaged, true},
		{"record count", func(m *heapMedium) {
			relink(m, func(_, _ *format.Node, r *format.CommitRecord) { r.Counters.Records++ })
		}, nil, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := clean.clone()
			c.plant(m)
			r, err := Check(m, CheckOptions{Extents: testExtents})
			switch {
			case err != nil && (c.check || !errors.Is(err, c.open)):
				t.Fatalf("check: %v", err)
			case err == nil && !errors.Is(r.Err(), format.ErrDamaged):
				t.Fatal("check found nothing")
			}
			s, err := Open(m, testOptions())
			if !errors.Is(err, c.open) || (err == nil) != (c.open == nil) {
				t.Fatalf("open: %v, want %v", err, c.open)
			}
			if err != nil {
				return
			}
			if c.name == "leaf" || c.name == "misdirected write" {
				err := s.Scan(Key{}, format.MaxKey, func(Key, []byte) bool { return true })
				var d *format.DamageError
				if !errors.As(err, &d) || d.Block != leaf {
					t.Fatalf("scan over the damage: %v", err)
				}
			}
			_ = s.Close(context.Background())
		})
	}
	checkImage(t, clean)
}

// TestEveryByte flips single bits all over an image: check always notices, but
// in bytes that belong to nothing.
func TestEveryByte(t *testing.T) {
	clean := sample(t)
	rnd := newRand(t)
	im, err := readImage(clean)
	if err != nil {
		t.Fatal(err)
	}
	rec := im.commits[0]
	root := clean.nodeAt(rec.Roots[0].Block)
	blocks := []format.Block{0, 1, rec.Roots[0].Block, rec.Snapshot}
	for i := range root.Count() {
		blocks = append(blocks, root.Child(i).Block)
	}
	for range 500 {
		m := clean.clone()
		off := int64(blocks[rnd.IntN(len(blocks))])*format.BlockSize + rnd.Int64N(format.BlockSize)
		m.data[off] ^= 1 << rnd.IntN(8)
		if r, err := Check(m, CheckOptions{Extents: testExtents}); err == nil && r.Err() == nil {
			t.Fatalf("nobody noticed byte %d of block %d", off%format.BlockSize, off/format.BlockSize)
		}
	}
}

// TestProgress: a rebuild says how far it is and how long it took.
func TestProgress(t *testing.T) {
	m := mkfs(t, 64<<20)
	m.domain = pmem.DomainPageCache // where there is something to read ahead
	s := mustOpen(t, m, testOptions())
	v := make([]byte, 1000)
	update(t, s, Reserve{Nodes: 8000}, func(tx *Tx) {
		for i := range 20_000 {
			if err := tx.Put(Key{Ino: format.Ino(i + 1)}, v); err != nil {
				t.Fatal(err)
			}
		}
	})
	checkStore(t, s)
	o := testOptions()
	var reports []string
	o.Progress = func(done, total uint64) { reports = append(reports, fmt.Sprint(done, "/", total)) }
	r := mustOpen(t, m, o)
	n := s.Counters().Nodes
	if last := fmt.Sprint(n, "/", n); len(reports) < 2 || reports[len(reports)-1] != last {
		t.Fatalf("progress %v", reports)
	}
	if i := r.Info(); !i.Rebuilt || i.RecoveryTime <= 0 || i.Depth != 3 {
		t.Fatalf("info %+v", i)
	}
	finish(t, r, m)
}

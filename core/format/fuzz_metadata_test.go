package format_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"permafrost/core/format"
)

// A target for each structure with a checksum. The checksum is made right, or
// nothing would come past it; the bytes are taken as they are as well.

var le = binary.LittleEndian

// blockOf is a block that begins with head and ends with tail.
func blockOf(head, tail []byte) (b [format.BlockSize]byte) {
	copy(b[:], head)
	copy(b[max(0, format.BlockSize-len(tail)):], tail)
	return b
}

// addBlock adds a block as its two ends: what stands between is zero.
func addBlock(f *testing.F, b []byte) {
	head, tail := len(b)/2, len(b)/2
	for head > 0 && b[head-1] == 0 {
		head--
	}
	for tail < len(b) && b[tail] == 0 {
		tail++
	}
	f.Add(b[:head], b[tail:])
}

// described holds the fields of a structure against its size: each lies inside,
// and says a bounded text.
func described(t *testing.T, size int, list []format.Field) {
	t.Helper()
	for _, x := range list {
		if x.Off < 0 || x.Size <= 0 || x.Off+x.Size > size || len(x.Value)+len(x.Meaning) > 1000 {
			t.Fatalf("field %+v", x)
		}
	}
}

func damagedOrNil(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && !errors.Is(err, format.ErrDamaged) {
		t.Fatalf("%v is no damage", err)
	}
	return err == nil
}

func FuzzSuperblock(f *testing.F) {
	for _, b := range blocksWith(f, 0, "PERMAFRO", 2) {
		addBlock(f, b)
	}
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		p := blockOf(head, tail)
		described(t, len(p), format.DescribeSuperblock(&p))
		_, _ = format.DecodeSuperblock(0, &p)
		le.PutUint32(p[8:], format.Checksum(p[12:]))
		s, err := format.DecodeSuperblock(0, &p)
		if errors.Is(err, format.ErrNotOurs) || errors.Is(err, format.ErrNewerFormat) || !damagedOrNil(t, err) {
			return
		}
		if s.Ring < 2 || s.Slots < format.MinSlots || s.Slots > format.MaxSlots || s.First < s.Ring+format.Block(s.Slots) || s.First >= s.Blocks ||
			s.Blocks > format.MaxImage/format.BlockSize || s.Blocks < format.MinImage/format.BlockSize || s.Incompat != 0 {
			t.Fatalf("accepted %+v", s)
		}
		// Bytes called zero are not looked at; all others come back.
		var again [format.BlockSize]byte
		s.Encode(&again)
		clear(p[168:])
		le.PutUint32(p[8:], format.Checksum(p[12:]))
		if again != p {
			t.Fatalf("%x comes back as %x", p[:168], again[:168])
		}
	})
}

func FuzzCommit(f *testing.F) {
	for _, b := range blocksWith(f, 4, "PFCR", 8) {
		f.Add(b[:format.CommitSize])
	}
	f.Add(make([]byte, format.CommitSize))
	f.Fuzz(func(t *testing.T, v []byte) {
		p := [format.CommitSize]byte(append(bytes.Clone(v), make([]byte, format.CommitSize)...))
		described(t, len(p), format.DescribeCommit(&p))
		if _, err := format.DecodeCommit(3, &p); damagedOrNil(t, err) && format.CommitEmpty(&p) {
			t.Fatal("an empty slot is a commit")
		}
		if _, err := format.MendCommit(3, &p); damagedOrNil(t, err) {
			// It is one bit from a record: none that is whole can be.
			if _, err := format.DecodeCommit(3, &p); err == nil {
				t.Fatal("a whole record has a wrong bit")
			}
		}
		le.PutUint32(p[:], format.Checksum(p[4:]))
		c, err := format.DecodeCommit(3, &p)
		if !damagedOrNil(t, err) {
			return
		}
		var q [format.CommitSize]byte
		c.Encode(&q)
		bit := int(format.Checksum(v) % (8 * format.CommitSize))
		q[bit/8] ^= 1 << (bit % 8)
		if mended, err := format.MendCommit(3, &q); err != nil || *mended != *c {
			t.Fatalf("bit %d: mended to %+v, %v; it was %+v", bit, mended, err, c)
		}
		if c.Generation == 0 || c.Generation > format.MaxNumber || c.Counters.NextIno > format.MaxNumber || c.Roots[0].Block == 0 ||
			c.Roots[0].Level > format.MaxLevel || c.Roots[0].Birth > c.Generation || c.Clean != (c.Snapshot != 0) {
			t.Fatalf("accepted %+v", c)
		}
		// Unknown flags and bytes called zero are not looked at; all others come back.
		var again [format.CommitSize]byte
		c.Encode(&again)
		le.PutUint32(p[32:], le.Uint32(p[32:])&1)
		clear(p[104:128]) // the second checksum is of all bytes, those too
		clear(again[104:112])
		le.PutUint32(again[:], format.Checksum(again[4:]))
		for i := range format.Shards {
			clear(p[128+24*i+21 : 128+24*i+24])
		}
		le.PutUint32(p[:], format.Checksum(p[4:]))
		if again != p {
			t.Fatalf("%x comes back as %x", p, again)
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	for _, b := range blocksWith(f, 4, "PFAS", 2) {
		addBlock(f, b)
	}
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		p := format.SnapshotPage(blockOf(head, tail))
		described(t, len(p), format.DescribeSnapshotPage(&p))
		gen, self, index := format.Generation(le.Uint64(p[8:])), format.Block(le.Uint64(p[16:])), le.Uint32(p[32:])
		damagedOrNil(t, p.Verify(gen, self, index))
		p.Seal()
		if !damagedOrNil(t, p.Verify(gen, self, index)) {
			return
		}
		var again format.SnapshotPage
		again.Init(gen, self, p.Next(), index)
		for i := range p.Count() {
			e := p.Entry(i)
			if !again.Add(&e) || again.Entry(i) != e {
				t.Fatalf("entry %d of %d does not come back", i, p.Count())
			}
		}
		again.Seal()
		if err := again.Verify(gen, self, index); err != nil || again.Count() != p.Count() || p.Verify(gen+1, self, index) == nil || p.Verify(gen, self, index+1) == nil {
			t.Fatal(err)
		}
	})
}

// FuzzNode: a node that is accepted can be used and changed as the tree does
// it, and stays one. ops are changes.
func FuzzNode(f *testing.F) {
	for _, b := range blocksWith(f, 4, nodeMark, 1<<10) {
		if b[6] > 0 || b[25] == 0 && b[24]%8 == 0 || b[24] > 60 { // inner nodes, and some leaves
			f.Add(b[:2048], b[2048:], []byte{0, 3, 200, 1, 1, 0, 2, 5, 9})
		}
	}
	f.Fuzz(func(t *testing.T, head, tail, ops []byte) {
		n := format.Node(blockOf(head, tail))
		described(t, len(n), format.DescribeNode(&n))
		for _, s := range n.Slots() {
			if s.Off+s.Size > len(n) || s.At < 0 {
				t.Fatalf("slot %+v", s)
			}
		}
		damagedOrNil(t, n.VerifySelf(n.Block()))
		n.Seal()
		if !damagedOrNil(t, n.VerifySelf(n.Block())) || !damagedOrNil(t, n.VerifyValues()) {
			return
		}
		p := format.Ptr{Block: n.Block(), Birth: n.Birth(), CRC: n.Sum()}
		for _, other := range []format.Ptr{{Block: p.Block + 1, Birth: p.Birth, CRC: p.CRC}, {Block: p.Block, Birth: p.Birth + 1, CRC: p.CRC}, {Block: p.Block, Birth: p.Birth, CRC: p.CRC + 1}} {
			if n.Verify(other, n.Level()) == nil || n.Verify(p, n.Level()+1) == nil {
				t.Fatalf("a node of %+v was taken for that of %+v", p, other)
			}
		}
		if n.Level() > 0 {
			useInner(t, &n)
		} else {
			useLeaf(t, &n, ops)
		}
	})
}

// useInner finds every child by its key, and moves children.
func useInner(t *testing.T, n *format.Node) {
	for i := range n.Count() {
		if n.ChildFor(n.Key(i)) != i || n.Child(i).Birth > n.Birth() || n.Child(i).Birth != n.ChildBirth(i) {
			t.Fatalf("child %d", i)
		}
	}
	var to format.Node
	to.Init(n.Level(), n.Block(), n.Birth())
	for i := range n.Count() {
		to.InsertChild(i, n.Key(i), n.Child(i))
	}
	for i := range n.Count() {
		if to.Key(i) != n.Key(i) || to.Child(i) != n.Child(i) {
			t.Fatalf("child %d does not come back", i)
		}
	}
	to.Seal()
	if err := to.VerifySelf(n.Block()); err != nil {
		t.Fatal(err)
	}
}

type record struct {
	k format.Key
	v []byte
}

// useLeaf changes a leaf beside a sorted list.
func useLeaf(t *testing.T, n *format.Node, ops []byte) {
	var want []record
	for i := range n.Count() {
		want = append(want, record{n.Key(i), bytes.Clone(n.Value(i))})
	}
	compare := func() {
		t.Helper()
		if n.Count() != len(want) {
			t.Fatalf("%d records, not %d", n.Count(), len(want))
		}
		for i, r := range want {
			if x, found := n.Find(r.k); !found || x != i || !bytes.Equal(n.Value(i), r.v) {
				t.Fatalf("record %v", r.k)
			}
		}
		n.Seal()
		if err := errors.Join(n.VerifySelf(n.Block()), n.VerifyValues()); err != nil {
			t.Fatal(err)
		}
	}
	compare()
	for ; len(ops) >= 3; ops = ops[3:] {
		k, v := format.Key{Ino: format.Ino(ops[1]), Kind: ops[0] >> 4, Off: uint64(ops[1]) << 32}, bytes.Repeat(ops[2:3], int(ops[2])*5)
		if ops[0]&1 != 0 && len(want) > 0 { // a record that is there
			k = want[int(ops[1])%len(want)].k
		}
		i, found := n.Find(k)
		switch {
		case found && ops[0]&2 != 0:
			j := min(i+1+int(ops[2])%3, n.Count())
			n.Remove(i, j)
			want = slices.Delete(want, i, j)
		case found && n.FitsInstead(i, len(v)):
			n.Replace(i, v)
			want[i].v = v
		case !found && n.Fits(len(v)):
			n.Insert(i, k, v)
			want = slices.Insert(want, i, record{k, v})
		}
		compare()
	}
	var to format.Node
	to.Init(0, n.Block(), n.Birth())
	half := n.Count() / 2
	n.MoveRecords(half, &to)
	rest := want[half:]
	want = want[:half]
	compare()
	n, want = &to, rest
	compare()
}

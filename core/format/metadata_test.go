package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func sampleSuper() *Superblock {
	return &Superblock{
		Version: 1, UUID: [16]byte{1, 2, 3}, HashSeed: [16]byte{4, 5, 6}, Label: "label",
		Ring: 2, Slots: 8, Blocks: 256, First: 10, Created: time.Unix(1, 2).UTC(),
	}
}

func TestSuperblock(t *testing.T) {
	var p [BlockSize]byte
	want := sampleSuper()
	want.Encode(&p)
	got, err := DecodeSuperblock(0, &p)
	if err != nil || *got != *want {
		t.Fatalf("%+v, %v; want %+v", got, err, want)
	}
	// The table of docs/FORMAT.md.
	if string(p[:8]) != "PERMAFRO" || binary.LittleEndian.Uint32(p[12:]) != 1 ||
		p[16] != 1 || p[32] != 4 || string(p[48:53]) != "label" ||
		binary.LittleEndian.Uint32(p[112:]) != 4096 || binary.LittleEndian.Uint32(p[116:]) != 8 ||
		binary.LittleEndian.Uint64(p[120:]) != 2 || binary.LittleEndian.Uint64(p[128:]) != 256 ||
		binary.LittleEndian.Uint64(p[136:]) != 10 || binary.LittleEndian.Uint64(p[144:]) != 1_000_000_002 {
		t.Fatalf("layout: %x", p[:168])
	}
	for off := range p {
		p[off] ^= 0x40
		if _, err := DecodeSuperblock(0, &p); err == nil {
			t.Fatalf("byte %d is not covered", off)
		}
		p[off] ^= 0x40
	}
	for what, change := range map[string]func(*Superblock){
		"blocks":      func(s *Superblock) { s.Blocks = 255 },
		"many blocks": func(s *Superblock) { s.Blocks = 1<<40 + 1 },
		"slots":       func(s *Superblock) { s.Slots = 3 },
		"ring":        func(s *Superblock) { s.Ring = 1 },
		"first":       func(s *Superblock) { s.First = 9 },
		"version 0":   func(s *Superblock) { s.Version = 0 },
	} {
		s := sampleSuper()
		change(s)
		s.Encode(&p)
		if _, err := DecodeSuperblock(0, &p); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := sampleSuper()
	s.Version = 2
	s.Encode(&p)
	if _, err := DecodeSuperblock(0, &p); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("newer: %v", err)
	}
}

// newRand is seeded anew, or by PERMAFROST_SEED, which repeats a failed run.
func newRand(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PERMAFROST_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal("PERMAFROST_SEED:", err)
		}
	}
	t.Logf("repeat with PERMAFROST_SEED=%d go test ./core/format -run '%s$'", seed, t.Name())
	return rand.New(rand.NewPCG(seed, 0))
}

func sampleCommit() *CommitRecord {
	c := &CommitRecord{
		Generation: 77, FreezeID: 5, LastFreezeID: 6, TimeNS: 99, Clean: true, Snapshot: 40, SnapshotPages: 2, Blocks: 256,
		Counters: Counters{NextIno: 10, Inodes: 9, Nodes: 8, Data: 7, Records: 6},
	}
	c.Roots[0] = Root{Ptr: Ptr{Block: 33, Birth: 76, CRC: 0xdeadbeef}, Level: 2}
	return c
}

func TestCommitRecord(t *testing.T) {
	var p [CommitSize]byte
	want := sampleCommit()
	want.Encode(&p)
	got, err := DecodeCommit(5, &p)
	if err != nil || *got != *want {
		t.Fatalf("%+v, %v; want %+v", got, err, want)
	}
	u := func(off int) uint64 { return binary.LittleEndian.Uint64(p[off:]) }
	if string(p[4:8]) != "PFCR" || u(8) != 77 || u(16) != 5 || u(24) != 99 || p[32] != 1 || p[36] != 2 || u(40) != 40 ||
		u(48) != 10 || u(56) != 9 || u(64) != 8 || u(72) != 7 || u(80) != 6 || u(88) != 256 || u(96) != 6 ||
		u(128) != 33 || u(136) != 76 || binary.LittleEndian.Uint32(p[144:]) != 0xdeadbeef || p[148] != 2 {
		t.Fatalf("layout: %x", p)
	}
	for off := range p {
		p[off] ^= 1
		if _, err := DecodeCommit(5, &p); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d is not covered: %v", off, err)
		}
		p[off] ^= 1
	}
	for what, change := range map[string]func(*CommitRecord){
		"generation 0":    func(c *CommitRecord) { c.Generation = 0 },
		"generation":      func(c *CommitRecord) { c.Generation = MaxNumber + 1 },
		"freeze id":       func(c *CommitRecord) { c.FreezeID = MaxNumber + 1 },
		"last freeze id":  func(c *CommitRecord) { c.LastFreezeID = MaxNumber + 1 },
		"inode numbers":   func(c *CommitRecord) { c.Counters.NextIno = MaxNumber + 1 },
		"no root":         func(c *CommitRecord) { c.Roots[0].Block = 0 },
		"second root":     func(c *CommitRecord) { c.Roots[1].Block = 50 },
		"root too young":  func(c *CommitRecord) { c.Roots[0].Birth = 78 },
		"level":           func(c *CommitRecord) { c.Roots[0].Level = MaxLevel + 1 },
		"clean, no saved": func(c *CommitRecord) { c.Snapshot = 0 },
		"saved, unclean":  func(c *CommitRecord) { c.Clean = false },
	} {
		c := sampleCommit()
		change(c)
		c.Encode(&p)
		if _, err := DecodeCommit(5, &p); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	clear(p[:])
	if _, err := DecodeCommit(5, &p); err == nil || !CommitEmpty(&p) {
		t.Errorf("an empty slot: %v", err)
	}
	p[511] = 1
	if CommitEmpty(&p) {
		t.Error("a torn slot counts as empty")
	}
}

// TestMendCommit: each single wrong bit is found and put right; no two are taken
// for one, nor any of many more.
func TestMendCommit(t *testing.T) {
	var p [CommitSize]byte
	want := sampleCommit()
	want.Encode(&p)
	const all = 8 * CommitSize
	flip := func(bit int) { p[bit/8] ^= 1 << (bit % 8) }
	for bit := range all {
		flip(bit)
		if got, err := MendCommit(5, &p); err != nil || *got != *want {
			t.Fatalf("bit %d: %+v, %v", bit, got, err)
		}
		flip(bit)
	}
	if _, err := MendCommit(5, &p); !errors.Is(err, ErrDamaged) {
		t.Fatalf("nothing to mend: %v", err)
	}
	rnd := newRand(t)
	for range 50_000 {
		var bits []int
		for want := 2 + rnd.IntN(3); len(bits) < want; {
			if bit := rnd.IntN(all); !slices.Contains(bits, bit) {
				bits = append(bits, bit)
				flip(bit)
			}
		}
		if got, err := MendCommit(5, &p); !errors.Is(err, ErrDamaged) {
			t.Fatalf("bits %v: taken for %+v", bits, got)
		}
		for _, bit := range bits {
			flip(bit)
		}
	}
}

// TestTornCommit: what a power cut made of two records may have the first checksum
// of a record, or be one bit from it. The second tells that it is none.
func TestTornCommit(t *testing.T) {
	var p [CommitSize]byte
	sampleCommit().Encode(&p)
	le.PutUint64(p[crInodes:], 4097) // of the record that was there before
	le.PutUint32(p[crCRC:], Checksum(p[crMagic:]))
	if c, err := DecodeCommit(5, &p); !errors.Is(err, ErrDamaged) {
		t.Errorf("with the right first checksum it is %+v, %v", c, err)
	}
	p[crInodes] ^= 1
	if c, err := MendCommit(5, &p); !errors.Is(err, ErrDamaged) {
		t.Errorf("one bit from that it is %+v, %v", c, err)
	}
}

// TestCommitWithoutSecond: a record without the second checksum is read, and not mended.
func TestCommitWithoutSecond(t *testing.T) {
	var p [CommitSize]byte
	want := sampleCommit()
	want.Encode(&p)
	le.PutUint64(p[crCRC64:], 0)
	le.PutUint32(p[crCRC:], Checksum(p[crMagic:]))
	if got, err := DecodeCommit(5, &p); err != nil || *got != *want {
		t.Errorf("%+v, %v", got, err)
	}
	p[crInodes] ^= 1
	if c, err := MendCommit(5, &p); !errors.Is(err, ErrDamaged) {
		t.Errorf("with a wrong bit it is %+v, %v", c, err)
	}
}

// TestLeaf compares a leaf with a sorted list through random changes.
func TestLeaf(t *testing.T) {
	rnd := newRand(t)
	type rec struct {
		k Key
		v []byte
	}
	var n Node
	n.Init(0, 20, 5)
	var want []rec
	for range 20_000 {
		k := Key{Ino: Ino(rnd.IntN(4)), Kind: uint8(rnd.IntN(3)), Off: rnd.Uint64N(8) << 60}
		x, ok := slices.BinarySearchFunc(want, k, func(r rec, k Key) int { return r.k.Compare(k) })
		i, found := n.Find(k)
		if i != x || found != ok {
			t.Fatalf("find %v: %d, %v; want %d, %v", k, i, found, x, ok)
		}
		v := bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(2)*(rnd.IntN(200)*rnd.IntN(7)+rnd.IntN(50)))
		switch {
		case found && rnd.IntN(3) == 0:
			n.Remove(i, i+1)
			want = slices.Delete(want, i, i+1)
		case found && n.FitsInstead(i, len(v)):
			n.Replace(i, v)
			want[i].v = v
		case !found && n.Fits(len(v)):
			n.Insert(i, k, v)
			want = slices.Insert(want, i, rec{k, v})
		}
		if rnd.IntN(500) == 0 && len(want) > 0 {
			j := rnd.IntN(len(want))
			n.Remove(j, len(want))
			want = want[:j]
		}
		if n.Count() != len(want) {
			t.Fatalf("%d records, want %d", n.Count(), len(want))
		}
		used := 0
		for i, r := range want {
			if n.Key(i) != r.k || !bytes.Equal(n.Value(i), r.v) {
				t.Fatalf("record %d is %v", i, n.Key(i))
			}
			used += n.RecordSize(i)
		}
		if used != n.Used() {
			t.Fatalf("%d bytes used, want %d", n.Used(), used)
		}
		if err := n.Verify(Ptr{Block: 20, Birth: 5, CRC: n.Seal()}, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNodeVerify breaks each rule of a node in turn, with a right checksum.
func TestNodeVerify(t *testing.T) {
	leaf := func() *Node {
		var n Node
		n.Init(0, 20, 5)
		n.Insert(0, Key{Ino: 1}, []byte("one"))
		n.Insert(1, Key{Ino: 2}, []byte("two"))
		return &n
	}
	inner := func() *Node {
		var n Node
		n.Init(1, 20, 5)
		n.InsertChild(0, Key{Ino: 1}, Ptr{Block: 30, Birth: 4})
		n.InsertChild(1, Key{Ino: 2}, Ptr{Block: 31, Birth: 5})
		return &n
	}
	le := binary.LittleEndian
	for _, c := range []struct {
		want   string // part of the error
		n      *Node
		change func(n *Node)
	}{
		{"not a tree node", leaf(), func(n *Node) { n[ndMagic] = 0 }},
		{"belongs at block", leaf(), func(n *Node) { n.Move(21, 5) }},
		{"of generation 4", leaf(), func(n *Node) { n.Move(20, 4) }},
		{"level 2", leaf(), func(n *Node) { n[ndLevel] = 2 }},
		{"shard 3", leaf(), func(n *Node) { n[ndShard] = 3 }},
		{"records with values from", leaf(), func(n *Node) { le.PutUint16(n[ndCount:], 200) }},
		{"records with values from", leaf(), func(n *Node) { le.PutUint16(n[ndLow:], 40) }},
		{"records with values from", leaf(), func(n *Node) { le.PutUint16(n[ndLow:], 5000) }},
		{"has its value of", leaf(), func(n *Node) { le.PutUint16(n[ndSlots+slValOff:], 100) }},
		{"has its value of", leaf(), func(n *Node) { le.PutUint16(n[ndSlots+slValLen:], 4) }},
		{"has its value of", leaf(), func(n *Node) { le.PutUint16(n[ndSlots+slValLen:], 2000) }},
		{"do not fill", leaf(), func(n *Node) { le.PutUint16(n[ndSlots+slValLen:], 2) }},
		{"do not fill", leaf(), func(n *Node) { le.PutUint16(n[ndDead:], 1) }},
		{"does not follow", leaf(), func(n *Node) { n.SetKey(1, Key{Ino: 1}) }},
		{"0 children", inner(), func(n *Node) { le.PutUint16(n[ndCount:], 0) }},
		{"102 children", inner(), func(n *Node) { le.PutUint16(n[ndCount:], 102) }},
		{"does not follow", inner(), func(n *Node) { n.SetKey(1, Key{Ino: 1}) }},
		{"of generation 6", inner(), func(n *Node) { n.SetChild(1, Ptr{Block: 31, Birth: 6}) }},
		{"block 0", inner(), func(n *Node) { n.SetChild(1, Ptr{Birth: 5}) }},
	} {
		level := c.n.Level()
		if err := c.n.Verify(Ptr{Block: 20, Birth: 5, CRC: c.n.Seal()}, level); err != nil {
			t.Fatal(err)
		}
		c.change(c.n)
		err := c.n.Verify(Ptr{Block: 20, Birth: 5, CRC: c.n.Seal()}, level)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%q: %v", c.want, err)
		}
	}
	n := leaf()
	le.PutUint16(n[ndSlots+slotSize+slValOff:], 4093) // where the other value is
	n.Seal()
	if n.VerifySelf(20) != nil || !errors.Is(n.VerifyValues(), ErrDamaged) || leaf().VerifyValues() != nil {
		t.Errorf("values that overlap: %v, %v", n.VerifySelf(20), n.VerifyValues())
	}
	n = leaf()
	crc := n.Seal()
	for off := range n {
		n[off] ^= 1
		if err := n.Verify(Ptr{Block: 20, Birth: 5, CRC: crc}, 0); err == nil {
			t.Fatalf("byte %d is not covered", off)
		}
		n[off] ^= 1
	}
}

func TestKeyOrder(t *testing.T) {
	keys := []Key{
		{}, {Off: 1}, {Off: 1 << 63}, {Kind: 1}, {Kind: 255, Off: 5}, {Ino: 1}, {Ino: 1, Kind: 1},
		{Ino: 1 << 63, Kind: 2, Off: 3}, MaxKey,
	}
	for i, a := range keys {
		for j, b := range keys {
			if a.Less(b) != (i < j) || a.Compare(b) < 0 != (i < j) || (a.Compare(b) == 0) != (i == j) {
				t.Errorf("%v against %v", a, b)
			}
		}
		if i > 0 && (keys[i-1].Next().Compare(a) > 0 || !keys[i-1].Less(keys[i-1].Next())) {
			t.Errorf("%v follows %v", keys[i-1].Next(), keys[i-1])
		}
	}
	if n := (Key{Ino: 3, Kind: 255, Off: 1<<64 - 1}).Next(); n != (Key{Ino: 4}) {
		t.Errorf("next: %v", n)
	}
}

func TestSnapshotPage(t *testing.T) {
	var p SnapshotPage
	p.Init(9, 40, 41, 1)
	var want []ChunkEntry
	for i := range SnapshotEntries {
		e := ChunkEntry{Chunk: uint32(i * 3), Meta: i%2 == 0}
		e.Used[i%8] = 1<<i | 1
		want = append(want, e)
		if !p.Add(&e) {
			t.Fatal("full")
		}
	}
	if p.Add(&want[0]) {
		t.Fatal("overfull")
	}
	p.Seal()
	if err := p.Verify(9, 40, 1); err != nil || p.Next() != 41 || p.Count() != len(want) {
		t.Fatal(err, p.Next(), p.Count())
	}
	for i := range want {
		if p.Entry(i) != want[i] {
			t.Fatalf("entry %d: %+v", i, p.Entry(i))
		}
	}
	if p.Verify(8, 40, 1) == nil || p.Verify(9, 41, 1) == nil || p.Verify(9, 40, 0) == nil {
		t.Fatal("a page of another snapshot was accepted")
	}
	for off := range p {
		p[off] ^= 1
		if err := p.Verify(9, 40, 1); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d is not covered: %v", off, err)
		}
		p[off] ^= 1
	}
}

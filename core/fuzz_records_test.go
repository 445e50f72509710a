package core

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// The first byte of FuzzImageRecords' arguments.
const (
	recordRepair    = 1 << iota // repair the image as well
	recordReadOnly              // mount it read-only
	recordDelete                // delete the first record in place of putting it
	recordCountIt               // count one inode more, so that the counters are right again
	recordInherited             // the first value is changed where the tree has such a record: the bytes given are XORed in
)

// FuzzImageRecords puts records of every kind into a populated image by the tree
// itself, so that nothing but their meaning can be wrong: links, names, extents,
// targets, attributes, orphans, bad blocks and kinds that there are not. The
// promises are FuzzImage's.
func FuzzImageRecords(f *testing.F) {
	base := newFuzzBase(f, cleanImage)
	seen := make(map[uint8]int)
	sv, err := tree.OpenSalvage(base.m)
	if err != nil {
		f.Fatal(err)
	}
	sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
		for ; i < j; i++ {
			k, v := n.Key(i), bytes.Clone(n.Value(i))
			if seen[k.Kind]++; seen[k.Kind] > 5 {
				continue
			}
			f.Add(byte(recordRepair), uint64(k.Ino), k.Kind, k.Off, v, uint64(k.Ino), k.Kind, k.Off+1, v)
			f.Add(byte(recordRepair|recordDelete), uint64(k.Ino), k.Kind, k.Off, []byte{}, uint64(99), k.Kind, k.Off, v)
			f.Add(byte(recordInherited), uint64(k.Ino), k.Kind, k.Off, []byte{8: 1}, uint64(0), format.KindOrphan, uint64(k.Ino), []byte{})
			f.Add(byte(recordInherited|recordReadOnly), uint64(k.Ino), k.Kind, k.Off, []byte{24: 0xff, 31: 0}, uint64(0), format.KindBadBlock, uint64(60+k.Off%100), []byte{})
		}
		return true
	}})
	f.Fuzz(func(t *testing.T, flags byte, ino1 uint64, kind1 uint8, off1 uint64, v1 []byte, ino2 uint64, kind2 uint8, off2 uint64, v2 []byte) {
		if len(v1) > format.MaxValue || len(v2) > format.MaxValue {
			return
		}
		defer watch("FuzzImageRecords")()
		if err := fillMedium(base.m, base.p); err != nil {
			t.Fatal(err)
		}
		recs := []record{{tree.Key{Ino: format.Ino(ino1), Kind: kind1, Off: off1}, v1}, {tree.Key{Ino: format.Ino(ino2), Kind: kind2, Off: off2}, v2}}
		if err := putRecords(base.m, recs, flags); err != nil {
			if !errors.Is(err, tree.ErrBadRecord) && !errors.Is(err, tree.ErrState) {
				t.Fatal(err)
			}
			return
		}
		p := bytes.Clone(base.m.Bytes(0, base.m.Size()))
		judgeImage(t, base.m, p, flags&recordRepair != 0, flags&recordReadOnly != 0)
	})
}

type record struct {
	k tree.Key
	v []byte
}

// putRecords commits records to the image on m, cleanly.
func putRecords(m pmem.Medium, recs []record, flags byte) error {
	s, err := tree.Open(m, tree.Options{Extents: ownedBlocks, Now: func() time.Time { return time.Unix(1_700_000_000, 0) }})
	if err != nil {
		return err
	}
	tx, err := s.Begin(tree.Reserve{Nodes: 20})
	if err != nil {
		return errors.Join(err, s.Close(ctx))
	}
	for i, r := range recs {
		if i == 0 && flags&recordInherited != 0 {
			if old, err := s.Get(r.k, nil); err == nil {
				for x := range min(len(old), len(r.v)) {
					old[x] ^= r.v[x]
				}
				r.v = old
			}
		}
		if i == 0 && flags&recordDelete != 0 {
			_, err = tx.Delete(r.k)
		} else {
			err = errors.Join(err, tx.Put(r.k, r.v))
		}
	}
	if flags&recordCountIt != 0 {
		tx.AddInodes(1)
	}
	tx.End()
	return errors.Join(err, s.Close(ctx))
}

// FuzzCursor: a cursor of a listing is one that a listing gave, or refused.
func FuzzCursor(f *testing.F) {
	for _, s := range []string{"", listCursor{phase: 'd'}.String(), listCursor{phase: 'a', after: 1 << 60}.String(), "ZA", "!!", "YTE4NDQ2NzQ0MDczNzA5NTUxNjE1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCursor(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if again, err := parseCursor(c.String()); err != nil || again != c || c.phase != 'd' && c.phase != 'a' || c.after == format.MaxIno {
			t.Fatalf("%q is %+v, which is %+v, %v", s, c, again, err)
		}
	})
}

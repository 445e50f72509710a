package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"permafrost/core/format"
)

// goldenSum is the SHA-256 of goldenImage. It changes only with the format's
// version, or when a field that was zero gets a meaning (the commit record's second
// checksum did): images made before must stay readable byte for byte. (It also
// depends on where the allocator puts things; if only that changed, look at the
// image by `permafrost dump` before writing down the new sum.)
const goldenSum = "88e690e7aefeeb9ef13d8de381b09a1db77052e8ca2d047faabf20e9228ab068"

// goldenImage is an image made the same way every time.
func goldenImage(t *testing.T) *heapMedium {
	t.Helper()
	now := func() time.Time { return testTime }
	m := newMedium(1 << 20)
	err := Format(m, FormatOptions{
		Label: "golden", UUID: [16]byte{0: 0x70, 15: 1}, HashSeed: [16]byte{0: 9, 15: 2}, Now: now, NextIno: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, m, testOptions())
	for i := range 60 {
		put(t, s, Key{Ino: format.Ino(i%7 + 1), Kind: uint8(i % 3), Off: uint64(i)}, bytes.Repeat([]byte{byte(i)}, 3*i))
	}
	update(t, s, Reserve{Nodes: 20, DataBlocks: 5}, func(tx *Tx) {
		tx.AddInodes(int(tx.NextIno()))
		b, n, err := tx.AllocData(0, 5)
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Put(Key{Ino: 8, Kind: kindData}, dataValue(b, n)); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := s.Commit(context.Background(), CommitOptions{FreezeID: 11}); err != nil {
		t.Fatal(err)
	}
	update(t, s, Reserve{Nodes: 20}, func(tx *Tx) {
		if ok, err := tx.Delete(Key{Ino: 1}); !ok || err != nil {
			t.Fatal(ok, err)
		}
	})
	finish(t, s, m)
	return m
}

// TestGolden compares an image with the one that version 1 is defined by.
func TestGolden(t *testing.T) {
	m := goldenImage(t)
	sum := sha256.Sum256(m.data)
	if got := hex.EncodeToString(sum[:]); got != goldenSum {
		t.Errorf("the image's sum is %s, want %s", got, goldenSum)
	}
	if r := checkImage(t, m); r.Depth != 2 || r.Records != 60 || r.Data != 5 || r.Counters.Inodes != 2 || r.Counters.NextIno != 3 {
		t.Errorf("report %+v", r)
	}
}

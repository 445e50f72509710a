package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"permafrost/core/format"
	"permafrost/pmem"
)

// TestOneWrongBitInTheRing: a bit of any byte of the newest commit record, or of
// the one before, may flip: the newest commit is mounted, check names the slot,
// and the next commits go on from there.
func TestOneWrongBitInTheRing(t *testing.T) {
	clean := sample(t)
	rnd := newRand(t)
	im, err := readImage(clean)
	if err != nil {
		t.Fatal(err)
	}
	newest := im.commits[0].Generation
	for at := range 2 * format.CommitSize {
		b := slotBlock(im.super, newest-format.Generation(at%2))
		m := clean.clone()
		m.data[int64(b)*format.BlockSize+int64(at/2)] ^= 1 << rnd.IntN(8)
		r, err := Check(m, CheckOptions{Extents: testExtents})
		if err != nil || r.Err() != nil || r.Generation != newest || !slices.Equal(r.Mended, []format.Block{b}) || len(r.Torn) > 0 {
			t.Fatalf("byte %d of block %d: check: %v, %+v", at/2, b, err, r)
		}
		s, err := Open(m, testOptions())
		if err == nil && (s.Info().Mounted != newest || s.Info().FellBack != 0) {
			err = fmt.Errorf("%+v", s.Info())
		}
		if err != nil {
			t.Fatalf("byte %d of block %d: open: %v", at/2, b, err)
		}
		if at%64 != 0 {
			continue // what follows is the same
		}
		if err := s.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		checkImage(t, m)
	}
}

// TestUnreadableSlot: a bad page in the ring is damage, whatever stood there, and
// not a commit that a power cut tore.
func TestUnreadableSlot(t *testing.T) {
	m := sample(t)
	im, err := readImage(m)
	if err != nil {
		t.Fatal(err)
	}
	newest := im.commits[0].Generation
	for back := range format.Generation(im.super.Slots) {
		b := slotBlock(im.super, newest+format.Generation(im.super.Slots)-back)
		off := int64(b) * format.BlockSize
		m.onRead = func(at int64) error {
			if at/format.BlockSize == int64(b) {
				return &pmem.MediaError{Off: off, Op: "read"}
			}
			return nil
		}
		r, err := Check(m, CheckOptions{Extents: testExtents})
		if err != nil || len(r.Problems) != 1 || r.Problems[0].Block != b || len(r.Torn) > 0 {
			t.Fatalf("slot %d: %v, %+v", b, err, r)
		}
		want := newest
		if back == 0 {
			want--
		}
		o := testOptions()
		o.ReadOnly = true
		s, err := Open(m, o)
		if err != nil {
			t.Fatalf("slot %d: %v", b, err)
		}
		if i := s.Info(); i.Mounted != want {
			t.Fatalf("slot %d: mounted %d, want %d", b, i.Mounted, want)
		}
	}
}

// TestNewerFormat: what this program does not know is refused, or read only.
func TestNewerFormat(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(sb *format.Superblock)
		readOnly bool // may be opened so
	}{
		{"version", func(sb *format.Superblock) { sb.Version++ }, false},
		{"incompatible feature", func(sb *format.Superblock) { sb.Incompat = 1 << 9 }, false},
		{"read-only feature", func(sb *format.Superblock) { sb.ROCompat = 1 << 9 }, true},
	} {
		m := sample(t)
		im, err := readImage(m)
		if err != nil {
			t.Fatal(err)
		}
		c.change(im.super)
		if err := writeSuperblocks(m.Begin(), im.super); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(m, testOptions()); !errors.Is(err, format.ErrNewerFormat) {
			t.Fatalf("%s: %v", c.name, err)
		}
		if _, err := Open(m, Options{ReadOnly: true}); c.readOnly != (err == nil) {
			t.Fatalf("%s, read-only: %v", c.name, err)
		}
	}
}

// TestTornSlot tears the newest commit record at every line: the one before is
// mounted.
func TestTornSlot(t *testing.T) {
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	put(t, s, Key{Ino: 1}, []byte("one"))
	checkStore(t, s)
	g := s.DurableGeneration()
	before := m.clone()
	put(t, s, Key{Ino: 1}, []byte("two"))
	checkStore(t, s)
	slot := int64(slotBlock(&s.super, g+1)) * format.BlockSize
	for cut := int64(0); cut <= format.CommitSize; cut += line {
		c := m.clone()
		copy(c.data[slot+cut:slot+format.CommitSize], before.data[slot+cut:])
		// The rest of the record is zero, so some cuts leave it whole.
		want, torn := "one", !bytes.Equal(c.data, m.data)
		if !torn {
			want = "two"
		}
		r := mustOpen(t, c, testOptions())
		if v, err := r.Get(Key{Ino: 1}, nil); err != nil || string(v) != want {
			t.Fatalf("cut at %d: %q, %v", cut, v, err)
		}
		if back := r.Info().FellBack; (back > 0) != (torn && cut > 0) {
			t.Fatalf("cut at %d: fell back %d", cut, back)
		}
		finish(t, r, c)
	}
	finish(t, s, m)
}

// A power cut in the middle of every mount, each tearing the record that the
// mount was writing, never adds up to more than a mount may fall back over.
func TestTornAtEveryMount(t *testing.T) {
	m := sample(t)
	tear := errors.New("the power goes")
	for crash := range 12 {
		n := 0
		m.onWrite = func(off int64, p []byte) error {
			if n++; n <= crash/4 {
				return nil
			}
			copy(m.data[off:], p[:100]) // its checksum lies behind
			return tear
		}
		s, err := Open(m, testOptions())
		if err == nil { // as many records as the mount writes were let through
			m.onWrite = nil
			if err := s.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, tear) {
			t.Fatalf("after %d power cuts: %v", crash, err)
		}
	}
	m.onWrite = nil
	s := mustOpen(t, m, testOptions())
	if back := s.Info().FellBack; back > 1 {
		t.Errorf("%d torn records behind the newest", back)
	}
	finish(t, s, m)
}

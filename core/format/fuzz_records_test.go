package format_test

import (
	"bytes"
	"errors"
	"testing"

	"permafrost/core/format"
)

// A target for each kind of record that has a decoder: what is accepted obeys
// the rules of docs/FORMAT.md and comes back byte for byte, what is refused is
// refused as a bad record, and describing either says a bounded line. (Targets
// and orphan and bad block records have no bytes to decode by themselves: core's
// FuzzImageRecords puts them into images.)

// describe says a line about a record of any kind, whatever its bytes are.
func describe(t *testing.T, kind uint8, v []byte) {
	t.Helper()
	if s := format.DescribeRecord(format.Key{Ino: 9, Kind: kind, Off: 1 << 16}, v); s == "" || len(s) > 6*len(v)+400 {
		t.Fatalf("%x is described by %d bytes", v, len(s))
	}
}

// refused holds an error of a decoder against what it may be.
func refused(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, format.ErrBadRecord) {
		t.Fatalf("%v is no refusal of a record", err)
	}
}

func addAll(f *testing.F, list [][]byte) {
	for _, v := range list {
		f.Add(v)
		f.Add(v[:len(v)-1])
	}
}

func FuzzInode(f *testing.F) {
	addAll(f, recordsOfKind(f, format.KindInode, 30))
	f.Fuzz(func(t *testing.T, v []byte) {
		describe(t, format.KindInode, v)
		var a, again format.Inode
		if err := a.Decode(v); err != nil {
			refused(t, err)
			return
		}
		if a.Nlink > format.MaxLinks || a.Size > format.MaxFileSize || a.Flags != 0 || !format.ValidType(a.Mode) || a.Nlink > 0 && a.Parent == 0 {
			t.Fatalf("accepted %+v", a)
		}
		b := make([]byte, format.InodeSize)
		a.Encode(b)
		if err := again.Decode(b); err != nil || again != a || !bytes.Equal(b, v) {
			t.Fatalf("%x comes back as %x, %v", v, b, err)
		}
	})
}

func FuzzDirent(f *testing.F) {
	addAll(f, recordsOfKind(f, format.KindDirent, 30))
	f.Fuzz(func(t *testing.T, v []byte) {
		describe(t, format.KindDirent, v)
		d, err := format.DecodeDirent(v)
		if err != nil {
			refused(t, err)
			return
		}
		if d.Ino == 0 || len(d.Name) == 0 || len(d.Name) > format.MaxName || bytes.ContainsAny(d.Name, "/\x00") || string(d.Name) == "." || string(d.Name) == ".." {
			t.Fatalf("accepted %+v", d)
		}
		if b := format.AppendDirent(nil, d.Ino, d.Type, string(d.Name)); !bytes.Equal(b, v) {
			t.Fatalf("%x comes back as %x", v, b)
		}
	})
}

func FuzzLink(f *testing.F) {
	addAll(f, recordsOfKind(f, format.KindLink, 10))
	f.Fuzz(func(t *testing.T, v []byte) {
		describe(t, format.KindLink, v)
		var l format.Link
		if err := l.Decode(v); err != nil {
			refused(t, err)
			return
		}
		b := make([]byte, format.LinkSize)
		if l.Encode(b); l.Parent == 0 || !bytes.Equal(b, v) {
			t.Fatalf("%x comes back as %x", v, b)
		}
	})
}

func FuzzExtent(f *testing.F) {
	addAll(f, recordsOfKind(f, format.KindExtent, 30))
	f.Fuzz(func(t *testing.T, v []byte) {
		describe(t, format.KindExtent, v)
		var e format.Extent
		if err := e.Decode(v); err != nil {
			refused(t, err)
			return
		}
		if e.Block == 0 || e.Count == 0 || e.Count > format.MaxExtent || uint64(e.Block)+e.Count > format.MaxImage/format.BlockSize {
			t.Fatalf("accepted %+v", e)
		}
		b := make([]byte, format.ExtentSize)
		if e.Encode(b); !bytes.Equal(b, v) {
			t.Fatalf("%x comes back as %x", v, b)
		}
	})
}

func FuzzXattr(f *testing.F) {
	addAll(f, recordsOfKind(f, format.KindXattr, 30))
	long, _ := format.AppendXattrHead(nil, "user.x", make([]byte, format.MaxXattrValue))
	f.Add(long)
	f.Fuzz(func(t *testing.T, v []byte) {
		describe(t, format.KindXattr, v)
		var h format.XattrHead
		if err := h.Decode(v); err != nil {
			refused(t, err)
			return
		}
		if h.Length > format.MaxXattrValue || uint64(len(h.Value)) > h.Length || h.XattrChunks() < 1 || h.XattrChunks() > 256 {
			t.Fatalf("accepted %+v of %d records", h, h.XattrChunks())
		}
		value := append(bytes.Clone(h.Value), make([]byte, h.Length-uint64(len(h.Value)))...)
		b, rest := format.AppendXattrHead(nil, string(h.Name), value)
		if !bytes.Equal(b, v) || len(rest) != len(value)-len(h.Value) || (len(rest)+format.ChunkSize-1)/format.ChunkSize != h.XattrChunks()-1 {
			t.Fatalf("%x comes back as %x and %d bytes in %d records", v, b, len(rest), h.XattrChunks()-1)
		}
	})
}

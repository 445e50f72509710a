package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

func sampleInode() Inode {
	return Inode{Mode: TypeRegular | 0o644, UID: 1, GID: 2, Nlink: 3, Rdev: 4, Size: 5, Blocks: 6,
		Atime: -7, Mtime: 8, Ctime: 9, Btime: 10, Parent: 11, Cookie: 12, Gen: 13}
}

func TestInodeRoundTrip(t *testing.T) {
	want := sampleInode()
	var b [InodeSize]byte
	want.Encode(b[:])
	var got Inode
	if err := got.Decode(b[:]); err != nil || got != want {
		t.Fatalf("got %+v, %v; want %+v", got, err, want)
	}
}

// Offsets of the inode record as docs/FORMAT.md gives them.
func TestInodeLayout(t *testing.T) {
	r := sampleInode()
	var b [InodeSize]byte
	r.Encode(b[:])
	for off, want := range map[int]uint64{24: 5, 32: 6, 48: 8, 56: 9, 64: 10, 72: 11, 80: 12, 88: 13} {
		if got := binary.LittleEndian.Uint64(b[off:]); got != want {
			t.Errorf("offset %d holds %d, want %d", off, got, want)
		}
	}
	for off, want := range map[int]uint32{0: TypeRegular | 0o644, 4: 1, 8: 2, 12: 3, 16: 0, 20: 4} {
		if got := binary.LittleEndian.Uint32(b[off:]); got != want {
			t.Errorf("offset %d holds %d, want %d", off, got, want)
		}
	}
}

func TestInodeRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Inode){
		"type": func(r *Inode) { r.Mode = 0o644 }, "mode": func(r *Inode) { r.Mode |= 1 << 20 },
		"links": func(r *Inode) { r.Nlink = MaxLinks + 1 }, "flags": func(r *Inode) { r.Flags = 1 },
		"size": func(r *Inode) { r.Size = 1 << 63 }, "parent": func(r *Inode) { r.Parent = 0 },
	} {
		r := sampleInode()
		spoil(&r)
		var b [InodeSize]byte
		r.Encode(b[:])
		if err := new(Inode).Decode(b[:]); !errors.Is(err, ErrBadRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDirent(t *testing.T) {
	var d Dirent
	if err := d.Decode(AppendDirent(nil, 7, TypeDir, "name")); err != nil || d.Ino != 7 || d.Type != TypeDir || string(d.Name) != "name" {
		t.Fatalf("%+v %v", d, err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "a\x00b", strings.Repeat("x", 256)} {
		if err := d.Decode(AppendDirent(nil, 7, TypeDir, name)); !errors.Is(err, ErrBadRecord) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, v := range [][]byte{AppendDirent(nil, 0, TypeDir, "a"), AppendDirent(nil, 1, 0, "a")} {
		if err := d.Decode(v); !errors.Is(err, ErrBadRecord) {
			t.Errorf("%x: %v", v, err)
		}
	}
}

func TestXattrHead(t *testing.T) {
	for _, n := range []int{0, 1, 950, 951, 5000, MaxXattrValue} {
		v := bytes.Repeat([]byte{7}, n)
		rec, rest := AppendXattrHead(nil, "user.a", v)
		var h XattrHead
		if err := h.Decode(rec); err != nil {
			t.Fatal(n, err)
		}
		if want := 1 + (len(rest)+ChunkSize-1)/ChunkSize; h.XattrChunks() != want || len(rec) > ChunkSize || h.XattrChunks() > 256 {
			t.Errorf("%d bytes: %d chunks, want %d, first of %d bytes", n, h.XattrChunks(), want, len(rec))
		}
		if err := h.Decode(rec[:len(rec)-1]); n > 0 && !errors.Is(err, ErrBadRecord) {
			t.Errorf("%d bytes, short record: %v", n, err)
		}
	}
}

// Vectors of the SipHash-2-4 reference implementation: key 00..0f, input 00..n-1.
func TestSipHash(t *testing.T) {
	var seed HashSeed
	var in [64]byte
	for i := range in {
		in[i] = byte(i)
	}
	copy(seed[:], in[:])
	for n, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5, 63: 0x958a324ceb064572} {
		if got := seed.Sum(in[:n]); got != want || seed.SumString(string(in[:n])) != want {
			t.Errorf("%d bytes: %#x, want %#x", n, got, want)
		}
	}
}

func TestCookies(t *testing.T) {
	for _, h := range []uint64{0, 1, 1 << 55, ^uint64(0)} {
		if c := CookieBase(h); c == 0 || int64(c|255) < 0 || c&255 != 0 {
			t.Errorf("hash %#x: cookie %#x", h, c)
		}
	}
}

func TestBadData(t *testing.T) {
	var b [BadDataSize]byte
	want := BadData{Ino: 7, Page: 1 << 40}
	want.Encode(b[:])
	if le.Uint64(b[0:]) != 7 || le.Uint64(b[8:]) != 1<<40 {
		t.Errorf("%x", b)
	}
	var got BadData
	if err := got.Decode(b[:]); err != nil || got != want {
		t.Fatal(got, err)
	}
	if s := DescribeRecord(Key{Kind: KindBadData, Off: 99}, b[:]); s != "block 99, page 1099511627776 of inode 7, is bad" {
		t.Error(s)
	}
	for _, v := range [][]byte{nil, b[:15], make([]byte, BadDataSize)} {
		if err := got.Decode(v); !errors.Is(err, ErrBadRecord) {
			t.Errorf("%x: %v", v, err)
		}
	}
}

package format_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"testing"

	"permafrost/core/format"
)

// realImages are the populated images that core keeps: seeds are cut out of
// them by docs/FORMAT.md, not by the program that is tested.
func realImages(t testing.TB) (images [][]byte) {
	t.Helper()
	for _, name := range []string{"clean", "frozen"} {
		f, err := os.Open("../testdata/" + name + ".img.gz")
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		images = append(images, p)
	}
	return images
}

// blocksWith is the blocks of the images with mark at byte at, most of each.
func blocksWith(t testing.TB, at int, mark string, most int) (list [][]byte) {
	t.Helper()
	for _, p := range realImages(t) {
		n := 0
		for ; len(p) > 0 && n < most; p = p[format.BlockSize:] {
			if b := p[:format.BlockSize]; string(b[at:at+len(mark)]) == mark {
				list = append(list, b)
				n++
			}
		}
	}
	if len(list) == 0 {
		t.Fatalf("no block has %q at byte %d", mark, at)
	}
	return list
}

// nodeMark is the magic number of a node, at byte 4.
const nodeMark = "\x50\x6e"

// recordsOfKind is values of a kind of record, most of each image, different.
func recordsOfKind(t testing.TB, kind uint8, most int) (list [][]byte) {
	t.Helper()
	le := binary.LittleEndian
	for _, b := range blocksWith(t, 4, nodeMark, 1<<10) {
		for i := range int(le.Uint16(b[24:])) {
			s := b[32+24*i:]
			if b[6] != 0 || s[16] != kind || le.Uint64(s) == 0 || len(list) == most {
				continue
			}
			v := b[le.Uint16(s[18:]):][:le.Uint16(s[20:])]
			if !containsBytes(list, v) {
				list = append(list, bytes.Clone(v))
			}
		}
	}
	if len(list) == 0 {
		t.Fatalf("no record of kind %d", kind)
	}
	return list
}

func containsBytes(list [][]byte, v []byte) bool {
	for _, x := range list {
		if bytes.Equal(x, v) {
			return true
		}
	}
	return false
}

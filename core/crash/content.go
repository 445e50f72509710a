package crash

import (
	"bytes"
	"fmt"
	"strings"

	"permafrost/core/format"
)

// What a file must hold after an operation, by rules of its own: the history of a
// workload is taken from the file system itself, and would else believe it when
// it shows wrong bytes without any crash.

// contents is the bytes of every file, by inode.
type contents map[format.Ino][]byte

// bytesOf assembles a state's files.
func (s *state) contents() contents {
	c := make(contents, len(s.files))
	for i := range s.files {
		f := &s.files[i]
		data := make([]byte, f.size)
		for n, pg := range f.pages {
			copy(data[int64(n)*format.PageSize:], pg.data)
		}
		c[f.ino] = data
	}
	return c
}

// verify compares what the files hold after an operation with what they must:
// the file it worked on what the operation makes of it, every other what it was.
func (c contents) verify(op Op, target format.Ino, fill func(n int64) []byte, after contents) error {
	for ino, got := range after {
		want, known := c[ino]
		if ino == target {
			want = apply(op, want, fill)
		} else if !known {
			continue // it is new, and another operation's to judge
		}
		if bytes.Equal(got, want) {
			continue
		}
		i := 0
		for i < len(got) && i < len(want) && got[i] == want[i] {
			i++
		}
		return fmt.Errorf("after %q inode %d has %d bytes, want %d, and differs at byte %d", op, ino, len(got), len(want), i)
	}
	return nil
}

// apply is what an operation makes of a file's bytes.
func apply(op Op, data []byte, fill func(n int64) []byte) []byte {
	f := strings.Fields(string(op))
	a := args(f[1:])
	put := func(off int64, p []byte) []byte {
		data = resize(data, max(int64(len(data)), off+int64(len(p))))
		copy(data[off:], p)
		return data
	}
	zero := func(off, end int64) []byte {
		data = bytes.Clone(data)
		if end = min(end, int64(len(data))); off < end {
			clear(data[off:end])
		}
		return data
	}
	switch f[0] {
	case "write":
		return put(a.num(1), fill(a.num(2)))
	case "append":
		return put(int64(len(data)), fill(a.num(1)))
	case "put":
		return fill(a.num(1))
	case "linktmp":
		return fill(0)
	case "truncate":
		return resize(data, a.num(1))
	case "falloc":
		return resize(data, max(int64(len(data)), a.num(1)+a.num(2)))
	case "punch", "zerokeep":
		return zero(a.num(1), a.num(1)+a.num(2))
	case "zero":
		data = resize(data, max(int64(len(data)), a.num(1)+a.num(2)))
		return zero(a.num(1), a.num(1)+a.num(2))
	case "store":
		data = bytes.Clone(data)
		for i, off := range storeOffsets { // what lies past the end of the file stays there, unseen
			if off += a.num(1) * format.PageSize; off < int64(len(data)) {
				copy(data[off:], word(fill(1)[0], i))
			}
		}
	}
	return data
}

// resize cuts a copy of data, or extends it with zeros.
func resize(data []byte, n int64) []byte {
	out := make([]byte, n)
	copy(out, data)
	return out
}

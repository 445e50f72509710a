package crash

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"permafrost/core"
	"permafrost/core/format"
)

// state is what a reader sees of a mounted file system, but for times.
type state struct {
	meta  string // names, types, modes, links, sizes, attributes, targets: one line a name
	files []file // each regular file once, by its first path in order
}

// file is the content of one.
type file struct {
	path  string // its first name in order
	ino   format.Ino
	size  int64
	pages map[format.Page]page // those that have a block
}

// page is one page of a file with its block.
type page struct {
	block format.Block
	life  int // of its block as this page of this file: see history
	data  []byte
}

// maxSize bounds what is read of a file: the images are small.
const maxSize = 1 << 20

// lookAt reads everything.
func lookAt(fs *core.FS) (*state, error) {
	s := &state{}
	var lines []string
	first := make(map[format.Ino]string)
	queue := []place{{"", format.RootIno}}
	for len(queue) > 0 {
		dir := queue[0]
		queue = queue[1:]
		names, err := listDir(fs, dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			path := dir.path + "/" + name
			a, err := fs.Lookup(ctx, dir.ino, name)
			if err != nil {
				return nil, fmt.Errorf("%s is listed, but: %w", path, err)
			}
			line, err := describe(fs, path, &a, first)
			if err != nil {
				return nil, err
			}
			lines = append(lines, line)
			switch {
			case a.Mode&format.TypeMask == format.TypeDir:
				queue = append(queue, place{path, a.Ino})
			case a.Mode&format.TypeMask == format.TypeRegular && first[a.Ino] == path:
				f, err := readFile(fs, path, &a)
				if err != nil {
					return nil, err
				}
				s.files = append(s.files, f)
			}
		}
	}
	s.meta = strings.Join(lines, "\n")
	return s, nil
}

// place is a directory.
type place struct {
	path string
	ino  format.Ino
}

// listDir is a directory's names in order.
func listDir(fs *core.FS, d place) ([]string, error) {
	var names []string
	for cursor := uint64(0); ; {
		page, err := fs.ReadDir(ctx, d.ino, cursor, 100)
		if err != nil {
			return nil, fmt.Errorf("list %s/: %w", d.path, err)
		}
		for _, e := range page {
			names = append(names, e.Name)
			cursor = e.Cursor
		}
		if len(page) == 0 {
			break
		}
	}
	slices.Sort(names)
	if n := len(names); len(slices.Compact(slices.Clone(names))) != n {
		return nil, fmt.Errorf("%s/ lists a name twice: %v", d.path, names)
	}
	return names, nil
}

// describe is one line of meta. first remembers the first path of each inode.
func describe(fs *core.FS, path string, a *core.Attr, first map[format.Ino]string) (string, error) {
	if _, ok := first[a.Ino]; !ok {
		first[a.Ino] = path
	}
	line := fmt.Sprintf("%s mode=%o links=%d uid=%d", path, a.Mode, a.Nlink, a.UID)
	if a.Mode&format.TypeMask != format.TypeDir {
		line += fmt.Sprintf(" size=%d is=%s", a.Size, first[a.Ino])
	}
	if a.Mode&format.TypeMask == format.TypeSymlink {
		t, err := fs.Readlink(ctx, a.Ino)
		if err != nil {
			return "", fmt.Errorf("read link %s: %w", path, err)
		}
		line += fmt.Sprintf(" target=%d:%08x", len(t), crc32.ChecksumIEEE([]byte(t)))
	}
	names, err := fs.ListXattr(ctx, a.Ino)
	if err != nil {
		return "", fmt.Errorf("attributes of %s: %w", path, err)
	}
	slices.Sort(names)
	for _, n := range names {
		v, err := fs.GetXattr(ctx, a.Ino, n)
		if err != nil {
			return "", fmt.Errorf("attribute %s of %s: %w", n, path, err)
		}
		line += fmt.Sprintf(" %s=%d:%08x", n, len(v), crc32.ChecksumIEEE(v))
	}
	return line, nil
}

func readFile(fs *core.FS, path string, a *core.Attr) (file, error) {
	f := file{path: path, ino: a.Ino, size: a.Size, pages: make(map[format.Page]page)}
	if a.Size > maxSize {
		return f, fmt.Errorf("%s has %d bytes, more than any workload writes", path, a.Size)
	}
	data := make([]byte, a.Size)
	if n, err := fs.ReadAt(ctx, a.Ino, data, 0); err != nil && !errors.Is(err, io.EOF) || int64(n) != a.Size {
		return f, fmt.Errorf("read %s: %d of %d bytes: %w", path, n, a.Size, err)
	}
	exts, err := fs.Extents(ctx, a.Ino, 0, 1000)
	if err != nil {
		return f, fmt.Errorf("extents of %s: %w", path, err)
	}
	for _, e := range exts {
		for i := range format.Page(e.Count) {
			off := int64(e.Page+i) * format.PageSize
			if off < a.Size {
				f.pages[e.Page+i] = page{block: e.Block + format.Block(i), data: data[off:min(off+format.PageSize, a.Size)]}
			}
		}
	}
	return f, holesAreZero(&f, data)
}

// holesAreZero: what has no block reads as zeros.
func holesAreZero(f *file, data []byte) error {
	for off := int64(0); off < f.size; off += format.PageSize {
		if _, ok := f.pages[format.Page(off/format.PageSize)]; ok {
			continue
		}
		for i, b := range data[off:min(off+format.PageSize, f.size)] {
			if b != 0 {
				return fmt.Errorf("byte %d of %s lies in a hole and reads as %#x", off+int64(i), f.path, b)
			}
		}
	}
	return nil
}

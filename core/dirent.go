package core

import (
	"errors"
	"fmt"
	"strings"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// direntBuf has room for the record of any name.
type direntBuf [format.MaxName + 16]byte

// nameEntry is what findName found.
type nameEntry struct {
	ino    format.Ino // 0: the name is free
	typ    uint32
	cookie uint64 // of the entry, or of where it would go; 0: no room
}

// checkName refuses names that no entry can have.
func checkName(name string) error {
	if len(name) > format.MaxName {
		return fmt.Errorf("name %.40q...: %w", name, ErrNameTooLong)
	}
	if why := format.NameProblem(name); why != "" {
		return fmt.Errorf("name %q %s: %w", name, why, ErrInvalid)
	}
	return nil
}

// findName looks name up in a directory. The directory's lock keeps the
// answer true; without it the answer is of one moment.
//
// Names of one hash stand at consecutive offsets, so that the greatest of them
// is found with one descent, whether or not the name exists.
func (fs *FS) findName(dir format.Ino, name string) (nameEntry, error) {
	base := format.CookieBase(fs.seed.SumString(name) & fs.hashMask)
	last := base | (format.MaxCollisions - 1)
	var buf direntBuf
	free, above := uint64(0), last+1
	for at := last; ; {
		k, v, err := fs.store.SeekLE(key(dir, format.KindDirent, at), buf[:0])
		if err != nil && !errors.Is(err, tree.ErrNotFound) {
			return nameEntry{}, ioError(err, "look up %q in directory %d", name, dir)
		}
		if err != nil || k.Ino != dir || k.Kind != format.KindDirent || k.Off < base {
			if above > base {
				free = base
			}
			return nameEntry{cookie: free}, nil
		}
		d, err := format.DecodeDirent(v)
		if err != nil {
			return nameEntry{}, ioError(err, "look up %q in directory %d", name, dir)
		}
		if string(d.Name) == name {
			if d.Ino == dir { // its lock would be waited for with it held
				return nameEntry{}, ioError(format.ErrBadRecord, "%q in directory %d means the directory itself", name, dir)
			}
			return nameEntry{ino: d.Ino, typ: d.Type, cookie: k.Off}, nil
		}
		if k.Off+1 < above {
			free = k.Off + 1
		}
		above = k.Off
		if k.Off == base {
			return nameEntry{cookie: free}, nil
		}
		at = k.Off - 1
	}
}

// nameAt is the name that stands at a cookie of a directory.
func (fs *FS) nameAt(dir format.Ino, cookie uint64) (string, format.Ino, error) {
	var buf direntBuf
	v, err := fs.store.Get(key(dir, format.KindDirent, cookie), buf[:0])
	if err != nil {
		return "", 0, err
	}
	d, err := format.DecodeDirent(v)
	if err != nil {
		return "", 0, err
	}
	return string(d.Name), d.Ino, nil
}

// putName writes an entry at its cookie.
func (t *txn) putName(dir format.Ino, cookie uint64, name string, ino format.Ino, mode uint32) {
	var buf direntBuf
	t.put(key(dir, format.KindDirent, cookie), format.AppendDirent(buf[:0], ino, mode&format.TypeMask, name))
}

// addName puts a new entry into a locked directory and counts it.
func (t *txn) addName(dir *inode, cookie uint64, name string, child *inode, now int64) {
	t.putName(dir.ino, cookie, name, child.ino, child.a.Mode)
	dir.a.Size++
	if child.isDirLocked() {
		dir.a.Nlink++
	}
	t.stamp(dir, now)
}

// dropName takes an entry out of a locked directory.
func (t *txn) dropName(dir *inode, cookie uint64, child *inode, now int64) {
	t.del(key(dir.ino, format.KindDirent, cookie))
	dir.a.Size--
	if child.isDirLocked() {
		dir.a.Nlink--
	}
	t.stamp(dir, now)
}

// addBackPointer remembers a further hard link's name in the inode.
func (t *txn) addBackPointer(in *inode, l format.Link) error {
	off, err := t.fs.findLink(in.ino, l, true)
	if err != nil {
		return err
	}
	var b [format.LinkSize]byte
	l.Encode(b[:])
	t.put(key(in.ino, format.KindLink, off), b[:])
	return nil
}

// dropBackPointer forgets one name of a locked inode that keeps others. If it
// was the primary one, another takes its place.
func (t *txn) dropBackPointer(in *inode, l format.Link) error {
	if in.a.Parent != l.Parent || in.a.Cookie != l.Cookie {
		off, err := t.fs.findLink(in.ino, l, false)
		if err != nil {
			return err
		}
		t.del(key(in.ino, format.KindLink, off))
		return nil
	}
	var buf [64]byte
	k, v, err := t.fs.store.SeekLE(key(in.ino, format.KindLink, ^uint64(0)), buf[:0])
	if err == nil && (k.Ino != in.ino || k.Kind != format.KindLink) {
		err = fmt.Errorf("%w: inode %d has more links than back-pointers", format.ErrBadRecord, in.ino)
	}
	var next format.Link
	if err == nil {
		err = next.Decode(v)
	}
	if err != nil {
		return ioError(err, "find another name of inode %d", in.ino)
	}
	t.del(k)
	in.a.Parent, in.a.Cookie = next.Parent, next.Cookie
	return nil
}

// findLink finds the offset of a back-pointer, or with free a free one for it.
func (fs *FS) findLink(ino format.Ino, l format.Link, free bool) (uint64, error) {
	base := format.CookieBase(fs.seed.LinkHash(l) & fs.hashMask)
	var buf [64]byte
	for off := base; off < base+format.MaxCollisions; off++ {
		v, err := fs.store.Get(key(ino, format.KindLink, off), buf[:0])
		if errors.Is(err, tree.ErrNotFound) {
			if free {
				return off, nil
			}
			continue // a gap that a removed one left
		}
		var got format.Link
		if err == nil {
			err = got.Decode(v)
		}
		if err != nil {
			return 0, ioError(err, "read the links of inode %d", ino)
		}
		if got == l && !free {
			return off, nil
		}
	}
	if free {
		return 0, fmt.Errorf("inode %d: %d links of one hash: %w", ino, format.MaxCollisions, ErrTooManyLink)
	}
	return 0, ioError(format.ErrBadRecord, "inode %d has no back-pointer to directory %d", ino, l.Parent)
}

// splitPath cuts a path into its names. It refuses "." and "..": a path here
// always starts at the root and names what it means.
func splitPath(path string) ([]string, error) {
	if len(path) > format.MaxPath {
		return nil, fmt.Errorf("path of %d bytes, at most %d are allowed: %w", len(path), format.MaxPath, ErrNameTooLong)
	}
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("path: %w", err)
		}
		names = append(names, name)
	}
	return names, nil
}

package format

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kinds of records. A record's key is (inode, kind, offset); the kind decides
// what the offset and the value mean (docs/FORMAT.md, "Records"). Numbers are
// append-only.
const (
	KindInode   uint8 = 1 // offset 0: the inode itself
	KindLink    uint8 = 2 // offset: hash of (parent, cookie): back-pointer of a further hard link
	KindDirent  uint8 = 3 // offset: cookie of the name
	KindExtent  uint8 = 4 // offset: first page of the file
	KindSymlink uint8 = 5 // offset: chunk number of the target
	KindXattr   uint8 = 6 // offset: hash of the name, collision index, chunk number
	KindOrphan  uint8 = 7 // inode OrphanIno, offset: inode number without a name
)

// OrphanIno is the inode number under which orphans are kept. No inode has it.
const OrphanIno Ino = 0

// Limits of names, values and counts.
const (
	MaxName       = 255       // bytes of a directory entry's name
	MaxPath       = 4096      // bytes of a path given by a caller
	MaxTarget     = 4095      // bytes of a symlink's target
	MaxLinks      = 65000     // names of one inode; subdirectories of one directory + 2
	MaxFileSize   = 1<<63 - 1 // bytes
	MaxXattrName  = 255       // bytes
	MaxXattrValue = 64 << 10  // bytes
	ChunkSize     = 960       // bytes of a symlink's or attribute's value in one record
	MaxExtent     = 1<<32 - 1 // pages of one extent
)

// ErrBadRecord is wrapped by every decoder's error.
var ErrBadRecord = errors.New("bad record")

func bad(what, why string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrBadRecord, what, fmt.Sprintf(why, args...))
}

// File types: the S_IFMT part of a mode.
const (
	TypeMask    uint32 = 0o170000
	TypeFIFO    uint32 = 0o010000
	TypeChar    uint32 = 0o020000
	TypeDir     uint32 = 0o040000
	TypeBlock   uint32 = 0o060000
	TypeRegular uint32 = 0o100000
	TypeSymlink uint32 = 0o120000
	TypeSocket  uint32 = 0o140000
)

// ValidType reports whether mode has one of the seven file types.
func ValidType(mode uint32) bool {
	switch mode & TypeMask {
	case TypeFIFO, TypeChar, TypeDir, TypeBlock, TypeRegular, TypeSymlink, TypeSocket:
		return true
	}
	return false
}

// Inode is the record of one inode. Times are nanoseconds since 1970 UTC.
type Inode struct {
	Mode   uint32 // type and permission bits as in stat(2)
	UID    uint32
	GID    uint32
	Nlink  uint32 // names; a directory counts 2 and its subdirectories; 0: orphan
	Flags  uint32 // none defined: 0
	Rdev   uint32
	Size   uint64 // bytes; a directory: its names
	Blocks uint64 // data blocks its extents hold
	Atime  int64
	Mtime  int64
	Ctime  int64
	Btime  int64
	Parent Ino        // directory of the primary name, 0: none
	Cookie uint64     // offset of the primary name's dirent in Parent
	Gen    Generation // group that last changed the inode
}

// InodeSize is the length of an inode record in bytes.
const InodeSize = 96

// Encode stores r in b, which has InodeSize bytes.
func (r *Inode) Encode(b []byte) {
	le := binary.LittleEndian
	_ = b[InodeSize-1]
	le.PutUint32(b[0:], r.Mode)
	le.PutUint32(b[4:], r.UID)
	le.PutUint32(b[8:], r.GID)
	le.PutUint32(b[12:], r.Nlink)
	le.PutUint32(b[16:], r.Flags)
	le.PutUint32(b[20:], r.Rdev)
	le.PutUint64(b[24:], r.Size)
	le.PutUint64(b[32:], r.Blocks)
	le.PutUint64(b[40:], uint64(r.Atime))
	le.PutUint64(b[48:], uint64(r.Mtime))
	le.PutUint64(b[56:], uint64(r.Ctime))
	le.PutUint64(b[64:], uint64(r.Btime))
	le.PutUint64(b[72:], uint64(r.Parent))
	le.PutUint64(b[80:], r.Cookie)
	le.PutUint64(b[88:], uint64(r.Gen))
}

// Decode reads r from v and verifies it. The error wraps ErrBadRecord.
func (r *Inode) Decode(v []byte) error {
	if len(v) != InodeSize {
		return bad("inode", "length %d, not %d", len(v), InodeSize)
	}
	le := binary.LittleEndian
	*r = Inode{
		Mode: le.Uint32(v[0:]), UID: le.Uint32(v[4:]), GID: le.Uint32(v[8:]),
		Nlink: le.Uint32(v[12:]), Flags: le.Uint32(v[16:]), Rdev: le.Uint32(v[20:]),
		Size: le.Uint64(v[24:]), Blocks: le.Uint64(v[32:]),
		Atime: int64(le.Uint64(v[40:])), Mtime: int64(le.Uint64(v[48:])),
		Ctime: int64(le.Uint64(v[56:])), Btime: int64(le.Uint64(v[64:])),
		Parent: Ino(le.Uint64(v[72:])), Cookie: le.Uint64(v[80:]),
		Gen: Generation(le.Uint64(v[88:])),
	}
	switch {
	case !ValidType(r.Mode) || r.Mode>>16 != 0:
		return bad("inode", "mode %#o has no known type", r.Mode)
	case r.Nlink > MaxLinks:
		return bad("inode", "link count %d over %d", r.Nlink, MaxLinks)
	case r.Flags != 0:
		return bad("inode", "unknown flags %#x", r.Flags)
	case r.Size > MaxFileSize:
		return bad("inode", "size %d over the limit", r.Size)
	case r.Nlink > 0 && r.Parent == 0:
		return bad("inode", "link count %d without a parent", r.Nlink)
	}
	return nil
}

// Dirent is one name of a directory.
type Dirent struct {
	Ino  Ino
	Type uint32 // S_IFMT bits of the inode
	Name []byte // shares the buffer it was decoded from
}

// direntHead is the bytes of a dirent before its name.
const direntHead = 9

// AppendDirent appends the record of a name to b.
func AppendDirent(b []byte, ino Ino, typ uint32, name string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(ino))
	b = append(b, byte(typ>>12))
	return append(b, name...)
}

// Decode reads d from v and verifies it. The error wraps ErrBadRecord.
func (d *Dirent) Decode(v []byte) (err error) {
	*d, err = DecodeDirent(v)
	return err
}

// DecodeDirent is Decode by value, which lets v stay on its owner's stack.
func DecodeDirent(v []byte) (d Dirent, err error) {
	if len(v) <= direntHead || len(v) > direntHead+MaxName {
		return d, bad("dirent", "length %d", len(v))
	}
	d.Ino = Ino(binary.LittleEndian.Uint64(v))
	d.Type = uint32(v[8]) << 12
	d.Name = v[direntHead:]
	switch {
	case d.Ino == 0:
		return d, bad("dirent", "inode 0")
	case !ValidType(d.Type):
		return d, bad("dirent", "type %#o", d.Type)
	}
	if why := NameProblem(d.Name); why != "" {
		return d, bad("dirent", "name %s", why)
	}
	return d, nil
}

// NameProblem says what is wrong with a file name, "" if nothing is.
func NameProblem[T []byte | string](name T) string {
	switch {
	case len(name) == 0:
		return "is empty"
	case len(name) > MaxName:
		return "is longer than 255 bytes"
	case len(name) == 1 && name[0] == '.', len(name) == 2 && name[0] == '.' && name[1] == '.':
		return "is . or .."
	}
	for i := range len(name) {
		switch name[i] {
		case 0:
			return "holds a NUL byte"
		case '/':
			return "holds a slash"
		}
	}
	return ""
}

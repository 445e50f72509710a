package format

import (
	"fmt"
	"strings"
)

// VerifySelf checks a node of block b by what it says of itself: all of Verify
// but whether it is the node that a pointer means.
//
// Errors: ErrDamaged.
func (n *Node) VerifySelf(b Block) error {
	if n.Level() > MaxLevel {
		return damaged(b, "a tree node of level %d, at most %d", n.Level(), MaxLevel)
	}
	return n.Verify(Ptr{Block: b, Birth: n.Birth(), CRC: n.Sum()}, n.Level())
}

// VerifyValues checks that no two values of a leaf that passed Verify overlap.
// Check and Repair ask; lookups do not, to whom it would cost as much as the
// checksum, and whom only bytes that were made so on purpose could harm.
//
// Errors: ErrDamaged.
func (n *Node) VerifyValues() error {
	if n.Level() > 0 {
		return nil
	}
	var taken [BlockSize / 64]uint64
	for i := range n.Count() {
		for off, end := n.span(i); off < end; {
			width := min(64-off%64, end-off)
			mask := ^uint64(0) >> (64 - width) << (off % 64)
			if taken[off/64]&mask != 0 {
				return damaged(n.Block(), "the value of record %d lies over another", i)
			}
			taken[off/64] |= mask
			off += width
		}
	}
	return nil
}

// DescribeNode tells the fields of a node's header, damaged or not.
func DescribeNode(n *Node) []Field {
	f := &fields{p: n[:]}
	f.crc(ndCRC, n[ndMagic:])
	f.hex(ndMagic, 2, "magic", "%s", yes(le.Uint16(n[ndMagic:]) == nodeMagic, "a tree node"))
	kind := "inner node"
	if n.Level() == 0 {
		kind = "leaf"
	}
	f.num(ndLevel, 1, "level", "%s", kind)
	f.num(ndShard, 1, "shard", "which root leads to it")
	f.num(ndBirth, 8, "birth", "generation that made it")
	f.num(ndBlock, 8, "block", "its own place")
	f.num(ndCount, 2, "count", "records or children, at most %d", NodeCap/n.stride())
	if n.Level() == 0 {
		f.num(ndLow, 2, "low", "lowest byte used by values")
		f.num(ndDead, 2, "dead", "bytes above it that belong to no record")
	}
	return f.list
}

// NodeSlot is one slot of a node, read without trust in the node.
type NodeSlot struct {
	Off   int // bytes from the start of the node
	Size  int // bytes
	Key   Key
	Child Ptr    // of an inner node
	At    int    // of a leaf: where the value lies
	Value []byte // of a leaf, inside the node; nil if Bad
	Bad   string // why the slot cannot be read, "" if it can
}

// Slots reads the slots of a node that may be damaged: as many as it claims,
// but no more than fit.
func (n *Node) Slots() []NodeSlot {
	stride := n.stride()
	list := make([]NodeSlot, min(n.Count(), NodeCap/stride))
	for i := range list {
		at := ndSlots + i*stride
		s := NodeSlot{Off: at, Size: stride, Key: n.Key(i)}
		if n.Level() > 0 {
			s.Child = n.Child(i)
		} else {
			off, end := n.span(i)
			s.At = off
			if off < ndSlots || end > BlockSize {
				s.Bad = fmt.Sprintf("its value, bytes %d to %d, lies outside the node", off, end)
			} else {
				s.Value = n[off:end:end]
			}
		}
		list[i] = s
	}
	return list
}

// KindName names a kind of records.
func KindName(ino Ino, kind uint8) string {
	if ino == OrphanIno {
		switch kind {
		case KindBadBlock:
			return "badblock"
		case KindBadData:
			return "baddata"
		case KindOrphan:
			return "orphan"
		}
		return fmt.Sprintf("kind %d", kind)
	}
	switch kind {
	case KindInode:
		return "inode"
	case KindLink:
		return "link"
	case KindDirent:
		return "dirent"
	case KindExtent:
		return "extent"
	case KindSymlink:
		return "symlink"
	case KindXattr:
		return "xattr"
	}
	return fmt.Sprintf("kind %d", kind)
}

// DescribeRecord says in one line what a record means, and what is wrong with
// one that cannot be read.
func DescribeRecord(k Key, v []byte) string {
	s, err := describeRecord(k, v)
	if err != nil {
		return "BAD: " + err.Error()
	}
	return s
}

func describeRecord(k Key, v []byte) (string, error) {
	if k.Ino == OrphanIno {
		switch k.Kind {
		case KindBadBlock:
			return fmt.Sprintf("block %d is never allocated", k.Off), nil
		case KindBadData:
			var d BadData
			err := d.Decode(v)
			return fmt.Sprintf("block %d, page %d of inode %d, is bad", k.Off, d.Page, d.Ino), err
		case KindOrphan:
			return fmt.Sprintf("inode %d has no name and is to be freed", k.Off), nil
		}
		return fmt.Sprintf("%d bytes of an unknown kind", len(v)), nil
	}
	switch k.Kind {
	case KindInode:
		var r Inode
		err := r.Decode(v)
		return fmt.Sprintf("%s, %d bytes, %d blocks, %d links, name at cookie %#x of directory %d", ModeString(r.Mode), r.Size, r.Blocks, r.Nlink, r.Cookie, r.Parent), err
	case KindLink:
		var l Link
		err := l.Decode(v)
		return fmt.Sprintf("a further name at cookie %#x of directory %d", l.Cookie, l.Parent), err
	case KindDirent:
		var d Dirent
		err := d.Decode(v)
		return fmt.Sprintf("%q is inode %d, %s", d.Name, d.Ino, TypeName(d.Type)), err
	case KindExtent:
		var e Extent
		err := e.Decode(v)
		return fmt.Sprintf("pages %d to %d are blocks %d to %d", k.Off, k.Off+e.Count-1, e.Block, uint64(e.Block)+e.Count-1), err
	case KindSymlink:
		return fmt.Sprintf("chunk %d of the target: %.80q", k.Off, v), nil
	case KindXattr:
		if chunk := k.Off & 255; chunk != 0 {
			return fmt.Sprintf("chunk %d of an attribute: %d bytes", chunk, len(v)), nil
		}
		var h XattrHead
		err := h.Decode(v)
		return fmt.Sprintf("%q: %d bytes in %d records", h.Name, h.Length, h.XattrChunks()), err
	}
	return "", bad("record", "unknown kind %d", k.Kind)
}

// DescribeInode tells the fields of an inode record, which has InodeSize bytes.
func DescribeInode(v *[InodeSize]byte) []Field {
	f := &fields{p: v[:]}
	mode := le.Uint32(v[0:])
	f.add(0, 4, "mode", fmt.Sprintf("%#o", mode), "%s", ModeString(mode))
	f.num(4, 4, "uid", "owner")
	f.num(8, 4, "gid", "group")
	f.num(12, 4, "nlink", "names; a directory counts 2 and its subdirectories; 0: orphan")
	f.hex(16, 4, "flags", "none defined")
	f.num(20, 4, "rdev", "device number")
	f.num(24, 8, "size", "bytes; a directory: its names")
	f.num(32, 8, "blocks", "data blocks its extents hold")
	for i, name := range []string{"atime", "mtime", "ctime", "btime"} {
		f.num(40+8*i, 8, name, "%s", stamp(int64(le.Uint64(v[40+8*i:]))))
	}
	f.num(72, 8, "parent", "directory of the primary name")
	f.hex(80, 8, "cookie", "offset of that name in the directory")
	f.num(88, 8, "gen", "group that last changed the inode")
	return f.list
}

// TypeName names the type of a mode.
func TypeName(mode uint32) string {
	switch mode & TypeMask {
	case TypeFIFO:
		return "fifo"
	case TypeChar:
		return "char device"
	case TypeDir:
		return "directory"
	case TypeBlock:
		return "block device"
	case TypeRegular:
		return "regular file"
	case TypeSymlink:
		return "symlink"
	case TypeSocket:
		return "socket"
	}
	return fmt.Sprintf("unknown type %#o", mode&TypeMask)
}

// ModeString writes a mode as ls does.
func ModeString(mode uint32) string {
	types := map[uint32]byte{TypeFIFO: 'p', TypeChar: 'c', TypeDir: 'd', TypeBlock: 'b', TypeRegular: '-', TypeSymlink: 'l', TypeSocket: 's'}
	var b strings.Builder
	if c, ok := types[mode&TypeMask]; ok {
		b.WriteByte(c)
	} else {
		b.WriteByte('?')
	}
	for i := 8; i >= 0; i-- {
		c := byte('-')
		if mode>>i&1 != 0 {
			c = "xwr"[i%3]
		}
		if s := mode >> (9 + i/3) & 1; i%3 == 0 && s != 0 { // sticky, setgid, setuid
			c = "tss"[i/3] - 32*byte(1-mode>>i&1)
		}
		b.WriteByte(c)
	}
	return b.String()
}

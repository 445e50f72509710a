package format

import "encoding/binary"

// Extent is the record of a run of pages of a file; its first page is the
// key's offset.
type Extent struct {
	Block Block
	Count uint64 // pages and blocks, 1..MaxExtent
}

// ExtentSize is the length of an extent record in bytes.
const ExtentSize = 16

// Encode stores e in b, which has ExtentSize bytes.
func (e Extent) Encode(b []byte) {
	_ = b[ExtentSize-1]
	binary.LittleEndian.PutUint64(b[0:], uint64(e.Block))
	binary.LittleEndian.PutUint64(b[8:], e.Count)
}

// Decode reads e from v and verifies it against itself; that it lies in the
// image is the reader's to verify. The error wraps ErrBadRecord.
func (e *Extent) Decode(v []byte) error {
	if len(v) != ExtentSize {
		return bad("extent", "length %d, not %d", len(v), ExtentSize)
	}
	e.Block = Block(binary.LittleEndian.Uint64(v[0:]))
	e.Count = binary.LittleEndian.Uint64(v[8:])
	switch {
	case e.Count == 0 || e.Count > MaxExtent:
		return bad("extent", "count %d", e.Count)
	case e.Block == 0 || uint64(e.Block) > MaxImage/BlockSize-e.Count:
		return bad("extent", "blocks %d+%d", e.Block, e.Count)
	}
	return nil
}

// Link is the back-pointer of a hard link beyond the primary name.
type Link struct {
	Parent Ino
	Cookie uint64 // offset of the dirent in Parent
}

// LinkSize is the length of a link record in bytes.
const LinkSize = 16

// Encode stores l in b, which has LinkSize bytes.
func (l Link) Encode(b []byte) {
	_ = b[LinkSize-1]
	binary.LittleEndian.PutUint64(b[0:], uint64(l.Parent))
	binary.LittleEndian.PutUint64(b[8:], l.Cookie)
}

// Decode reads l from v and verifies it. The error wraps ErrBadRecord.
func (l *Link) Decode(v []byte) error {
	if len(v) != LinkSize {
		return bad("link", "length %d, not %d", len(v), LinkSize)
	}
	l.Parent = Ino(binary.LittleEndian.Uint64(v[0:]))
	l.Cookie = binary.LittleEndian.Uint64(v[8:])
	if l.Parent == 0 {
		return bad("link", "parent 0")
	}
	return nil
}

// XattrHead is the first record of an extended attribute: name, length of the
// value and the value's beginning. The rest follows in records of ChunkSize.
type XattrHead struct {
	Length uint64 // bytes of the whole value
	Name   []byte // shares the buffer it was decoded from
	Value  []byte // as much of the value as this record holds; shares the buffer
}

// xattrHead is the bytes before the name: u32 length of the value, u8 length
// of the name.
const xattrHead = 5

// AppendXattrHead appends the first record of an attribute to b and returns
// the part of value that did not fit.
func AppendXattrHead(b []byte, name string, value []byte) (rec, rest []byte) {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(value)))
	b = append(b, byte(len(name)))
	b = append(b, name...)
	n := min(len(value), ChunkSize-xattrHead-len(name))
	return append(b, value[:n]...), value[n:]
}

// Decode reads h from v and verifies it. The error wraps ErrBadRecord.
func (h *XattrHead) Decode(v []byte) error {
	if len(v) < xattrHead+1 || len(v) > ChunkSize {
		return bad("xattr", "length %d", len(v))
	}
	h.Length = uint64(binary.LittleEndian.Uint32(v))
	n := int(v[4])
	if n == 0 || xattrHead+n > len(v) {
		return bad("xattr", "name of %d bytes in a record of %d", n, len(v))
	}
	h.Name, h.Value = v[xattrHead:xattrHead+n], v[xattrHead+n:]
	switch {
	case h.Length > MaxXattrValue:
		return bad("xattr", "value of %d bytes", h.Length)
	case uint64(len(h.Value)) != min(h.Length, uint64(ChunkSize-xattrHead-n)):
		return bad("xattr", "holds %d of %d bytes", len(h.Value), h.Length)
	}
	return nil
}

// XattrChunks is how many records the attribute takes, the first included.
func (h *XattrHead) XattrChunks() int {
	return 1 + int((h.Length-uint64(len(h.Value))+ChunkSize-1)/ChunkSize)
}

// BadData is the record of a bad block that belongs to a file: which page of
// which file it is. That never changes while the extent owns it.
type BadData struct {
	Ino  Ino
	Page Page
}

// BadDataSize is the length of a bad-data record in bytes.
const BadDataSize = 16

// Encode stores d in b, which has BadDataSize bytes.
func (d BadData) Encode(b []byte) {
	_ = b[BadDataSize-1]
	binary.LittleEndian.PutUint64(b[0:], uint64(d.Ino))
	binary.LittleEndian.PutUint64(b[8:], uint64(d.Page))
}

// Decode reads d from v and verifies it. The error wraps ErrBadRecord.
func (d *BadData) Decode(v []byte) error {
	if len(v) != BadDataSize {
		return bad("bad data", "length %d, not %d", len(v), BadDataSize)
	}
	d.Ino = Ino(binary.LittleEndian.Uint64(v[0:]))
	d.Page = Page(binary.LittleEndian.Uint64(v[8:]))
	if d.Ino == 0 || d.Ino == MaxIno || uint64(d.Page) >= 1<<52 {
		return bad("bad data", "page %d of inode %d", d.Page, d.Ino)
	}
	return nil
}

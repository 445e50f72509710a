package wire

// Message is the body of a frame: something that knows its type and its bytes.
type Message interface {
	Type() Type
	append(b []byte) []byte
	parse(r *reader)
}

// Pack makes the frame of a message.
func Pack(m Message, seq uint32, fds ...int) *Frame {
	return &Frame{Type: m.Type(), Seq: seq, Body: m.append(nil), FDs: fds}
}

// Unpack reads a frame's body into m. ErrProtocol if the lengths disagree.
func Unpack(f *Frame, m Message) error {
	r := &reader{b: f.Body}
	m.parse(r)
	return r.done(f.Type)
}

// The empty messages.
type (
	// OK answers what needs no data.
	OK struct{}
	// Bye ends a connection in good order.
	Bye struct{}
)

func (*Hello) Type() Type   { return TypeHello }
func (*Welcome) Type() Type { return TypeWelcome }
func (*Uffd) Type() Type    { return TypeUffd }
func (*Map) Type() Type     { return TypeMap }
func (*Extents) Type() Type { return TypeExtents }
func (*Mapped) Type() Type  { return TypeMapped }
func (*Unmap) Type() Type   { return TypeUnmap }
func (*Sync) Type() Type    { return TypeSync }
func (*Synced) Type() Type  { return TypeSynced }
func (*Stat) Type() Type    { return TypeStat }
func (*Attr) Type() Type    { return TypeAttr }
func (*OK) Type() Type      { return TypeOK }
func (*Bye) Type() Type     { return TypeBye }
func (*Error) Type() Type   { return TypeError }

func (*OK) append(b []byte) []byte  { return b }
func (*OK) parse(*reader)           {}
func (*Bye) append(b []byte) []byte { return b }
func (*Bye) parse(*reader)          {}

func (m *Hello) append(b []byte) []byte { return append(u32(b, m.Version, m.Flags), m.Client[:]...) }
func (m *Hello) parse(r *reader) {
	m.Version, m.Flags = r.u32(), r.u32()
	copy(m.Client[:], r.take(len(m.Client)))
}

func (m *Welcome) append(b []byte) []byte {
	b = append(u32(b, m.Version, m.Flags), m.Client[:]...)
	return u32(u64(b, m.ImageBytes), m.PageBytes, m.InFlight)
}
func (m *Welcome) parse(r *reader) {
	m.Version, m.Flags = r.u32(), r.u32()
	copy(m.Client[:], r.take(len(m.Client)))
	m.ImageBytes, m.PageBytes, m.InFlight = r.u64(), r.u32(), r.u32()
}

func (m *Uffd) append(b []byte) []byte { return u32(b, m.Number) }
func (m *Uffd) parse(r *reader)        { m.Number = r.u32() }

func (m *Map) append(b []byte) []byte {
	return append(u64(u32(b, m.Flags, m.Mode), m.Ino, m.Offset, m.Length), m.Path...)
}
func (m *Map) parse(r *reader) {
	m.Flags, m.Mode = r.u32(), r.u32()
	m.Ino, m.Offset, m.Length, m.Path = r.u64(), r.u64(), r.u64(), r.rest()
}

func (m *Extents) append(b []byte) []byte {
	b = u64(b, m.Mapping, m.Ino, m.Offset, m.Length, m.FileBytes)
	b = u32(b, uint32(len(m.Pieces)), 0)
	for _, p := range m.Pieces {
		b = u64(b, p.File, p.Image, p.Length)
	}
	return b
}
func (m *Extents) parse(r *reader) {
	m.Mapping, m.Ino, m.Offset, m.Length, m.FileBytes = r.u64(), r.u64(), r.u64(), r.u64(), r.u64()
	n, zero := r.u32(), r.u32()
	if n > MaxPieces || zero != 0 {
		r.bad = true
		return
	}
	m.Pieces = make([]Piece, n)
	for i := range m.Pieces {
		m.Pieces[i] = Piece{File: r.u64(), Image: r.u64(), Length: r.u64()}
	}
}

func (m *Mapped) append(b []byte) []byte { return u64(b, m.Mapping, m.Addr) }
func (m *Mapped) parse(r *reader)        { m.Mapping, m.Addr = r.u64(), r.u64() }

func (m *Unmap) append(b []byte) []byte { return u64(b, m.Mapping) }
func (m *Unmap) parse(r *reader)        { m.Mapping = r.u64() }

func (m *Sync) append(b []byte) []byte { return u64(b, m.Mapping, m.Offset, m.Length) }
func (m *Sync) parse(r *reader)        { m.Mapping, m.Offset, m.Length = r.u64(), r.u64(), r.u64() }

func (m *Synced) append(b []byte) []byte {
	return u64(b, m.Generation, m.Pages, m.Bytes, m.Nanoseconds)
}
func (m *Synced) parse(r *reader) {
	m.Generation, m.Pages, m.Bytes, m.Nanoseconds = r.u64(), r.u64(), r.u64(), r.u64()
}

func (m *Stat) append(b []byte) []byte { return append(u64(b, m.Ino), m.Path...) }
func (m *Stat) parse(r *reader)        { m.Ino, m.Path = r.u64(), r.rest() }

func (m *Attr) append(b []byte) []byte {
	b = u64(b, m.Ino, m.Bytes, m.Blocks, m.Generation)
	b = u64(b, uint64(m.Atime), uint64(m.Mtime), uint64(m.Ctime), uint64(m.Btime))
	return u32(b, m.Mode, m.Links, m.UID, m.GID)
}
func (m *Attr) parse(r *reader) {
	m.Ino, m.Bytes, m.Blocks, m.Generation = r.u64(), r.u64(), r.u64(), r.u64()
	m.Atime, m.Mtime, m.Ctime, m.Btime = int64(r.u64()), int64(r.u64()), int64(r.u64()), int64(r.u64())
	m.Mode, m.Links, m.UID, m.GID = r.u32(), r.u32(), r.u32(), r.u32()
}

func (m *Error) append(b []byte) []byte {
	const room = 4096 // a text is a sentence or two
	return append(u32(b, m.Errno, uint32(m.Code)), m.Text[:min(len(m.Text), room)]...)
}
func (m *Error) parse(r *reader) { m.Errno, m.Code, m.Text = r.u32(), Code(r.u32()), r.rest() }

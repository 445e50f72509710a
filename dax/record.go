package dax

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/dax/wire"
)

// A record is what a restarted server must know of a client to take its
// mappings back: a file for the client, written when it attaches, and one for
// each mapping, written before the mapping is used and after every change. Each
// is written whole, by rename. It need not survive a power loss: neither does
// the client.
type record struct {
	Version  int             `json:"version"`
	Image    imageID         `json:"image"`
	Client   string          `json:"client"` // hexadecimal
	PID      int             `json:"pid"`
	Started  uint64          `json:"started_ticks"` // with PID, names the process for ever
	UID      uint32          `json:"uid"`
	Comm     string          `json:"comm"`
	Uffd     int             `json:"uffd"`               // the client's descriptor number of its copy
	Mappings []recordMapping `json:"mappings,omitempty"` // none or one in a file
}

type recordMapping struct {
	ID       uint64        `json:"id"`
	Ino      format.Ino    `json:"ino"`
	First    format.Page   `json:"first_page"`
	Pages    uint64        `json:"pages"`
	Writable bool          `json:"writable"`
	Addr     uint64        `json:"addr"`
	Spans    []recordSpan  `json:"spans"`
	Pieces   []core.Extent `json:"pieces"`
}

type recordSpan struct {
	Addr  uint64      `json:"addr"`
	Pages uint64      `json:"pages"`
	Page  format.Page `json:"page"`
}

const (
	recordVersion = 1
	recordPrefix  = "client-"
	recordSuffix  = ".json"
	recordMost    = 16 << 20 // bytes: more is not ours
)

// imageID tells one pmem file from another.
type imageID struct {
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
	size int64
}

func identify(f *os.File) (imageID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return imageID{}, fmt.Errorf("the image's descriptor: %w", err)
	}
	return imageID{Dev: st.Dev, Ino: st.Ino, size: st.Size}, nil
}

// recordPath is the file of a mapping, or of the client itself if it is 0.
func (s *Server) recordPath(id wire.ClientID, mapping uint64) string {
	name := recordPrefix + hex.EncodeToString(id[:])
	if mapping != 0 {
		name += "-" + strconv.FormatUint(mapping, 10)
	}
	return filepath.Join(s.opt.RecordDir, name+recordSuffix)
}

// recordLocked copies what is to be kept; nil if nothing can be taken back.
func (c *client) recordLocked(mp *mapping) *record {
	root := c.rootLocked()
	if root == nil || root.gone || mp != nil && (mp.addr == 0 || mp.ended) {
		return nil
	}
	r := &record{Version: recordVersion, Image: c.srv.image, Client: hex.EncodeToString(c.id[:]),
		PID: c.proc.PID, Started: c.started, UID: c.proc.UID, Comm: c.proc.Comm, Uffd: root.number}
	if mp == nil {
		return r
	}
	m := recordMapping{ID: mp.id, Ino: mp.ino, First: mp.first, Pages: mp.pages, Writable: mp.writable,
		Addr: mp.addr, Pieces: mp.pieces}
	for _, v := range mp.views {
		if v.m != root {
			continue
		}
		for _, s := range v.spans {
			m.Spans = append(m.Spans, recordSpan{Addr: s.addr, Pages: s.pages, Page: s.page})
		}
	}
	r.Mappings = []recordMapping{m}
	return r
}

// keepRecord writes the record of a mapping as it is now, or of the client
// itself (nil).
func (c *client) keepRecord(mp *mapping) error {
	s := c.srv
	s.records.Lock()
	defer s.records.Unlock()
	c.evMu.Lock()
	r := c.recordLocked(mp)
	c.evMu.Unlock()
	if r == nil {
		return nil
	}
	id := uint64(0)
	if mp != nil {
		id = mp.id
	}
	b, err := json.Marshal(r)
	if err == nil {
		path := s.recordPath(c.id, id)
		if err = os.WriteFile(path+".new", b, 0o600); err == nil {
			err = os.Rename(path+".new", path)
		}
	}
	if err != nil {
		return fmt.Errorf("keep a record, without which a restart would lose the mapping: %w", err)
	}
	return nil
}

// dropRecord removes the record of a mapping that has ended, or of the client.
func (s *Server) dropRecord(id wire.ClientID, mapping uint64) {
	s.records.Lock()
	defer s.records.Unlock()
	err := os.Remove(s.recordPath(id, mapping))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("attach: a record stays behind", "error", err)
	}
}

// readRecords reads what a former server left, a record for each client. Files
// that are not records are reported and left alone.
func (s *Server) readRecords() ([]*record, error) {
	names, err := os.ReadDir(s.opt.RecordDir)
	if err != nil {
		return nil, fmt.Errorf("attach: records of clients: %w", err)
	}
	var out []*record
	by := make(map[string]*record)
	for _, e := range names {
		if !strings.HasPrefix(e.Name(), recordPrefix) || !strings.HasSuffix(e.Name(), recordSuffix) {
			continue
		}
		r, err := readRecord(filepath.Join(s.opt.RecordDir, e.Name()))
		if err != nil {
			s.log.Error("attach: a record cannot be read", "file", e.Name(), "error", err)
			continue
		}
		if first := by[r.Client]; first != nil {
			first.Mappings = append(first.Mappings, r.Mappings...)
			continue
		}
		by[r.Client] = r
		out = append(out, r)
	}
	return out, nil
}

func readRecord(path string) (*record, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > recordMost {
		return nil, fmt.Errorf("%d bytes are too many for a record", info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseRecord(b)
}

func parseRecord(b []byte) (*record, error) {
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("version %d is not known here", r.Version)
	}
	return r, r.check()
}

// clientID decodes the record's client id.
func (r *record) clientID() (id wire.ClientID, err error) {
	b, err := hex.DecodeString(r.Client)
	if err == nil && len(b) != len(id) {
		err = errors.New("wrong length")
	}
	if err != nil {
		return id, fmt.Errorf("client id %q: %w", r.Client, err)
	}
	copy(id[:], b)
	return id, nil
}

// check refuses numbers that no server wrote.
func (r *record) check() error {
	if _, err := r.clientID(); err != nil {
		return err
	}
	for _, m := range r.Mappings {
		const most = 1 << 51 // pages of the largest file
		if m.Pages == 0 || m.Pages > most || uint64(m.First) > most || m.Addr%pageBytes != 0 {
			return fmt.Errorf("mapping %d: impossible range", m.ID)
		}
		for _, s := range m.Spans {
			last := uint64(s.Page) + s.Pages
			if s.Pages == 0 || s.Pages > m.Pages || s.Addr%pageBytes != 0 || s.Addr/pageBytes+s.Pages > most ||
				s.Page < m.First || last > uint64(m.First)+m.Pages {
				return fmt.Errorf("mapping %d: impossible span at %#x", m.ID, s.Addr)
			}
		}
		for _, x := range m.Pieces {
			if x.Count == 0 || x.Count > m.Pages || x.Page < m.First || uint64(x.Page)+x.Count > uint64(m.First)+m.Pages ||
				x.Block == 0 || x.Block > format.MaxImage/format.BlockSize-format.Block(x.Count) {
				return fmt.Errorf("mapping %d: impossible piece at page %d", m.ID, x.Page)
			}
		}
	}
	return nil
}

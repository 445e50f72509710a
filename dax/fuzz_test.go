package dax

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/dax/wire"
)

// FuzzRecord: the record of an attached client is refused, or makes sense and
// comes back as it was.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"client":"00112233445566778899aabbccddeeff","mappings":[{"pages":1,"spans":[{"addr":4096,"pages":1}]}]}`))
	whole, err := json.Marshal(&record{Version: recordVersion, Image: imageID{Dev: 27, Ino: 1048}, Client: strings.Repeat("0a", 16), PID: 77, Started: 5, UID: 1, Comm: "app", Uffd: 9,
		Mappings: []recordMapping{{ID: 3, Ino: 4, First: 5, Pages: 6, Writable: true, Addr: 8 << 12, Spans: []recordSpan{{Addr: 8 << 12, Pages: 6, Page: 5}}, Pieces: []core.Extent{{Page: 5, Block: 100, Count: 6}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			if err.Error() == "" || len(err.Error()) > 200+10*len(b) {
				t.Fatalf("refused with %d bytes", len(err.Error()))
			}
			return
		}
		if _, err := r.clientID(); err != nil {
			t.Fatal(err)
		}
		for _, m := range r.Mappings { // what is accepted makes sense
			for _, s := range m.Spans {
				end := s.Addr + s.Pages*pageBytes
				if s.Pages == 0 || s.Addr%pageBytes != 0 || end <= s.Addr || s.Page < m.First || uint64(s.Page)+s.Pages > uint64(m.First)+m.Pages {
					t.Fatalf("accepted %+v of %+v", s, m)
				}
			}
			for _, x := range m.Pieces {
				if x.Count == 0 || x.Page+format.Page(x.Count) < x.Page || x.Block+format.Block(x.Count) < x.Block {
					t.Fatalf("accepted piece %+v of %+v", x, m)
				}
			}
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseRecord(again); err != nil || !sameRecord(t, back, r) {
			t.Fatalf("%s comes back as %s, %v", b, again, err)
		}
	})
}

// sameRecord compares what two records say: nil lists and empty ones are the
// same.
func sameRecord(t *testing.T, a, b *record) bool {
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(bytes.ReplaceAll(x, []byte("[]"), []byte("null")), bytes.ReplaceAll(y, []byte("[]"), []byte("null")))
}

// FuzzMaps: lines of a process's memory map are read or refused, and what is
// read shows a mapping's pages where they are.
func FuzzMaps(f *testing.F) {
	f.Add([]byte("7f0000000000-7f0000004000 rw-s 00021000 00:1b 1048 /dev/shm/image (deleted)\n7f0000004000-7f0000005000 ---p 00000000 00:00 0\n"))
	f.Add([]byte("7f00-zz rw-s 0 00:1b 1048 x\n"))
	f.Add([]byte("0-ffffffffffffffff rw-s ffffffffffffffff 00:1b 1048 x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseMaps(bytes.NewReader(b), imageID{Dev: 0x1b, Ino: 1048})
		if err != nil {
			return
		}
		if len(list) > bytes.Count(b, []byte("\n"))+1 {
			t.Fatalf("%d mappings in %d lines", len(list), bytes.Count(b, []byte("\n")))
		}
		mp := &mapping{pieces: []core.Extent{{Page: 0, Block: 100, Count: 4}, {Page: 4, Block: 200, Count: 4}}}
		for _, v := range list {
			if v.end < v.start || (v.start|v.end|v.offset)%pageBytes != 0 {
				continue // the kernel writes no such line
			}
			for _, s := range v.show(mp) {
				if s.pages == 0 || s.pages > 4 || s.addr < v.start || s.end() > v.end || uint64(s.page)+s.pages > 8 {
					t.Fatalf("%+v shows %+v", v, s)
				}
			}
		}
	})
}

// FuzzMapRequest: a map request that checkMap lets pass asks for pages that a
// file can have.
func FuzzMapRequest(f *testing.F) {
	f.Add(uint32(wire.MapWrite|wire.MapCreate|wire.MapGrow), uint32(0o644), uint64(0), uint64(4096), uint64(8192), "/f")
	f.Add(uint32(0), uint32(0), uint64(5), uint64(1)<<63, uint64(1)<<63, "")
	f.Add(uint32(16), uint32(0), uint64(5), ^uint64(4095), uint64(4096), "")
	f.Fuzz(func(t *testing.T, flags, mode uint32, ino, off, length uint64, path string) {
		q := &wire.Map{Flags: flags, Mode: mode, Ino: ino, Offset: off, Length: length, Path: path}
		err := checkMap(q)
		if err == nil && (length == 0 || (off|length)%pageBytes != 0 || int64(off) < 0 || int64(length) < 0 || int64(off+length) < 0 || ino == 0 && path == "") {
			t.Fatalf("passed %+v", q)
		}
		var e *wire.Error
		if err != nil && (reflect.TypeOf(err) != reflect.TypeOf(e) || len(err.Error()) > 300) {
			t.Fatalf("%v is no answer", err)
		}
	})
}

package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// get is the text behind a path of the server.
func (s *testServer) get(t testing.TB, path string) string {
	t.Helper()
	resp, err := s.client.http.Get(s.client.base + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// verb runs a verb against the server, and fails unless it exits with code.
func (s *testServer) verb(t testing.TB, code int, args ...string) string {
	t.Helper()
	out, err := program(t, 60*time.Second, append(args, "--socket", s.socket)...)
	if exitCode(err) != code {
		t.Fatalf("%s: exit status %d, want %d: %s", strings.Join(args, " "), exitCode(err), code, out)
	}
	return out
}

func wantIn(t testing.TB, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q: %s", what, w, text)
		}
	}
}

// The image is cut under a running appliance, and grows back. Who looks for the
// damage finds it at every place: the call that meets it, the verbs, the red
// alert of the dashboard, the metrics. A freeze is refused. Nothing crashes.
func TestDamageIsTold(t *testing.T) {
	s := newServer(t, "")
	file := filepath.Join(s.dir, "some")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.verb(t, 0, "put", file, "/f")
	wantIn(t, "scrub", s.verb(t, 0, "scrub"), "0 damaged")
	wantIn(t, "badblocks", s.verb(t, 0, "badblocks"), "no bad blocks")
	if ui := s.get(t, "/ui/"); strings.Contains(ui, "damaged;") || !strings.Contains(ui, "metadata nodes read, 0 damaged") {
		t.Errorf("the dashboard of a sound image: %s", ui)
	}

	whole, err := os.ReadFile(s.image)
	if err != nil {
		t.Fatal(err)
	}
	sb, err := format.DecodeSuperblock(0, (*[format.BlockSize]byte)(whole[:format.BlockSize]))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.image, int64(sb.First)*format.BlockSize); err != nil {
		t.Fatal(err)
	}
	wantIn(t, "cat", s.verb(t, 1, "cat", "/f"), "Input/output error", "block ")
	wantIn(t, "scrub", s.verb(t, 1, "scrub"), "1 damaged", "block ", "check --repair") // the root
	wantIn(t, "scrub --show", s.verb(t, 1, "scrub", "--show"), "block ")
	wantIn(t, "status", s.verb(t, 0, "status"), "READ-ONLY", "media error")
	wantIn(t, "freeze", s.verb(t, 1, "freeze"), "read-only")
	wantIn(t, "metrics", s.get(t, "/metrics"), "\npermafrost_read_only 1\n", "\npermafrost_metadata_errors_total 1\n", "\npermafrost_up 1\n")
	wantIn(t, "readyz", s.get(t, "/readyz"), "not-ready", "the metadata in block ", "is damaged")
	wantIn(t, "the dashboard", s.get(t, "/ui/"), `class="alert bad"`, "The metadata is damaged; the file system is read-only", "permafrost check --repair")
	wantIn(t, "livez", s.get(t, "/livez"), "alive")
	if err := os.WriteFile(s.image, whole, 0o600); err != nil { // for the check at the end
		t.Fatal(err)
	}
}

// What a start had to do without is in its log: a newest commit that cannot be
// read, and a superblock. One wrong bit of a commit record is neither.
func TestFallBackIsTold(t *testing.T) {
	s := newServer(t, "")
	for _, c := range []struct {
		name       string
		wrong      byte // bits of a byte of the newest commit record
		superblock bool
		told       string
	}{
		{"sound", 0, false, ""},
		{"one bit of the newest record", 1, false, ""},
		{"two bits of the newest record", 3, false, "the newest commit cannot be read"},
		{"the superblock", 0, true, "the superblock is damaged"},
	} {
		s.serverProcess.end()
		m, err := pmem.Open(s.image, pmem.Options{})
		if err != nil {
			t.Fatal(err)
		}
		sv, err := tree.OpenSalvage(m)
		if err != nil {
			t.Fatal(err)
		}
		sb := sv.Superblock()
		slot := int(sb.Ring) + int(uint64(sv.Commit().Generation)%uint64(sb.Slots))
		page := bytes.Clone(m.Bytes(int64(slot)*format.BlockSize, format.BlockSize))
		page[24] ^= c.wrong
		storeBlock(t, m, slot, page)
		primary := bytes.Clone(m.Bytes(0, format.BlockSize))
		if c.superblock {
			storeBlock(t, m, 0, make([]byte, format.BlockSize))
		}
		m.Close()
		s.start(t, "")
		_ = s.status(t) // it serves
		if log := s.log.String(); strings.Contains(log, "level=WARN") != (c.told != "") || !strings.Contains(log, c.told) {
			t.Errorf("%s: want %q told:\n%s", c.name, c.told, log)
		}
		if c.superblock { // for the check at the end
			s.serverProcess.end()
			f, err := os.OpenFile(s.image, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(primary, 0); err != nil {
				t.Fatal(err)
			}
			f.Close()
			s.start(t, "")
		}
	}
}

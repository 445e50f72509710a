package api

import (
	"io"
	"math"
	"net/http"
	"os"
	"reflect"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "5m": 5 * time.Minute, "1h30m": 90 * time.Minute, "90": 90 * time.Second,
		"0": 0, "250ms": 250 * time.Millisecond, "1.5s": 1500 * time.Millisecond} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "-1s", "s", "1 s", "1.5", "1d", "10000000000", "9223372036854775807", "99999999999999999999", "0x10", "1e3", "NaN"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q was taken as %v", text, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]size{"0": 0, "1": 1, "1B": 1, "4KiB": 4096, "64MiB": 64 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40, "8191PiB": 8191 << 50, "9223372036854775807": math.MaxInt64} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "1G", "1GB", "1.5GiB", "GiB", "1 GiB", "8192PiB", "9223372036854775808", "1gib", "+1", "0x1"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q was taken as %v", text, got)
		}
	}
}

func TestNearest(t *testing.T) {
	known := newParamSet(reflect.TypeFor[freezeParams](), true).names
	for text, want := range map[string]string{"leese": "lease", "Lease": "lease", "hodler": "holder", "patients": "patience", "reqire_token": "require_token", "jion": "join"} {
		if got := nearest(text, known); got != want {
			t.Errorf("nearest to %q is %q, want %q", text, got, want)
		}
	}
	if nearest("x", nil) != "" {
		t.Error("something is nearest among nothing")
	}
}

// TestCopies: an answer copies the bytes of a file, it never hands the file's
// pages to the socket (R4). The connection has ReadFrom, which would.
func TestCopies(t *testing.T) {
	path := shmDir(t) + "/f"
	check(t, os.WriteFile(path, make([]byte, 100_000), 0o644))
	file := must(os.Open(path))(t)
	defer file.Close()
	conn := &referringWriter{}
	s := &Server{limits: defaultLimits}
	h := s.withProgress(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, dst := range []io.Writer{w, &contentWriter{ResponseWriter: w}} {
			_ = must(file.Seek(0, io.SeekStart))(t)
			if n, err := io.Copy(dst, file); n != 100_000 || err != nil {
				t.Errorf("copied %d, %v", n, err)
			}
		}
	}))
	h.ServeHTTP(conn, must(http.NewRequest("GET", "/", nil))(t))
	if conn.referred || conn.n != 200_000 {
		t.Errorf("%d bytes copied, by reference: %v", conn.n, conn.referred)
	}
}

// referringWriter notes whether a source was handed to it whole.
type referringWriter struct {
	brokenWriter
	n        int
	referred bool
}

func (w *referringWriter) Write(p []byte) (int, error) { w.n += len(p); return len(p), nil }
func (w *referringWriter) ReadFrom(r io.Reader) (int64, error) {
	w.referred = true
	return io.Copy(io.Discard, r)
}

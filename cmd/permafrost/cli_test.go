package main

import (
	"strings"
	"testing"
	"time"
)

// cli runs a verb against the test's server and returns its output and status.
func (s *testServer) cli(t testing.TB, verb string, args ...string) (string, int) {
	t.Helper()
	out, err := program(t, 30*time.Second, append([]string{verb, "--socket", s.socket}, args...)...)
	return out, exitCode(err)
}

// TestEventsEnd: without --follow the events that are there are printed, and
// the verb ends by itself.
func TestEventsEnd(t *testing.T) {
	s := newServer(t, "")
	if out, code := s.cli(t, "freeze", "--holder", "nightly"); code != 0 {
		t.Fatalf("%d: %s", code, out)
	}
	if out, code := s.cli(t, "thaw"); code != 0 {
		t.Fatalf("%d: %s", code, out)
	}
	var out string
	// Events reach the ledger a moment after the thaw's answer.
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(out, "\tthawed\t"); {
		if time.Now().After(deadline) {
			t.Fatalf("the thaw is not among the events:\n%s", out)
		}
		var code int
		began := time.Now()
		if out, code = s.cli(t, "events"); code != 0 {
			t.Fatalf("%d: %s", code, out)
		}
		if d := time.Since(began); d > 10*time.Second {
			t.Fatalf("it took %v: it waited for the next comment", d)
		}
	}
	if !strings.Contains(out, "\tfrozen\t") || !strings.Contains(out, "nightly") {
		t.Fatalf("the freeze is not among the events:\n%s", out)
	}
	id, _, _ := strings.Cut(out[strings.LastIndexByte(strings.TrimSpace(out), '\n')+1:], "\t")
	if rest, code := s.cli(t, "events", "--after", id); code != 0 || strings.TrimSpace(rest) != "" {
		t.Fatalf("after the last event (%s) there is %q (%d)", id, rest, code)
	}
}

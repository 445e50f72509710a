package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// TestFreezeCommandLine: what is mistyped freezes nothing.
func TestFreezeCommandLine(t *testing.T) {
	s := newServer(t, "")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--leese", "5"}, "--leese"},
		{[]string{"--holder", "h", "-x"}, "-x"},
		{[]string{"--"}, "no command"},
		{[]string{"--", ""}, "no command"},
		{[]string{"--lease", "soon"}, "lease"},
	} {
		out, code := s.cli(t, "freeze", c.args...)
		if code != exitUsage || !strings.Contains(out, c.want) {
			t.Errorf("freeze %q: %d: %s", c.args, code, out)
		}
	}
	for _, verb := range []string{"freeze", "renew"} {
		if out, code := s.cli(t, verb, "--lease", "0s"); code != exitFailed || !strings.Contains(out, "lease") {
			t.Errorf("%s with a lease of 0: %d: %s", verb, code, out)
		}
	}
	if out, code := s.cli(t, "freezes"); code != 0 || !strings.Contains(out, "no freezes") {
		t.Errorf("it froze: %s", out)
	}
	if out, code := s.cli(t, "freeze", "true"); code != 0 { // the -- may be left out
		t.Errorf("a command without --: %d: %s", code, out)
	}
}

// TestRenewUpToTheCap: a lease that no longer fits under the cap is renewed
// for what is left, not given up.
func TestRenewUpToTheCap(t *testing.T) {
	s := newServer(t, "", "--lease-max", "6s")
	// Renewed at 2 s for 4 s more: over the cap by the time that has passed.
	if out, code := s.cli(t, "freeze", "--lease", "4s", "--patience", "3s", "--", "sleep", "4.8"); code != 0 || strings.Contains(out, "renewed") {
		t.Fatalf("%d: %s", code, out)
	}
}

// TestThawForced says what it did, with one hold and with several.
func TestThawForced(t *testing.T) {
	s := newServer(t, "")
	freeze := func(args ...string) {
		t.Helper()
		if out, code := s.cli(t, "freeze", args...); code != 0 {
			t.Fatalf("%d: %s", code, out)
		}
	}
	thaw := func(want string, args ...string) {
		t.Helper()
		out, code := s.cli(t, "thaw", args...)
		if code != 0 || !strings.Contains(out, want) || strings.Contains(out, "without a gap") || strings.Contains(out, "nothing") {
			t.Errorf("thaw %q: %d: %s", args, code, out)
		}
	}
	freeze("--holder", "a")
	thaw("ended by force: hold 1.1 of freeze 1", "--force")
	freeze("--holder", "a")
	freeze("--holder", "b", "--join")
	thaw("others still hold it", "--force", "--holder", "a")
	freeze("--holder", "c", "--join")
	thaw("ended by force: all holds of freeze 2", "--force")
	t.Setenv("PERMAFROST_FORCE", "true") // never meant for thaw
	freeze("--holder", "d", "--require-token")
	if out, code := s.cli(t, "thaw", "--holder", "d"); code != exitFailed || !strings.Contains(out, "Not the holder") {
		t.Errorf("a thaw without the token: %d: %s", code, out)
	}
	s.cli(t, "thaw", "--holder", "d", "--force")
}

// TestLs shows what is a directory.
func TestLs(t *testing.T) {
	s := newServer(t, "")
	for _, args := range [][]string{{"mkdir", "/sub"}, {"put", "/proc/self/status", "/file"}} {
		if out, code := s.cli(t, args[0], args[1:]...); code != 0 {
			t.Fatalf("%q: %d: %s", args, code, out)
		}
	}
	out, code := s.cli(t, "ls")
	if code != 0 || !strings.Contains(out, "  sub/\n") || !strings.Contains(out, "  file\n") {
		t.Errorf("%d: %s", code, out)
	}
}

// TestServeHelp names the default addresses.
func TestServeHelp(t *testing.T) {
	if out, err := program(t, 20*time.Second, "serve", "--help"); err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), "By default 127.0.0.1:7433 and [::1]:7433") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestWithoutAttach: on a medium whose mapped stores cannot be held the status
// has no way in to show, and prove says what it needs.
func TestWithoutAttach(t *testing.T) {
	dir := t.TempDir() // on a disk
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		t.Skipf("%s is not on a disk (%v): set TMPDIR to a directory that is", dir, err)
	}
	var log bytes.Buffer
	exe, _ := os.Executable()
	socket := filepath.Join(dir, "p.sock")
	p, err := startServerOf(exe, &log, "--pmem", filepath.Join(dir, "fs.pmem"), "--create", "16MiB", "--state", dir, "--socket", socket, "--listen", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	defer p.end()
	raw, err := p.client.call(context.Background(), "GET", "/status", nil, nil)
	if err != nil || !strings.Contains(string(raw), `"attach":null`) || !strings.Contains(string(raw), `"attach_refused":"attach is not available`) {
		t.Errorf("%v: %s", err, raw)
	}
	if out, err := program(t, 20*time.Second, "prove", "--socket", socket); exitCode(err) != exitFailed || !strings.Contains(out, "tmpfs") {
		t.Errorf("prove: %v: %s", err, out)
	}
	if out, err := program(t, 20*time.Second, "status", "--socket", socket); err != nil || !strings.Contains(out, "cannot map files here: attach is not available") || !strings.Contains(out, "use REST") {
		t.Errorf("status: %v: %s", err, out)
	}
}

// TestSocketNote: a socket that clients do not find is said to need its name.
func TestSocketNote(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir()) // in this environment, not in cron's
	own := filepath.Join(defaultStateDir(), "permafrost.sock")
	if note := socketNote(own, cronSockets()); !strings.Contains(note, "--socket "+own) {
		t.Errorf("a socket in the environment's own directory: %q", note)
	}
	for _, found := range cronSockets() {
		if note := socketNote(found, cronSockets()); note != "" {
			t.Errorf("%s is where clients look: %q", found, note)
		}
	}
}

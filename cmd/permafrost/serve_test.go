package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"permafrost/core/format"
)

// TestServeRefusals: bad input at start is refused with what to do, and what
// was there is left as it was.
func TestServeRefusals(t *testing.T) {
	dir := shm(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	good := at("good.pmem")
	if out, err := program(t, 30*time.Second, "mkfs", good, "--size", "8MiB"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	image, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		t.Helper()
		if err := os.WriteFile(at(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	newer := append([]byte(nil), image...)
	makeNewer(t, newer)
	cases := []struct {
		name, pmem string
		args       []string
		want       []string // all of these in what is said
	}{
		{"not ours", write("text.pmem", []byte(strings.Repeat("not an image ", 100_000))), nil, []string{"mkfs"}},
		{"truncated", write("short.pmem", image[:4<<20]), nil, []string{"8", "truncated"}},
		{"newer format", write("newer.pmem", newer), nil, []string{"newer"}},
		{"empty", write("empty.pmem", nil), nil, []string{"empty"}},
		{"too small", at("tiny.pmem"), []string{"--create", "4KiB"}, []string{"1 MiB"}},
		{"not there", at("none.pmem"), nil, []string{"mkfs", "--create"}},
		{"a directory", dir, nil, []string{"not a regular file"}},
		{"insecure address", good, []string{"--listen", "0.0.0.0:0"}, []string{"--allow-insecure-listen"}},
		{"address without port", good, []string{"--listen", "localhost"}, []string{"127.0.0.1:7433"}},
		{"too few connections", good, []string{"--max-connections", "15"}, []string{"--max-connections at least 16"}},
		{"no lease", good, []string{"--lease-max", "0s"}, []string{"--lease-max"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before, _ := os.ReadFile(c.pmem)
			args := []string{"serve", "--pmem", c.pmem, "--state", at("state"), "--socket", at("s.sock")}
			if !strings.Contains(strings.Join(c.args, " "), "--listen") {
				args = append(args, "--listen", "127.0.0.1:0")
			}
			out, err := program(t, 20*time.Second, append(args, c.args...)...)
			if exitCode(err) != exitFailed && exitCode(err) != exitUsage {
				t.Fatalf("exit %v: %s", err, out)
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("does not say %q:\n%s", w, out)
				}
			}
			if after, _ := os.ReadFile(c.pmem); string(after) != string(before) {
				t.Error("the file was changed")
			}
		})
	}
}

// makeNewer raises the format version of an image in both superblocks, with
// their checksums made right again.
func makeNewer(t *testing.T, image []byte) {
	t.Helper()
	for b := range 2 {
		page := (*[format.BlockSize]byte)(image[b*format.BlockSize:])
		sb, err := format.DecodeSuperblock(format.Block(b), page)
		if err != nil {
			t.Fatal(err)
		}
		sb.Version = format.Version + 1
		sb.Encode(page)
	}
}

// TestSecondServerIsRefused: one image, one server; the first is not disturbed.
func TestSecondServerIsRefused(t *testing.T) {
	s := newServer(t, "")
	out, err := program(t, 20*time.Second, "serve", "--pmem", s.image, "--state", filepath.Join(s.dir, "other"),
		"--socket", filepath.Join(s.dir, "other.sock"), "--listen", "127.0.0.1:0")
	if exitCode(err) != exitFailed || !strings.Contains(out, "in use by another server") {
		t.Fatalf("%v: %s", err, out)
	}
	if st := s.status(t); st.State != "unfrozen" {
		t.Fatalf("the first server is %s", st.State)
	}
	// A taken address and a taken socket are refused as well.
	host := strings.TrimPrefix(s.base, "http://")
	out, err = program(t, 20*time.Second, "serve", "--pmem", filepath.Join(s.dir, "b.pmem"), "--create", "8MiB",
		"--state", filepath.Join(s.dir, "b"), "--socket", filepath.Join(s.dir, "b.sock"), "--listen", host)
	if exitCode(err) != exitFailed || !strings.Contains(out, "--listen") {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestMaxConnections: the bound that is asked for holds on every address.
func TestMaxConnections(t *testing.T) {
	s := newServer(t, "", "--max-connections", "16")
	host := strings.TrimPrefix(s.base, "http://")
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	for i := range 16 {
		network, addr := "tcp", host
		if i%2 == 0 {
			network, addr = "unix", s.socket
		}
		c, err := net.DialTimeout(network, addr, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	// The listeners accept each at their own pace: until all are in, and the one
	// that asks.
	for end := time.Now().Add(8 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(s.base + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		http.DefaultClient.CloseIdleConnections()
		var open int
		if _, after, ok := strings.Cut(string(text), "\npermafrost_http_connections "); ok {
			_, _ = fmt.Sscan(after, &open)
		}
		if open > 16 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are open", open)
		}
	}
	for _, network := range []string{"tcp", "unix"} {
		addr := map[string]string{"tcp": host, "unix": s.socket}[network]
		for path, want := range map[string]string{"/files/": "HTTP/1.1 503 ", "/livez": "HTTP/1.1 200 "} {
			c, err := net.DialTimeout(network, addr, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = c.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n"))
			answer, _ := io.ReadAll(c) // it is closed after one answer
			if !strings.HasPrefix(string(answer), want) {
				t.Errorf("%s over %s: %.300s", path, network, answer)
			}
			c.Close()
		}
	}
}

// TestKilledWhileFrozen: a freeze never survives a restart, and whoever thaws
// it afterwards learns that it was lost.
func TestKilledWhileFrozen(t *testing.T) {
	s := newServer(t, "")
	ctx := context.Background()
	if _, err := s.client.do(ctx, "PUT", "/files/kept", nil, strings.NewReader("kept")); err != nil {
		t.Fatal(err)
	}
	var fr wireFreeze
	if _, err := s.client.call(ctx, "POST", "/freeze", params("holder", "backup", "lease", "5m"), &fr); err != nil {
		t.Fatal(err)
	}
	s.kill()
	s.start(t, "")
	if st := s.status(t); st.State != "unfrozen" {
		t.Fatalf("after the restart it is %s", st.State)
	}
	_, err := s.client.call(ctx, "POST", "/thaw", params("holder", "backup"), nil)
	p, ok := err.(*problem)
	if !ok || p.Status != 410 || p.name() != "freeze-lost" {
		t.Fatalf("a thaw of the lost freeze: %v", err)
	}
	var again wireFreeze
	if _, err := s.client.call(ctx, "GET", "/freezes/1", nil, &again); err != nil || again.State != "interrupted" {
		t.Fatalf("freeze 1 is %q (%v)", again.State, err)
	}
	var next wireFreeze
	if _, err := s.client.call(ctx, "POST", "/freeze", nil, &next); err != nil || next.ID <= fr.ID {
		t.Fatalf("the next freeze has id %d after %d (%v)", next.ID, fr.ID, err)
	}
	if _, err := s.client.call(ctx, "POST", "/thaw", nil, nil); err != nil {
		t.Fatal(err)
	}
	if data, err := s.client.readFile(ctx, "/kept"); err != nil || string(data) != "kept" {
		t.Fatalf("the file holds %q (%v)", data, err)
	}
}

// TestBareThawIsToldOnce: over a restart too.
func TestBareThawIsToldOnce(t *testing.T) {
	s := newServer(t, "")
	ctx := context.Background()
	if _, err := s.client.call(ctx, "POST", "/freeze", nil, nil); err != nil {
		t.Fatal(err)
	}
	s.kill()
	s.start(t, "")
	_, err := s.client.call(ctx, "POST", "/thaw", nil, nil)
	if p, ok := err.(*problem); !ok || p.Status != 410 {
		t.Fatalf("the first bare thaw: %v", err)
	}
	var r wireThaw
	if _, err := s.client.call(ctx, "POST", "/thaw", nil, &r); err != nil || r.Changed {
		t.Fatalf("the second bare thaw: %v %+v", err, r)
	}
	s.end()
	s.start(t, "")
	if _, err := s.client.call(ctx, "POST", "/thaw", nil, &r); err != nil || r.Changed {
		t.Fatalf("a bare thaw after another restart: %v %+v", err, r)
	}
}

// TestFreezeCommand: freeze -- COMMAND, and its exit statuses.
func TestFreezeCommand(t *testing.T) {
	s := newServer(t, "", "--lease-max", "3s")
	copied := filepath.Join(s.dir, "copy")
	run := func(args ...string) (string, int) {
		// Lease and patience have defaults above this appliance's cap.
		out, err := program(t, 30*time.Second, append([]string{"freeze", "--socket", s.socket, "--lease", "2s", "--patience", "2s"}, args...)...)
		return out, exitCode(err)
	}
	if out, code := run("--", "cp", s.image, copied); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	if out, err := program(t, 30*time.Second, "check", copied); err != nil {
		t.Fatalf("the copy: %v\n%s", err, out)
	}
	if out, code := run("--", "sh", "-c", "exit 7"); code != 7 {
		t.Fatalf("the command's status is %d: %s", code, out)
	}
	if out, code := run("--", "no-such-command"); code != 127 {
		t.Fatalf("a missing command: %d: %s", code, out)
	}
	// The cap ends the freeze while the command runs.
	if out, code := run("--lease", "1s", "--", "sleep", "5"); code != exitLost || !strings.Contains(out, "not kept") {
		t.Fatalf("a lost freeze: %d: %s", code, out)
	}
	ctx := context.Background()
	if _, err := s.client.call(ctx, "POST", "/freeze", params("holder", "somebody", "lease", "2s", "patience", "2s"), nil); err != nil {
		t.Fatal(err)
	}
	if out, code := run("--", "touch", filepath.Join(s.dir, "ran")); code != exitRefused {
		t.Fatalf("a refused freeze: %d: %s", code, out)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "ran")); err == nil {
		t.Fatal("the command ran although the freeze was refused")
	}
	if _, err := s.client.call(ctx, "POST", "/thaw", params("holder", "somebody"), nil); err != nil {
		t.Fatalf("somebody's hold was ended: %v", err)
	}
	if out, err := program(t, 30*time.Second, "freeze", "--socket", filepath.Join(s.dir, "nobody.sock"), "--", "true"); exitCode(err) != exitRefused {
		t.Fatalf("no appliance: %v: %s", err, out)
	}
}

// TestLedgerCannotBeOpened: the appliance serves and freezes, and says so.
func TestLedgerCannotBeOpened(t *testing.T) {
	instead := func(data string) func(string) error {
		return func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, []byte(data), 0o600)) }
	}
	for name, spoil := range map[string]func(path string) error{
		"not a database": instead(strings.Repeat("x", 8192)),
		"a directory":    func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"truncated":      func(path string) error { return os.Truncate(path, 5000) },
		"empty, with a log": func(path string) error {
			return errors.Join(os.Truncate(path, 0), os.WriteFile(path+"-wal", []byte(strings.Repeat("w", 8192)), 0o600))
		},
		"damaged in the middle": func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte(strings.Repeat("\xde\xad", 40_000)), 8192)
			return errors.Join(err, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, "")
			s.end()
			path := filepath.Join(s.state, "ledger.db")
			if err := spoil(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path) // a directory has no bytes
			defer func() {
				if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
					t.Error("the file was changed")
				}
			}()
			s.start(t, "")
			if st := s.status(t); st.Ledger.State != "degraded" {
				t.Fatalf("the ledger is %q", st.Ledger.State)
			}
			ctx := context.Background()
			var fr wireFreeze
			if _, err := s.client.call(ctx, "POST", "/freeze", nil, &fr); err != nil || fr.State != "frozen" {
				t.Fatalf("freeze without a ledger: %v %+v", err, fr)
			}
			if _, err := s.client.call(ctx, "POST", "/thaw", params("hold", fr.Hold), nil); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestStateOnOwnMount: the check reads the mount table.
func TestStateOnOwnMount(t *testing.T) {
	if err := refuseOwnMount(t.TempDir()); err != nil {
		t.Fatalf("an ordinary directory is refused: %v", err)
	}
	table := "36 25 0:32 / /mnt/my\\040pf rw,relatime - fuse.permafrost permafrost rw\n25 1 0:20 / / rw - ext4 /dev/vda rw\n"
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(table), nil)
	if err != nil {
		t.Fatal(err)
	}
	if at, own := ownMount(mounts, "/mnt/my pf/state"); !own || at != "/mnt/my pf" {
		t.Fatalf("a directory on the mount: %q %v", at, own)
	}
	if _, own := ownMount(mounts, "/mnt/my pfx"); own {
		t.Fatal("a directory beside the mount is refused")
	}
}

// TestSocketInTheWay: a file that is no socket is not removed.
func TestSocketInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(path); err == nil || !strings.Contains(err.Error(), "--socket") {
		t.Fatalf("%v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Fatal("the file is gone")
	}
	stale := filepath.Join(t.TempDir(), "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	again, err := listenUnix(stale)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	again.Close()
}

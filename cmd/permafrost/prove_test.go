package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// proveRounds is how often each configuration is proved; `make prove-loop`
// sets 200.
func proveRounds(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("PERMAFROST_PROVE_ROUNDS"))
	if err != nil {
		return 4
	}
	return n
}

// TestProve proves, under load, that a freeze holds mapped writers.
func TestProve(t *testing.T) {
	for _, cfg := range []struct{ clients, threads int }{{1, 1}, {1, 4}, {1, 16}, {2, 4}, {2, 16}} {
		t.Run(fmt.Sprintf("clients=%d,threads=%d", cfg.clients, cfg.threads), func(t *testing.T) {
			s := newServer(t, "")
			defer underLoad(t, s)()
			for round := range proveRounds(t) {
				out, err := program(t, 3*time.Minute, "prove", "--json", "--socket", s.socket, "--before", "50ms", "--samples", "3",
					"--clients", strconv.Itoa(cfg.clients), "--threads", strconv.Itoa(cfg.threads))
				if err != nil {
					t.Fatalf("round %d: %v\n%s", round, err, out)
				}
				v := decode[verdict](t, out)
				if !v.OK || v.StoresBefore == 0 || v.ProbesHeld != cfg.clients*8 || v.HashSamples < 3 {
					t.Fatalf("round %d: a verdict that proves nothing: %+v", round, v)
				}
			}
		})
	}
}

// TestProveMount proves the same of programs that map files through the mount.
func TestProveMount(t *testing.T) {
	for _, threads := range []int{1, 4, 16} {
		t.Run(fmt.Sprintf("threads=%d", threads), func(t *testing.T) {
			m := newMountFixture(t, "48MiB")
			defer underLoad(t, m.testServer)()
			for round := range proveRounds(t) {
				out, err := program(t, 3*time.Minute, "prove", "--via", "mount", "--json", "--socket", m.socket, "--before", "50ms", "--samples", "3",
					"--threads", strconv.Itoa(threads))
				if err != nil {
					t.Fatalf("round %d: %v\n%s", round, err, out)
				}
				v := decode[verdict](t, out)
				if !v.OK || v.StoresBefore == 0 || v.HashSamples < 3 || v.Mode != "collect" {
					t.Fatalf("round %d: a verdict that proves nothing: %+v", round, v)
				}
			}
		})
	}
}

// underLoad keeps REST writers and readers busy until the returned stop.
func underLoad(t *testing.T, s *testServer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			body := strings.Repeat("load ", 8192)
			for n := 0; ctx.Err() == nil; n++ {
				path := fmt.Sprintf("/files/load-%d-%d", i, n%8)
				resp, err := s.client.do(ctx, "PUT", path, params("wait", "30s"), strings.NewReader(body))
				if err == nil {
					resp.Body.Close()
				} else if ctx.Err() == nil {
					t.Errorf("load: %v", err)
					return
				}
				if resp, err = s.client.do(ctx, "GET", path, nil, nil); err == nil {
					resp.Body.Close()
				}
				_ = sleep(ctx, time.Millisecond)
			}
		}()
	}
	return func() { cancel(); wg.Wait() }
}

// TestProvePlanted builds the program with its planted faults and sees prove
// catch each: a proof that cannot fail proves nothing.
func TestProvePlanted(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "permafrost-planted")
	build := exec.Command("go", "build", "-tags", "plant", "-o", exe, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with planted faults: %v\n%s", err, out)
	}
	attach, mount := []string{"--clients", "2", "--threads", "4"}, []string{"--via", "mount", "--threads", "4"}
	for _, c := range []struct {
		fault string
		how   []string
	}{
		{"skip-mapping", attach}, {"short-run", attach}, {"late-events", attach}, {"grant-frozen", attach},
		{"mount-no-collect", mount}, // mount-one-pass takes luck here: mount TestPassesPlanted
	} {
		t.Run(c.fault, func(t *testing.T) {
			var with []string
			if c.how[0] == "--via" {
				needMount(t)
				with = []string{"--mount", newMountPoint(t)}
			}
			t.Setenv("PERMAFROST_PLANT", c.fault)
			s := newServer(t, exe, with...)
			t.Setenv("PERMAFROST_PLANT", "")
			const tries = 24
			for try := range tries {
				out, err := programOf(t, exe, 3*time.Minute, append([]string{"prove", "--json", "--socket", s.socket, "--before", "50ms", "--samples", "3"}, c.how...)...)
				if exitCode(err) == exitFailed {
					v := decode[verdict](t, out)
					if v.OK || len(v.Failures) == 0 {
						t.Fatalf("failed without saying why: %s", out)
					}
					t.Logf("caught at try %d: %s", try+1, v.Failures[0])
					return
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			t.Fatalf("prove passed %d times although %s is planted", tries, c.fault)
		})
	}
}

// TestPatternFindsEveryGap is the judge's own test: each single wrong cell is
// found, and a true prefix is not accused.
func TestPatternFindsEveryGap(t *testing.T) {
	p := pattern{Clients: 1, Threads: 3, Pages: 5}
	for newest := uint64(0); newest < 23; newest++ {
		data := make([]byte, p.Pages*provePageSize)
		for c := uint64(1); c <= newest; c++ {
			binary.LittleEndian.PutUint64(data[p.cell(int(c%5), 1):], c)
		}
		if got := p.newest(data, 1); got != newest {
			t.Fatalf("newest of %d stores is %d", newest, got)
		}
		if n, first := p.wrongCells(data, 1, newest); n != 0 {
			t.Fatalf("a true prefix of %d stores is accused: %s", newest, first)
		}
		for page := range p.Pages {
			at := p.cell(page, 1)
			was := binary.LittleEndian.Uint64(data[at:])
			for _, wrong := range []uint64{was + 5, was + 1} {
				binary.LittleEndian.PutUint64(data[at:], wrong)
				if n, _ := p.wrongCells(data, 1, newest); n == 0 {
					t.Fatalf("%d stores: page %d holding %d instead of %d is not found", newest, page, wrong, was)
				}
			}
			binary.LittleEndian.PutUint64(data[at:], was)
		}
	}
}

// TestProveRaw: what --raw leaves is enough to recompute the verdict, by the
// program in docs/TESTING.md, and tampering with any of it is seen.
func TestProveRaw(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	if err := exec.Command(python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))").Run(); err != nil {
		t.Skip("the program needs Python 3.11")
	}
	text, err := os.ReadFile("../../docs/TESTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(text), "```python\n")
	code, _, ok := strings.Cut(code, "```")
	if !ok {
		t.Fatal("docs/TESTING.md has no program")
	}
	s := newServer(t, "")
	raw := filepath.Join(s.dir, "raw")
	out, err := program(t, time.Minute, "prove", "--json", "--socket", s.socket, "--raw", raw, "--clients", "2", "--threads", "2", "--before", "20ms")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	said := decode[map[string]any](t, out)
	recompute := func() (string, error) {
		out, err := exec.Command(python, "-c", code, raw).CombinedOutput()
		return string(out), err
	}
	out, err = recompute()
	if err != nil {
		t.Fatalf("the program does not find it proved: %v\n%s", err, out)
	}
	for name, v := range decode[map[string]any](t, out) {
		if said[name] != v {
			t.Errorf("%s is %v in the verdict and %v from the evidence", name, said[name], v)
		}
	}
	for name, change := range map[string][2]string{
		"requested.json":    {"[\n", "[\n99999999,"},
		"board-frozen.json": {"\"done\": 0\n", "\"done\": 1\n"},
		"board-final.json":  {"\"done\": 1\n", "\"done\": 0\n"},
		"hashes.json":       {`"sha256": "`, `"sha256": "0`},
		"freeze.json":       {`"thawed"`, `"expired"`},
	} {
		path := filepath.Join(raw, name)
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(was), change[0], change[1], 1)
		if changed == string(was) {
			t.Errorf("%s has no %s", name, change[0])
		}
		if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := recompute(); exitCode(err) != 1 || strings.Contains(out, "Traceback") {
			t.Errorf("a change of %s is not seen: %v %s", name, err, out)
		}
		if err := os.WriteFile(path, was, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

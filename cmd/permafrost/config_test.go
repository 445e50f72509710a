package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// configured runs a verb with a config file and returns what it said.
func configured(t *testing.T, text string, args ...string) (string, int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "some-config.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := program(t, 20*time.Second, append([]string{"--config", path}, args...)...)
	return out, exitCode(err)
}

// TestConfigKeys: every way of writing a flag's name is heeded, for all verbs
// and for one.
func TestConfigKeys(t *testing.T) {
	// A value that is refused shows that it was read.
	for _, text := range []string{
		`{"lease-max": "-1s"}`, `{"lease_max": "-1s"}`, `{"leaseMax": "-1s"}`,
		`{"serve": {"lease-max": "-1s"}}`, `{"serve": {"lease_max": "-1s"}, "lease_max": "1h"}`,
		`{"cache_inodes": 7}`, `{"serve": {"cacheInodes": 7}}`,
	} {
		if out, code := configured(t, text, "serve", "--pmem", "/nowhere"); code != exitUsage || !strings.Contains(out, "must be positive") {
			t.Errorf("%s: %d: %s", text, code, out)
		}
	}
	if out, code := configured(t, `{"listen": ["nonsense"]}`, "serve"); code != exitUsage || !strings.Contains(out, `"nonsense"`) {
		t.Errorf("a list: %d: %s", code, out)
	}
	// A flag outweighs the environment, and that a file.
	t.Setenv("PERMAFROST_LISTEN", "from-environment")
	if out, _ := configured(t, `{"listen": ["from-file"], "serve": {"listen": ["from-file"]}}`, "serve"); !strings.Contains(out, `"from-environment"`) {
		t.Errorf("the environment is outweighed: %s", out)
	}
	if out, _ := configured(t, `{"listen": ["from-file"]}`, "serve", "--listen", "from-flag"); !strings.Contains(out, `"from-flag"`) {
		t.Errorf("the flag is outweighed: %s", out)
	}
}

// TestConfigRefusals: what means nothing is refused, by name, before anything
// is done.
func TestConfigRefusals(t *testing.T) {
	for text, want := range map[string][]string{
		`{"comit-interval": "1s"}`:               {"comit-interval", `"commit-interval"`},
		`{"serve": {"lease_mx": "1s"}}`:          {"lease-mx", `"lease-max"`},
		`{"serv": {"lease_max": "1s"}}`:          {`"serv"`, `"serve"`},
		`{"lease_max": "1h", "lease-max": "2h"}`: {"twice"},
		`{"lease_max": "1h"`:                     {"not a JSON object"},
		`["lease_max"]`:                          {"not a JSON object"},
		``:                                       {"empty"},
		`{} {}`:                                  {"after the JSON object"},
		`{"force": true}`:                        {`"force"`},
		`{"thaw": {"force": true}}`:              {`"force"`},
		`{"mkfs": {"force": true}}`:              {`"force"`},
		`{"prove-writer": {"path": "/x"}}`:       {"prove-writer"},
		`{"lease_max": "soon"}`:                  {"lease-max"},
	} {
		out, code := configured(t, text, "serve", "--pmem", "/nowhere", "--listen", "nonsense")
		if code != exitUsage || strings.Contains(out, `"nonsense"`) {
			t.Errorf("%s: %d: %s", text, code, out)
		}
		if text != `{"lease_max": "soon"}` {
			want = append(want, "some-config.json")
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: does not say %s: %s", text, w, out)
			}
		}
	}
}

// TestSharedNames: a value meant for one verb's flag does not reach another
// verb's of that name that means something else.
func TestSharedNames(t *testing.T) {
	s := newServer(t, "")
	t.Setenv("PERMAFROST_SOCKET", s.socket)
	if out, code := configured(t, `{"state": "/var/lib/permafrost"}`, "freezes"); code != 0 {
		t.Errorf("state of serve: %d: %s", code, out)
	}
	if out, code := configured(t, `{"freezes": {"state": "nonsense"}}`, "freezes"); code != exitFailed || !strings.Contains(out, "state") {
		t.Errorf("state of freezes: %d: %s", code, out)
	}
	t.Setenv("PERMAFROST_STATE", s.state)
	if out, err := program(t, 20*time.Second, "freezes"); err != nil {
		t.Errorf("PERMAFROST_STATE: %v: %s", err, out)
	}
	t.Setenv("PERMAFROST_FREEZES_STATE", "nonsense")
	if out, err := program(t, 20*time.Second, "freezes"); exitCode(err) != exitFailed {
		t.Errorf("PERMAFROST_FREEZES_STATE: %v: %s", err, out)
	}
	t.Setenv("PERMAFROST_FORCE", "true")
	if out, err := program(t, 20*time.Second, "mkfs", s.image, "--size", "8MiB"); exitCode(err) != exitFailed || !strings.Contains(out, "--force") {
		t.Errorf("PERMAFROST_FORCE and mkfs of what is there: %v: %s", err, out)
	}
}

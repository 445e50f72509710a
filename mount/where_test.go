package mount

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPrepare(t *testing.T) {
	dir := t.TempDir()
	empty, full, file := filepath.Join(dir, "empty"), filepath.Join(dir, "full"), filepath.Join(dir, "file")
	state, image := filepath.Join(dir, "state"), filepath.Join(dir, "fs.pmem")
	for _, d := range []string{empty, full, filepath.Join(full, "sub"), filepath.Join(state, "inner")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(empty, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	if got, err := Prepare(filepath.Join(dir, "link"), state, image); err != nil || got != empty {
		t.Errorf("%s, %v", got, err)
	}
	for at, says := range map[string]string{
		full: "not empty", file: "not a directory", filepath.Join(dir, "none"): "mkdir -p", filepath.Join(dir, "none", "deeper"): "mkdir -p",
		filepath.Join(state, "inner"): "lies in the state directory", state: "keeps its files", "/proc": "mounted",
	} {
		if _, err := Prepare(at, state, image); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", at, err, says)
		}
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"/a/b", "/a", true}, {"/a", "/a", true}, {"/ab", "/a", false}, {"/a", "/a/b", false}, {"/x", "/", true}} {
		if within(c.a, c.b) != c.want {
			t.Errorf("%s in %s", c.a, c.b)
		}
	}
}

package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The house: which package may import which. Imports point down only.
var mayImport = map[string][]string{
	"pmem":        {"pmem"},
	"core/format": {},
	"core/freeze": {},
	"core/tree":   {"core/format", "pmem", "pmem/plant"},
	"core":        {"core/format", "core/freeze", "core/tree", "pmem", "pmem/plant"},
	"core/crash":  {"core", "core/format", "core/freeze", "core/tree", "pmem", "pmem/plant", "pmem/record"},
	"migrations":  {},
	"store":       {"migrations", "store"},
	"mount":       {"core", "core/format", "core/freeze", "mount", "pmem/plant"},
	"dax":         {"core", "core/format", "core/freeze", "dax"},
	"api":         {"core", "core/format", "core/freeze", "store", "api"},
	"web":         {"core", "core/format", "core/freeze", "store", "web"},
}

// Named in one place only: a library, or a power that is easily misused.
var onlyIn = map[string][]string{
	"github.com/mattn/go-sqlite3": {"store"},
	"database/sql":                {"store"},
	"github.com/go-chi/chi/v5":    {"api", "web", "cmd"},
	"github.com/a-h/templ":        {"web"},
	"net/http":                    {"api", "web", "cmd"},
	"unsafe":                      {"pmem", "dax", "core/format"},
	"flag":                        {"cmd"},
}

func TestHouse(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && rel != "." || d.Name() == "testdata" || rel == "var" || rel == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) == ".s" && !strings.HasPrefix(rel, "pmem/") {
			t.Errorf("%s: assembly belongs in pmem only", rel)
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		checkHouse(t, path, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkHouse(t *testing.T, path, rel string) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Errorf("%s: %v", rel, err)
		return
	}
	dir := filepath.ToSlash(filepath.Dir(rel))
	layer := dir // the longest known package above the file
	for layer != "." {
		if _, known := mayImport[layer]; known {
			break
		}
		layer = filepath.ToSlash(filepath.Dir(layer))
	}
	for _, imp := range f.Imports {
		name, _ := strconv.Unquote(imp.Path.Value)
		if own, ok := strings.CutPrefix(name, "permafrost/"); ok && !strings.HasPrefix(dir, "cmd") {
			allowed := slices.ContainsFunc(mayImport[layer], func(a string) bool { return own == a || (a == layer && strings.HasPrefix(own, a+"/")) })
			if !allowed {
				t.Errorf("%s imports %s: %s may not", rel, name, layer)
			}
		}
		if places, limited := onlyIn[name]; limited && !slices.ContainsFunc(places, func(p string) bool { return dir == p || strings.HasPrefix(dir, p+"/") }) {
			t.Errorf("%s imports %s: only %v may", rel, name, places)
		}
	}
	if !strings.HasPrefix(dir, "cmd") {
		text, _ := os.ReadFile(path)
		for _, banned := range []string{"os.Exit(", "os.Getenv(", "log.Fatal"} {
			if strings.Contains(string(text), banned) {
				t.Errorf("%s calls %s: only cmd may", rel, banned)
			}
		}
	}
}

// TestNothingLeftOpen keeps notes-to-self out of main.
func TestNothingLeftOpen(t *testing.T) {
	root := filepath.Join("..", "..")
	marks := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".go", ".templ", ".sql", ".js", ".css"}, filepath.Ext(path)) || strings.Contains(path, "testdata") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range marks {
			if strings.Contains(string(text), m) && !strings.Contains(path, ".min.") {
				t.Errorf("%s: %s", path, m)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

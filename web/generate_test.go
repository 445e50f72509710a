package web

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// templCommand is the generator as the Makefile pins it.
const templCommand = "github.com/a-h/templ/cmd/templ@v0.3.977"

// TestGeneratedIsCurrent generates the templates anew and compares.
func TestGeneratedIsCurrent(t *testing.T) {
	if out, err := exec.Command("go", "run", templCommand, "version").CombinedOutput(); err != nil {
		t.Skipf("the template generator cannot be had here: %v\n%s", err, out)
	}
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(makefile), templCommand) {
		t.Errorf("the Makefile generates with another version than %s", templCommand)
	}
	root := t.TempDir()
	dir := filepath.Join(root, "web")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	templates, err := filepath.Glob("*.templ")
	if err != nil || len(templates) == 0 {
		t.Fatalf("no templates: %v", err)
	}
	for _, name := range templates {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "run", templCommand, "generate")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("templ generate: %v\n%s", err, out)
	}
	for _, name := range templates {
		generated := strings.TrimSuffix(name, ".templ") + "_templ.go"
		want, err := os.ReadFile(filepath.Join(dir, generated))
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(generated)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			t.Errorf("%s is not what %s makes: run make generate", generated, name)
		}
		// Nothing a strict Content-Security-Policy refuses comes from the generator either.
		for _, banned := range []string{"templ.ComponentCSSClass", "ComponentScript", "SanitizeStyleAttributeValues", "RenderScriptItems"} {
			if bytes.Contains(have, []byte(banned)) {
				t.Errorf("%s has %s: an inline style or script", generated, banned)
			}
		}
	}
}

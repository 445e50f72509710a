package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstall: what make install puts where, and that systemd takes the units.
func TestInstall(t *testing.T) {
	for _, tool := range []string{"make", "install"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool, " is not here")
		}
	}
	dest := t.TempDir()
	exe, _ := os.Executable()
	// The program is the one under test: nothing is built (-o build).
	out, err := exec.Command("make", "-C", "../..", "-s", "-o", "build", "install", "DESTDIR="+dest, "PREFIX=/usr", "BIN="+exe).CombinedOutput()
	if err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	if to, err := os.Readlink(dest + "/sbin/mount.permafrost"); err != nil || to != "/usr/bin/permafrost" {
		t.Errorf("mount.permafrost leads to %q, %v", to, err)
	}
	if st, err := os.Stat(dest + "/usr/bin/permafrost"); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("the program: %v, %v", st, err)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here")
	}
	units, _ := filepath.Glob(dest + "/usr/lib/systemd/system/*")
	if len(units) != 2 {
		t.Fatalf("units: %v", units)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		// systemd looks whether the program is there: it is where we have put it.
		text = []byte(strings.ReplaceAll(string(text), "ExecStart=/usr/bin", "ExecStart="+dest+"/usr/bin"))
		if err := os.WriteFile(unit, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := bounded(t, analyze, "verify", "--man=no", "--recursive-errors=no", unit); err != nil || len(strings.TrimSpace(out)) > 0 {
			t.Errorf("%s: %v\n%s", filepath.Base(unit), err, out)
		}
	}
}

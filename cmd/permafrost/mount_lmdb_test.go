package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// lmdbProgram is LMDB with MDB_WRITEMAP under the load of testdata/lmdbload.c.
type lmdbProgram struct {
	*loadProcess
	exe, mode string
}

func (p *lmdbProgram) start(t testing.TB, dir string) {
	p.loadProcess = startLoad(t, p.exe, "load", dir, p.mode, ackBoard)
}

func (p *lmdbProgram) judge(dir string, acked []uint64) error {
	out, err := exec.Command(p.exe, "check", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	newest, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return err
	}
	if newest < acked[0] {
		return fmt.Errorf("transaction %d was acknowledged before the freeze; the copy has %d", acked[0], newest)
	}
	// mdb_stat walks the free list as well; mdb_copy -c every page that is in use.
	if out, err := exec.Command("mdb_stat", "-eff", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("mdb_stat: %w: %s", err, out)
	}
	compact, err := os.MkdirTemp("", "permafrost-lmdb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(compact)
	if out, err := exec.Command("mdb_copy", "-c", dir, compact).CombinedOutput(); err != nil {
		return fmt.Errorf("mdb_copy: %w: %s", err, out)
	}
	if out, err := exec.Command(p.exe, "check", compact).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != strconv.FormatUint(newest, 10) {
		return fmt.Errorf("the compacted copy: %w: %s", err, out)
	}
	return nil
}

// TestMountLMDB: every frozen copy of an environment whose pages are changed in a
// mapping is whole, with msync at each commit and with none at all.
func TestMountLMDB(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "lmdbload")
	if out, err := exec.Command("gcc", "-O2", "-Wall", "-Werror", "-o", exe, "testdata/lmdbload.c", "-llmdb").CombinedOutput(); err != nil {
		t.Skipf("LMDB is not installed: %v: %s", err, out)
	}
	if _, err := exec.LookPath("mdb_copy"); err != nil {
		t.Skip(err)
	}
	for _, mode := range []string{"sync", "nosync"} {
		t.Run(mode, func(t *testing.T) { freezeProgram(t, "48MiB", &lmdbProgram{exe: exe, mode: mode}) })
	}
}

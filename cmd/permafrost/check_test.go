package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// checkOf runs permafrost check.
func checkOf(t testing.TB, want int, args ...string) (out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	if rc := run(append([]string{"check"}, args...), &o, &e); rc != want {
		t.Fatalf("check %v: status %d, want %d\n%s%s", args, rc, want, o.String(), e.String())
	}
	return o.String(), e.String()
}

// A leaf of an image is damaged: check names it, dump shows it, --repair heals the
// image, and what stood elsewhere is served again.
func TestCheckRepair(t *testing.T) {
	image := populatedImage(t)
	if out, _ := checkOf(t, exitOK, image, "--repair"); !strings.Contains(out, "clean") || strings.Contains(out, "repaired") {
		t.Errorf("repair of a clean image: %s", out)
	}
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	block := leafOfInode(t, image, 150)
	m, err := pmem.Open(image, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.Clone(m.Bytes(int64(block)*format.BlockSize, format.BlockSize))
	page[4000] ^= 1
	storeBlock(t, m, int(block), page)
	m.Close()

	out, _ := checkOf(t, exitFailed, image)
	if !strings.Contains(out, fmt.Sprintf("block %d", block)) || !strings.Contains(out, "--repair") {
		t.Errorf("check of a damaged image:\n%s", out)
	}
	checkOf(t, exitUsage, image, "--generation", "3")
	out, _ = checkOf(t, exitFailed, image, "--json")
	var doc wireReport
	if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.Clean || len(doc.Problems) == 0 || doc.Repaired != nil {
		t.Errorf("%v: %s", err, out)
	}
	out, _ = checkOf(t, exitOK, image, "--repair", "--json")
	doc = wireReport{}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || !doc.Clean || doc.Total == 0 || doc.Repaired == nil {
		t.Errorf("%v: %s", err, out)
	}
	checkOf(t, exitOK, image)

	// The same by its text, and for every dump afterwards.
	if err := os.WriteFile(image, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err = pmem.Open(image, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	storeBlock(t, m, int(block), page)
	m.Close()
	out, _ = checkOf(t, exitOK, image, "--repair")
	if !strings.Contains(out, "repaired from generation") || !strings.Contains(out, "the image is clean now") {
		t.Errorf("repair:\n%s", out)
	}
	dumpOf(t, image, "tree")
	dumpOf(t, image, "alloc")

	m, err = pmem.Open(image, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	fs, err := core.Mount(m, core.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	a, err := fs.Resolve(ctx, "/big")
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	if _, err := fs.ReadAt(ctx, a.Ino, p, 4*16384); err != nil || !bytes.Equal(p, bytes.Repeat([]byte("x"), 4096)) {
		t.Errorf("/big after the repair: %v", err)
	}
	if err := fs.Unmount(ctx); err != nil {
		t.Fatal(err)
	}
}

// leafOfInode is the block of the leaf with an inode's record.
func leafOfInode(t testing.TB, image string, ino format.Ino) format.Block {
	t.Helper()
	m, err := pmem.Open(image, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s, err := tree.OpenSalvage(m)
	if err != nil {
		t.Fatal(err)
	}
	_, b, err := s.Get(tree.Key{Ino: ino, Kind: format.KindInode}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

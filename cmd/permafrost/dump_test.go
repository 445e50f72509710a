package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// populatedImage makes an image with something of every kind in it, and closes
// it cleanly.
func populatedImage(t testing.TB) string {
	t.Helper()
	image := filepath.Join(shm(t), "dump.img")
	m, err := pmem.Create(image, 16<<20, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := core.Mkfs(m, core.MkfsOptions{Label: "dump test"}); err != nil {
		t.Fatal(err)
	}
	fs, err := core.Mount(m, core.Options{})
	if err != nil {
		t.Fatal(err)
	}
	populateAll(t, fs)
	if err := fs.Unmount(context.Background()); err != nil {
		t.Fatal(err)
	}
	return image
}

func populateAll(t testing.TB, fs *core.FS) {
	t.Helper()
	ctx := context.Background()
	must := func(a core.Attr, err error) format.Ino {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a.Ino
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := must(fs.Mkdir(ctx, format.RootIno, "dir", core.NewNode{Mode: 0o755}))
	for i := range 300 {
		f := must(fs.Create(ctx, dir, fmt.Sprintf("file-%d", i), core.NewNode{Mode: format.TypeRegular | 0o644}))
		if i%10 == 0 {
			_, err := fs.WriteAt(ctx, f, bytes.Repeat([]byte{byte(i)}, 5000), int64(i)*1000)
			ok(err)
		}
	}
	f := must(fs.Create(ctx, format.RootIno, "big", core.NewNode{Mode: format.TypeRegular | 0o600}))
	for i := range 5 {
		_, err := fs.WriteAt(ctx, f, bytes.Repeat([]byte("x"), 4096), int64(i)*16384)
		ok(err)
	}
	ok(fs.SetXattr(ctx, f, "user.long", bytes.Repeat([]byte("v"), 3000), false, false))
	_, err := fs.Link(ctx, f, dir, "another name")
	ok(err)
	must(fs.Symlink(ctx, dir, "sym", core.NewNode{Mode: format.TypeSymlink | 0o777, Target: "../big"}))
}

// dumps is every dump there is, of an image made by populatedImage.
var dumps = [][]string{{"super"}, {"ring"}, {"tree"}, {"alloc"}, {"inode", "1"}, {"inode", "2"}, {"inode", "303"}, {"path", "/dir/sym"}, {"path", "/big"}}

func TestDump(t *testing.T) {
	image := populatedImage(t)
	want := map[string][]string{
		"super": {`"dump test"`, "hash_seed", "copy of the superblock"},
		"ring":  {"WINS", "loses: older", "never written", "root[0].crc"},
		"tree":  {"dirent records", "symlink records", "xattr records", "level"},
		"alloc": {"saved allocator, page 0 of 1", "together:"},
		"inode": {"drwxr-xr-x", "names in directory"},
		"path":  {"the way to"},
	}
	for _, d := range dumps {
		out := dumpOf(t, image, d...)
		for _, w := range want[d[0]] {
			if d[0] == "inode" && d[1] == "303" {
				w = "regular file"
				if !strings.Contains(out, "user.long") || !strings.Contains(out, `"/dir/another name"`) || !strings.Contains(out, "extents of inode 303") {
					t.Errorf("dump %v:\n%s", d, out)
				}
				break
			}
			if !strings.Contains(out, w) {
				t.Errorf("dump %v lacks %q:\n%s", d, w, out)
			}
		}
		var doc dumpDoc
		if err := json.Unmarshal([]byte(dumpOf(t, image, append(d, "--json")...)), &doc); err != nil || len(doc.Sections) == 0 || doc.Problems != 0 {
			t.Errorf("dump %v --json: %v: %+v", d, err, doc)
		}
	}
	if out := dumpOf(t, image, "path", "/dir/sym"); !strings.Contains(out, "../big") {
		t.Errorf("the symlink's target is missing:\n%s", out)
	}
	// Every node of the tree, found by a walk.
	m, err := pmem.Open(image, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := tree.OpenSalvage(m)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []format.Block
	s.Walk(tree.Key{}, format.MaxKey, tree.Visit{Node: func(p format.Ptr, _ int, _ *format.Node) bool {
		blocks = append(blocks, p.Block)
		return true
	}})
	m.Close()
	if len(blocks) < 3 {
		t.Fatalf("a tree of %d nodes", len(blocks))
	}
	for _, b := range blocks {
		if out := dumpOf(t, image, "node", fmt.Sprint(b)); !strings.Contains(out, "right") {
			t.Errorf("node %d:\n%s", b, out)
		}
	}
}

// dumpOf is what a dump that finds nothing wrong prints.
func dumpOf(t testing.TB, image string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if rc := run(append([]string{"dump", image}, args...), &out, &errs); rc != exitOK {
		t.Errorf("dump %v: status %d\n%s%s", args, rc, out.String(), errs.String())
	}
	return out.String()
}

func TestDumpUsage(t *testing.T) {
	image := populatedImage(t)
	for _, args := range [][]string{{"node"}, {"node", "x"}, {"inode", "0"}, {"super", "1"}, {"path", "/a/../b"}, {"inode", "18446744073709551615"}, {"everything"}} {
		var out, errs bytes.Buffer
		if rc := run(append([]string{"dump", image}, args...), &out, &errs); rc != exitUsage || errs.Len() == 0 {
			t.Errorf("dump %v: status %d, %s", args, rc, errs.String())
		}
	}
	for _, args := range [][]string{{"path", "/nothing"}, {"inode", "9999"}, {"tree", "--generation", "9999"}} {
		var out, errs bytes.Buffer
		if rc := run(append([]string{"dump", image}, args...), &out, &errs); rc != exitFailed || errs.Len() == 0 {
			t.Errorf("dump %v: status %d, %s", args, rc, errs.String())
		}
	}
	m, err := pmem.Open(image, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var out, errs bytes.Buffer
	if rc := run([]string{"dump", image}, &out, &errs); rc != exitFailed || !strings.Contains(errs.String(), "in use") {
		t.Errorf("dump of an image in use: status %d, %s", rc, errs.String())
	}
}

// Damaged images: whatever is dumped of them, dump says what is wrong and ends.
func TestDumpDamaged(t *testing.T) {
	image := populatedImage(t)
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	seed := seedOf(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	used := usedOffsets(whole)
	m, err := pmem.CreateMemfd("dump-test", int64(len(whole)), pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	storeBlock(t, m, 0, whole)
	fails := 0
	for round := range 400 {
		var blocks []int
		for range 1 + rnd.IntN(8) {
			b := used[rnd.IntN(len(used))]
			page := bytes.Clone(m.Bytes(int64(b)*format.BlockSize, format.BlockSize))
			page[rnd.IntN(len(page)>>(3*rnd.IntN(3)))] ^= byte(1 << rnd.IntN(8))
			if round%3 == 0 { // a checksum that is right for bytes that are not
				reseal(page)
			}
			storeBlock(t, m, b, page)
			blocks = append(blocks, b)
		}
		for _, d := range append(dumps, []string{"node", fmt.Sprint(used[rnd.IntN(len(used))])}) {
			var out, errs bytes.Buffer
			which := ""
			if len(d) > 1 {
				which = d[1]
			}
			err := (&dumpCmd{Image: "x", What: d[0], Which: which, JSON: round%5 == 0}).dump(&console{out: &out, err: &errs}, m)
			if err != nil {
				fails++
				if out.Len() == 0 && len(err.Error()) < 20 {
					t.Errorf("dump %v: %v and no word", d, err)
				}
			}
		}
		for _, b := range blocks {
			storeBlock(t, m, b, whole[b*format.BlockSize:][:format.BlockSize])
		}
	}
	if fails < 100 {
		t.Errorf("%d dumps of damaged images found something wrong", fails)
	}
}

// Files that are cut short, from one byte on.
func TestDumpTruncated(t *testing.T) {
	image := populatedImage(t)
	for _, size := range []int64{8 << 20, 100 * format.BlockSize, 9*format.BlockSize + 17, format.BlockSize + 1, 1} {
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
		for _, d := range append(dumps, []string{"node", "200"}) {
			var out, errs bytes.Buffer
			rc := run(append([]string{"dump", image}, d...), &out, &errs)
			if d[0] == "super" && rc != exitFailed {
				t.Errorf("%d bytes: dump %v: status %d\n%s", size, d, rc, out.String())
			}
		}
	}
}

// storeBlock writes p to block b.
func storeBlock(t testing.TB, m pmem.Medium, b int, p []byte) {
	t.Helper()
	batch := m.Begin()
	defer batch.End()
	if err := errors.Join(batch.Write(int64(b)*format.BlockSize, p), batch.Fence()); err != nil {
		t.Fatal(err)
	}
}

// usedOffsets is the blocks that hold anything.
func usedOffsets(image []byte) (blocks []int) {
	var zero [format.BlockSize]byte
	for b := range len(image) / format.BlockSize {
		if !bytes.Equal(image[b*format.BlockSize:][:format.BlockSize], zero[:]) {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

// reseal gives a node or a superblock that was changed its right checksum.
func reseal(p []byte) {
	if string(p[:8]) == "PERMAFRO" {
		crc := format.Checksum(p[12:])
		copy(p[8:], []byte{byte(crc), byte(crc >> 8), byte(crc >> 16), byte(crc >> 24)})
		return
	}
	(*format.Node)(p).Seal()
}

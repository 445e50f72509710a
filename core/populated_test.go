package core

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// updateImages makes testdata/*.img.gz anew: they change only with the format.
var updateImages = flag.Bool("update-images", false, "make the populated images of core/testdata anew")

// The populated images: of the smallest size there is, with records of every
// kind, three levels of nodes, and history. They are kept, so that what a fuzz
// target or a flipped bit found means the same bytes tomorrow.
const (
	cleanImage  = "clean"         // after an unmount: with an allocator snapshot
	frozenImage = "frozen"        // as a backup takes it: the newest commit is a freeze's
	olderImage  = "without-crc64" // clean, made before commit records had a second checksum; not made anew
)

// populatedImage is the bytes of a populated image.
func populatedImage(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".img.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPopulatedImages: the kept images are clean, have all that they are kept
// for, and are read by today's program.
func TestPopulatedImages(t *testing.T) {
	if *updateImages {
		makePopulated(t)
	}
	for _, name := range []string{cleanImage, frozenImage, olderImage} {
		t.Run(name, func(t *testing.T) {
			p := populatedImage(t, name)
			m := mediumOf(t, p)
			r, err := Check(ctx, m, nil)
			if err != nil || !r.OK() {
				t.Fatalf("check: %v %+v", err, r)
			}
			sv, err := tree.OpenSalvage(m)
			if err != nil {
				t.Fatal(err)
			}
			rec := sv.Commit()
			if rec.Clean != (name != frozenImage) || rec.Roots[0].Level != 2 || (rec.FreezeID != 0) != (name == frozenImage) {
				t.Fatalf("commit %+v", rec)
			}
			kinds := make(map[string]int)
			sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
				for ; i < j; i++ {
					kinds[format.KindName(n.Key(i).Ino, n.Key(i).Kind)]++
				}
				return true
			}})
			for _, kind := range []string{"inode", "link", "dirent", "extent", "symlink", "xattr", "orphan", "badblock"} {
				if kinds[kind] == 0 {
					t.Errorf("no %s record in it: %v", kind, kinds)
				}
			}
			t.Logf("generation %d, %d nodes, %d data blocks, records %v", r.Generation, r.Nodes, r.DataBlocks, kinds)
		})
	}
}

// mediumOf is a medium that holds p.
func mediumOf(t testing.TB, p []byte) *pmem.Region {
	t.Helper()
	m, err := pmem.CreateMemfd("core-populated", int64(len(p)), pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := fillMedium(m, p); err != nil {
		t.Fatal(err)
	}
	return m
}

// fillMedium makes p the content of m.
func fillMedium(m pmem.Medium, p []byte) error {
	b := m.Begin()
	defer b.End()
	return errors.Join(b.Write(0, p), b.Fence())
}

// makePopulated makes the kept images.
func makePopulated(t *testing.T) {
	m, err := pmem.CreateMemfd("core-populated", format.MinImage, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	at := func() time.Time { return time.Unix(1_700_000_000, 0) }
	if err := tree.Format(m, tree.FormatOptions{Label: "populated", UUID: [16]byte{0: 0x70, 15: 1},
		HashSeed: [16]byte{0: 9, 15: 2}, Now: at, NextIno: format.RootIno + 1}); err != nil {
		t.Fatal(err)
	}
	s, err := tree.Open(m, tree.Options{Extents: ownedBlocks})
	if err == nil {
		err = errors.Join(putRoot(s, MkfsOptions{}), s.Close(ctx))
	}
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, m: m, mask: ^uint64(0)}
	w.opt.CommitInterval = time.Hour
	w.mount()
	populate(w)
	w.freeze()
	keep(t, frozenImage, m)
	w.thaw()
	w.ok(w.fs.Unlink(ctx, root, "fifo")) // a later commit than the freeze's
	w.unmount()
	keep(t, cleanImage, m)
}

func keep(t *testing.T, name string, m *pmem.Region) {
	t.Helper()
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	_, err := z.Write(m.Bytes(0, m.Size()))
	if err = errors.Join(err, z.Close()); err == nil {
		err = os.WriteFile("testdata/"+name+".img.gz", out.Bytes(), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// populate leaves records of every kind and a history of commits: what was
// mapped and stored to, frozen and thawed, linked, renamed, punched and
// unlinked while in use.
func populate(w *world) {
	fs := w.fs
	commit := func() {
		w.t.Helper()
		_, err := fs.WaitDurable(ctx)
		w.ok(err)
	}
	a := w.dir(root, "a")
	b := w.dir(a, "b")
	for i := range 12 {
		w.write(w.file(b, fmt.Sprintf("file-%d", i)), int64(i)*1000, pattern(i, 3000))
	}
	commit()
	sparse := w.file(a, "sparse")
	for _, page := range []int64{0, 2, 3, 9, 40} {
		w.write(sparse, page*format.PageSize, pattern(int(page), format.PageSize))
	}
	w.ok(fs.Fallocate(ctx, sparse, FallocKeepSize, 60*format.PageSize, 2*format.PageSize))
	w.ok(fs.Fallocate(ctx, sparse, FallocPunchHole, 3*format.PageSize, format.PageSize))
	for i := range 4 {
		_, err := fs.Link(ctx, sparse, b, fmt.Sprintf("link-%d", i))
		w.ok(err)
	}
	for name, target := range map[string]string{"short": "a/b/file-1", "long": "/" + strings.Repeat("x/", 1500)} {
		_, err := fs.Symlink(ctx, root, name, NewNode{Target: target})
		w.ok(err)
	}
	_, err := fs.Create(ctx, root, "fifo", NewNode{Mode: format.TypeFIFO | 0o600})
	w.ok(err)
	commit()
	p := w.mapFile(w.file(root, "mapped"), 3)
	w.ok(p.store(1, 'm'))
	w.ok(p.m.Unmap(ctx))
	w.freeze()
	w.thaw()
	w.ok(fs.SetXattr(ctx, sparse, "user.small", []byte("value"), false, false))
	w.ok(fs.Rename(ctx, b, "file-3", a, "renamed", RenameReplace))
	for _, name := range []string{"gone-1", "gone-2"} { // orphans, for as long as they are pinned
		ino := w.file(root, name)
		w.write(ino, 0, pattern(7, 9000))
		w.ok(fs.Acquire(ino))
		w.ok(fs.Unlink(ctx, root, name))
	}
	tx, err := fs.store.Begin(tree.Reserve{Nodes: 20})
	w.ok(err)
	w.ok(tx.RetireBlock(format.Block(w.m.Size()/format.BlockSize) - 3))
	tx.End()
	// Large attributes, so that there are more leaves than one node has children.
	for i := 0; fs.store.Depth() < 3; i++ {
		w.ok(fs.SetXattr(ctx, b, fmt.Sprintf("user.%d", i), pattern(i, 8000-i), false, false))
		commit()
	}
	w.ok(fs.Unlink(ctx, b, "file-5"))
	commit()
}

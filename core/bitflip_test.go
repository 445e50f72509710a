package core

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

var bitFlips = flag.Int("bit-flips", 10_000, "places of the populated images that TestBitFlips flips a bit at")

// What becomes of a flipped bit. Every one is in exactly one class.
const (
	flipFound   = "found by check, which names the block"
	flipMended  = "a commit slot that check names, and that is read as it was"
	flipFree    = "harmless: a free block"
	flipOld     = "harmless: a node that only earlier commits use"
	flipRetired = "harmless: a retired block"
	flipPadding = "harmless: behind the commit record in its slot"
	flipData    = "file data: those bytes of the file that owns the block"
	flipAhead   = "file data: behind the end of the file that owns the block"
)

// flipper flips bits of one populated image and accounts for each.
type flipper struct {
	t       *testing.T
	m       *pmem.Region
	fs      *FS // the image, mounted read-only
	p       []byte
	sb      format.Superblock
	meta    []format.Block          // superblocks, ring, nodes, snapshot
	isMeta  map[format.Block]string // what each is
	data    map[format.Block]owner
	retired map[format.Block]bool
	old     map[format.Block]bool // nodes of the commits before
	files   []format.Ino
	newest  format.Generation
}

// owner is whose data a block is.
type owner struct {
	ino  format.Ino
	page format.Page
}

// TestBitFlips flips one bit at each of many seeded places of the populated
// images, half of them in metadata, and accounts for each: check finds it and
// names the block, or it is harmless, or it is in a file's data, where exactly
// that bit of that file reads otherwise.
func TestBitFlips(t *testing.T) {
	seed := seedOf(t)
	t.Logf("seed %d; to repeat: PERMAFROST_SEED=%d go test ./core -run TestBitFlips -bit-flips %d", seed, seed, *bitFlips)
	if testing.Short() {
		*bitFlips = min(*bitFlips, 2000)
	}
	counts := make(map[string]int)
	for i, name := range []string{cleanImage, frozenImage} {
		f := newFlipper(t, name)
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		for n := range *bitFlips / 2 {
			b := format.Block(r.Uint64N(uint64(f.sb.Blocks)))
			if n%2 == 0 {
				b = f.meta[r.IntN(len(f.meta))]
			}
			class := f.flip(b, r.IntN(format.BlockSize), byte(1)<<r.IntN(8), n%50 == 1)
			counts[class]++
			if t.Failed() {
				return
			}
		}
		if err := f.fs.Unmount(ctx); err != nil {
			t.Fatal(err)
		}
	}
	sum := 0
	for _, class := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%6d  %s", counts[class], class)
		sum += counts[class]
	}
	t.Logf("%6d  in all", sum)
	if sum != *bitFlips/2*2 {
		t.Fatalf("%d flips are accounted for, of %d", sum, *bitFlips/2*2)
	}
}

func newFlipper(t *testing.T, name string) *flipper {
	p := populatedImage(t, name)
	f := &flipper{t: t, m: mediumOf(t, p), p: p, isMeta: make(map[format.Block]string), data: make(map[format.Block]owner),
		retired: make(map[format.Block]bool), old: make(map[format.Block]bool)}
	sv, err := tree.OpenSalvage(f.m)
	if err != nil {
		t.Fatal(err)
	}
	f.sb = sv.Superblock()
	for b := range f.sb.First {
		f.isMeta[b] = "superblock"
		if b >= f.sb.Ring {
			f.isMeta[b] = "slot"
		}
	}
	sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{
		Node: func(p format.Ptr, _ int, _ *format.Node) bool { f.isMeta[p.Block] = "node"; return true },
		Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool { f.owners(n, i, j); return true },
	})
	f.newest = sv.Commit().Generation
	if sv.Commit().Clean {
		f.isMeta[sv.Commit().Snapshot] = "snapshot"
	}
	for _, s := range sv.Slots() {
		if !s.Reach || s.Record.Generation == f.newest {
			continue
		}
		if err := sv.Choose(s.Record.Generation); err != nil {
			t.Fatal(err)
		}
		sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{Node: func(p format.Ptr, _ int, _ *format.Node) bool {
			f.old[p.Block] = f.isMeta[p.Block] == ""
			return true
		}})
	}
	f.meta = slices.Sorted(maps.Keys(f.isMeta))
	if f.fs, err = Mount(f.m, Options{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	f.files = slices.Sorted(maps.Keys(recordsOf(t, p).extents))
	return f
}

func (f *flipper) owners(n *format.Node, i, j int) {
	for ; i < j; i++ {
		k := n.Key(i)
		if k.Ino == format.OrphanIno && k.Kind == format.KindBadBlock {
			f.retired[format.Block(k.Off)] = true
		}
		ownedBlocks(k, n.Value(i), func(b format.Block, count uint64) {
			for x := range count {
				f.data[b+format.Block(x)] = owner{k.Ino, format.Page(k.Off + x)}
			}
		})
	}
}

// put stores one byte of the image.
func (f *flipper) put(off int64, c byte) {
	b := f.m.Begin()
	defer b.End()
	if err := errors.Join(b.Write(off, []byte{c}), b.Fence()); err != nil {
		f.t.Fatal(err)
	}
}

// flip flips one bit, sees what becomes of it, and flips it back. all: look at
// every file, whoever owns the block.
func (f *flipper) flip(b format.Block, at int, mask byte, all bool) (class string) {
	off := blockOff(b) + int64(at)
	f.put(off, f.p[off]^mask)
	defer f.put(off, f.p[off])
	rep, err := Check(context.Background(), f.m, nil)
	found := err != nil || !rep.OK()
	mended := err == nil && slices.Contains(rep.Mended, b) && rep.Generation == f.newest
	what, where := f.isMeta[b], fmt.Sprintf("block %d, byte %d, bit %#x", b, at, mask)
	o, data := f.data[b]
	switch {
	case found && !namesBlock(rep, err, b):
		f.t.Errorf("%s: check does not name it: %v %+v", where, err, rep)
	case found && what == "":
		f.t.Errorf("%s, not in use: %v %+v", where, err, rep)
	case found:
		class = flipFound
	case mended && what == "slot" && at < format.CommitSize:
		class = flipMended
	case what == "slot" && at >= format.CommitSize:
		class = flipPadding
	case what != "":
		f.t.Errorf("%s, a %s: check does not find it", where, what)
	case data:
		class = f.flippedData(o, off, mask, where)
	case f.retired[b]:
		class = flipRetired
	case f.old[b]:
		class = flipOld
	default:
		class = flipFree
	}
	if what == "" && (!data || all) { // metadata must not change below a mount that has verified it
		f.othersAsBefore(where, o.ino)
	}
	return class
}

// namesBlock reports whether a problem, or the error that check gave instead,
// says which block is at fault.
func namesBlock(rep *Report, err error, b format.Block) bool {
	name := fmt.Sprintf("block %d:", b)
	var d *format.DamageError
	if errors.As(err, &d) {
		return d.Block == b
	}
	return rep != nil && slices.ContainsFunc(rep.Problems, func(p Problem) bool {
		return b != 0 && p.Block == b || strings.Contains(p.Detail, name)
	})
}

// flippedData reads the page of the file that owns the block: that bit and no
// other differs, or the page lies behind the end.
func (f *flipper) flippedData(o owner, off int64, mask byte, where string) string {
	a, err := f.fs.GetAttr(ctx, o.ino)
	if err != nil {
		f.t.Errorf("%s: %v", where, err)
		return ""
	}
	in := off % format.BlockSize
	want := bytes.Clone(f.p[off-in : off-in+format.BlockSize])
	want[in] ^= mask
	start := int64(o.page) * format.PageSize
	page := make([]byte, format.PageSize)
	n, _ := f.fs.ReadAt(ctx, o.ino, page, start) // what is behind the end is an error
	if !bytes.Equal(page[:n], want[:n]) || int64(n) != max(0, min(format.PageSize, a.Size-start)) {
		f.t.Errorf("%s: page %d of inode %d is not as it was but for that bit", where, o.page, o.ino)
	}
	if int(in) >= n {
		return flipAhead
	}
	return flipData
}

// othersAsBefore reads all files but one.
func (f *flipper) othersAsBefore(where string, but format.Ino) {
	want := imageRecords{p: f.p, extents: make(map[format.Ino][]Extent)}
	for b, o := range f.data {
		want.extents[o.ino] = append(want.extents[o.ino], Extent{Page: o.page, Block: b, Count: 1})
	}
	for _, ino := range f.files {
		if ino == but {
			continue
		}
		a, err := f.fs.GetAttr(ctx, ino)
		if err != nil {
			f.t.Fatal(err)
		}
		p := make([]byte, a.Size)
		if n, err := f.fs.ReadAt(ctx, ino, p, 0); n != len(p) || !bytes.Equal(p, want.read(ino, 0, n)) {
			f.t.Errorf("%s: inode %d reads otherwise: %v", where, ino, err)
		}
	}
}

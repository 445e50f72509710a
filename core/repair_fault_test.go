package core

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// Damaged slots of the ring: the newest commits that hold are used, and no
// damaged slot is left behind the repair.
func TestRepairRing(t *testing.T) {
	for _, n := range []int{1, 2, 3, 9, 15} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			p := newSmallPatient(t)
			for range 8 { // every slot written
				p.mounted(func(*world) {})
			}
			sv, err := tree.OpenSalvage(p.m)
			p.ok(err)
			p.ok(sv.Choose(0))
			newest, sb := sv.Commit().Generation, sv.Superblock()
			for i := range n {
				for off := 60; off < 62; off++ { // one wrong bit would be put right
					p.flip(sb.Ring+format.Block((uint64(newest)-uint64(i))%uint64(sb.Slots)), off)
				}
			}
			p.nextSlots()
			if n == 1 {
				// As after a crash in the middle of a commit: a mount copes.
				if r, err := Check(ctx, p.m, nil); err != nil || !r.OK() {
					t.Fatal(r, err)
				}
				p.same(p.contents())
				return
			}
			if r, err := Check(ctx, p.m, nil); err == nil && r.OK() {
				t.Fatal("the check finds nothing")
			}
			r, after := p.repair(RepairOptions{})
			p.same(after)
			if r.Generation <= newest {
				t.Errorf("generation %d after %d", r.Generation, newest)
			}
		})
	}
}

// nextSlots verifies that no choice of a commit makes a repair write over a commit
// of use, or take a generation that may have been durable.
func (p *patient) nextSlots() {
	p.t.Helper()
	sv, err := tree.OpenSalvage(p.m)
	p.ok(err)
	slots := sv.Slots()
	for i := range slots {
		if slots[i].Record == nil {
			continue
		}
		p.ok(sv.Choose(slots[i].Record.Generation))
		next := sv.NextGeneration()
		at := uint64(next) % uint64(len(slots))
		if at == uint64(i) || slots[at].Reach {
			p.t.Errorf("a repair from generation %d goes to slot %d", slots[i].Record.Generation, at)
		}
		for _, l := range slots {
			if l.Record != nil && next <= l.Record.Generation {
				p.t.Errorf("generation %d comes after %d", next, l.Record.Generation)
			}
		}
	}
}

// The blocks of every commit that a mount would consider are kept.
func TestRepairKeepsOlder(t *testing.T) {
	p := newSmallPatient(t)
	for n := range 3 {
		p.mounted(func(w *world) { w.write(w.file(format.RootIno, fmt.Sprint("another", n)), 0, pattern(n, 9000)) })
	}
	p.flip(p.leafOf(tree.Key{Ino: p.before["/dir-3"].ino, Kind: format.KindInode}), 100)
	r := &repair{ctx: ctx, m: p.m, hashMask: ^uint64(0), o: &RepairOptions{}}
	p.ok(r.open())
	p.ok(r.claimNodes())
	p.ok(r.survey())
	kept := func(b format.Block) bool { return r.older.Has(b) || r.keep.Has(b) }
	others := 0
	for _, l := range r.sv.Slots() {
		if !l.Reach {
			continue
		}
		sv, err := tree.OpenSalvage(p.m)
		p.ok(err)
		p.ok(sv.Choose(l.Record.Generation))
		sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{
			Node: func(ptr format.Ptr, _ int, _ *format.Node) bool {
				if !r.keep.Has(ptr.Block) {
					others++
				}
				if !kept(ptr.Block) {
					t.Errorf("block %d of generation %d is not kept", ptr.Block, l.Record.Generation)
				}
				return true
			},
			Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
				for ; i < j; i++ {
					ownedBlocks(n.Key(i), n.Value(i), func(b format.Block, n uint64) {
						for x := b; x < b+format.Block(n); x++ {
							if !kept(x) {
								t.Errorf("block %d of a file of generation %d is not kept", x, l.Record.Generation)
							}
						}
					})
				}
				return true
			},
		})
	}
	if others == 0 {
		t.Error("the commits do not differ")
	}
}

// flaky is a medium of which one block cannot be read from some time on.
type flaky struct {
	pmem.Medium
	block format.Block
	left  int
}

func (m *flaky) ReadAt(p []byte, off int64) (int, error) {
	if off/format.BlockSize == int64(m.block) {
		if m.left == 0 {
			return 0, &pmem.MediaError{Off: off, Op: "read"}
		}
		m.left--
	}
	return m.Medium.ReadAt(p, off)
}

// A medium that gets worse while it is repaired: the repair is complete or
// changes nothing.
func TestRepairUnsteady(t *testing.T) {
	p := newSmallPatient(t)
	leaves := p.nodes(0)
	p.flip(leaves[len(leaves)/2], 900)
	sick := p.bytes()
	_, want := p.repair(RepairOptions{})
	unsteady := 0
	for n := range 12 {
		p.store(sick)
		_, err := Repair(ctx, &flaky{Medium: p.m, block: leaves[1], left: n}, RepairOptions{})
		switch {
		case errors.Is(err, tree.ErrUnsteady):
			unsteady++
			if _, after := p.repair(RepairOptions{}); !maps.Equal(after, want) {
				t.Fatalf("after %d reads: %v, and then the repair gives something else", n, err)
			}
		case err != nil && !errors.Is(err, format.ErrDamaged) && !errors.Is(err, ErrIO):
			t.Fatal(n, err)
		}
	}
	if unsteady == 0 {
		t.Error("the repair never noticed")
	}
}

func TestRepairSuperblock(t *testing.T) {
	for b := range format.Block(format.SuperblockCopies) {
		p := newSmallPatient(t)
		p.flip(b, 50)
		p.mentions(p.sick(), "superblock", func(x Problem) bool { return x.Kind == ProblemTree })
		_, after := p.repair(RepairOptions{})
		p.same(after)
		for i := range format.Block(format.SuperblockCopies) {
			if _, err := format.DecodeSuperblock(i, (*[format.BlockSize]byte)(p.m.Bytes(blockOff(i), format.BlockSize))); err != nil {
				t.Error(err)
			}
		}
	}
	p := newSmallPatient(t)
	p.flip(0, 50)
	p.flip(1, 50)
	whole := p.bytes()
	if _, err := Repair(ctx, p.m, RepairOptions{}); !errors.Is(err, format.ErrDamaged) {
		t.Fatal(err)
	}
	if !bytes.Equal(whole, p.bytes()) {
		t.Fatal("a repair that failed changed the image")
	}
}

// A damaged saved allocator costs nothing but the walk of the next mount.
func TestRepairSnapshot(t *testing.T) {
	p := newSmallPatient(t)
	sv, err := tree.OpenSalvage(p.m)
	p.ok(err)
	p.flip(sv.Commit().Snapshot, 70)
	p.sick()
	_, after := p.repair(RepairOptions{})
	p.same(after)
}

// An older commit, chosen by its generation.
func TestRepairGeneration(t *testing.T) {
	p := newSmallPatient(t)
	sv, err := tree.OpenSalvage(p.m)
	p.ok(err)
	old := sv.Commit().Generation
	p.mounted(func(w *world) {
		w.file(format.RootIno, "too new")
		p.ok(w.fs.Unlink(ctx, p.before["/dir-1"].ino, "file-1-3"))
	})
	p.flip(p.leafOf(tree.Key{Ino: format.RootIno, Kind: format.KindInode}), 2000)
	p.sick()
	if _, err := Repair(ctx, p.m, RepairOptions{Generation: 99999}); !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
	r, after := p.repair(RepairOptions{Generation: old})
	p.same(after)
	if r.Repaired.From != old {
		t.Errorf("repaired from %d", r.Repaired.From)
	}
	p.mounted(func(w *world) { // T9
		if ino := w.file(format.RootIno, "new"); ino <= p.before["/dir-7/sub/sym"].ino+1 {
			t.Errorf("number %d is used twice", ino)
		}
	})
}

var errFailing = errors.New("the medium fails, as the test wants")

// Random damage: whatever it is, the repair makes the image clean, or refuses
// for a reason it names and changes nothing; and nothing is lost in silence.
func TestRepairRandom(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	seed := seedOf(t)
	rnd := rand.New(rand.NewPCG(seed, 1))
	p := newSmallPatient(t)
	for range 3 {
		p.mounted(func(*world) {})
	}
	healthyNow := p.bytes()
	nodes := append(append(p.nodes(0), p.nodes(1)...), p.nodes(2)...)
	repaired := 0
	for round := range rounds {
		p.store(healthyNow)
		p.forged = false
		for range 1 + rnd.IntN(4) {
			switch b := nodes[rnd.IntN(len(nodes))]; rnd.IntN(5) {
			case 0:
				p.flip(format.Block(rnd.IntN(18)), rnd.IntN(200)) // superblocks and ring
			case 1:
				p.garble(rnd, b)
				p.forged = true
			default:
				p.flip(b, rnd.IntN(format.BlockSize))
			}
		}
		before := p.bytes()
		if r, err := Check(ctx, p.m, nil); err == nil && r.OK() {
			continue
		}
		_, err := Repair(ctx, p.m, RepairOptions{})
		switch {
		case err == nil:
			p.store(before)
			p.repair(RepairOptions{})
			repaired++
		case !bytes.Equal(before, p.bytes()):
			t.Errorf("round %d: %v, and the image has changed", round, err)
		case !errors.Is(err, format.ErrDamaged) && !errors.Is(err, format.ErrNotOurs):
			t.Errorf("round %d: %v", round, err)
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	t.Logf("%d of %d repaired", repaired, rounds)
	if repaired < rounds/4 {
		t.Error("too few to tell")
	}
}

// garble changes a byte of a leaf's slots or values and gives every node from
// there to the root, and the newest commit record, checksums that are right.
func (p *patient) garble(rnd *rand.Rand, leaf format.Block) {
	p.t.Helper()
	sv, err := tree.OpenSalvage(p.m)
	if err != nil || sv.Choose(0) != nil {
		return // damaged too much already
	}
	rec := *sv.Commit()
	var path []format.Ptr
	sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{Node: func(ptr format.Ptr, level int, _ *format.Node) bool {
		keep := int(rec.Roots[0].Level) - level
		if len(path) > 0 && path[len(path)-1].Block == leaf {
			return false
		}
		path = append(path[:min(keep, len(path))], ptr)
		return ptr.Block != leaf
	}})
	if len(path) == 0 || path[len(path)-1].Block != leaf {
		return
	}
	crc := uint32(0)
	for i := len(path) - 1; i >= 0; i-- {
		var n format.Node
		copy(n[:], p.m.Bytes(blockOff(path[i].Block), format.BlockSize))
		if i == len(path)-1 {
			n[32+rnd.IntN(format.NodeCap)] ^= byte(1 << rnd.IntN(8))
		} else {
			for c := range n.Count() {
				if ptr := n.Child(c); ptr.Block == path[i+1].Block {
					ptr.CRC = crc
					n.SetChild(c, ptr)
				}
			}
		}
		crc = n.Seal()
		p.write(path[i].Block, n[:])
	}
	rec.Roots[0].CRC = crc
	var slot [format.CommitSize]byte
	rec.Encode(&slot)
	sb := sv.Superblock()
	p.write(sb.Ring+format.Block(uint64(rec.Generation)%uint64(sb.Slots)), slot[:])
}

func (p *patient) write(b format.Block, data []byte) {
	p.t.Helper()
	batch := p.m.Begin()
	defer batch.End()
	p.ok(batch.Write(blockOff(b), data))
	p.ok(batch.Fence())
}

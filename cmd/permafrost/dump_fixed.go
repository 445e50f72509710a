package main

import (
	"fmt"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// super prints both superblocks.
func (p *dumper) super() {
	var first *format.Superblock
	for b := range format.Block(format.SuperblockCopies) {
		name := "superblock"
		if b > 0 {
			name = "copy of the superblock"
		}
		s := &dumpSection{Title: fmt.Sprintf("%s: block %d", name, b), Block: b}
		var page [format.BlockSize]byte
		if p.read(s, b, page[:]) {
			s.Fields = format.DescribeSuperblock(&page)
			sb, err := format.DecodeSuperblock(b, &page)
			switch {
			case err != nil:
				s.problem("%v", err)
			case int64(sb.Blocks)*format.BlockSize > p.m.Size():
				s.problem("the file has %d bytes, %d are missing", p.m.Size(), int64(sb.Blocks)*format.BlockSize-p.m.Size())
			case first == nil:
				first = sb
			case *first != *sb:
				s.problem("it differs from block 0")
			}
		}
		p.emit(s)
	}
}

// ring prints every slot of the commit ring, and which of them wins.
func (p *dumper) ring() {
	sb := p.s.Superblock()
	sum := &dumpSection{Title: fmt.Sprintf("commit ring: blocks %d to %d", sb.Ring, uint64(sb.Ring)+uint64(sb.Slots)-1), Block: sb.Ring,
		Columns: []string{"slot", "block", "generation", "freeze", "clean", "root", "verdict"}}
	won := false
	for i := range p.s.Slots() {
		l := &p.s.Slots()[i]
		won = won || l.Mount
		if r := l.Record; r != nil {
			sum.row(i, l.Block, r.Generation, r.FreezeID, r.Clean, fmt.Sprintf("block %d level %d", r.Roots[0].Block, r.Roots[0].Level), slotVerdict(l))
			continue
		}
		sum.row(i, l.Block, "-", "-", "-", "-", slotVerdict(l))
	}
	sum.note("generation g stands in slot g mod %d; a mount takes the newest whole commit whose root is whole, at most %d back", sb.Slots, format.MaxFallback)
	if !won {
		sum.problem("no commit can be mounted: permafrost check --repair salvages what can be read")
	}
	p.emit(sum)
	for i := range p.s.Slots() {
		l := &p.s.Slots()[i]
		if l.Empty {
			continue
		}
		s := &dumpSection{Title: fmt.Sprintf("slot %d: block %d: %s", i, l.Block, slotVerdict(l)), Block: l.Block}
		var page [format.CommitSize]byte
		if p.read(s, l.Block, page[:]) {
			s.Fields = format.DescribeCommit(&page)
		}
		if l.Err != nil {
			s.problem("%v", l.Err)
		}
		if l.Mended {
			s.note("one bit of it is wrong: the checksum tells which, and the verdict goes by what it was")
		}
		switch {
		case l.Root != nil && l.Reach:
			s.problem("root: %v", l.Root)
		case l.Root != nil:
			s.note("root: %v", l.Root)
		}
		p.emit(s)
	}
}

// slotVerdict says why a slot wins or loses.
func slotVerdict(l *tree.Slot) string {
	switch {
	case l.Mount:
		return "WINS: a mount takes it"
	case l.Empty:
		return "never written"
	case l.Err != nil:
		return "loses: damaged, or torn by a crash"
	case l.Root != nil && l.Reach:
		return "loses: its root cannot be read"
	case l.Root != nil:
		return "loses: older than a mount may fall back, and its root's block was used again"
	case l.Reach:
		return "loses: older than the one that wins; a mount may fall back to it"
	}
	return "loses: older than a mount may fall back"
}

// chunkUse is what a chunk's blocks are used for.
type chunkUse struct{ nodes, data, fixed, free uint64 }

func (u chunkUse) state() string {
	switch {
	case u.nodes+u.data+u.fixed == 0:
		return "free"
	case u.free > 0:
		return "partly used"
	case u.nodes+u.fixed == 0:
		return "full of data"
	}
	return "full"
}

// alloc prints what the blocks are used for, found by a walk of the tree, and
// the saved allocator.
func (p *dumper) alloc() {
	sb := p.s.Superblock()
	s := &dumpSection{Title: fmt.Sprintf("blocks in use by generation %d, found by a walk of its tree", p.s.Commit().Generation),
		Columns: []string{"chunks", "blocks", "state", "nodes", "data", "fixed", "free"}}
	nodes, data := p.usedBlocks(s)
	var sum, same chunkUse
	start, chunks := format.Block(0), 0
	flush := func(end format.Block) {
		if chunks > 0 {
			s.row(span(uint64(start/format.ChunkBlocks), uint64(chunks)), span(uint64(start), uint64(end-start)), same.state(), same.nodes, same.data, same.fixed, same.free)
		}
		chunks = 0
	}
	for b := format.Block(0); b < sb.Blocks; b += format.ChunkBlocks {
		n := uint64(min(format.ChunkBlocks, sb.Blocks-b))
		u := chunkUse{nodes: nodes.Count(b, n), data: data.Count(b, n)}
		if b < sb.First {
			u.fixed = uint64(min(sb.First, b+format.Block(n)) - b)
		}
		u.free = n - min(n, u.nodes+u.data+u.fixed)
		if chunks > 0 && (u.state() != same.state() || u.state() == "partly used" || u.state() == "full") {
			flush(b)
		}
		if chunks == 0 {
			start, same = b, chunkUse{}
		}
		chunks++
		for _, t := range []*chunkUse{&same, &sum} {
			t.nodes, t.data, t.fixed, t.free = t.nodes+u.nodes, t.data+u.data, t.fixed+u.fixed, t.free+u.free
		}
	}
	flush(sb.Blocks)
	s.note("together: %d nodes, %d data, %d fixed, %d free of %d blocks of %d bytes", sum.nodes, sum.data, sum.fixed, sum.free, uint64(sb.Blocks), format.BlockSize)
	if c := &p.s.Commit().Counters; len(s.Problems) == 0 && (c.Nodes != sum.nodes || c.Data != sum.data) {
		s.problem("the commit counts %d nodes and %d data blocks", c.Nodes, c.Data)
	}
	p.emit(s)
	p.snapshot()
}

// usedBlocks finds the blocks of nodes and those that records own.
func (p *dumper) usedBlocks(s *dumpSection) (nodes, data *tree.BlockSet) {
	sb := p.s.Superblock()
	nodes, data = tree.NewBlockSet(sb.Blocks), tree.NewBlockSet(sb.Blocks)
	claim := func(set, other *tree.BlockSet, b format.Block, n uint64, who string) {
		switch {
		case uint64(b) >= uint64(sb.Blocks) || n > uint64(sb.Blocks-b) || b < sb.First:
			s.problem("%s: blocks %s lie outside the allocatable part of the image", who, span(uint64(b), n))
		case other.Count(b, n) > 0:
			s.problem("%s: of blocks %s some have another owner", who, span(uint64(b), n))
		}
		if set.Add(b, n) < n {
			s.problem("%s: of blocks %s some have two owners", who, span(uint64(b), n))
		}
	}
	p.s.Walk(tree.Key{}, format.MaxKey, tree.Visit{
		Node: func(ptr format.Ptr, level int, _ *format.Node) bool {
			claim(nodes, data, ptr.Block, 1, fmt.Sprintf("node of level %d", level))
			return true
		},
		Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
			for ; i < j; i++ {
				k := n.Key(i)
				var e format.Extent
				switch {
				case k.Ino == 0 && k.Kind == format.KindBadBlock:
					claim(data, nodes, format.Block(k.Off), 1, "bad block")
				case k.Ino != 0 && k.Kind == format.KindExtent && e.Decode(n.Value(i)) == nil:
					claim(data, nodes, e.Block, e.Count, "extent "+k.String())
				}
			}
			return true
		},
		Lost: s.lost,
	})
	return nodes, data
}

// span writes a run of numbers.
func span(first, n uint64) string {
	if n <= 1 {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, first+n-1)
}

// snapshot prints the pages of the saved allocator.
func (p *dumper) snapshot() {
	rec := p.s.Commit()
	if !rec.Clean {
		p.emit(&dumpSection{Title: "saved allocator: none, the commit is not that of a clean unmount"})
		return
	}
	b := rec.Snapshot
	for i := range rec.SnapshotPages {
		s := &dumpSection{Title: fmt.Sprintf("saved allocator, page %d of %d: block %d", i, rec.SnapshotPages, b), Block: b}
		var page format.SnapshotPage
		ok := p.read(s, b, page[:])
		if ok {
			s.Fields = format.DescribeSnapshotPage(&page)
			if err := page.Verify(rec.Generation, b, i); err != nil {
				s.problem("%v", err)
				ok = false
			}
		}
		p.emit(s)
		if !ok {
			return // where the next one is cannot be known
		}
		b = page.Next()
	}
}

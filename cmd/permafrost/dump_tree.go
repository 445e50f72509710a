package main

import (
	"fmt"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// levelSum is what the tree dump tells of one level.
type levelSum struct {
	nodes, slots, used uint64 // used: bytes of slots and values
	oldest, newest     format.Generation
}

// tree prints a summary of each level of the commit's tree.
func (p *dumper) tree() {
	rec := p.s.Commit()
	root := rec.Roots[0]
	s := &dumpSection{Title: fmt.Sprintf("tree of generation %d: root in block %d, level %d", rec.Generation, root.Block, root.Level), Block: root.Block,
		Columns: []string{"level", "nodes", "children or records", "fill", "oldest", "newest"}}
	var sums [format.MaxLevel + 1]levelSum
	kinds := make(map[string]uint64)
	p.s.Walk(tree.Key{}, format.MaxKey, tree.Visit{
		Node: func(ptr format.Ptr, level int, n *format.Node) bool {
			l := &sums[level]
			if l.nodes == 0 || ptr.Birth < l.oldest {
				l.oldest = ptr.Birth
			}
			l.newest = max(l.newest, ptr.Birth)
			l.nodes++
			l.slots += uint64(n.Count())
			l.used += uint64(n.Used())
			return true
		},
		Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
			for ; i < j; i++ {
				k := n.Key(i)
				kinds[format.KindName(k.Ino, k.Kind)]++
			}
			return true
		},
		Lost: s.lost,
	})
	var nodes, records uint64
	for level := int(root.Level); level >= 0; level-- {
		l := &sums[level]
		if l.nodes == 0 {
			continue
		}
		nodes += l.nodes
		s.row(level, l.nodes, l.slots, fmt.Sprintf("%d%%", l.used*100/(l.nodes*format.NodeCap)), l.oldest, l.newest)
	}
	records = sums[0].slots
	s.note("oldest and newest are the generations that made the nodes")
	for _, k := range []string{"inode", "link", "dirent", "extent", "symlink", "xattr", "orphan", "badblock"} {
		if kinds[k] > 0 {
			s.note("%d %s records", kinds[k], k)
		}
	}
	if c := &rec.Counters; len(s.Problems) == 0 && (c.Nodes != nodes || c.Records != records) {
		s.problem("the tree has %d nodes and %d records, its commit says %d and %d", nodes, records, c.Nodes, c.Records)
	}
	p.emit(s)
}

// node prints block b as a tree node, whatever stands there.
func (p *dumper) node(b format.Block) error {
	s := &dumpSection{Title: fmt.Sprintf("tree node: block %d", b), Block: b}
	var n format.Node
	if !p.read(s, b, n[:]) {
		p.emit(s)
		return nil
	}
	s.Fields = format.DescribeNode(&n)
	if err := n.VerifySelf(b); err != nil {
		s.problem("%v", err)
	}
	s.Columns = []string{"offset", "size", "slot", "key (inode kind offset)", "points to", "meaning"}
	for i, sl := range n.Slots() {
		k := fmt.Sprintf("%d %s %#x", sl.Key.Ino, format.KindName(sl.Key.Ino, sl.Key.Kind), sl.Key.Off)
		switch {
		case n.Level() > 0:
			s.row(sl.Off, sl.Size, i, k, fmt.Sprintf("block %d", sl.Child.Block), fmt.Sprintf("child made in generation %d, crc 0x%08x", sl.Child.Birth, sl.Child.CRC))
		case sl.Bad != "":
			s.row(sl.Off, sl.Size, i, k, "-", "BAD: "+sl.Bad)
		default:
			s.row(sl.Off, sl.Size, i, k, fmt.Sprintf("bytes %d+%d", sl.At, len(sl.Value)), format.DescribeRecord(sl.Key, sl.Value))
		}
	}
	p.emit(s)
	return nil
}

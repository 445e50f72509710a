package crash

import (
	"fmt"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// Reached is the blocks of an image that a reader may come to: superblocks, the
// ring, and all that the commits which a mount would consider lead to.
func Reached(m pmem.Medium) (*tree.BlockSet, error) {
	sv, err := tree.OpenSalvage(m)
	if err != nil {
		return nil, fmt.Errorf("what an image leads to: %w", err)
	}
	sb := sv.Superblock()
	set := tree.NewBlockSet(sb.Blocks)
	set.Add(0, format.SuperblockCopies)
	set.Add(sb.Ring, uint64(sb.Slots))
	for _, slot := range sv.Slots() {
		if !slot.Reach {
			continue
		}
		if err := sv.Choose(slot.Record.Generation); err != nil {
			return nil, fmt.Errorf("what generation %d leads to: %w", slot.Record.Generation, err)
		}
		if slot.Record.Clean {
			set.Add(slot.Record.Snapshot, 1)
		}
		sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{
			Node: func(p format.Ptr, _ int, _ *format.Node) bool {
				set.Add(p.Block, 1)
				return true
			},
			Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
				for ; i < j; i++ {
					k := n.Key(i)
					var e format.Extent
					if k.Kind == format.KindExtent && k.Ino != format.OrphanIno && e.Decode(n.Value(i)) == nil {
						set.Add(e.Block, e.Count)
					}
				}
				return true
			},
		})
	}
	return set, nil
}

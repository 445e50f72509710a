package core

import (
	"encoding/binary"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// damager changes the bytes of an image, and can make its checksums right
// again, so that what stands behind them is reached.
type damager struct {
	p     []byte // the image
	meta  []format.Block
	inner []format.Block        // those of meta that are inner nodes
	sums  map[format.Block]bool // reseal: nodes that were met; false: not finished
	le    binary.ByteOrder      // of the medium
	sb    format.Superblock     // of the image before the damage
	rec   format.CommitRecord   // newest commit before the damage
}

// newDamager knows the metadata of the whole image on m: superblocks, ring,
// nodes and snapshot of the newest commit.
func newDamager(m pmem.Medium) (*damager, error) {
	sv, err := tree.OpenSalvage(m)
	if err != nil {
		return nil, err
	}
	d := &damager{le: binary.LittleEndian, sb: sv.Superblock(), rec: *sv.Commit()}
	for b := format.Block(0); b < d.sb.First; b++ {
		d.meta = append(d.meta, b)
	}
	sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{Node: func(p format.Ptr, level int, _ *format.Node) bool {
		d.meta = append(d.meta, p.Block)
		if level > 0 {
			d.inner = append(d.inner, p.Block)
		}
		return true
	}})
	if d.rec.Clean {
		d.meta = append(d.meta, d.rec.Snapshot)
	}
	return d, nil
}

func (d *damager) block(b format.Block) []byte {
	return d.p[b*format.BlockSize : (b+1)*format.BlockSize]
}

func (d *damager) node(b format.Block) *format.Node { return (*format.Node)(d.block(b)) }

// The kinds of damage that apply makes.
const (
	hurtXor   = iota // change one byte
	hurtStore        // store a number
	hurtCopy         // copy bytes from one place of the metadata to another
	hurtPoint        // make a child pointer lead to another node
	hurtKinds
)

// apply makes the damage that a program of bytes says: steps of 12 bytes, at
// most 32 of them.
func (d *damager) apply(prog []byte) {
	for steps := 0; len(prog) >= 12 && steps < 32; steps++ {
		s := prog[:12]
		prog = prog[12:]
		b := d.block(d.meta[int(d.le.Uint16(s[1:]))%len(d.meta)])
		at := int(d.le.Uint16(s[3:])) % format.BlockSize
		switch s[0] % hurtKinds {
		case hurtXor:
			b[at] ^= s[5]
		case hurtStore:
			var v [8]byte
			copy(v[:], s[5:12])
			if s[0] >= 128 { // a large number
				v = [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
			}
			copy(b[at:], v[:1<<(s[0]>>5&3)])
		case hurtCopy:
			from := d.block(d.meta[int(d.le.Uint16(s[5:]))%len(d.meta)])
			copy(b[at:], from[int(d.le.Uint16(s[7:]))%format.BlockSize:][:min(int(d.le.Uint16(s[9:]))%format.BlockSize, format.BlockSize-int(d.le.Uint16(s[7:]))%format.BlockSize)])
		case hurtPoint:
			d.point(s)
		}
	}
}

// point makes a child of an inner node be another node.
func (d *damager) point(s []byte) {
	n := d.node(d.inner[int(d.le.Uint16(s[1:]))%len(d.inner)])
	if n.Level() == 0 || n.Count() == 0 || n.Count() > format.MaxChildren {
		return
	}
	to := d.meta[int(d.le.Uint16(s[5:]))%len(d.meta)]
	n.SetChild(int(d.le.Uint16(s[3:]))%n.Count(), format.Ptr{Block: to, Birth: d.node(to).Birth(), CRC: d.node(to).Sum()})
}

// reseal makes every checksum right: of the nodes from the leaves up, with the
// pointers to them, of the commit record, the superblocks and the snapshot.
func (d *damager) reseal() {
	d.sums = make(map[format.Block]bool)
	slot := d.sb.Ring + format.Block(uint64(d.rec.Generation)%uint64(d.sb.Slots))
	rec := (*[format.CommitSize]byte)(d.block(slot))
	root := rec[128:152] // docs/FORMAT.md: root 0
	if b := format.Block(d.le.Uint64(root)); d.isBlock(b) {
		d.le.PutUint32(root[16:], d.sealNode(b))
		d.le.PutUint64(root[8:], uint64(d.node(b).Birth()))
	}
	for b := d.sb.Ring; b < d.sb.Ring+format.Block(d.sb.Slots); b++ {
		p := d.block(b)[:format.CommitSize]
		if string(p[4:8]) == "PFCR" {
			clear(p[104:112]) // no second checksum
			d.le.PutUint32(p, format.Checksum(p[4:]))
		}
	}
	for b := range format.Block(format.SuperblockCopies) {
		p := d.block(b)
		d.le.PutUint32(p[8:], format.Checksum(p[12:]))
	}
	if b := format.Block(d.le.Uint64(rec[40:])); d.isBlock(b) && string(d.block(b)[4:8]) == "PFAS" {
		p := d.block(b)
		d.le.PutUint32(p, format.Checksum(p[4:]))
	}
}

func (d *damager) isBlock(b format.Block) bool {
	return b >= d.sb.First && b < format.Block(len(d.p)/format.BlockSize)
}

// sealNode seals block b as a node, with what is below it, and returns its
// checksum. A node that leads to itself cannot be made right, and is not.
func (d *damager) sealNode(b format.Block) uint32 {
	n := d.node(b)
	if _, met := d.sums[b]; met {
		return n.Sum()
	}
	d.sums[b] = false
	if n.Level() > 0 && n.Count() <= format.MaxChildren {
		for i := range n.Count() {
			if c := n.Child(i); d.isBlock(c.Block) {
				c.CRC = d.sealNode(c.Block)
				c.Birth = d.node(c.Block).Birth()
				n.SetChild(i, c)
			}
		}
	}
	d.sums[b] = true
	return n.Seal()
}

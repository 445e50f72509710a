package core

import "permafrost/core/format"

// checkedInode is what must agree about one inode in the end.
type checkedInode struct {
	// balance is the sum of the hashes of the names that mean the inode, less
	// that of the back-pointers it has: 0 when both are the same sets.
	balance uint64
	names   uint32 // entries that mean it
	ptrs    uint32 // back-pointers it has
	nlink   uint32
	typ     uint8 // mode >> 12; 0: there is no such inode
	named   uint8 // type in the last entry seen
}

// checkedInodes is what check remembers of every inode. Names mean inodes far
// ahead, so that it is all there until the end. Inode numbers are given in
// order: neighbours share a place in the map, which alone takes more than what is
// remembered. 28 bytes an inode where numbers are dense, 230 where each is alone.
type checkedInodes map[format.Ino]*[inodesAPlace]checkedInode

const inodesAPlace = 8

// at is the place of an inode, made if need be.
func (m checkedInodes) at(ino format.Ino) *checkedInode {
	p := m[ino/inodesAPlace]
	if p == nil {
		p = new([inodesAPlace]checkedInode)
		m[ino/inodesAPlace] = p
	}
	return &p[ino%inodesAPlace]
}

// get is what is remembered of an inode, zero if nothing.
func (m checkedInodes) get(ino format.Ino) checkedInode {
	if p := m[ino/inodesAPlace]; p != nil {
		return p[ino%inodesAPlace]
	}
	return checkedInode{}
}

// each calls f for every inode of which something is remembered, in no order.
func (m checkedInodes) each(f func(ino format.Ino, n checkedInode)) {
	for place, p := range m {
		for i, n := range p {
			if n != (checkedInode{}) {
				f(place*inodesAPlace+format.Ino(i), n)
			}
		}
	}
}

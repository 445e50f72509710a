package core

import (
	"fmt"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// recordChecker verifies records as they come, in key order, so that one
// inode's records are neighbours. Between inodes it remembers a few words of
// each, and a little more of each directory.
type recordChecker struct {
	r        Report
	seed     format.HashSeed
	hashMask uint64
	inodes   checkedInodes
	dirs     map[format.Ino]checkedDir
	orphans  map[format.Ino]struct{}
	bad      badOwners
	cur      currentInode
}

// badOwners is the bad blocks that are said to be a page of an inode, until the
// extent that has it comes by.
type badOwners map[format.Ino]map[format.Page]format.Block

func (o badOwners) add(b format.Block, d format.BadData) {
	if o[d.Ino] == nil {
		o[d.Ino] = make(map[format.Page]format.Block)
	}
	o[d.Ino][d.Page] = b
}

// found takes out what an extent of an inode has.
func (o badOwners) found(ino format.Ino, x Extent) {
	for p, b := range o[ino] {
		if x.has(b) && p == x.Page+format.Page(b-x.Block) {
			delete(o[ino], p)
		}
	}
}

// checkedDir is what must agree about one directory in the end.
type checkedDir struct {
	parent  format.Ino
	entries uint64
	subdirs uint64
	size    uint64
	state   uint8 // of the walk to the root
}

const (
	dirUnknown = iota
	dirOnWalk
	dirReached
	dirLost
)

// currentInode is the inode whose records are coming.
type currentInode struct {
	ino     format.Ino
	has     bool
	a       format.Inode
	blocks  uint64
	next    format.Page // first page not covered by the extents so far
	target  uint64      // bytes of the target so far
	chunk   uint64      // chunks of the target so far
	xattr   uint64      // offset of the next chunk of the attribute that is coming
	missing uint64      // bytes of it that are still to come
	headed  bool        // an attribute has come from its beginning on
}

// beingFreed says whether the inode is an orphan: one that a crash found while it
// was being freed lacks the first of its records, as far as that had come.
func (cur *currentInode) beingFreed() bool { return cur.has && cur.a.Nlink == 0 }

func newRecordChecker(seed format.HashSeed, mask uint64) *recordChecker {
	return &recordChecker{seed: seed, hashMask: mask, inodes: make(checkedInodes),
		dirs: make(map[format.Ino]checkedDir), orphans: make(map[format.Ino]struct{}), bad: make(badOwners)}
}

func (c *recordChecker) problem(kind string, ino format.Ino, form string, args ...any) {
	c.r.add(Problem{Kind: kind, Ino: ino, Detail: fmt.Sprintf(form, args...)})
}

// visit verifies one record. Its error is that of a record that cannot be read.
func (c *recordChecker) visit(k tree.Key, v []byte) error {
	if k.Ino == format.OrphanIno {
		return c.own(k, v)
	}
	if k.Ino != c.cur.ino {
		c.closeInode()
		c.cur = currentInode{ino: k.Ino}
	}
	switch k.Kind {
	case format.KindInode:
		return c.inode(k, v)
	case format.KindLink:
		return c.link(k, v)
	case format.KindDirent:
		return c.dirent(k, v)
	case format.KindExtent:
		return c.extent(k, v)
	case format.KindSymlink:
		return c.symlink(k, v)
	case format.KindXattr:
		return c.xattr(k, v)
	}
	return fmt.Errorf("%w: unknown kind %d", format.ErrBadRecord, k.Kind)
}

// own verifies a record of the tree itself.
func (c *recordChecker) own(k tree.Key, v []byte) error {
	switch k.Kind {
	case format.KindOrphan:
		c.orphans[format.Ino(k.Off)] = struct{}{}
		if len(v) != 0 {
			return fmt.Errorf("%w: orphan record of %d bytes", format.ErrBadRecord, len(v))
		}
	case format.KindBadData:
		var d format.BadData
		if err := d.Decode(v); err != nil {
			return err
		}
		c.bad.add(format.Block(k.Off), d)
	}
	return nil
}

func (c *recordChecker) inode(k tree.Key, v []byte) error {
	if k.Off != 0 {
		return fmt.Errorf("%w: inode record at offset %d", format.ErrBadRecord, k.Off)
	}
	if err := c.cur.a.Decode(v); err != nil {
		return err
	}
	c.cur.has = true
	c.r.Inodes++
	a := &c.cur.a
	n := c.inodes.at(k.Ino)
	n.typ, n.nlink = uint8(a.Mode>>12), a.Nlink
	if a.Nlink > 0 && k.Ino != format.RootIno {
		n.ptrs++
		n.balance -= c.seed.LinkHash(format.Link{Parent: a.Parent, Cookie: a.Cookie})
	}
	if a.Mode&format.TypeMask == format.TypeDir {
		c.r.Directories++
		d := c.dirs[k.Ino]
		d.parent, d.size = a.Parent, a.Size
		c.dirs[k.Ino] = d
	}
	return nil
}

func (c *recordChecker) link(k tree.Key, v []byte) error {
	var l format.Link
	if err := l.Decode(v); err != nil {
		return err
	}
	if base := format.CookieBase(c.seed.LinkHash(l) & c.hashMask); k.Off&^255 != base {
		return fmt.Errorf("%w: back-pointer at the offset of another", format.ErrBadRecord)
	}
	n := c.inodes.at(k.Ino)
	n.ptrs++
	n.balance -= c.seed.LinkHash(l)
	return nil
}

func (c *recordChecker) dirent(k tree.Key, v []byte) error {
	var d format.Dirent
	if err := d.Decode(v); err != nil {
		return err
	}
	if base := format.CookieBase(c.seed.Sum(d.Name) & c.hashMask); k.Off&^255 != base {
		return fmt.Errorf("%w: the name %q stands at the offset of another", format.ErrBadRecord, d.Name)
	}
	n := c.inodes.at(d.Ino)
	n.names++
	n.named = uint8(d.Type >> 12)
	n.balance += c.seed.LinkHash(format.Link{Parent: k.Ino, Cookie: k.Off})
	if n.typ != 0 && n.typ != n.named {
		c.problem(ProblemType, d.Ino, "the name %q in directory %d calls it type %#o", d.Name, k.Ino, d.Type)
	}
	dir := c.dirs[k.Ino]
	dir.entries++
	if d.Type == format.TypeDir {
		dir.subdirs++
	}
	c.dirs[k.Ino] = dir
	return nil
}

func (c *recordChecker) extent(k tree.Key, v []byte) error {
	e, err := decodeExtent(k, v)
	if err != nil {
		return err
	}
	if e.Page < c.cur.next {
		c.problem(ProblemExtents, k.Ino, "the extent at page %d overlaps the one before", e.Page)
	}
	c.cur.next = e.end()
	c.cur.blocks += e.Count
	c.bad.found(k.Ino, e)
	return nil
}

func (c *recordChecker) symlink(k tree.Key, v []byte) error {
	if c.cur.target == 0 && c.cur.beingFreed() {
		c.cur.chunk = k.Off
	}
	if k.Off != c.cur.chunk || len(v) == 0 || len(v) > format.ChunkSize {
		return fmt.Errorf("%w: chunk %d of the target, %d bytes, where chunk %d belongs", format.ErrBadRecord, k.Off, len(v), c.cur.chunk)
	}
	c.cur.chunk++
	c.cur.target += uint64(len(v))
	return nil
}

func (c *recordChecker) xattr(k tree.Key, v []byte) error {
	cur := &c.cur
	if k.Off%xattrStep != 0 {
		if cur.beingFreed() && !cur.headed && len(v) <= format.ChunkSize {
			return nil
		}
		if cur.missing == 0 || k.Off != cur.xattr || uint64(len(v)) != min(cur.missing, format.ChunkSize) {
			return fmt.Errorf("%w: a chunk that follows no attribute", format.ErrBadRecord)
		}
		cur.missing -= uint64(len(v))
		cur.xattr++
		return nil
	}
	c.endXattr()
	var h format.XattrHead
	if err := h.Decode(v); err != nil {
		return err
	}
	if base := format.XattrBase(c.seed.Sum(h.Name) & c.hashMask); k.Off>>16 != base>>16 {
		return fmt.Errorf("%w: attribute %q stands at the offset of another", format.ErrBadRecord, h.Name)
	}
	cur.headed = true
	cur.missing, cur.xattr = h.Length-uint64(len(h.Value)), k.Off+1
	return nil
}

func (c *recordChecker) endXattr() {
	if c.cur.missing > 0 {
		c.problem(ProblemXattr, c.cur.ino, "the attribute before offset %d lacks %d bytes", c.cur.xattr, c.cur.missing)
		c.cur.missing = 0
	}
}

// closeInode verifies what one inode's own records say of each other.
func (c *recordChecker) closeInode() {
	cur := &c.cur
	if cur.ino == 0 {
		return
	}
	c.endXattr()
	if !cur.has {
		c.problem(ProblemNoInode, cur.ino, "it has records but no inode")
		return
	}
	a := &cur.a
	typ := a.Mode & format.TypeMask
	if cur.blocks != a.Blocks {
		c.problem(ProblemExtents, cur.ino, "its extents hold %d blocks, its record says %d", cur.blocks, a.Blocks)
	}
	if cur.blocks > 0 && typ != format.TypeRegular {
		c.problem(ProblemExtents, cur.ino, "it has extents and is no regular file (mode %#o)", a.Mode)
	}
	if typ == format.TypeSymlink && cur.target != a.Size && a.Nlink > 0 {
		c.problem(ProblemXattr, cur.ino, "its target has %d bytes, its record says %d", cur.target, a.Size)
	}
	if typ != format.TypeSymlink && cur.target > 0 {
		c.problem(ProblemXattr, cur.ino, "it has a target and is no symlink (mode %#o)", a.Mode)
	}
}

// finish verifies what needs all records.
func (c *recordChecker) finish(counters format.Counters) {
	c.closeInode()
	if counters.Inodes != c.r.Inodes {
		c.problem(ProblemTree, 0, "the commit counts %d inodes, there are %d", counters.Inodes, c.r.Inodes)
	}
	c.inodes.each(func(ino format.Ino, n checkedInode) {
		if ino >= counters.NextIno && n.typ != 0 {
			c.problem(ProblemTree, ino, "its number was not given yet: the next is %d", counters.NextIno)
		}
		c.finishInode(ino, n)
	})
	for ino, d := range c.dirs {
		c.finishDir(ino, d)
	}
	for ino, pages := range c.bad {
		for p, b := range pages {
			c.r.add(Problem{Kind: ProblemRecord, Block: b, Ino: ino, Detail: fmt.Sprintf("the list of bad blocks says that block %d is its page %d, which it is not", b, p)})
		}
	}
	for ino := range c.orphans {
		if n := c.inodes.get(ino); n.typ == 0 || n.nlink != 0 {
			c.problem(ProblemOrphan, ino, "it is on the list of orphans with %d links (type %#o)", n.nlink, uint32(n.typ)<<12)
		}
	}
}

func (c *recordChecker) finishInode(ino format.Ino, n checkedInode) {
	if n.typ == 0 {
		if n.names > 0 {
			c.problem(ProblemNoInode, ino, "%d names mean an inode that is not there", n.names)
		}
		return
	}
	if n.names > 0 && n.named != n.typ {
		c.problem(ProblemType, ino, "a name calls it type %#o, it is %#o", uint32(n.named)<<12, uint32(n.typ)<<12)
	}
	_, orphan := c.orphans[ino]
	if orphan != (n.nlink == 0) {
		c.problem(ProblemOrphan, ino, "it has %d links and on the list of orphans is it: %t", n.nlink, orphan)
	}
	want := n.nlink
	switch {
	case ino == format.RootIno:
		want = 0
	case uint32(n.typ)<<12 == format.TypeDir && n.nlink > 0:
		want = 1
	}
	switch {
	case n.names != want:
		c.problem(ProblemLinks, ino, "%d names mean it, its link count is %d", n.names, n.nlink)
	case n.ptrs != n.names || n.balance != 0:
		c.problem(ProblemLinks, ino, "its %d back-pointers are not its %d names", n.ptrs, n.names)
	}
}

func (c *recordChecker) finishDir(ino format.Ino, d checkedDir) {
	n := c.inodes.get(ino)
	if uint32(n.typ)<<12 != format.TypeDir {
		c.problem(ProblemDir, ino, "%d names stand in it and it is no directory", d.entries)
		return
	}
	if d.size != d.entries {
		c.problem(ProblemDir, ino, "%d names stand in it, its record says %d", d.entries, d.size)
	}
	if n.nlink == 0 {
		return // an orphan, out of the tree
	}
	if uint64(n.nlink) != 2+d.subdirs {
		c.problem(ProblemDir, ino, "it has %d subdirectories and a link count of %d", d.subdirs, n.nlink)
	}
	if !c.reaches(ino) {
		c.problem(ProblemDir, ino, "the root is not above it")
	}
}

// reaches reports whether the way up from a directory ends at the root. Every
// directory is walked once.
func (c *recordChecker) reaches(ino format.Ino) bool {
	var walk []format.Ino
	end := uint8(dirLost)
	for at := ino; ; {
		d, ok := c.dirs[at]
		if !ok || d.state == dirOnWalk || d.state == dirLost {
			break
		}
		if at == format.RootIno || d.state == dirReached {
			end = dirReached
			break
		}
		d.state = dirOnWalk
		c.dirs[at] = d
		walk = append(walk, at)
		at = d.parent
	}
	for _, at := range walk {
		d := c.dirs[at]
		d.state = end
		c.dirs[at] = d
	}
	return end == dirReached
}

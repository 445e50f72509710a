package main

import (
	"fmt"
	"slices"
	"strings"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// inode prints every record of one inode.
func (p *dumper) inode(ino format.Ino) error {
	if ino == 0 || ino >= format.MaxIno-1 {
		return &exitError{code: exitUsage, err: fmt.Errorf("%d is no inode number: they begin with %d", ino, format.RootIno)}
	}
	head := &dumpSection{Title: fmt.Sprintf("inode %d", ino)}
	byKind := map[uint8]*dumpSection{
		format.KindLink:    {Title: fmt.Sprintf("further names of inode %d", ino), Columns: []string{"leaf", "offset", "directory", "cookie", "path"}},
		format.KindDirent:  {Title: fmt.Sprintf("names in directory %d", ino), Columns: []string{"leaf", "cookie", "inode", "type", "name", "path"}},
		format.KindExtent:  {Title: fmt.Sprintf("extents of inode %d", ino), Columns: []string{"leaf", "pages", "blocks", "count"}},
		format.KindSymlink: {Title: fmt.Sprintf("target of inode %d", ino), Columns: []string{"leaf", "chunk", "bytes", "text"}},
		format.KindXattr:   {Title: fmt.Sprintf("extended attributes of inode %d", ino), Columns: []string{"leaf", "offset", "name", "bytes", "begins"}},
	}
	other := &dumpSection{Title: fmt.Sprintf("records of inode %d of unknown kinds", ino), Columns: []string{"leaf", "key", "bytes"}}
	// Paths are looked up after the walk: a directory's own path once.
	self := p.pathsOf(ino)
	here := ""
	if len(self) > 0 {
		here = strings.TrimSuffix(self[0], "/")
	}
	p.s.Walk(tree.Key{Ino: ino}, tree.Key{Ino: ino + 1}, tree.Visit{
		Leaf: func(ptr format.Ptr, n *format.Node, i, j int) bool {
			for ; i < j; i++ {
				k, v := n.Key(i), n.Value(i)
				s := byKind[k.Kind]
				switch {
				case k.Kind == format.KindInode:
					p.inodeRecord(head, ptr.Block, k, v)
				case s != nil:
					p.inodeRow(s, ptr.Block, k, v, here)
				default:
					other.row(ptr.Block, k, len(v))
					other.problem("record %v: unknown kind", k)
				}
			}
			return true
		},
		Lost: head.lost,
	})
	rows := len(other.Rows)
	for _, s := range byKind {
		rows += len(s.Rows) + len(s.Problems)
	}
	if head.Fields == nil && head.Problems == nil && rows == 0 {
		return fmt.Errorf("generation %d has no inode %d", p.s.Commit().Generation, ino)
	}
	if head.Fields == nil {
		head.problem("it has no inode record")
	}
	for _, path := range self {
		head.note("path: %q", path)
	}
	p.emit(head)
	for _, kind := range []uint8{format.KindLink, format.KindDirent, format.KindExtent, format.KindSymlink, format.KindXattr} {
		if s := byKind[kind]; len(s.Rows)+len(s.Problems) > 0 {
			p.emit(s)
		}
	}
	if len(other.Rows) > 0 {
		p.emit(other)
	}
	return nil
}

// inodeRecord adds the fields of the inode record.
func (p *dumper) inodeRecord(s *dumpSection, leaf format.Block, k tree.Key, v []byte) {
	s.Title += fmt.Sprintf(": record in leaf %d", leaf)
	s.Block = leaf
	if k.Off != 0 || len(v) != format.InodeSize {
		s.problem("record %v of %d bytes is no inode record", k, len(v))
		return
	}
	s.Fields = format.DescribeInode((*[format.InodeSize]byte)(v))
	var in format.Inode
	if err := in.Decode(v); err != nil {
		s.problem("%v", err)
	}
}

// inodeRow adds one of the other records; here is the path of the directory.
func (p *dumper) inodeRow(s *dumpSection, leaf format.Block, k tree.Key, v []byte, here string) {
	var err error
	switch k.Kind {
	case format.KindLink:
		var l format.Link
		if err = l.Decode(v); err == nil {
			path, ok := p.pathOf(l)
			if !ok {
				path = "?"
			}
			s.row(leaf, fmt.Sprintf("%#x", k.Off), l.Parent, fmt.Sprintf("%#x", l.Cookie), fmt.Sprintf("%q", path))
		}
	case format.KindDirent:
		var d format.Dirent
		if err = d.Decode(v); err == nil {
			s.row(leaf, fmt.Sprintf("%#x", k.Off), d.Ino, format.TypeName(d.Type), fmt.Sprintf("%q", d.Name), fmt.Sprintf("%q", here+"/"+string(d.Name)))
			if seed := format.HashSeed(p.s.Superblock().HashSeed); k.Off&^255 != format.CookieBase(seed.Sum(d.Name)) {
				s.problem("the name %q stands at the cookie of another", d.Name)
			}
		}
	case format.KindExtent:
		var e format.Extent
		if err = e.Decode(v); err == nil {
			s.row(leaf, span(k.Off, e.Count), span(uint64(e.Block), e.Count), e.Count)
			if sb := p.s.Superblock(); e.Block < sb.First || e.Block >= sb.Blocks || e.Count > uint64(sb.Blocks-e.Block) {
				s.problem("the extent at page %d lies outside the image", k.Off)
			}
		}
	case format.KindSymlink:
		s.row(leaf, k.Off, len(v), fmt.Sprintf("%q", v))
	case format.KindXattr:
		if chunk := k.Off & 255; chunk != 0 {
			s.row(leaf, fmt.Sprintf("%#x", k.Off), fmt.Sprintf("(chunk %d)", chunk), len(v), fmt.Sprintf("%.40q", v))
			return
		}
		var h format.XattrHead
		if err = h.Decode(v); err == nil {
			s.row(leaf, fmt.Sprintf("%#x", k.Off), fmt.Sprintf("%q", h.Name), h.Length, fmt.Sprintf("%.40q", h.Value))
		}
	}
	if err != nil {
		s.problem("record %v in block %d: %v", k, leaf, err)
	}
}

// maxDumpPaths bounds the paths that are told of one inode.
const maxDumpPaths = 100

// pathsOf is the paths of an inode by its back-pointers, the primary one first.
func (p *dumper) pathsOf(ino format.Ino) (paths []string) {
	if ino == format.RootIno {
		return []string{"/"}
	}
	var links []format.Link
	p.s.Walk(tree.Key{Ino: ino}, tree.Key{Ino: ino, Kind: format.KindLink + 1}, tree.Visit{
		Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
			for ; i < j && len(links) < maxDumpPaths; i++ {
				var in format.Inode
				var l format.Link
				switch k := n.Key(i); {
				case k.Kind == format.KindInode && in.Decode(n.Value(i)) == nil && in.Nlink > 0:
					links = append(links, format.Link{Parent: in.Parent, Cookie: in.Cookie})
				case k.Kind == format.KindLink && l.Decode(n.Value(i)) == nil:
					links = append(links, l)
				}
			}
			return len(links) < maxDumpPaths
		},
	})
	for _, l := range links {
		if path, ok := p.pathOf(l); ok {
			paths = append(paths, path)
		}
	}
	return paths
}

// pathOf climbs from a name to the root by the directories' back-pointers.
func (p *dumper) pathOf(l format.Link) (string, bool) {
	var names []string
	var buf []byte
	for range format.MaxPath / 2 {
		v, _, err := p.s.Get(tree.Key{Ino: l.Parent, Kind: format.KindDirent, Off: l.Cookie}, buf)
		var d format.Dirent
		if err != nil || d.Decode(v) != nil {
			return "", false
		}
		names = append(names, string(d.Name))
		if l.Parent == format.RootIno {
			slices.Reverse(names)
			return "/" + strings.Join(names, "/"), true
		}
		v, _, err = p.s.Get(tree.Key{Ino: l.Parent, Kind: format.KindInode}, v)
		var in format.Inode
		if err != nil || in.Decode(v) != nil {
			return "", false
		}
		l, buf = format.Link{Parent: in.Parent, Cookie: in.Cookie}, v
	}
	return "", false // the back-pointers go round in a circle
}

// path prints the entries that lead to a path, and then its inode. Symlinks are
// not followed.
func (p *dumper) path(path string) error {
	s := &dumpSection{Title: fmt.Sprintf("the way to %q", path), Columns: []string{"directory", "cookie", "inode", "type", "name"}}
	names := slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" })
	for _, name := range names {
		if why := format.NameProblem(name); why != "" {
			return &exitError{code: exitUsage, err: fmt.Errorf("path %q: the name %q %s", path, name, why)}
		}
	}
	dir := format.RootIno
	for _, name := range names {
		k, d, found := p.findName(s, dir, name)
		if !found {
			p.emit(s)
			return fmt.Errorf("no name %q in directory %d", name, dir)
		}
		s.row(dir, fmt.Sprintf("%#x", k.Off), d.Ino, format.TypeName(d.Type), fmt.Sprintf("%q", name))
		dir = d.Ino
	}
	p.emit(s)
	return p.inode(dir)
}

// findName looks a name up by its hash and, because entries may be misplaced,
// then among all entries.
func (p *dumper) findName(s *dumpSection, dir format.Ino, name string) (at tree.Key, entry format.Dirent, found bool) {
	seed := format.HashSeed(p.s.Superblock().HashSeed)
	base := format.CookieBase(seed.SumString(name))
	look := func(from, to tree.Key, lost func(tree.Lost)) {
		p.s.Walk(from, to, tree.Visit{
			Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
				for ; i < j; i++ {
					var d format.Dirent
					if d.Decode(n.Value(i)) == nil && string(d.Name) == name {
						at, entry, found = n.Key(i), d, true
						return false
					}
				}
				return true
			},
			Lost: lost,
		})
	}
	look(tree.Key{Ino: dir, Kind: format.KindDirent, Off: base}, tree.Key{Ino: dir, Kind: format.KindDirent, Off: base + format.MaxCollisions}, nil)
	if !found {
		look(tree.Key{Ino: dir, Kind: format.KindDirent}, tree.Key{Ino: dir, Kind: format.KindDirent + 1}, s.lost)
		if found {
			s.problem("the name %q stands at the cookie of another, so that lookups do not find it", name)
		}
	}
	return at, entry, found
}

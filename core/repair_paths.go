package core

import (
	"slices"
	"strings"

	"permafrost/core/format"
)

// findPaths gives every problem the path it has in the new tree or, for a name
// that is removed, had.
func (r *repair) findPaths() {
	for i := range r.problems {
		p := &r.problems[i]
		switch {
		case p.text != "":
			if dir, ok := r.dirPath(p.dir); ok {
				p.Path = dir + "/" + p.text
			}
		case p.Ino != 0:
			p.Path = r.inodePath(p.Ino)
		}
	}
}

// inodePath is the primary path of an inode, "" if it has none.
func (r *repair) inodePath(ino format.Ino) string {
	if ino == format.RootIno {
		return "/"
	}
	if r.dir(ino) != nil {
		path, _ := r.dirPath(ino)
		return path
	}
	l := format.Link{}
	if f := r.fixes[ino]; f != nil && f.link != nil {
		l = *f.link
	} else if a, err := r.oldInode(ino); err == nil {
		l = format.Link{Parent: a.Parent, Cookie: a.Cookie}
	}
	dir, ok := r.dirPath(l.Parent)
	text := r.nameAt(l)
	if !ok || text == "" {
		return ""
	}
	return dir + "/" + text
}

// dirPath is the path of a directory of the new tree, "" for the root's.
func (r *repair) dirPath(ino format.Ino) (path string, ok bool) {
	var names []string
	for range len(r.dirs) + 1 {
		if ino == format.RootIno {
			slices.Reverse(names)
			if len(names) == 0 {
				return "", true
			}
			return "/" + strings.Join(names, "/"), true
		}
		d := r.dir(ino)
		if d == nil || d.named == namedNot {
			return "", false
		}
		text := r.nameAt(d.link)
		if text == "" {
			return "", false
		}
		names, ino = append(names, text), d.link.Parent
	}
	return "", false
}

// nameAt is the name that stands at a link, or stood there.
func (r *repair) nameAt(l format.Link) string {
	k := key(l.Parent, format.KindDirent, l.Cookie)
	v := r.edits[k]
	if v == nil {
		v, _, _ = r.sv.Get(k, nil) // what cannot be read has no name
	}
	var d format.Dirent
	if d.Decode(v) != nil {
		return ""
	}
	return string(d.Name)
}

package core

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// maxSymlinks is how many symlinks one path may lead through.
const maxSymlinks = 40

// Resolve finds what a path from the root names, following symlinks.
//
// Errors: ErrNotFound, ErrNotDir, ErrLoop, ErrNameTooLong, ErrInvalid, ErrIO.
func (fs *FS) Resolve(ctx context.Context, path string) (Attr, error) {
	names, err := splitPath(path)
	if err != nil {
		return Attr{}, err
	}
	ino, err := fs.walkPath(ctx, names)
	if err != nil {
		return Attr{}, fmt.Errorf("resolve %q: %w", path, err)
	}
	return fs.GetAttr(ctx, ino)
}

// ResolveParent finds the directory of a path's last name, which need not
// exist and is not followed.
//
// Errors: ErrInvalid for the root, which has no parent; else as Resolve.
func (fs *FS) ResolveParent(ctx context.Context, path string) (Attr, string, error) {
	names, err := splitPath(path)
	if err != nil {
		return Attr{}, "", err
	}
	if len(names) == 0 {
		return Attr{}, "", fmt.Errorf("the root directory has no name: %w", ErrInvalid)
	}
	last := len(names) - 1
	ino, err := fs.walkPath(ctx, names[:last])
	if err != nil {
		return Attr{}, "", fmt.Errorf("resolve the parent of %q: %w", path, err)
	}
	a, err := fs.GetAttr(ctx, ino)
	if err == nil && a.Mode&format.TypeMask != format.TypeDir {
		err = fmt.Errorf("parent of %q: %w", path, ErrNotDir)
	}
	return a, names[last], err
}

// walkPath follows names from the root, and symlinks on the way.
func (fs *FS) walkPath(ctx context.Context, names []string) (format.Ino, error) {
	stack := []format.Ino{format.RootIno} // directories from the root to here
	links := 0
	names = slices.Clone(names)
	for len(names) > 0 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		name := names[0]
		names = names[1:]
		if name == ".." { // from a symlink's target only
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		a, err := fs.Lookup(ctx, stack[len(stack)-1], name)
		if err != nil {
			return 0, err
		}
		switch a.Mode & format.TypeMask {
		case format.TypeSymlink:
			if links++; links > maxSymlinks {
				return 0, fmt.Errorf("%q: %w", name, ErrLoop)
			}
			target, err := fs.Readlink(ctx, a.Ino)
			if err != nil {
				return 0, err
			}
			if strings.HasPrefix(target, "/") {
				stack = stack[:1]
			}
			names = append(targetNames(target), names...)
		default: // not a directory: the next lookup in it says so
			stack = append(stack, a.Ino)
		}
	}
	return stack[len(stack)-1], nil
}

// targetNames cuts a symlink's target, where "." and ".." mean what they do.
func targetNames(target string) []string {
	var names []string
	for n := range strings.SplitSeq(target, "/") {
		if n != "" && n != "." {
			names = append(names, n)
		}
	}
	return names
}

// Lookup finds one name in a directory.
//
// Errors: ErrNotFound, ErrNotDir, ErrStale, ErrNameTooLong, ErrInvalid, ErrIO.
func (fs *FS) Lookup(ctx context.Context, dir format.Ino, name string) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	child, err := fs.lookup(dir, name)
	if err != nil {
		return Attr{}, err
	}
	defer fs.put(child)
	child.mu.RLock()
	defer child.mu.RUnlock()
	if err := child.aliveLocked(); err != nil {
		return Attr{}, err
	}
	return child.attrLocked(), nil
}

// lookup pins the inode that a name means.
func (fs *FS) lookup(dir format.Ino, name string) (*inode, error) {
	d, err := fs.get(dir)
	if err != nil {
		return nil, err
	}
	defer fs.put(d)
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.dirLocked(); err != nil {
		return nil, err
	}
	return fs.childLocked(d, name)
}

// childLocked pins the inode that a name of a locked directory means.
func (fs *FS) childLocked(d *inode, name string) (*inode, error) {
	e, err := fs.findName(d.ino, name)
	if err != nil {
		return nil, err
	}
	if e.ino == 0 {
		return nil, fmt.Errorf("%q in directory %d: %w", name, d.ino, ErrNotFound)
	}
	return fs.get(e.ino)
}

// GetAttr copies an inode's attributes.
//
// Errors: ErrStale, ErrIO.
func (fs *FS) GetAttr(_ context.Context, ino format.Ino) (Attr, error) {
	in, err := fs.get(ino)
	if err != nil {
		return Attr{}, err
	}
	in.mu.RLock()
	err = in.aliveLocked()
	a := in.attrLocked()
	in.mu.RUnlock()
	fs.put(in)
	return a, err
}

// Paths gives at most limit of an inode's paths, the primary one first. It locks
// one inode at a time, so a rename in the middle may cost an answer.
func (fs *FS) Paths(ino format.Ino, limit int) []string {
	if limit <= 0 {
		return nil
	}
	if ino == format.RootIno {
		return []string{"/"}
	}
	in, err := fs.get(ino)
	if err != nil {
		return nil
	}
	in.mu.RLock()
	links := []format.Link{{Parent: in.a.Parent, Cookie: in.a.Cookie}}
	named := in.a.Nlink > 0 && !in.is(flagGone)
	more := in.a.Nlink > 1 && !in.isDirLocked()
	in.mu.RUnlock()
	fs.put(in)
	if !named {
		return nil
	}
	if more && limit > 1 {
		// A failed scan shows fewer names, which is all this promises.
		_ = fs.store.Scan(key(ino, format.KindLink, 0), key(ino, format.KindLink+1, 0), func(_ tree.Key, v []byte) bool {
			var l format.Link
			if l.Decode(v) == nil {
				links = append(links, l)
			}
			return len(links) < limit
		})
	}
	var paths []string
	for _, l := range links {
		if p, ok := fs.pathOf(l); ok {
			paths = append(paths, p)
		}
	}
	return paths
}

// pathOf climbs from an entry to the root.
func (fs *FS) pathOf(l format.Link) (string, bool) {
	var names []string
	for range format.MaxPath {
		name, _, err := fs.nameAt(l.Parent, l.Cookie)
		if err != nil {
			return "", false
		}
		names = append(names, name)
		if l.Parent == format.RootIno {
			slices.Reverse(names)
			return "/" + strings.Join(names, "/"), true
		}
		dir, err := fs.get(l.Parent)
		if err != nil {
			return "", false
		}
		dir.mu.RLock()
		l = format.Link{Parent: dir.a.Parent, Cookie: dir.a.Cookie}
		dir.mu.RUnlock()
		fs.put(dir)
	}
	return "", false
}

package core

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"

	"permafrost/core/format"
)

// cacheClient is a way in that caches all it can and drops only what it is told
// of, as a kernel does with a mount's answers.
type cacheClient struct {
	w *world

	mu    sync.Mutex
	attrs map[format.Ino]Attr
	xattr map[format.Ino]map[string]string
	pages map[format.Ino]map[format.Page][]byte // padded with zeros
	names map[format.Ino]map[string]format.Ino  // 0: there is no such name

	op   string // under way
	deaf deafness
	lost int // notices that deafness has cost
}

// deafness is a planted fault: notices of one kind that are missing while one
// operation goes on.
type deafness struct{ op, kind string }

func newCacheClient(w *world) *cacheClient {
	return &cacheClient{w: w, attrs: make(map[format.Ino]Attr), xattr: make(map[format.Ino]map[string]string),
		pages: make(map[format.Ino]map[format.Page][]byte), names: make(map[format.Ino]map[string]format.Ino)}
}

// misses says whether a notice is lost. Needs mu.
func (c *cacheClient) misses(kind string) bool {
	if c.deaf != (deafness{c.op, kind}) {
		return false
	}
	c.lost++
	return true
}

// heard says whether no notice was lost.
func (c *cacheClient) heard() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost == 0
}

func (c *cacheClient) InodeChanged(ino format.Ino, off, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := "attr"
	if c.attrs[ino].Mode&format.TypeMask == format.TypeDir {
		kind = "dir"
	}
	if !c.misses(kind) {
		delete(c.attrs, ino)
		delete(c.xattr, ino)
	}
	if n == 0 || c.misses("data") {
		return
	}
	for p := range c.pages[ino] {
		if pageStart(p+1) > off && (n < 0 || pageStart(p) < off+n) {
			delete(c.pages[ino], p)
		}
	}
}

func (c *cacheClient) EntryChanged(dir format.Ino, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.misses("entry") {
		delete(c.names[dir], name)
	}
}

// stale compares all that is cached with the truth. Pages that a mapping may store
// to change unseen, and are left out.
func (c *cacheClient) stale(unseen func(format.Ino, format.Page) bool) error {
	c.mu.Lock()
	attrs, xattr := maps.Clone(c.attrs), maps.Clone(c.xattr)
	c.mu.Unlock()
	fs := c.w.fs
	for ino, a := range attrs {
		now, err := fs.GetAttr(ctx, ino)
		if now.Generation = a.Generation; err != nil || now != a {
			return fmt.Errorf("attributes of inode %d are %+v (%v), cached %+v", ino, now, err, a)
		}
	}
	for ino, x := range xattr {
		if now := c.w.xattrs(ino); !maps.Equal(now, x) {
			return fmt.Errorf("extended attributes of inode %d are others than cached", ino)
		}
	}
	for dir, names := range c.names {
		for name, ino := range names {
			a, err := fs.Lookup(ctx, dir, name)
			if errors.Is(err, ErrStale) && ino == 0 {
				continue // the directory is gone: it has no names
			}
			if err != nil && !errors.Is(err, ErrNotFound) || a.Ino != ino {
				return fmt.Errorf("%q in directory %d is inode %d (%v), cached %d", name, dir, a.Ino, err, ino)
			}
		}
	}
	for ino, pages := range c.pages {
		if a, err := fs.GetAttr(ctx, ino); errors.Is(err, ErrStale) || a.Nlink == 0 {
			continue // the reaper's, or nearly: the attributes' notice has told
		}
		for p, have := range pages {
			if unseen(ino, p) {
				continue
			}
			if now, err := c.w.page(ino, p); err != nil || !bytes.Equal(now, have) {
				return fmt.Errorf("page %d of inode %d is other than cached (%v)", p, ino, err)
			}
		}
	}
	return nil
}

// page reads one, padded with zeros. An inode that is gone has none.
func (w *world) page(ino format.Ino, p format.Page) ([]byte, error) {
	b := make([]byte, format.PageSize)
	_, err := w.fs.ReadAt(ctx, ino, b, pageStart(p))
	if err == io.EOF {
		err = nil
	}
	return b, err
}

func (w *world) xattrs(ino format.Ino) map[string]string {
	names, err := w.fs.ListXattr(ctx, ino)
	w.ok(err)
	m := make(map[string]string)
	for _, n := range names {
		v, err := w.fs.GetXattr(ctx, ino, n)
		w.ok(err)
		m[n] = string(v)
	}
	return m
}

// fill caches an inode. Attributes come last: to read moves the access time.
func (c *cacheClient) fill(ino format.Ino, names []string) {
	fs := c.w.fs
	a, err := fs.GetAttr(ctx, ino)
	c.w.ok(err)
	switch a.Mode & format.TypeMask {
	case format.TypeRegular:
		if c.pages[ino] == nil {
			c.pages[ino] = make(map[format.Page][]byte)
		}
		for p := range pagesUp(a.Size) {
			if c.pages[ino][p] == nil {
				b, err := c.w.page(ino, p)
				c.w.ok(err)
				c.pages[ino][p] = b
			}
		}
	case format.TypeDir:
		if c.names[ino] == nil {
			c.names[ino] = make(map[string]format.Ino)
		}
		for _, name := range names {
			child, err := fs.Lookup(ctx, ino, name)
			if err != nil {
				c.w.fails(err, ErrNotFound)
			}
			c.names[ino][name] = child.Ino
		}
	}
	x := c.w.xattrs(ino)
	a, err = fs.GetAttr(ctx, ino)
	c.w.ok(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.xattr[ino], c.attrs[ino] = x, a
}

package exercise

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// blocksSlack is how many blocks of 512 bytes a file may take beyond its data
// and what was reserved: attributes and extents of ext4 are counted there.
const blocksSlack = 64

func (r *run) statSometimes(h *handle) error {
	if r.chance(4) {
		return r.checkStat(h)
	}
	return nil
}

func (r *run) stat() error {
	if e, ok := r.someOf(kindFile); ok && r.chance(2) {
		r.note("stat %q (f%d)", e.path, e.node.id)
		r.done()
		return r.checkPath(e.path, e.node)
	}
	h, err := r.handle(func(*handle) bool { return true })
	if h == nil {
		return err
	}
	r.note("stat %v", h)
	r.done()
	return r.checkStat(h)
}

func (r *run) checkStat(h *handle) error {
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		return fmt.Errorf("stat %v: %w", h, err)
	}
	return r.judgeStat(&st, h.node, true)
}

// checkPath compares what a name says of a node.
func (r *run) checkPath(path string, n *node) error {
	if n.kind == kindDir {
		return r.checkDir(r.path(path), n)
	}
	var st unix.Stat_t
	if err := unix.Lstat(r.path(path), &st); err != nil {
		return fmt.Errorf("stat %q: %w", path, err)
	}
	return r.judgeStat(&st, n, true)
}

var fileTypes = map[kind]uint32{kindFile: unix.S_IFREG, kindDir: unix.S_IFDIR, kindSymlink: unix.S_IFLNK}

// judgeStat compares attributes with the model. Live ones teach it the times;
// those of a frozen copy do not.
func (r *run) judgeStat(st *unix.Stat_t, f *node, live bool) error {
	if st.Mode&unix.S_IFMT != fileTypes[f.kind] || f.kind != kindSymlink && st.Mode&0o777 != f.mode {
		return fmt.Errorf("f%d has mode %#o, the model %#o", f.id, st.Mode, f.mode)
	}
	if int(st.Nlink) != f.links {
		return fmt.Errorf("f%d has %d links, the model %d", f.id, st.Nlink, f.links)
	}
	if f.kind == kindSymlink {
		if int(st.Size) != len(f.target) {
			return fmt.Errorf("the symlink f%d has size %d, the model %d", f.id, st.Size, len(f.target))
		}
		return nil
	}
	if st.Size != int64(len(f.data)) {
		return fmt.Errorf("f%d has size %d, the model %d", f.id, st.Size, len(f.data))
	}
	if err := r.judgeBlocks(st, f, live); err != nil {
		return err
	}
	mtime, ctime := time.Unix(st.Mtim.Unix()), time.Unix(st.Ctim.Unix())
	switch {
	case f.exact && !mtime.Equal(f.mtime):
		return fmt.Errorf("f%d was changed at %v; nothing has changed it since %v", f.id, mtime, f.mtime)
	case mtime.Before(f.floor) && !(f.held && live):
		return fmt.Errorf("f%d was changed at %v, but a change was made %v later at the earliest", f.id, mtime, f.floor.Sub(mtime))
	case ctime.Before(f.ctime):
		return fmt.Errorf("the ctime of f%d went back from %v to %v", f.id, f.ctime, ctime)
	}
	if live {
		f.mtime, f.ctime = mtime, ctime
		if mtime.After(f.floor) {
			f.floor = mtime
		}
		f.exact = f.stored.IsZero() && f.during == nil && !f.held
	}
	return nil
}

func (r *run) judgeBlocks(st *unix.Stat_t, f *node, live bool) error {
	end := (max(int64(len(f.data)), f.reserved) + pageSize - 1) &^ (pageSize - 1)
	if st.Blocks > end/512+blocksSlack {
		return fmt.Errorf("f%d takes %d blocks of 512 bytes, but has %d bytes with what was reserved", f.id, st.Blocks, end)
	}
	if !r.cfg.Features.Holes || !f.stored.IsZero() || f.during != nil || f.held && live {
		return nil
	}
	var need int64
	for at := int64(0); at < int64(len(f.data)); at += pageSize {
		if slices.ContainsFunc(f.bytes(at, pageSize), func(b byte) bool { return b != 0 }) {
			need += pageSize / 512
		}
	}
	if st.Blocks < need {
		return fmt.Errorf("f%d takes %d blocks of 512 bytes, but data lies in %d", f.id, st.Blocks, need)
	}
	return nil
}

func (r *run) list() error {
	dirs := r.dirs()
	d := dirs[r.rng.IntN(len(dirs))]
	r.note("list %q", d.path)
	r.done()
	return r.checkDir(r.path(d.path), d.node)
}

// checkDir compares the names in a directory, with the kinds that it tells.
func (r *run) checkDir(path string, d *node) error {
	got, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("list %q: %w", path, err)
	}
	for _, e := range got {
		n := d.names[e.Name()]
		if n == nil {
			return fmt.Errorf("%q lists %q, which the model has not", path, e.Name())
		}
		if want := fileTypes[n.kind]; e.IsDir() != (want == unix.S_IFDIR) || (e.Type()&os.ModeSymlink != 0) != (want == unix.S_IFLNK) {
			return fmt.Errorf("%q lists %q as %v", path, e.Name(), e.Type())
		}
	}
	if len(got) != len(d.names) {
		return fmt.Errorf("%q lists %d names, the model has %d", path, len(got), len(d.names))
	}
	return nil
}

// checkAll looks at everything: by names, through every handle and every mapping.
func (r *run) checkAll() error {
	if err := r.checkTree(r.dir, true); err != nil {
		return err
	}
	return r.checkOpen()
}

// checkOpen looks at every handle and mapping.
func (r *run) checkOpen() error {
	for _, h := range r.handles {
		if err := r.checkStat(h); err != nil {
			return err
		}
		if h.reads && !(h.direct && h.node.held) {
			_, n := h.aligned(0, int64(len(h.node.data))+1)
			if err := r.readAt(h, 0, n); err != nil {
				return fmt.Errorf("through %v: %w", h, err)
			}
		}
	}
	for _, m := range r.maps {
		if _, whole := m.usable(); whole > 0 {
			if err := r.loadPart(m, 0, whole); err != nil {
				return fmt.Errorf("through %v: %w", m, err)
			}
		}
	}
	return nil
}

// checkTree compares everything that has a name, below root.
func (r *run) checkTree(root string, live bool) error {
	for _, d := range r.dirs() {
		if err := r.checkDir(filepath.Join(root, d.path), d.node); err != nil {
			return err
		}
	}
	for _, e := range r.walk() {
		if e.node.kind == kindDir {
			continue
		}
		if err := r.checkNode(filepath.Join(root, e.path), e.node, live); err != nil {
			return fmt.Errorf("%q: %w", e.path, err)
		}
	}
	return nil
}

func (r *run) checkNode(path string, n *node, live bool) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if err := r.judgeStat(&st, n, live); err != nil {
		return err
	}
	if n.kind == kindSymlink {
		if got, err := os.Readlink(path); err != nil || got != n.target {
			return fmt.Errorf("the symlink says %q: %w", got, errOr(err, errContent))
		}
		return nil
	}
	if err := r.checkXattrs(path, n); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("read f%d: %w", n.id, err)
	}
	return r.compare(n, got, 0, int64(len(n.data))+1)
}

func (r *run) checkOne() error {
	e, ok := r.someOf(kindFile)
	if !ok {
		return nil
	}
	r.note("look at %q (f%d)", e.path, e.node.id)
	r.done()
	return r.checkNode(r.path(e.path), e.node, true)
}

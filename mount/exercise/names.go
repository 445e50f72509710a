package exercise

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxHandles = 10
	maxFiles   = 14
	maxDirs    = 7
)

// expect compares the error of a call with what the model says; any of several
// will do.
func expect(got error, want ...error) error {
	for _, w := range want {
		if errors.Is(got, w) || got == nil && w == nil {
			return nil
		}
	}
	return fmt.Errorf("answers %v where the model says %v", got, want)
}

// open opens a file by one of its names.
func (r *run) open() error {
	e, ok := r.someOf(kindFile)
	if !ok {
		return r.create()
	}
	h := &handle{id: r.n, node: e.node, reads: true, writes: true}
	flags := unix.O_RDWR
	switch r.rng.IntN(6) {
	case 0, 1:
		flags, h.writes = unix.O_RDONLY, false
	case 2:
		flags, h.reads = unix.O_WRONLY, false
	}
	if h.writes && r.chance(6) {
		flags, h.appends = flags|unix.O_APPEND, true
	}
	if r.cfg.Features.Direct && r.chance(8) {
		flags, h.direct = flags|unix.O_DIRECT, true
	}
	empties := h.writes && r.chance(12)
	if empties {
		flags |= unix.O_TRUNC
	}
	return r.openAs(e, h, flags, empties)
}

// openAs opens e with the flags as h, and keeps it.
func (r *run) openAs(e entry, h *handle, flags int, empties bool) error {
	if err := r.room(); err != nil {
		return err
	}
	r.note("open %q (f%d) as h%d, flags %#x", e.path, e.node.id, h.id, flags)
	began := time.Now()
	fd, err := unix.Open(r.path(e.path), flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	h.fd = fd
	r.handles = append(r.handles, h)
	if empties {
		r.truncated(e.node, 0, began)
	}
	r.done()
	return r.checkStat(h)
}

// room makes sure that one more handle may be kept.
func (r *run) room() error {
	if len(r.handles) < maxHandles {
		return nil
	}
	return r.closeAt(r.rng.IntN(len(r.handles)))
}

func (r *run) closeAt(i int) error {
	h := r.handles[i]
	r.handles = append(r.handles[:i], r.handles[i+1:]...)
	return h.close()
}

func (r *run) closeOne() error {
	if len(r.handles) == 0 {
		return nil
	}
	i := r.rng.IntN(len(r.handles))
	r.note("close %v", r.handles[i])
	r.done()
	return r.closeAt(i)
}

func (r *run) count(k kind) int {
	n := 0
	for _, e := range r.walk() {
		if e.node.kind == k {
			n++
		}
	}
	return n
}

func (r *run) create() error {
	if r.count(kindFile) >= maxFiles {
		return r.unlink()
	}
	e := r.somewhere()
	if r.chance(30) {
		r.note("create a name of 256 bytes")
		_, err := unix.Open(r.path(e.path[:len(e.path)-len(e.name)])+"/"+strings.Repeat("x", 256), unix.O_RDWR|unix.O_CREAT, 0o600)
		return expect(err, unix.ENAMETOOLONG)
	}
	if e.node != nil {
		r.note("create %q, which is there", e.path)
		_, err := unix.Open(r.path(e.path), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		r.done()
		return expect(err, unix.EEXIST)
	}
	if err := r.room(); err != nil {
		return err
	}
	mode := uint32(0o600 | r.rng.IntN(0o100))
	f := r.newNode(kindFile, mode)
	h := &handle{id: r.n, node: f, reads: true, writes: true}
	r.note("create %q (f%d) as h%d, mode %#o", e.path, f.id, h.id, mode)
	flags := unix.O_RDWR | unix.O_CREAT | unix.O_CLOEXEC
	if r.chance(2) {
		flags |= unix.O_EXCL
	}
	f.touched(time.Now())
	fd, err := unix.Open(r.path(e.path), flags, mode)
	if err != nil {
		return err
	}
	h.fd = fd
	e.put(f)
	r.handles = append(r.handles, h)
	r.done()
	if err := unix.Fchmod(fd, mode); err != nil { // the process's umask is its own
		return err
	}
	return r.checkStat(h)
}

// tmpfile makes a file without a name, which may get one.
func (r *run) tmpfile() error {
	if err := r.room(); err != nil {
		return err
	}
	if r.count(kindFile) >= maxFiles {
		return nil
	}
	e := r.somewhere()
	f := r.newNode(kindFile, 0o600)
	f.links = 0
	h := &handle{id: r.n, node: f, reads: true, writes: true}
	r.note("make a file without a name (f%d) as h%d, perhaps named %q afterwards", f.id, h.id, e.path)
	f.touched(time.Now())
	fd, err := unix.Open(r.dir, unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, f.mode)
	if err != nil {
		if refused(err, r.cfg.Features.Tmpfile) {
			return nil
		}
		return err
	}
	h.fd = fd
	r.handles = append(r.handles, h)
	r.done()
	if e.node != nil || r.chance(2) {
		return r.checkStat(h)
	}
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, r.path(e.path), unix.AT_SYMLINK_FOLLOW); err != nil {
		return fmt.Errorf("link a file without a name: %w", err)
	}
	f.links = 1
	e.put(f)
	return r.checkStat(h)
}

func (r *run) unlink() error {
	e := r.somewhere()
	if f, ok := r.someOf(kindFile); ok && !r.chance(3) {
		e = f
	}
	r.note("unlink %q", e.path)
	err := unix.Unlink(r.path(e.path))
	r.done()
	switch {
	case e.node == nil:
		return expect(err, unix.ENOENT)
	case e.node.kind == kindDir:
		return expect(err, unix.EISDIR)
	case err != nil:
		return err
	}
	e.drop()
	return r.gone(e.path)
}

// gone: a name that was taken away is not found.
func (r *run) gone(path string) error {
	var st unix.Stat_t
	return expect(unix.Lstat(r.path(path), &st), unix.ENOENT)
}

func (r *run) link() error {
	from, ok := r.someOf(kindFile)
	if !ok {
		return nil
	}
	to := r.somewhere()
	r.note("link %q (f%d) as %q", from.path, from.node.id, to.path)
	err := unix.Link(r.path(from.path), r.path(to.path))
	r.done()
	if to.node != nil {
		return expect(err, unix.EEXIST)
	}
	if err != nil {
		return err
	}
	to.put(from.node)
	from.node.links++
	return r.checkPath(to.path, from.node)
}

func (r *run) symlink() error {
	e := r.somewhere()
	target := strings.Repeat("../x", 1+r.rng.IntN(60))
	r.note("symlink %q to %d bytes", e.path, len(target))
	err := unix.Symlink(target, r.path(e.path))
	r.done()
	if e.node != nil {
		return expect(err, unix.EEXIST)
	}
	if err != nil {
		return err
	}
	n := r.newNode(kindSymlink, 0o777)
	n.target = target
	e.put(n)
	got, err := os.Readlink(r.path(e.path))
	if err != nil || got != target {
		return fmt.Errorf("the symlink says %q, %w", got, errOr(err, errShort))
	}
	return nil
}

func (r *run) mkdir() error {
	e := r.somewhere()
	if e.node == nil && (r.count(kindDir) >= maxDirs || strings.Count(e.path, "/") > 3) {
		return nil
	}
	r.note("mkdir %q", e.path)
	err := unix.Mkdir(r.path(e.path), 0o755)
	r.done()
	if e.node != nil {
		return expect(err, unix.EEXIST)
	}
	if err != nil {
		return err
	}
	d := newDir(e.dir)
	d.links = 1
	e.put(d)
	return r.checkDir(r.path(e.path), d)
}

func (r *run) rmdir() error {
	e := r.somewhere()
	if d, ok := r.someOf(kindDir); ok && r.chance(2) {
		e = d
	}
	r.note("rmdir %q", e.path)
	err := unix.Rmdir(r.path(e.path))
	r.done()
	switch {
	case e.node == nil:
		return expect(err, unix.ENOENT)
	case e.node.kind != kindDir:
		return expect(err, unix.ENOTDIR)
	case len(e.node.names) > 0:
		return expect(err, unix.ENOTEMPTY)
	case err != nil:
		return err
	}
	e.drop()
	return r.gone(e.path)
}

package exercise

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func (r *run) chmod() error {
	e, ok := r.someOf(kindFile)
	if !ok {
		return nil
	}
	mode := uint32(0o600 | r.rng.IntN(0o200))
	r.note("chmod %q (f%d) to %#o", e.path, e.node.id, mode)
	if err := unix.Chmod(r.path(e.path), mode); err != nil {
		return err
	}
	e.node.mode = mode
	r.done()
	return r.checkPath(e.path, e.node)
}

// utimes sets times to the nanosecond. What mappings stored is synced before:
// writing it back later may stamp the file again.
func (r *run) utimes() error {
	h, err := r.handle(func(h *handle) bool { return h.node.links > 0 })
	if h == nil {
		return err
	}
	r.note("set the times of %v", h)
	if err := unix.Fsync(h.fd); err != nil {
		return err
	}
	h.node.stored = time.Time{}
	at := time.Unix(1e9+r.rng.Int64N(5e8), r.rng.Int64N(1e9)) // the past: a change after it moves on
	for _, e := range r.walk() {
		if e.node != h.node {
			continue
		}
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(at.UnixNano())}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, r.path(e.path), times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		break
	}
	h.node.mtime, h.node.floor, h.node.exact = at, at, true
	r.done()
	return r.checkStat(h)
}

var xattrNames = []string{"user.a", "user.long-name-of-an-attribute", "user.c"}

func (r *run) setXattr() error {
	e, ok := r.someOf(kindFile)
	if !ok || r.cfg.Features.XattrMax == 0 {
		return nil
	}
	name := xattrNames[r.rng.IntN(len(xattrNames))]
	value := r.fill(r.rng.Int64N(int64(r.cfg.Features.XattrMax) + 1))
	flags := []int{0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[r.rng.IntN(4)]
	_, there := e.node.xattrs[name]
	r.note("set attribute %s of %q (f%d) to %d bytes, flags %d", name, e.path, e.node.id, len(value), flags)
	err := unix.Setxattr(r.path(e.path), name, value, flags)
	r.done()
	switch {
	case flags == unix.XATTR_CREATE && there:
		return expect(err, unix.EEXIST)
	case flags == unix.XATTR_REPLACE && !there:
		return expect(err, unix.ENODATA)
	case err != nil:
		return err
	}
	e.node.xattrs[name] = string(value)
	return r.checkXattrs(r.path(e.path), e.node)
}

func (r *run) removeXattr() error {
	e, ok := r.someOf(kindFile)
	if !ok || r.cfg.Features.XattrMax == 0 {
		return nil
	}
	name := xattrNames[r.rng.IntN(len(xattrNames))]
	r.note("remove attribute %s of %q (f%d)", name, e.path, e.node.id)
	err := unix.Removexattr(r.path(e.path), name)
	r.done()
	if _, there := e.node.xattrs[name]; !there {
		return expect(err, unix.ENODATA)
	}
	if err != nil {
		return err
	}
	delete(e.node.xattrs, name)
	return r.checkXattrs(r.path(e.path), e.node)
}

// checkXattrs compares names and values of a file's user. attributes.
func (r *run) checkXattrs(path string, f *node) error {
	if r.cfg.Features.XattrMax == 0 {
		return nil
	}
	buf := make([]byte, 64<<10)
	n, err := unix.Listxattr(path, buf)
	if err != nil {
		return fmt.Errorf("list the attributes of f%d: %w", f.id, err)
	}
	var got, want []string
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if strings.HasPrefix(name, "user.") {
			got = append(got, name)
		}
	}
	for name := range f.xattrs {
		want = append(want, name)
	}
	sort.Strings(got)
	sort.Strings(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("f%d has the attributes %q, the model %q", f.id, got, want)
	}
	for _, name := range want {
		n, err := unix.Getxattr(path, name, buf)
		if err != nil || string(buf[:n]) != f.xattrs[name] {
			return fmt.Errorf("attribute %s of f%d has %d bytes that differ from the %d of the model: %w", name, f.id, n, len(f.xattrs[name]), errOr(err, errContent))
		}
	}
	return nil
}

var errContent = errors.New("other content")

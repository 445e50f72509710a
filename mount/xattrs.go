package mount

import (
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"permafrost/core/format"
)

// aclPrefix is the names under which access control lists are kept. They are
// refused: kept but not enforced, they would be a lie.
const aclPrefix = "system.posix_acl_"

// namespaces are those of xattr(7) that are kept.
var namespaces = []string{"user.", "trusted.", "security."} // immutable

// inNamespace says whether a name is one that other file systems would keep too.
func inNamespace(name string) bool {
	for _, ns := range namespaces {
		if strings.HasPrefix(name, ns) && len(name) > len(ns) {
			return true
		}
	}
	return false
}

const notSupported = fuse.Status(syscall.EOPNOTSUPP)

// GetXAttr reads an extended attribute.
func (m *requests) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	defer m.began(opXattr).end()
	if strings.HasPrefix(name, "system.") {
		return 0, notSupported
	}
	v, err := m.fs.GetXattr(background, format.Ino(h.NodeId), name)
	if err != nil {
		return 0, m.status(err)
	}
	if len(dest) < len(v) {
		return uint32(len(v)), fuse.ERANGE
	}
	return uint32(copy(dest, v)), fuse.OK
}

// ListXAttr lists the names, each with a zero byte behind it.
func (m *requests) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	defer m.began(opXattr).end()
	names, err := m.fs.ListXattr(background, format.Ino(h.NodeId))
	if err != nil {
		return 0, m.status(err)
	}
	size := 0
	for _, n := range names {
		size += len(n) + 1
	}
	if len(dest) < size {
		return uint32(size), fuse.ERANGE
	}
	at := 0
	for _, n := range names {
		at += copy(dest[at:], n)
		dest[at] = 0
		at++
	}
	return uint32(size), fuse.OK
}

// SetXAttr writes an extended attribute.
func (m *requests) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	defer m.began(opXattr).end()
	if !inNamespace(name) {
		return notSupported
	}
	ctx, c, st := m.ctx(cancel, &in.InHeader)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	return m.status(m.fs.SetXattr(m.fromHere(ctx), format.Ino(in.NodeId), name, data,
		in.Flags&unix.XATTR_CREATE != 0, in.Flags&unix.XATTR_REPLACE != 0))
}

// RemoveXAttr removes an extended attribute.
func (m *requests) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	defer m.began(opXattr).end()
	if strings.HasPrefix(name, aclPrefix) {
		return notSupported
	}
	ctx, c, st := m.ctx(cancel, h)
	if st != fuse.OK {
		return st
	}
	defer c.end()
	return m.status(m.fs.RemoveXattr(m.fromHere(ctx), format.Ino(h.NodeId), name))
}

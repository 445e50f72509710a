package core

import (
	"context"
	"errors"
	"fmt"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// MkfsOptions direct Mkfs.
type MkfsOptions struct {
	Label string // at most 64 bytes
	Force bool   // overwrite an image that is there

	// Owner and group of the root directory.
	UID, GID uint32
}

// Mkfs makes an empty file system on m: a root directory, mode 755, and
// nothing else.
//
// Errors: ErrExists when m holds an image and Force is not given; the tree's of
// sizes and labels; ErrIO.
func Mkfs(m pmem.Medium, o MkfsOptions) error {
	if !o.Force {
		if err := refuseImage(m); err != nil {
			return fmt.Errorf("mkfs: %w", err)
		}
	}
	if err := tree.Format(m, tree.FormatOptions{Label: o.Label, NextIno: format.RootIno + 1}); err != nil {
		return fmt.Errorf("mkfs: %w", err)
	}
	s, err := tree.Open(m, tree.Options{Extents: ownedBlocks})
	if err != nil {
		return fmt.Errorf("mkfs: %w", err)
	}
	if err := errors.Join(putRoot(s, o), s.Close(context.Background())); err != nil {
		return fmt.Errorf("mkfs: %w", err)
	}
	return nil
}

// refuseImage is ErrExists if m holds an image, whole or damaged, of whatever
// version.
func refuseImage(m pmem.Medium) error {
	var p [format.BlockSize]byte
	for b := range format.Block(format.SuperblockCopies) {
		if blockOff(b+1) > m.Size() {
			return nil // Format says that it is too small
		}
		if _, err := m.ReadAt(p[:], blockOff(b)); err != nil {
			return ioError(err, "read block %d", b)
		}
		if _, err := format.DecodeSuperblock(b, &p); !errors.Is(err, format.ErrNotOurs) {
			return fmt.Errorf("there is an image already; --force overwrites it: %w", ErrExists)
		}
	}
	return nil
}

// putRoot makes the root directory, its own parent.
func putRoot(s *tree.Store, o MkfsOptions) error {
	t, err := s.Begin(tree.Reserve{Nodes: s.NodesFor(1)})
	if err != nil {
		return err
	}
	defer t.End()
	now := nowNS()
	in := format.Inode{Mode: format.TypeDir | 0o755, Nlink: 2, Parent: format.RootIno, UID: o.UID, GID: o.GID,
		Atime: now, Mtime: now, Ctime: now, Btime: now, Gen: t.Generation()}
	var b [format.InodeSize]byte
	in.Encode(b[:])
	t.AddInodes(1)
	return t.Put(key(format.RootIno, format.KindInode, 0), b[:])
}

// Package format is the on-media format: typed numbers, offsets, codecs,
// checksums and validity rules, as docs/FORMAT.md gives them. It reads and
// writes []byte by offsets and knows nothing of locks, caches or media.
package format

// BlockSize is the unit of allocation, in bytes. It equals PageSize, but a
// block is a place in the image and a page is a place in a file.
const BlockSize = 4096

// PageSize is the unit of mapping and dirty tracking, in bytes.
const PageSize = 4096

type (
	// Ino is an inode number. Numbers are never used twice (T9).
	Ino uint64
	// Block is an index of a BlockSize block in the image.
	Block uint64
	// Page is an index of a PageSize page in a file.
	Page uint64
	// Generation numbers transaction groups and the commits that seal them.
	Generation uint64
)

// RootIno is the inode of the root directory.
const RootIno Ino = 1

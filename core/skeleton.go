package core

// This file is the public surface that the packages above are written
// against while core is being built. It is replaced piece by piece.

import (
	"context"
	"io"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem"
)

// FS is one mounted file system.
type FS struct{}

type MkfsOptions struct {
	Label string
	Force bool // overwrite an image that is there
}

type Options struct {
	Path           string        // of the pmem file, for Status
	CommitInterval time.Duration // 5 s by default
	LeaseMax       time.Duration // 1 h by default
	MaxInodes      int           // cached inodes before clean ones are evicted
	EventBuffer    int
	NextFreezeID   uint64            // floor from the ledger
	PastHolds      []freeze.PastHold // from the ledger
	Intent         func(ctx context.Context, r freeze.Record) error
	DeferOrphans   bool // keep unlinked inodes and allocate nothing until Adopted is called
	ReadOnly       bool
	Progress       func(done, total uint64)
}

func Mkfs(m pmem.Medium, o MkfsOptions) error     { panic("skeleton") }
func Mount(m pmem.Medium, o Options) (*FS, error) { panic("skeleton") }
func (fs *FS) Unmount(ctx context.Context) error  { panic("skeleton") }
func (fs *FS) Adopted()                           { panic("skeleton") } // surviving mappings are taken back
func (fs *FS) Medium() pmem.Medium                { panic("skeleton") }
func (fs *FS) Events() <-chan Event               { panic("skeleton") } // one consumer; oldest dropped when full, counted
func (fs *FS) Status() Status                     { panic("skeleton") }
func (fs *FS) Freezer() *freeze.Freezer           { panic("skeleton") }

// Caller names who does an operation, for /blocked. Ops that are held wait
// with it; put it in the context.
func WithCaller(ctx context.Context, w freeze.Waiter) context.Context { panic("skeleton") }

// TryOnly makes gate waits fail at once with freeze.ErrFrozen (REST's 423);
// otherwise an operation waits until ctx is done.
func TryOnly(ctx context.Context) context.Context { panic("skeleton") }

// Names.
func (fs *FS) Resolve(ctx context.Context, path string) (Attr, error) { panic("skeleton") } // follows symlinks
func (fs *FS) ResolveParent(ctx context.Context, path string) (Attr, string, error) {
	panic("skeleton")
} // parent directory and last name
func (fs *FS) Lookup(ctx context.Context, dir format.Ino, name string) (Attr, error) {
	panic("skeleton")
}
func (fs *FS) GetAttr(ctx context.Context, ino format.Ino) (Attr, error) { panic("skeleton") }
func (fs *FS) SetAttr(ctx context.Context, ino format.Ino, s SetAttr) (Attr, error) {
	panic("skeleton")
}
func (fs *FS) Create(ctx context.Context, dir format.Ino, name string, n NewNode) (Attr, error) {
	panic("skeleton")
} // regular, special; ErrExists
func (fs *FS) Mkdir(ctx context.Context, dir format.Ino, name string, n NewNode) (Attr, error) {
	panic("skeleton")
}
func (fs *FS) Symlink(ctx context.Context, dir format.Ino, name string, n NewNode) (Attr, error) {
	panic("skeleton")
}
func (fs *FS) Readlink(ctx context.Context, ino format.Ino) (string, error) { panic("skeleton") }
func (fs *FS) Link(ctx context.Context, ino, dir format.Ino, name string) (Attr, error) {
	panic("skeleton")
}
func (fs *FS) Unlink(ctx context.Context, dir format.Ino, name string) error { panic("skeleton") }
func (fs *FS) Rmdir(ctx context.Context, dir format.Ino, name string) error  { panic("skeleton") }
func (fs *FS) Rename(ctx context.Context, odir format.Ino, oname string, ndir format.Ino, nname string, m RenameMode) error {
	panic("skeleton")
}
func (fs *FS) ReadDir(ctx context.Context, dir format.Ino, cursor uint64, max int) ([]DirEntry, error) {
	panic("skeleton")
}
func (fs *FS) Paths(ino format.Ino, max int) []string { panic("skeleton") }

// Data.
func (fs *FS) ReadAt(ctx context.Context, ino format.Ino, p []byte, off int64) (int, error) {
	panic("skeleton")
} // io.EOF at the end
func (fs *FS) WriteAt(ctx context.Context, ino format.Ino, p []byte, off int64) (int, error) {
	panic("skeleton")
} // enters the gate a chunk (1 MiB) at a time
func (fs *FS) Append(ctx context.Context, ino format.Ino, p []byte) (off int64, err error) {
	panic("skeleton")
}
func (fs *FS) Truncate(ctx context.Context, ino format.Ino, size int64) error { panic("skeleton") }
func (fs *FS) Fallocate(ctx context.Context, ino format.Ino, mode FallocMode, off, n int64) error {
	panic("skeleton")
}
func (fs *FS) SeekData(ctx context.Context, ino format.Ino, off int64) (int64, error) {
	panic("skeleton")
}
func (fs *FS) SeekHole(ctx context.Context, ino format.Ino, off int64) (int64, error) {
	panic("skeleton")
}
func (fs *FS) Extents(ctx context.Context, ino format.Ino, from format.Page, max int) ([]Extent, error) {
	panic("skeleton")
}

// Extended attributes.
func (fs *FS) GetXattr(ctx context.Context, ino format.Ino, name string) ([]byte, error) {
	panic("skeleton")
}
func (fs *FS) SetXattr(ctx context.Context, ino format.Ino, name string, v []byte, create, replace bool) error {
	panic("skeleton")
}
func (fs *FS) ListXattr(ctx context.Context, ino format.Ino) ([]string, error)    { panic("skeleton") }
func (fs *FS) RemoveXattr(ctx context.Context, ino format.Ino, name string) error { panic("skeleton") }

// Handles: an inode with references keeps its blocks after its last name is gone.
func (fs *FS) Acquire(ino format.Ino) error { panic("skeleton") }
func (fs *FS) Release(ino format.Ino)       { panic("skeleton") }

// Upload is a file in the making: an unlinked inode that Commit puts in place
// of a name at once, so that readers see old or new. Close without Commit drops it.
type Upload struct{}

// Precondition is checked under the directory's lock at Commit.
type Precondition func(old *Attr) error // nil old: the name is free

func (fs *FS) NewUpload(ctx context.Context, n NewNode) (*Upload, error)   { panic("skeleton") }
func (u *Upload) ReadFrom(ctx context.Context, r io.Reader) (int64, error) { panic("skeleton") } // pauses at the gate, a chunk at a time
func (u *Upload) Commit(ctx context.Context, dir format.Ino, name string, pre Precondition) (a Attr, replaced bool, err error) {
	panic("skeleton")
}
func (u *Upload) Close() error { panic("skeleton") }

// The one sync path.
func (fs *FS) Fsync(ctx context.Context, ino format.Ino, off, n int64) (SyncResult, error) {
	panic("skeleton")
}                                                                         // n <= 0: to the end
func (fs *FS) Sync(ctx context.Context) (SyncResult, error)               { panic("skeleton") }
func (fs *FS) WaitDurable(ctx context.Context) (format.Generation, error) { panic("skeleton") } // all finished operations are durable

// Freeze.
func (fs *FS) Freeze(ctx context.Context, r freeze.Request) (freeze.Record, freeze.Hold, error) {
	panic("skeleton")
}
func (fs *FS) Thaw(ctx context.Context, r freeze.ThawRequest) (freeze.ThawResult, error) {
	panic("skeleton")
}
func (fs *FS) Renew(ctx context.Context, r freeze.RenewRequest) (freeze.Record, freeze.Hold, error) {
	panic("skeleton")
}

// ReadImage copies image bytes of a standing freeze: after the copy it checks
// that the freeze still stands, else freeze.ErrFreezeLost and p is void.
func (fs *FS) ReadImage(freezeID uint64, p []byte, off int64) (int, error) { panic("skeleton") }

// Inspection.
func (fs *FS) Inodes(ctx context.Context, f InodeFilter) (items []InodeInfo, next string, err error) {
	panic("skeleton")
}
func (fs *FS) InodeDetail(ctx context.Context, ino format.Ino) (InodeInfo, []Extent, []MappingInfo, error) {
	panic("skeleton")
}
func (fs *FS) Mappings() []MappingInfo   { panic("skeleton") }
func (fs *FS) Blocked() []freeze.Blocked { panic("skeleton") } // oldest first
func (fs *FS) Errno(err error) int       { panic("skeleton") }

// Mapping is a program's shared mapping of part of a file.
type Mapping struct{}

// Map allocates and zeroes the range durably (writable), pins its extents and
// the inode, and registers the mapping with the inode's dirty tracking.
func (fs *FS) Map(ctx context.Context, ino format.Ino, r MapRequest) (*Mapping, []Extent, error) {
	panic("skeleton")
}

// AdoptMapping re-registers a mapping that survived a restart, with the pages
// that are written now; it passes no gate and allocates nothing.
func (fs *FS) AdoptMapping(ino format.Ino, r MapRequest, written []PageRun) (*Mapping, []Extent, error) {
	panic("skeleton")
}

func (m *Mapping) ID() uint64      { panic("skeleton") }
func (m *Mapping) Ino() format.Ino { panic("skeleton") }

// Mkwrite is a first store to a clean page. With the gate open it stamps
// mtime on the clean-to-dirty transition, tags up to ahead pages from first
// on and calls grant with the run, under the inode's pagesMu, which
// un-protects and wakes. With the gate closed it returns freeze.ErrFrozen and
// grants nothing; the caller parks the fault (Park) and tries again at thaw.
func (m *Mapping) Mkwrite(first format.Page, ahead uint64, grant func(PageRun) error) error {
	panic("skeleton")
}

// Park queues a refused store until thaw; resume runs on a worker, in arrival order per client.
func (m *Mapping) Park(client any, page format.Page, resume func()) (unpark func() bool) {
	panic("skeleton")
}

// Sync is msync: the sync path over part of this mapping's inode.
func (m *Mapping) Sync(ctx context.Context, r PageRun) (SyncResult, error) { panic("skeleton") }

// SetRanges tells core which pages are still mapped after an unmap or remap
// (nil: none). Pages no longer mapped are synced (fsync at unmap) in the background, outside client locks.
func (m *Mapping) SetRanges(runs []PageRun) { panic("skeleton") }

// Unmap ends the mapping: its dirty pages are flushed, its inode released. While frozen
// the mapping leaves the tables at once and what must be written waits for thaw.
func (m *Mapping) Unmap(ctx context.Context) error { panic("skeleton") }

// Report is the outcome of Check.
type Report struct {
	Generation   format.Generation
	Inodes       uint64
	Directories  uint64
	Nodes        uint64
	DataBlocks   uint64
	Problems     []Problem
	ProblemTotal uint64 // Problems is bounded
	Duration     time.Duration
}

// Problem names what is wrong and where.
type Problem struct {
	Kind   string // stable identifier
	Block  format.Block
	Ino    format.Ino
	Path   string
	Detail string
}

func (r *Report) OK() bool { return r.ProblemTotal == 0 }

// Check reads everything reachable from the newest commit of an image and verifies it.
func Check(ctx context.Context, m pmem.Medium, progress func(done, total uint64)) (*Report, error) {
	panic("skeleton")
}

package core

import (
	"context"
	"errors"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// Errors of file operations; wrapped with what was attempted. Each has one
// errno (see Errno) and one REST problem.
var (
	ErrNotFound    = errors.New("no such file or directory")       // ENOENT
	ErrExists      = errors.New("file exists")                     // EEXIST
	ErrNotDir      = errors.New("not a directory")                 // ENOTDIR
	ErrIsDir       = errors.New("is a directory")                  // EISDIR
	ErrNotEmpty    = errors.New("directory not empty")             // ENOTEMPTY
	ErrNameTooLong = errors.New("name longer than 255 bytes")      // ENAMETOOLONG
	ErrInvalid     = errors.New("invalid argument")                // EINVAL
	ErrNoSpace     = errors.New("no space left in the image")      // ENOSPC
	ErrTooBig      = errors.New("file too large")                  // EFBIG
	ErrTooManyLink = errors.New("too many links")                  // EMLINK
	ErrMapped      = errors.New("range is mapped by a program")    // ETXTBSY
	ErrNoData      = errors.New("no such extended attribute")      // ENODATA
	ErrIO          = errors.New("input/output error")              // EIO
	ErrReadOnly    = errors.New("file system is read-only")        // EROFS
	ErrStale       = errors.New("inode is gone")                   // ESTALE
	ErrLoop        = errors.New("too many symbolic links")         // ELOOP
	ErrNotSupp     = errors.New("not supported")                   // EOPNOTSUPP
	ErrPrecond     = errors.New("precondition failed")             // If-Match, If-None-Match
	ErrRecovering  = errors.New("mappings survive a restart")      // EAGAIN; until Adopted
	ErrNXIO        = errors.New("no data or hole past the offset") // ENXIO
)

// FileType is the S_IFMT part of a mode.
type FileType uint32

// Attr is a copy of an inode's attributes.
type Attr struct {
	Ino                        format.Ino
	Mode                       uint32 // type and permission bits as in stat(2)
	UID, GID                   uint32
	Nlink                      uint32
	Rdev                       uint32
	Size                       int64
	Blocks                     uint64 // allocated BlockSize blocks
	Atime, Mtime, Ctime, Btime time.Time
	Generation                 format.Generation // group that last changed it
}

// SetAttr changes the fields whose pointer is not nil.
type SetAttr struct {
	Mode, UID, GID *uint32
	Size           *int64
	Atime, Mtime   *time.Time // nil: UTIME_OMIT
}

// NewNode is what Create, Mkdir, Mknod and Symlink make.
type NewNode struct {
	Mode     uint32 // S_IFREG|0644 ...
	UID, GID uint32
	Rdev     uint32
	Target   string // symlink
	// InheritGroup makes the node what POSIX says of a directory with S_ISGID: it
	// gets the directory's group, and a new directory the bit as well.
	InheritGroup bool
}

// DirEntry is one name of a directory. Cursor continues a listing after it.
type DirEntry struct {
	Name   string
	Ino    format.Ino
	Type   uint32 // S_IFMT bits
	Cursor uint64
}

// RenameMode is replace (POSIX), no-replace or exchange.
type RenameMode int

const (
	RenameReplace RenameMode = iota
	RenameNoReplace
	RenameExchange
)

// FallocMode as fallocate(2).
type FallocMode int

const (
	FallocAllocate  FallocMode = iota
	FallocKeepSize             // allocate without changing the size
	FallocPunchHole            // always keeps the size
	FallocZeroRange
	FallocZeroRangeKeepSize
)

// Extent maps Count pages of a file from Page on to blocks from Block on.
type Extent struct {
	Page  format.Page
	Block format.Block
	Count uint64
}

// PageRun is a run of pages of one file.
type PageRun struct {
	First format.Page
	Count uint64
}

// SyncResult says what a sync made durable.
type SyncResult struct {
	Generation format.Generation
	freeze.Flushed
	Duration time.Duration
}

// Protector is a way in's power over the page tables of one mapping.
type Protector interface {
	// Protect write-protects the given ascending page runs of the mapping:
	// when it returns nil, no store to them lands without a new Mkwrite. It
	// may protect clean pages between runs as well. It is called with the
	// inode's pagesMu held and must not call back into core's mapping API for
	// that inode. It drains the client's pending events first. An error names
	// the client; a client that is gone is not an error.
	Protect(ctx context.Context, runs []PageRun) error
}

// Process identifies a local program. Comm is cached when it opens.
type Process struct {
	PID  int
	UID  uint32
	Comm string
}

// MapRequest asks for a shared mapping of part of a file.
type MapRequest struct {
	Offset, Length int64 // page aligned; the file grows to hold the range if Writable and Grow
	Writable, Grow bool
	WayIn          string // attach, mount
	Process        Process
	Protector      Protector // nil for a read-only mapping
}

// MappingInfo is a copy of what is known of one mapping. Of the way in "mount" it is a
// file that is open for reading and writing, and so may be mapped writably: the kernel
// tells neither whether it is, nor which pages.
type MappingInfo struct {
	ID            uint64 // among all ways in
	Ino           format.Ino
	Path          string
	WayIn         string
	Process       Process
	Writable      bool
	Ranges        []PageRun
	WritablePages uint64 // pages a store reaches without a fault (upper bound)
	DirtyPages    uint64
	Since         time.Time
}

// InodeInfo is what /inodes shows of one inode.
type InodeInfo struct {
	Attr
	Paths      []string
	Dirty      bool
	DirtyPages uint64
	DirtyRuns  []PageRun // bounded; see InodeDetail
	DirtySince time.Time
	Mappings   int
}

// InodeFilter selects inodes for a listing, dirty ones first.
type InodeFilter struct {
	Dirty, Mapped *bool
	PathPrefix    string
	Cursor        string
	Limit         int
}

// Status is a consistent, cheap copy of the whole for /status. O(1).
type Status struct {
	Level             freeze.Level
	State             string // unfrozen, freezing, frozen, thawing
	Since             time.Time
	Freeze            *freeze.Record
	LastFreeze        *freeze.Record
	Generation        format.Generation // newest durable
	InstanceID        string
	Label             string
	StartedAt         time.Time
	Medium            MediumInfo
	Space             Space
	InodesTotal       uint64
	InodesCached      uint64
	InodesDirty       uint64
	DirtyPages        uint64
	Mappings          uint64
	Blocked           uint64
	BadBlocks         uint64 // on the bad-block list: never allocated again
	BadBlocksPending  uint64 // met, and not on it yet
	DataErrors        uint64 // accesses of file data that met a bad page, since the mount
	MetadataErrors    uint64 // damaged blocks of metadata met since the mount
	Scrub             ScrubStatus
	Degraded          error // why nothing can be changed: the ERROR state's cause, or damage; nil when well
	Recovery          time.Duration
	AllocatorRebuilt  bool
	FellBack          int  // newer commits that the mount could not use: torn by a crash, or damaged
	SuperDamaged      bool // the primary superblock is damaged, its copy is used
	TreeDepth         int
	FsyncTotal        uint64
	CommitTotal       uint64
	FaultTotal        uint64
	OpsTotal          map[string]uint64
	EventsDropped     uint64
	PendingOrphans    uint64
	LastCommitAt      time.Time
	LastCommitLatency time.Duration
}

// MediumInfo describes the pmem file to a reader.
type MediumInfo struct {
	Path              string
	SizeBytes         int64
	Domain            string
	SurvivesPowerLoss bool
	FlushInstruction  string
}

// Space in bytes.
type Space struct {
	Total, Used, Free uint64
}

// Event is one thing that happened. Exactly one pointer is set.
type Event struct {
	Seq    uint64 // ascending; a gap means events were dropped
	Time   time.Time
	Freeze *freeze.Event
	Sync   *SyncEvent
	Found  *FoundEvent
	Commit *CommitEvent
	Map    *MapEvent
}

// SyncEvent is a finished fsync, msync, sync or pre-clean pass.
type SyncEvent struct {
	Kind     string // fsync, msync, sync, unmap, preclean, window, timed
	Ino      format.Ino
	FreezeID uint64
	SyncResult
}

// FoundEvent lists the dirty inodes that a freeze or a large sync found.
type FoundEvent struct {
	FreezeID uint64 // 0: a sync
	Window   bool   // found with the gates closed
	Inodes   []FoundInode
}

// FoundInode is one dirty inode and how much of it was flushed.
type FoundInode struct {
	Ino        format.Ino
	Path       string
	Pages      uint64
	Bytes      uint64
	DirtySince time.Time
}

// CommitEvent is a durable transaction group.
type CommitEvent struct {
	Generation format.Generation
	FreezeID   uint64
	Duration   time.Duration
}

// MapEvent is a mapping made or ended.
type MapEvent struct {
	MappingInfo
	Ended bool
}

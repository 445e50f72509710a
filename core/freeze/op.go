package freeze

// Op is what a caller does inside a gate. It is one byte because it stands,
// with the inode, in the gate's slot while the caller is inside.
type Op uint8

// The operations. OpOther is for what has no name of its own.
const (
	OpOther Op = iota + 1
	OpWrite
	OpUpload
	OpCreate
	OpMkdir
	OpSymlink
	OpLink
	OpRename
	OpUnlink
	OpRmdir
	OpTruncate
	OpFallocate
	OpSetattr
	OpSetxattr
	OpRemovexattr
	OpMap
	OpUnmap
	OpStore
	OpSync
	OpCommit
	OpAllocate
	OpReclaim
	OpScrub
	OpGrow
	OpRetire // puts a block on the bad-block list
	opCount
)

var opNames = [opCount]string{ // immutable
	0: "none", OpOther: "other", OpWrite: "write", OpUpload: "upload", OpCreate: "create",
	OpMkdir: "mkdir", OpSymlink: "symlink", OpLink: "link", OpRename: "rename",
	OpUnlink: "unlink", OpRmdir: "rmdir", OpTruncate: "truncate", OpFallocate: "fallocate",
	OpSetattr: "setattr", OpSetxattr: "setxattr", OpRemovexattr: "removexattr",
	OpMap: "map", OpUnmap: "unmap", OpStore: "store", OpSync: "sync", OpCommit: "commit",
	OpAllocate: "allocate", OpReclaim: "reclaim", OpScrub: "scrub", OpGrow: "grow",
	OpRetire: "retire",
}

// String is the operation's name as users see it.
func (o Op) String() string {
	if o < opCount {
		return opNames[o]
	}
	return "other"
}

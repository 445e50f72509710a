// Package mount is the FUSE way in: a POSIX file system for programs that know
// nothing of Permafrost, on every persistence domain.
//
// Programs read, write and map through the kernel's page cache. A node is an
// inode, by its number, which is never used twice: there is no table of nodes,
// so a mount over fifty million inodes costs what its open files cost, and those
// that were removed a moment ago.
//
//	mount.go       the life of a mount
//	where.go       the mount point: what may be mounted on, dead mounts, the kernel's knobs
//	options.go     what -o takes
//	caller.go      who asks, and how a held caller can be killed
//	remains.go   removed inodes that the kernel may still ask for
//	names.go attrs.go open.go data.go dirs.go xattrs.go    the requests
//	collect.go     how a freeze stops stores that are in the page cache only
//	collector.go   what it knows of the write-backs
//	syncer.go      the child that asks the kernel to write back
//	counter.go     and what the kernel has not sent us
//	notices.go     changes that came by another way, told to the kernel
//	inspect.go     what /mappings, /status and the metrics show
//
// # Caching
//
// Attributes, names and data are cached by the kernel until it forgets them:
// there is no write-back cache of write(2), data is invalidated by us alone
// (FUSE_EXPLICIT_INVAL_DATA), and changes by another way in are told as notices.
// What a mapping stores stays in the page cache until the kernel writes it
// back: a WRITE with FUSE_WRITE_CACHE, a *write-back*.
//
// # A freeze
//
// Modifying requests pass core's gates like everybody else's. Write-backs, and
// requests that a write-back may have to wait for in the kernel (every SETATTR),
// pass startPageFault; see core.WroteBack. While a freeze collects, a write-back is
// applied and its reply held: the page stays under write-back, and the
// program's next store to it waits in the kernel. Collect in collect.go has
// the rest.
//
// # Locks
//
// handles.mu, remains.mu, commands.mu, collector.mu and notices.mu are leaves. No lock is held while a
// request waits, while core is called, or while the kernel is told something.
//
// # Invariants
//
//	M1  A request that is held holds no lock of ours and no gate.
//	M2  A held request ends: at the thaw, when its caller is killed, or when
//	    the mount does. Other signals do not end it: regular files have no EINTR.
//	M3  While a freeze collects, no write-back is answered that was not applied,
//	    and none that was is answered before its end, but for a fall-back.
//	M4  Once the passes of a freeze are over, no write-back and no SETATTR is applied
//	    until the thaw (collector.seal).
//	M5  Nothing here opens a file under the mount: only the child does.
//	M6  A process that a request is held for is looked at through
//	    /proc/PID/status only, which takes no lock of its address space.
package mount

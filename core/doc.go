// Package core is the file system: inodes, directories, extents, dirty
// tracking, the one sync path and the wiring of the freeze. Below it lie
// core/format (what the bytes mean), core/tree (metadata, transactions,
// recovery) and core/freeze (levels, gates, holds).
//
// # Locks
//
// In the order in which they may be taken. A gate is waited for with nothing
// held, and only tried otherwise.
//
//	(gates: startWrite, startPageFault, startInternal)
//	syncer.sem         syncs of everything take turns
//	pages.sem          syncs of one inode take turns; of several inodes only
//	                   with syncer.sem held
//	FS.renameMu        renames between directories
//	pages.mu           pagesMu: the page sets of one inode; one at a time
//	  (client events)  the way in's own lock: its Protect and grant run under pages.mu
//	inode.mu           parent before child; otherwise by number
//	FS.threads         one slot at a time, and not inside a transaction
//	cacheShard.mu      one at a time
//	  (tree)           Begin, End and lookups; see core/tree
//	mappingTable.mu, pages.mapsMu, dirtyList.mu, deferred.mu, stream.mu, badQueue.mu,
//	scrubber.mu, watchers.mu, queues: leaves
//
// The semaphores and pages.mu stand above the inode locks because whoever has
// one may wait for a client: nobody waits for the semaphores without a context,
// and listings and status only try pages.mu. So a client that is stuck delays
// the syncs and faults of its own inode, and neither its attributes nor
// anything else.
//
// No transaction is begun with pages.mu or a leaf held: Begin may wait for a
// seal, and the seal for transactions whose owners may want that lock. Inside a
// transaction only cacheShard.mu and leaves are taken.
//
// # An operation
//
//	enter the gate (waiting, nothing held)
//	lock inodes, look at records, refuse
//	begin a transaction (reserving what it may need), change records, end it
//	unlock, leave the gate
//	the image was full: wait for the reaper, and once more (withSpace)
//
// A View keeps inode.mu for reading until its Release, with nothing else held.
//
// A chunk of at most 1 MiB of data passes the gate at a time. Durability is
// waited for afterwards, with nothing held: callers wait for a generation.
//
// # Invariants
//
//	C1  Attributes change only with inode.mu held for writing and inside a
//	    transaction; the sealer reads them when no transaction is open.
//	C2  The record of an inode changed in the open group is in the open group:
//	    put at the first change, rewritten in place at the seal (T4, T10).
//	C3  An inode is loaded into the cache under its shard's lock, from the tree;
//	    it leaves the cache only clean and unpinned.
//	D1  A block is filled and ordered before a record points at it.
//	D2  Bytes between the end of a file and the end of its last page are
//	    undefined and never shown; they are cleared before the end passes them.
//	    Whole pages past the end read as zeros.
//	D3  Pages of a file that are mapped keep their blocks.
//	B1  A bad block that a file owns stands on the bad-block list as that page of
//	    that file; when the file gives it up, and when it has no owner, as the
//	    list's own. It is never allocated again. Like every modification the list
//	    waits for a thaw.
//	B2  Metadata that cannot be read ends all changes (T14). Reads that do not need
//	    it go on, and what was changed before is committed.
//	N1  Whoever has changed what a way in may have cached tells the watchers
//	    (watch.go), with nothing held: no lock, no gate, no transaction.
//	O1  An inode without a name has an orphan record; it is freed when its last
//	    pin is gone, or by the next mount.
//	P1  A page that any mapping may store to is in its inode's dirty set.
//	P2  An inode with a dirty or cleaning page is on the dirty list.
//	P3  fs.dirty counts the inodes of the list and their pages.
package core

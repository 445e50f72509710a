// Package dax is the direct-mapping way in: programs on this machine map the
// blocks of a file into their own address space, and the server holds their
// page protection through userfaultfd.
//
// A *client* is what one connection made: a process and, since they carry its
// mappings on, the processes it forked. Each of them is a *member* with a
// descriptor and a table of *spans* (address -> page of a mapping). A *mapping*
// is one answered map request; core knows it as a core.Mapping.
//
//	client ──┬── member (process) ──── spans: addr -> mapping, page
//	         ├── member (forked)  ──── spans
//	         └── mapping ──── core.Mapping      views: member -> its spans
//
// # Locks
//
//	mapping.pubMu > (core: inode, pagesMu) > client.evMu > nothing
//	Server.mu and client.connMu are leaves.
//
// client.evMu is "client events" in core's lock tree. Core calls Protect with
// an inode's pagesMu held, and grant runs inside Mkwrite, with pagesMu held
// too; both take evMu. So nothing of core is called with evMu held.
//
// # Invariants
//
//	A1  A descriptor is read, and what was read is applied to the span tables,
//	    within one hold of evMu. So under evMu the tables are what the kernel
//	    has, but for events not read yet; and while one is not read or its
//	    author has not run since, the kernel refuses WriteProtect (EAGAIN).
//	A2  Protect returns nil only if, for every member alive, everything pending
//	    was applied and then every requested page it shows was protected, or is
//	    shown no longer. A fork that was not pending then copies protected pages.
//	A3  A page is granted only inside core's Mkwrite, which holds the inode's
//	    pagesMu, after the fault's address was looked up again under evMu.
//	A4  A refused store is parked, not waited for: no goroutine each. At thaw it
//	    joins its member's queue and asks again.
//	A5  A mapping is told to the client only after its range is registered,
//	    protected and on record.
//	A6  What core is told of ranges (SetRanges, Unmap) is the union over the
//	    members, computed under evMu and handed over in order under pubMu.
//	A7  Only a descriptor's worker grants: one store at a time per member.
//
// # What is not held
//
// The peer has the image's descriptor and is trusted with it. Stores outside
// registered ranges, through pinned buffers (io_uring), or into memory that
// the peer unregistered or grew in place (mremap gives no event for that, and
// the new part shows image bytes that are not the file's) are outside the
// promise. The client libraries lay a guard page behind each mapping so that
// it cannot grow in place; a mapping that moves while it grows is found by its
// event, protected whole, and a store to the grown part ends in SIGBUS.
//
// BUG: a forked process's descriptor lives in the server alone. If the server
// dies, such a process's stores go on untracked; at its restart Survivors
// names it.
package dax

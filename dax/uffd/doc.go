// Package uffd speaks to userfaultfd descriptors: synchronous write protection
// of other processes' shared mappings, and the events that change them.
//
// It is the thinnest layer that is safe to use: it owns no locks, no tables and
// no policy. What it knows are the kernel's structures and these truths:
//
//	U1  Registering protects nothing. Only WriteProtect does.
//	U2  A descriptor speaks about one address space for ever. When that is gone
//	    the range calls answer ESRCH, and so does a descriptor whose process
//	    called execve.
//	U3  While an event (fork, munmap, mremap, madvise) has not been read, or its
//	    author has not run since, WriteProtect answers EAGAIN and does nothing.
//	U4  The author of an event sleeps until it is read. A munmap has then
//	    already happened; a fork's child already has its page tables.
//	U5  Granting (WriteProtect off) wakes the storers that wait in the range.
//	U6  Granting leaves the page-table entries read-only: the first store to each
//	    page takes one more minor fault, which the kernel resolves by itself.
//	    (uffd_wp_range tries to upgrade them, but vma_wants_writenotify answers
//	    no for tmpfs once registering has changed the area's vm_page_prot.)
//	    Populate saves it.
//
// Addresses are the other process's and are never dereferenced here. Lengths
// are bytes; both are multiples of the page size.
package uffd

// Package pmem keeps bytes that survive: it maps a pmem file (a file on a DAX
// mount, on tmpfs, a memfd, or a plain file on disk), finds out by trying what
// it takes to make a store durable there, and offers stores, flushes and
// fences behind the interface Medium, so that a crash recorder can stand in
// the place of a Region.
//
// # Persistence domains
//
//	domain      found by                          flush of a line         fence      survives power loss
//	cpu-cache   sysfs persistence_domain (eADR)   nothing                 SFENCE     yes
//	dax         mmap with MAP_SYNC succeeds       CLWB|CLFLUSHOPT|CLFLUSH SFENCE     yes
//	page-cache  any other file                    nothing                 fdatasync  yes
//	volatile    tmpfs, ramfs, hugetlbfs, memfd    as dax                  SFENCE     no
//
// On arm64 the flush is DC CVAP (DC CVAC where the processor has no point of
// persistence) and the fence DSB SY. Processors without instructions known to
// this package fence a dax file with fdatasync, which makes the kernel flush.
//
// # Invariants
//
//   - P1. The base address never moves: slices from Bytes stay valid until Close.
//   - P2. [0, Size) is mapped whole. Size only grows, and never past the address
//     space reserved at open.
//   - P3. Every store this package makes to the mapping is made in a Batch.
//   - P4. A line is stored whole and non-temporally, or stored ordinarily and
//     then flushed; never in part non-temporally.
//   - P5. A batch of which a store or flush failed never fences successfully.
//   - P6. After the first failed fdatasync no fence of the region succeeds: the
//     kernel may have dropped the dirty pages and would report success.
//   - P7. The descriptor that carries the server's lock is never mapped and
//     never passed on: a lock lives as long as a mapping of its descriptor, and
//     this one must end with the server.
//
// # Locks
//
// Region.growMu is the only lock; it is taken with nothing else held inside
// the package and guards the transition of the size. Everything a Batch holds
// belongs to the goroutine that began it.
//
// # Faults
//
// A bad page and a file truncated under its mapping raise SIGBUS. Each method
// that touches the mapping turns it into a *MediaError; callers that read
// through Bytes do so between CatchFaults and a deferred Caught.
//
// BUG(pmem): A file on overlayfs or on a loop device is taken for page-cache
// even if tmpfs is below it: fdatasync succeeds there and promises too much.
//
// BUG(pmem): A dax file on stacked devices (LVM, md) over eADR memory is
// flushed line by line although it need not be.
package pmem

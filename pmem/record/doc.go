// Package record is the crash recorder: a pmem.Medium that stands between a
// file system and its medium, knows for every line which contents may be on the
// medium if the power goes now, and hands out the images that a crash may leave.
//
// # The model
//
// The unit is a line of 64 bytes, or a sector of 512 in the page-cache domain.
// A unit that was stored to is *in flight* until something makes it durable:
//
//   - R1. A store (Write, Zero, or a program's own store to mapped memory, which
//     is Store) adds a version to each unit whose content it changes. The medium
//     may hold the durable version or any later one: caches evict what they like.
//   - R2. Flush, and the flushes and non-temporal stores inside Write and Zero,
//     put the unit's newest version on its way; Fence of the same batch makes what
//     is on its way durable, and the versions before it impossible. A later
//     version stays in flight. A fence orders nothing of another batch.
//   - R3. Order promises no more than pmem.Batch says: durable no later than the
//     next Fence that any batch begins.
//   - R4. In the page-cache domain Fence is fdatasync: all that was stored before
//     it, by anybody, is durable after it.
//   - R5. A line may tear at its 8-byte words (the unit of failure atomicity) while
//     a store to it is under way. A sector does not tear.
//
// What lies on the way to the medium inside Write and Zero is not assumed where
// the medium is a pmem.Region: its own code runs, and says which lines it
// flushes (Region.Observe), so that a forgotten edge of a copy shows as a line
// that no fence makes durable.
//
// # Locks
//
// Recorder.mu serialises all batches. Look is called with it held: everything
// that stores waits while the images are explored.
package record

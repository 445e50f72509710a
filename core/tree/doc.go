// Package tree is the metadata engine: a copy-on-write B-tree of checksummed
// nodes, the transaction groups that change it, the ring of commit records
// that makes a group durable at one instant, the block allocator, and the
// recovery of all that at mount. docs/FORMAT.md gives the bytes.
//
// # Life of a group
//
//	open ──seal──▶ sealed ──write, fence, slot, fence──▶ durable
//	                  └──────── any of them fails ─────▶ ERROR (for good)
//
// There is always one open group and at most one sealed one. The generation of
// the open group is the sealed (or else the durable) one plus 1.
//
// # Invariants
//
//   - T1. Nodes in the image are immutable. A node born in the open group lives
//     on the heap, is changed in place there, and is checksummed and stored
//     once, at commit. Its block is allocated when it is born.
//   - T2. Store.treeMu is held by a mutation for one record operation and shared
//     by lookups. Nothing that points into a node leaves the lock.
//   - T3. Sealing swaps the groups in O(1) under the lock; writes and fences
//     happen outside it. Sealed nodes are copied, never changed.
//   - T4. Options.OnSeal runs inside the seal, when no transaction is open.
//   - T5. Blocks born and freed in the open group are reusable at once; blocks
//     freed in generation g when g+2 is durable. So a mount may fall back two
//     commits. The first change after a mount therefore comes after two commits
//     of the mounted tree (see Store.settle).
//   - T6. The open group holds at most maxGroupNodes nodes: Begin commits first.
//   - T7. The commit record has room for 16 roots; Roots[0] is used.
//   - T8. Nodes are read by offsets. A node that the processor cannot reach is
//     a *pmem.MediaError, one that breaks a rule a *format.DamageError.
//   - T9. Inode numbers come from a counter that only grows.
//   - T10. Begin reserves blocks; a commit allocates none (but the last one, which
//     goes without a snapshot if it must).
//   - T11. The first failed write, fence or OnSeal is the ERROR state: lookups go
//     on, everything else returns ErrState until the image is opened anew. So is
//     a transaction that failed after it had changed something, because half of
//     it must never be committed, and a block freed twice.
//   - T12. A child pointer whose birth is that of the open or the sealed group
//     carries in its CRC field the child's handle: its index in group.nodes. A
//     node copied from a sealed one keeps such handles after they lost their
//     meaning; heapNode.stale says from which generation on, and commit replaces
//     them by the checksums in the children's blocks, which are durable by then.
//   - T13. All keys below a child are at least the child's key in its parent and
//     less than the next one. A Put below a node's first key lowers that key.
//     Only a root leaf is empty.
//   - T14. Metadata that cannot be read (a checksum or a rule that is broken, a page
//     that faults), met by a lookup, a change, a commit or the scrub, is named to
//     the caller and ends all changes: Begin returns ErrState from then on. What
//     was changed before is whole and is committed still, by whoever waits for it;
//     Close writes no snapshot, so that the next mount walks the tree.
//
// # Locks, in the order they are taken
//
//	Store.commitSem   one committer: everything between sealing and publishing
//	Store.shortMu     who begins a transaction while space is short
//	Store.groupMu     shared by open transactions, exclusive to seal
//	Store.treeMu      the tree, the open group, which group is sealed
//	allocator.mu      blocks
//	Store.pubMu       who waits for a generation
//	harm.mu, Store.newestMu  leaves
//
// A goroutine has at most one transaction open and starts no commit inside it.
// Begin waits for a seal, and a seal for every open transaction: so whoever
// holds a transaction must not wait for anything held by somebody who may be
// in Begin, Commit or WaitDurable, and neither must OnSeal.
package tree

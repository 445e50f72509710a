// Package store is the ledger: freezes with their holds, the dirty inodes they
// found, the callers they held, syncs, samples and the event log, in one SQLite
// file in the state directory.
//
// The ledger serves the file system, never the other way round. Only Intent
// waits for the disk, and only as long as its context allows. Every Record
// method puts a value into a bounded queue and returns; one writer goroutine
// groups what is queued into transactions. When SQLite cannot write (disk full,
// read-only, locked, file gone, file damaged) the ledger is Degraded: records
// wait in memory, the writer tries again with growing pauses, and Health says
// why. Reads of freezes include those that still wait.
//
//	Record* ──> queue ──take──> batch ──commit──> SQLite ──> hub (events, with ids)
//	Intent  ──> lane ──(before any batch)──┘         └ retention, in idle moments
//
// # Invariants
//
//	L1. One connection writes, and only the writer goroutine uses it after Open.
//	    Nothing else runs while it has a transaction open; readers have a pool
//	    of their own that cannot write.
//	L2. A batch is at most batchRows rows, so an intent waits for one small
//	    transaction at most.
//	L3. Records are committed in the order they were queued. A freeze that is
//	    recorded again before it was written takes its first place in the queue.
//	L4. A freeze row is only changed by the request that made it: same id and
//	    same requested_at. Another freeze under a used id is refused.
//	L5. An event is published with its id only after its row is durable. While
//	    Degraded events are published at once with id 0, and not again when they
//	    are written: a listener that resumes by id may see those twice, never not
//	    at all.
//	L6. The queue is bounded for each kind of record, in rows and in bytes. A
//	    kind that is full loses its oldest record (freezes: the oldest that has
//	    ended), and the loss is counted.
//	L7. A row that SQLite refuses for what it says (a constraint) is dropped,
//	    counted and logged; it never holds up the rows behind it.
//	L8. Rows open at start (freezing, frozen) belong to a process that died: they
//	    become interrupted, once, before anything of this life is written.
//	L9. Retention deletes oldest first, in small transactions, and never a
//	    freeze that is open.
//
// # Locks
//
// Ledger.connMu > queue.mu > hub.mu; Ledger.mu is a leaf. No lock is held while
// the writer works in a transaction; connMu is held for reading during a query
// and for writing only to exchange or close the connections.
package store

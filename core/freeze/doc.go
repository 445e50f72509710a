// Package freeze holds a file system at one point in time and lets it go again.
//
// It knows nothing of inodes, HTTP or databases. It owns three gates that the
// file system's callers pass, a machine that closes them in order around a
// Target's sync path, and the holds (leases) that keep them closed.
//
// # States
//
//	              1 Write        2 PageFault      3 FS          4 Complete
//	Unfrozen ------------> Write -----------> PageFault -----> FS -----------> Complete
//	   ^                     |                    |             |                  |
//	   |        5            v          5         v      5      v        6         v
//	   +---------------------+--------------------+-------------+------------------+
//
//	from        to          made by          when
//	Unfrozen    Write       run.shut         intent recorded, pre-clean done; the window starts
//	Write       PageFault   run.shut         no writer inside
//	PageFault   FS          run.shut         no fault inside, sync path done
//	FS          Complete    run.complete     no internal work inside, marked commit durable; the window ends
//	any         Unfrozen    Freezer.rollbackLocked   patience, a failing target, a requester who left (5)
//	Complete    Unfrozen    Freezer.endLocked        the last hold ended, however it ended (6)
//
// All of them go through box.move, the only function that changes the state.
// The state and the id of its freeze are one atomic word, so a step made for an
// earlier freeze can never move a later one.
//
// # Invariants
//
//	F1  Whoever is inside a gate entered while it was open; a gate's closer goes
//	    on only when nobody who entered before is still inside.
//	F2  Write: no new caller passes startWrite. PageFault: nor startPageFault.
//	    FS and Complete: nor startInternal.
//	F3  Complete is reached only after SyncDirty and FinalCommit succeeded with
//	    startWrite and startPageFault closed and drained all the while.
//	F4  A freeze that stands (StateFrozen) has at least one standing hold and
//	    a timer armed at the earliest expiry of them.
//	F5  A freeze's done channel is closed before its gates open.
//	F6  Every caller held is let go exactly once: released after the gates
//	    opened, or gone by itself. No wake-up is lost (see lobby).
//	F7  A hold whose expiry has come is ended before any request is judged,
//	    whether its timer has run or not.
//	F8  Freeze ids ascend and are never used twice.
//	F9  A freeze that is being reached ends: by its patience, and should the
//	    target not come back, by the same timer a grace later.
//
// # Locks
//
//	Freezer.mu > lobby.mu > releaser.mu > outbox.mu
//
// Freezer.mu is taken with nothing held, and is never held while the target,
// the observer, the intent hook or a resume function runs. A gate is waited for
// with no lock held; inside a lock it may only be tried.
//
// BUG: CLOCK_MONOTONIC does not run while the machine is suspended, so a lease
// is longer on the wall by the time spent suspended.
package freeze

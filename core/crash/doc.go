// Package crash proves crash consistency by search: it runs small workloads on
// a file system whose medium is recorded (pmem/record), makes every image that a
// power cut may leave at each fence, and holds each against what had been
// promised by then.
//
// # Reading order
//
//	op.go        the operations of a workload, and their text form
//	workload.go  the base image; all workloads of one and two operations, seeded ones of three
//	lore.go      workloads after published bugs of other file systems
//	state.go     what a reader sees of a mounted file system
//	history.go   the states a workload goes through, and what must survive when
//	oracle.go    one image: mount, check, compare, new work, mount again
//	explore.go   one workload: record, make the images of each fence, judge them
//	recovery.go  one image's recovery: record it, crash it, judge that
//	reach.go     what the commits of an image lead to
//	campaign.go  many workloads on all processors; failures made small and kept
//	mutant.go    the planted faults that must be caught
//
// # What an image must be
//
//   - O1. It mounts, and the full check finds nothing.
//   - O2. Its names, types, links, sizes, attributes and targets are exactly those
//     of one moment: after some operation that is not older than the last one
//     that was made durable, and not younger than the one under way.
//   - O3. A byte of a file is what it was at that moment; or, if the page kept its
//     block, what it was at any moment since it was last made durable (data is
//     not journaled: stores in place may be on the medium in any order).
//   - O4. Nothing is stored while frozen, and all of a frozen image is durable.
//   - O5. The image takes new work: create, write, fsync, freeze, thaw, unmount;
//     then it checks clean, mounts, and has the old and the new.
//   - O6. A crash in the middle of that mount or of its first commits leaves an
//     image of which O1 to O3 and O5 hold: for each image one seeded choice at one
//     seeded fence, for every hundredth many at every fence, those of the
//     unmount included.
package crash

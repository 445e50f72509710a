// Package exercise works a mounted file system with random operations and
// compares everything it answers with a model held in memory, in the manner of
// fsx: data through read, write, mappings and copies, sizes, holes, times,
// names, links, attributes, files that have no name any more, and freezes.
//
// # A run
//
// A run is a list of numbered operations in one directory. What operation n
// does is drawn from a generator of its own, seeded by the run's seed and n, and
// from the model. So a run is repeated by its seed, and leaving operations out
// leaves the others nearly what they were: that is how a difference is shrunk.
//
// # Rules
//
//	E1 The model is right by construction: every operation is carried out in the
//	   file system, its result is compared with what the model says it must be,
//	   and only then is it applied to the model.
//	E2 Bytes written are never zero, so that a hole is told from data.
//	E3 Stores go to bytes below the end of the file only: what becomes of bytes
//	   between the end of a file and the end of its last page is not promised.
//	   Loads of them give zeros; a load of a whole page beyond them is SIGBUS.
//	E4 A run stores to a mapping only while the file system is not frozen: a
//	   thread held in a store is held in the kernel, and Go's collector waits for
//	   it. What is stored while frozen is stored by another process, the storer.
//	E5 One run is one goroutine. Only calls made while frozen run beside it, under a
//	   time limit, and the run waits for them.
//
// It is a library so that the same run goes over any directory: the tests of
// this package hold the model itself against tmpfs and ext4.
package exercise

package pmem

// Medium is the persistence interface: everything the file system stores goes
// through it, so that a crash recorder can stand in the place of a Region.
// Offsets and sizes are bytes from the start of the pmem file.
type Medium interface {
	// Size is the length of the medium in bytes.
	Size() int64
	// Domain is the persistence domain found when the medium was opened.
	Domain() Domain
	// Bytes is the mapped range [off, off+n), nil if that is not inside the
	// medium. Loads from it may raise SIGBUS: touch it only between CatchFaults
	// and a deferred Caught, or copy it out with ReadAt. It must never be stored
	// to; use a Batch.
	Bytes(off, n int64) []byte
	// ReadAt copies len(p) bytes out of the medium. A bad page is a
	// *MediaError, never a SIGBUS.
	ReadAt(p []byte, off int64) (int, error)
	// Begin opens a batch and locks the calling goroutine to its thread until
	// the batch ends: a store fence orders the stores of its own CPU only.
	Begin() Batch
	// Grow extends (and preallocates) the medium to size bytes.
	Grow(size int64) error
	// Close unmaps and unlocks. The medium must not be used afterwards.
	Close() error
}

// Batch collects stores and flushes of one goroutine until they are fenced.
// It fences nothing but itself.
type Batch interface {
	// Write copies p to off and starts its way to the medium: with
	// non-temporal stores from NonTemporalMin bytes up, else store and flush.
	Write(off int64, p []byte) error
	// Zero writes n zero bytes at off, non-temporally.
	Zero(off, n int64) error
	// Flush starts writing back the lines of [off, off+n), which others
	// (applications, through their mappings) stored to.
	Flush(off, n int64) error
	// Order makes everything written or flushed so far durable no later than
	// the next Fence that any batch begins after Order returns. It is a store
	// fence; on page-cache, where a Fence is an fdatasync of the whole file, it
	// makes non-temporal stores visible to the processor that writes back.
	Order()
	// Fence returns when everything written or flushed in this batch is
	// durable in the medium's domain. It fails with the first error of the batch
	// too: what was not stored cannot become durable.
	Fence() error
	// End unlocks the thread. Unfenced stores stay unordered.
	End()
}

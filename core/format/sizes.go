package format

// Compile-time assertions: an array of negative length does not compile. They
// hold the offsets of docs/FORMAT.md together.
var (
	_ [0]struct{} = [sbEnd - 168]struct{}{}
	_ [0]struct{} = [sbLabel + MaxLabel - sbBlkSize]struct{}{}
	_ [0]struct{} = [crEnd - CommitSize]struct{}{}
	_ [0]struct{} = [crReserved + 16 - crRoots]struct{}{}
	_ [0]struct{} = [rootLevel + 4 - rootSize]struct{}{}
	_ [0]struct{} = [nodeHeader - 32]struct{}{}
	_ [0]struct{} = [slValLen + 4 - slotSize]struct{}{}
	_ [0]struct{} = [slBirth + 8 - childSize]struct{}{}
	_ [0]struct{} = [ceBits + 8*len(ChunkBits{}) - ceSize]struct{}{}
	_ [0]struct{} = [MaxChildren - 101]struct{}{}

	// A leaf and one more record always split into two leaves: the greater
	// half of them fits.
	_ [NodeCap - (NodeCap+slotSize+MaxValue)/2 - (slotSize + MaxValue)]struct{}

	// A snapshot page holds at least one entry and does not overflow.
	_ [BlockSize - spEntries - SnapshotEntries*ceSize]struct{}
)

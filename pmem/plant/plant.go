// Package plant is the mistakes that can be built in on purpose, below core and
// in it, to see the search for crash inconsistencies (core/crash) find them, and
// in the mount, to see prove find them. A
// proof that cannot fail proves nothing.
//
// Only a build with the tag "plant" contains them: in others On is a constant
// false, and the compiler drops what depends on it.
package plant

// Fault is a mistake.
type Fault int32

// The planted faults. Each is named after what it leaves out or does too early.
const (
	None          Fault = iota
	EdgeUnflushed       // pmem: an unaligned first line of a copy is not flushed
	ShortFlush          // pmem: the last line of a range is not flushed
	NodeFence           // tree: no fence between the nodes and the commit record
	RecordFirst         // tree: the commit record is durable before the nodes
	RecordFence         // tree: no fence behind the commit record
	EarlyReuse          // tree: freed blocks are used again before the commit without them is durable
	Deferred            // tree: deferred attributes are not written when a group is sealed
	DataOrder           // core: new data is not ordered before the record that points at it
	TailClear           // core: the rest of a last page is not cleared before the file grows over it
	BlockFill           // core: a new block is not cleared where the write does not reach
	DurableWait         // core: fsync does not wait for its generation
	FlushLate           // core: mapped pages are flushed behind the fence
	TagsEarly           // core: dirty tags are cleared before the flush, which then finds nothing
	MappedFreed         // core: the blocks of an unlinked file are freed although it is mapped
	NoOrphan            // core: an unlinked file in use leaves no orphan record
	RenameSplit         // core: a rename takes the old target away in a commit of its own
	FreezeFlush         // core: a freeze does not flush what was dirtied
	Count
)

// Faults of the mount, which prove finds, or the tests of its order.
const (
	MountOnePass   Fault = Count + iota // a freeze has the page cache written back once
	MountNoCollect                      // a freeze has nothing written back
	MountNoCount                        // a freeze does not ask what the kernel keeps to itself
)

var mountNames = map[Fault]string{MountOnePass: "mount-one-pass", MountNoCollect: "mount-no-collect", MountNoCount: "mount-no-count"} // immutable

var names = [Count]string{"none", "edge-unflushed", "short-flush", "node-fence", "record-first", "record-fence", "early-reuse", "deferred",
	"data-order", "tail-clear", "block-fill", "durable-wait", "flush-late", "tags-early", "mapped-freed", "no-orphan", "rename-split", "freeze-flush"}

// String is the fault's name.
func (f Fault) String() string {
	if f >= Count {
		return mountNames[f]
	}
	return names[f]
}

package tree

import (
	"sync"
	"sync/atomic"
	"time"

	"permafrost/core/format"
	"permafrost/pmem"
)

// Key names a record.
type Key = format.Key

// Options direct Open.
type Options struct {
	// Extents reports the data blocks that a record owns by calling used. It is
	// called for every record when the allocator is rebuilt or checked. Nil:
	// records own nothing.
	Extents func(k Key, v []byte, used func(b format.Block, n uint64))
	// OnSeal is called inside every seal, with a transaction of its own and no
	// other open: deferred records are written here (T4). It must not end the
	// transaction, wait for locks (see the package comment) or call the Store's
	// committing methods. Nothing is reserved for it: it should replace records,
	// by values of the same length, whose leaves this group has changed already,
	// which takes no node. An error is the ERROR state.
	OnSeal func(tx *Tx) error
	// Progress is called now and then while the allocator is rebuilt, with the
	// nodes visited so far and in all.
	Progress func(done, total uint64)
	// Now is the clock of commit times. Nil: time.Now.
	Now func() time.Time
	// ReadOnly changes nothing in the image and needs no allocator.
	ReadOnly bool
}

// Store is an open image's metadata. Its methods may be called by many
// goroutines at once.
type Store struct {
	m      pmem.Medium // immutable
	o      Options     // immutable
	mount  mountFacts  // immutable
	now    func() time.Time
	alloc  *allocator    // immutable; nil if read-only
	wakeup chan struct{} // CommitNeeded; immutable

	// commitSem holds one token while a goroutine seals, writes and publishes.
	commitSem chan struct{}
	super     format.Superblock   // written under commitSem and treeMu
	last      format.CommitRecord // newest durable commit; guarded by commitSem
	sealing   sealedGroup         // the group being committed; guarded by commitSem

	// shortMu is held by who begins a transaction while space is short.
	shortMu sync.Mutex
	// groupMu is shared by every open transaction and held exclusively to seal.
	groupMu sync.RWMutex
	closed  bool // no transaction begins any more; guarded by groupMu

	treeMu   sync.RWMutex
	base     []byte      // the medium's bytes; guarded by treeMu
	verified verifiedMap // replaced under treeMu, its bits are atomic
	root     format.Root // guarded by treeMu
	open     *group      // guarded by treeMu
	sealed   *group      // nil if none; guarded by treeMu; its nodes are immutable
	spare    *group      // becomes open at the next seal; nil while one is sealed; guarded by treeMu
	pool     nodePool    // guarded by treeMu
	gone     bool        // closed: the medium must not be read; guarded by treeMu

	counters liveCounters // atomics

	badBlocks atomic.Uint64 // blocks with a record of KindBadBlock

	openGen   atomic.Uint64 // written under groupMu and treeMu
	openNodes atomic.Int64  // live nodes of the open group
	dirty     atomic.Bool   // the open group has changes; cleared by the seal
	durable   atomic.Uint64 // newest durable generation; written under commitSem
	freezeID  atomic.Uint64 // of the newest commit; written under commitSem

	pubMu   sync.Mutex
	pubWake chan struct{} // closed at the next publish; nil if nobody waits; guarded by pubMu

	failure atomic.Pointer[error] // the ERROR state's cause, set once (T11)
	harm    harm                  // metadata that could not be read (T14)

	newestMu sync.Mutex // a leaf
	newest   newestRoot // guarded by newestMu
}

// mountFacts is what Open found out.
type mountFacts struct {
	commit     format.CommitRecord // the commit that was mounted
	lastFreeze uint64              // greatest freeze id that the commits to choose from tell of
	fellBack   int                 // newer commits that could not be used
	rebuilt    bool                // the allocator was rebuilt by a walk
	recovery   time.Duration       // Open, from start to end
	superCopy  bool                // the primary superblock is damaged
}

// liveCounters are format.Counters while they change.
type liveCounters struct {
	nextIno, inodes, nodes, data, records atomic.Uint64
}

func (c *liveCounters) set(v *format.Counters) {
	c.nextIno.Store(uint64(v.NextIno))
	c.inodes.Store(v.Inodes)
	c.nodes.Store(v.Nodes)
	c.data.Store(v.Data)
	c.records.Store(v.Records)
}

func (c *liveCounters) get() format.Counters {
	return format.Counters{
		NextIno: format.Ino(c.nextIno.Load()),
		Inodes:  c.inodes.Load(),
		Nodes:   c.nodes.Load(),
		Data:    c.data.Load(),
		Records: c.records.Load(),
	}
}

// Info describes the store: a copy.
type Info struct {
	UUID     [16]byte
	HashSeed [16]byte // keys the hash of directory entry names
	Label    string
	Version  uint32
	Created  time.Time
	Blocks   format.Block // size of the image
	Depth    int          // levels of the tree, 1 for a lone leaf
	Counters format.Counters

	Open     format.Generation // group that takes changes now
	Durable  format.Generation // newest durable commit
	FreezeID uint64            // of the newest commit, 0 if it is not a freeze's

	Mounted         format.Generation // commit that was mounted
	MountedFreezeID uint64            // its freeze, or 0
	MountedTime     time.Time         // when it was sealed
	LastFreezeID    uint64            // greatest freeze id that a commit was ever made for, as of the mount
	MountedClean    bool              // it was written by a clean unmount
	FellBack        int               // newer commits that were damaged
	Rebuilt         bool              // the allocator was rebuilt by a walk
	SuperDamaged    bool              // the primary superblock is damaged, its copy was used
	RecoveryTime    time.Duration     // how long Open took
}

// Info is what is known of the store now. It waits for no commit.
func (s *Store) Info() Info {
	s.treeMu.RLock()
	sb := s.super
	depth := int(s.root.Level) + 1
	s.treeMu.RUnlock()
	c := &s.mount.commit
	return Info{
		UUID: sb.UUID, HashSeed: sb.HashSeed, Label: sb.Label, Version: sb.Version,
		Created: sb.Created, Blocks: sb.Blocks, Depth: depth, Counters: s.counters.get(),
		Open: s.OpenGeneration(), Durable: s.DurableGeneration(), FreezeID: s.freezeID.Load(),
		Mounted: c.Generation, MountedFreezeID: c.FreezeID, LastFreezeID: s.mount.lastFreeze,
		MountedTime: time.Unix(0, c.TimeNS).UTC(), MountedClean: c.Clean,
		FellBack: s.mount.fellBack, Rebuilt: s.mount.rebuilt,
		SuperDamaged: s.mount.superCopy, RecoveryTime: s.mount.recovery,
	}
}

// OpenGeneration is the generation that takes changes now: what it contains is
// durable once WaitDurable for it returns.
func (s *Store) OpenGeneration() format.Generation { return format.Generation(s.openGen.Load()) }

// DurableGeneration is the generation of the newest durable commit.
func (s *Store) DurableGeneration() format.Generation { return format.Generation(s.durable.Load()) }

// Dirty reports whether the open group has changes. Records that wait for
// OnSeal are not among them.
func (s *Store) Dirty() bool { return s.dirty.Load() }

// CommitNeeded gets a value when the open group has grown so large that it
// should be committed soon; Begin does it when it must (T6).
func (s *Store) CommitNeeded() <-chan struct{} { return s.wakeup }

// Err is why nothing can be changed any more, or nil: the cause of the ERROR
// state (T11), or else the first damage met (T14).
func (s *Store) Err() error {
	if err := s.Failed(); err != nil {
		return err
	}
	return s.harm.first()
}

// Failed is the cause of the ERROR state, or nil (T11): commits fail, too.
func (s *Store) Failed() error {
	if p := s.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// fail enters the ERROR state for the first cause given, and returns err as
// an ErrState. Those who wait for a generation are woken to see it.
func (s *Store) fail(err error) error {
	s.failure.CompareAndSwap(nil, &err)
	s.wake()
	return stateError(err)
}

// usableLocked is the error of a change tried now, or nil. Needs groupMu.
func (s *Store) usableLocked() error {
	if err := s.sealableLocked(); err != nil {
		return err
	}
	if err := s.harm.first(); err != nil {
		return stateError(err)
	}
	return nil
}

// sealableLocked is the error of a commit tried now, or nil. Needs groupMu.
func (s *Store) sealableLocked() error {
	switch {
	case s.failure.Load() != nil:
		return stateError(s.Failed())
	case s.closed:
		return ErrClosed
	case s.o.ReadOnly:
		return ErrReadOnly
	}
	return nil
}

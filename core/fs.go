package core

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// FS is one mounted file system. Its methods may be called by many goroutines
// at once. See the package comment for locks and invariants.
type FS struct {
	m        pmem.Medium     // immutable
	opt      Options         // immutable
	store    *tree.Store     // immutable
	seed     format.HashSeed // immutable: keys the hash of names
	hashMask uint64          // immutable: all ones; a test makes names collide with less
	instance string          // immutable: names this mount
	label    string          // immutable
	started  time.Time       // immutable
	mounted  tree.Info       // immutable: what mounting found

	freezer        *freeze.Freezer // immutable
	startWrite     *freeze.Gate    // immutable
	startPageFault *freeze.Gate    // immutable
	startInternal  *freeze.Gate    // immutable

	threads  threadSlots // of operations with a batch; see threads.go
	renameMu sync.Mutex  // held by renames between directories; see doc.go
	cache    icache
	deferred deferred
	dirty    dirtyList
	syncer   syncer
	reaper   reaper
	bad      badQueue
	scrubs   scrubber
	unmapped inodeQueue
	mappings mappingTable
	caches   caches
	events   stream
	watchers watchers
	found    foundQueue
	ops      opCounts

	nextMapping atomic.Uint64
	fsyncs      atomic.Uint64 // fsync, msync, sync and unmap that succeeded
	faults      atomic.Uint64 // first stores that passed the gate
	commits     commitStats

	awaiting atomic.Bool   // mappings of before the restart are still to be taken back
	adopted  chan struct{} // closed when awaiting ends
	adopt1   sync.Once     // closes adopted

	ctx    context.Context // immutable: ends background work at unmount
	cancel context.CancelFunc
	wg     sync.WaitGroup // background goroutines
}

// Options direct Mount.
type Options struct {
	Path           string        // of the pmem file, for Status
	CommitInterval time.Duration // between timed commits; 0: 5 s
	LeaseMax       time.Duration // longest a freeze may last; 0: 1 h
	MaxInodes      int           // cached inodes before clean ones are evicted; 0: 1,000,000
	EventBuffer    int           // events kept for a slow consumer; 0: 4096
	NextFreezeID   uint64        // floor from the ledger
	// PastHolds are the ledger's, so that thaw tells the truth after a restart.
	PastHolds []freeze.PastHold
	// Intent records a freeze before its first gate closes.
	Intent func(ctx context.Context, r freeze.Record) error
	// DeferOrphans keeps unlinked inodes and holds every modification until
	// Adopted is called: mappings that survived a restart come first.
	DeferOrphans bool
	ReadOnly     bool
	// ScrubInterval is the time between two scrubs of all metadata; 0: only those
	// that Scrub asks for.
	ScrubInterval time.Duration
	ScrubRate     int64 // bytes a second that a scrub reads at most; 0: 8 MiB
	// Progress is told how far a rebuild of the allocator is.
	Progress func(done, total uint64)
}

const (
	defaultCommitInterval = 5 * time.Second
	defaultMaxInodes      = 1_000_000
	defaultEventBuffer    = 4096
)

func (o *Options) setDefaults() {
	if o.CommitInterval <= 0 {
		o.CommitInterval = defaultCommitInterval
	}
	if o.MaxInodes <= 0 {
		o.MaxInodes = defaultMaxInodes
	}
	if o.ScrubRate <= 0 {
		o.ScrubRate = defaultScrubRate
	}
	if o.EventBuffer <= 0 {
		o.EventBuffer = defaultEventBuffer
	}
}

// Mount opens the file system on m, which stays the caller's and must be
// closed after Unmount.
//
// Errors: format.ErrNotOurs, ErrNewerFormat, ErrTruncated, ErrTooSmall,
// ErrDamaged; ErrIO.
func Mount(m pmem.Medium, o Options) (*FS, error) {
	o.setDefaults()
	fs := &FS{m: m, opt: o, hashMask: ^uint64(0), started: time.Now(), instance: newInstance(),
		adopted: make(chan struct{})}
	fs.ctx, fs.cancel = context.WithCancel(context.Background())
	fs.cache.init(o.MaxInodes)
	fs.threads = newThreadSlots()
	fs.syncer.sem = make(chan struct{}, 1)
	fs.reaper.queue.kick = make(chan struct{}, 1)
	fs.unmapped.kick = make(chan struct{}, 1)
	fs.found.kick = make(chan struct{}, 1)
	fs.bad.init()
	fs.scrubs.init(&fs.opt)
	fs.mappings.m = make(map[uint64]*Mapping)
	fs.events.init(o.EventBuffer)
	if err := fs.open(); err != nil {
		fs.cancel()
		return nil, fmt.Errorf("mount: %w", err)
	}
	fs.awaiting.Store(o.DeferOrphans)
	if !o.DeferOrphans {
		fs.Adopted()
	}
	fs.start()
	return fs, nil
}

// open opens the tree, verifies that it has a root directory, and makes the
// freezer.
func (fs *FS) open() error {
	var err error
	fs.store, err = tree.Open(fs.m, tree.Options{Extents: ownedBlocks, OnSeal: fs.onSeal,
		Progress: fs.opt.Progress, ReadOnly: fs.opt.ReadOnly})
	if err != nil {
		return err
	}
	fs.mounted = fs.store.Info()
	fs.seed, fs.label = format.HashSeed(fs.mounted.HashSeed), fs.mounted.Label
	if err := fs.openRest(); err != nil {
		return errors.Join(err, fs.store.Close(context.Background()))
	}
	return nil
}

func (fs *FS) openRest() error {
	root, err := fs.get(format.RootIno)
	if err != nil {
		return fmt.Errorf("the root directory: %w", err)
	}
	defer fs.put(root)
	if !root.isDirLocked() { // nobody else yet
		return ioError(format.ErrBadRecord, "inode %d, the root, is no directory", format.RootIno)
	}
	if err := fs.findOrphans(); err != nil {
		return err
	}
	fs.freezer, err = freeze.New(freeze.Config{Target: target{fs}, Observer: fs.observe, Intent: fs.opt.Intent,
		MaxLease: fs.opt.LeaseMax, NextID: max(fs.opt.NextFreezeID, fs.mounted.LastFreezeID+1), Past: fs.pastHolds()})
	if err != nil {
		return err
	}
	fs.startWrite, fs.startPageFault, fs.startInternal = fs.freezer.StartWrite(), fs.freezer.StartPageFault(), fs.freezer.StartInternal()
	return nil
}

// pastHolds is what earlier lives of the file system left: the ledger's, and a
// freeze that only the image tells of. If the mounted commit is a freeze's,
// nothing was committed since: the freeze stood until the end, for all we know.
// Somebody may still come to thaw it, and must hear that it was lost, even if
// the ledger could not be written then or is gone now.
func (fs *FS) pastHolds() []freeze.PastHold {
	past, id := fs.opt.PastHolds, fs.mounted.MountedFreezeID
	if id == 0 || id < fs.opt.NextFreezeID || fs.opt.ReadOnly {
		return past
	}
	at := fs.mounted.MountedTime
	return append(past[:len(past):len(past)], freeze.PastHold{State: freeze.StateInterrupted, FrozenAt: at, FreezeAt: at,
		Hold: freeze.Hold{ID: fmt.Sprintf("%d.1", id), FreezeID: id, Holder: "not on record", Since: at, End: string(freeze.StateInterrupted), EndedAt: at}})
}

// start begins the background work.
func (fs *FS) start() {
	fs.wg.Add(3)
	go fs.tellFound()
	go fs.syncUnmapped()
	go fs.scrub()
	if !fs.opt.ReadOnly {
		fs.wg.Add(3)
		go fs.reap()
		go fs.commitTimed()
		go fs.retireBad()
	}
}

// ownedBlocks tells the tree which data blocks a record owns.
func ownedBlocks(k tree.Key, v []byte, used func(b format.Block, n uint64)) {
	if k.Kind != format.KindExtent || k.Ino == format.OrphanIno {
		return
	}
	var e format.Extent
	if e.Decode(v) == nil { // a bad one owns nothing; check names it
		used(e.Block, e.Count)
	}
}

func newInstance() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Unmount ends a standing freeze (as interrupted), syncs what is dirty, commits
// cleanly and ends all background work. The medium stays open. The file system
// must not be used afterwards; mappings must have ended, or their stores from
// here on are lost.
//
// Errors: of the last sync and commit, or ctx's.
func (fs *FS) Unmount(ctx context.Context) error {
	freezeErr := fs.freezer.Close(ctx)
	fs.cancel()
	done := make(chan struct{})
	go func() {
		fs.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("unmount: background work goes on: %w", ctx.Err())
	}
	var syncErr error
	if !fs.opt.ReadOnly && fs.store.Failed() == nil {
		_, syncErr = fs.syncDirty(ctx, freeze.SyncOptions{})
	}
	closeErr := fs.store.Close(ctx)
	fs.events.close()
	if err := errors.Join(freezeErr, syncErr, closeErr); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	return nil
}

// Adopted says that the mappings of before the restart are taken back or have
// ended: modifications go on, and orphans are freed. Calling it again does
// nothing.
func (fs *FS) Adopted() {
	fs.adopt1.Do(func() {
		fs.awaiting.Store(false)
		close(fs.adopted)
	})
}

// Medium is what the file system lives on.
func (fs *FS) Medium() pmem.Medium { return fs.m }

// Freezer is the freeze state machine.
func (fs *FS) Freezer() *freeze.Freezer { return fs.freezer }

// reserve reckons what a transaction may need (T10).
func (fs *FS) reserve(records, blocks int, emergency bool) tree.Reserve {
	return tree.Reserve{Nodes: fs.store.NodesFor(records), DataBlocks: blocks, Emergency: emergency}
}

// Grow makes the image size bytes large while it is in use, and its medium
// with it.
//
// Errors: ErrInvalid for less than there is, ErrTooBig, ErrReadOnly, ErrNoSpace
// from the medium, and the gate's.
func (fs *FS) Grow(ctx context.Context, size int64) error {
	pass, err := fs.enterWrite(ctx, freeze.OpGrow, 0)
	if err != nil {
		return err
	}
	defer pass.Exit()
	err = fs.store.Grow(ctx, size)
	switch {
	case err == nil:
		fs.ops.count(freeze.OpGrow)
		return nil
	case errors.Is(err, tree.ErrBadRange):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	case errors.Is(err, format.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooBig, err)
	case errors.Is(err, pmem.ErrNoSpace):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return fs.waitError(err)
}

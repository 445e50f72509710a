package core

import (
	"sync"
	"sync/atomic"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// opCounts counts finished operations by name.
type opCounts struct {
	n [64]atomic.Uint64 // by freeze.Op
}

func (c *opCounts) count(op freeze.Op) { c.n[op].Add(1) }

func (c *opCounts) byName() map[string]uint64 {
	out := make(map[string]uint64)
	for i := range c.n {
		if v := c.n[i].Load(); v > 0 {
			out[freeze.Op(i).String()] += v
		}
	}
	return out
}

// mappingTable is all mappings by number.
type mappingTable struct {
	mu sync.Mutex          // a leaf
	m  map[uint64]*Mapping // guarded by mu
}

func (t *mappingTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m)
}

// Status is a cheap copy of the whole. O(1), and it waits for nothing that
// lasts: neither a thaw nor a commit.
func (fs *FS) Status() Status {
	f := fs.freezer.Status()
	sp := fs.store.Space()
	c := fs.store.Counters()
	s := Status{
		Level: f.Level, State: f.State, Since: f.Since, Freeze: f.Freeze, LastFreeze: f.Last,
		Generation: fs.store.DurableGeneration(), InstanceID: fs.instance, Label: fs.label, StartedAt: fs.started,
		Medium: MediumInfo{Path: fs.opt.Path, SizeBytes: fs.m.Size(), Domain: fs.m.Domain().String(),
			SurvivesPowerLoss: fs.m.Domain().SurvivesPowerLoss(), FlushInstruction: fs.m.Domain().FlushInstruction()},
		// Blocks that were freed wait for two more commits; whoever needs them
		// makes those happen (T5), so to users they are free.
		Space: Space{Total: sp.TotalBlocks * format.BlockSize, Used: (sp.Used - sp.PendingFree) * format.BlockSize,
			Free: (sp.Free + sp.PendingFree) * format.BlockSize},
		InodesTotal: c.Inodes, InodesCached: uint64(fs.cache.count.Load()),
		InodesDirty: uint64(fs.dirty.inodes.Load()), DirtyPages: uint64(fs.dirty.pages.Load()),
		BadBlocks: fs.store.BadBlockCount(), BadBlocksPending: uint64(fs.bad.count()), DataErrors: fs.bad.errors.Load(),
		MetadataErrors: fs.store.DamageCount(), Scrub: fs.ScrubStatus(), Mappings: uint64(fs.mappings.count()), Blocked: uint64(f.Blocked),
		Degraded: fs.store.Err(), Recovery: fs.mounted.RecoveryTime, AllocatorRebuilt: fs.mounted.Rebuilt,
		FellBack: fs.mounted.FellBack, SuperDamaged: fs.mounted.SuperDamaged,
		TreeDepth: fs.store.Depth(), FsyncTotal: fs.fsyncs.Load(), CommitTotal: fs.commits.total.Load(),
		FaultTotal: fs.faults.Load(), OpsTotal: fs.ops.byName(),
		EventsDropped: fs.events.lost() + f.Dropped, PendingOrphans: uint64(max(fs.reaper.pending.Load(), 0)),
		LastCommitLatency: time.Duration(fs.commits.latency.Load()),
	}
	if at := fs.commits.lastAt.Load(); at != 0 {
		s.LastCommitAt = nsTime(at)
	}
	return s
}

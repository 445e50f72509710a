package core

import (
	"sync"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/core/tree"
)

const (
	// scrubBatch is how many nodes a scrub reads in one pass of the gate: a
	// freeze waits for that many at most.
	scrubBatch = 32
	// defaultScrubRate is gentle: a busy core takes in a thousand times as much.
	defaultScrubRate = 8 << 20
	// scrubSettle is how long after the mount the first periodic scrub begins,
	// at most.
	scrubSettle = time.Hour
)

// The states of the scrub.
const (
	ScrubIdle    = "idle"
	ScrubRunning = "running"
	ScrubHeld    = "held" // by a freeze
)

// ScrubStatus says how far the scrub is. A pass reads all metadata once.
type ScrubStatus struct {
	State      string    // idle, running, held
	StartedAt  time.Time // of the running pass, or of the last one; zero: none yet
	EndedAt    time.Time // of the last pass that came to its end; zero: none yet
	NextAt     time.Time // of the next periodic one; zero: none
	Nodes      uint64    // read by the running or the last pass
	Of         uint64    // about how many it has to read
	Found      uint64    // damaged ones among them
	Passes     uint64    // that came to their end since the mount
	NodesTotal uint64    // read since the mount
	RateBytes  int64     // a second, at most
}

// Damage is a block of metadata that could not be read.
type Damage = tree.Damage

// scrubber reads all metadata from the medium now and then.
type scrubber struct {
	kick chan struct{} // capacity 1: begin a pass

	mu sync.Mutex  // a leaf
	st ScrubStatus // guarded by mu
}

func (s *scrubber) init(o *Options) {
	s.kick = make(chan struct{}, 1)
	s.st = ScrubStatus{State: ScrubIdle, RateBytes: o.ScrubRate}
}

func (s *scrubber) update(fn func(st *ScrubStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(&s.st)
}

// Scrub begins a pass, unless one is running, and says how it stands.
func (fs *FS) Scrub() ScrubStatus {
	s := &fs.scrubs
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.st.State == ScrubIdle {
		s.begin(fs)
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
	return s.st
}

// begin makes the status that of a pass which begins. Needs mu.
func (s *scrubber) begin(fs *FS) {
	s.st.State, s.st.StartedAt, s.st.NextAt = ScrubRunning, time.Now(), time.Time{}
	s.st.Nodes, s.st.Found, s.st.Of = 0, 0, fs.store.Counters().Nodes
}

// ScrubStatus says how far the scrub is.
func (fs *FS) ScrubStatus() ScrubStatus {
	fs.scrubs.mu.Lock()
	st := fs.scrubs.st
	fs.scrubs.mu.Unlock()
	if st.State == ScrubRunning && fs.startInternal.Closed() {
		st.State = ScrubHeld
	}
	return st
}

// Damages lists the damaged blocks of metadata met since the mount, ascending,
// at most the first thousand; total counts all.
func (fs *FS) Damages() (list []Damage, total uint64) { return fs.store.Damages() }

// scrub runs passes until the file system is unmounted: one every
// ScrubInterval, and those that are asked for.
func (fs *FS) scrub() {
	defer fs.wg.Done()
	s := &fs.scrubs
	for wait := min(fs.opt.ScrubInterval, scrubSettle); ; wait = fs.opt.ScrubInterval {
		var due <-chan time.Time // never, without an interval
		if wait > 0 {
			due = time.After(wait)
		}
		s.update(func(st *ScrubStatus) {
			if wait > 0 && st.State == ScrubIdle {
				st.NextAt = time.Now().Add(wait)
			}
		})
		select {
		case <-fs.ctx.Done():
			return
		case <-s.kick:
		case <-due:
		}
		s.update(func(st *ScrubStatus) {
			if st.State == ScrubIdle { // nobody has asked for it
				s.begin(fs)
			}
			select {
			case <-s.kick: // asked for as it was due
			default:
			}
		})
		fs.scrubPass()
		s.update(func(st *ScrubStatus) { st.State = ScrubIdle })
	}
}

// scrubPass reads all metadata once. It is internal work: it passes the gate a
// batch at a time, and while that is closed its place does not move.
func (fs *FS) scrubPass() {
	sc := fs.store.NewScrub()
	for {
		pass, ok := fs.awaitInternal()
		if !ok {
			return
		}
		before := sc.Nodes
		read, done, err := sc.Step(fs.ctx, scrubBatch)
		fs.scrubs.update(func(st *ScrubStatus) {
			st.Nodes, st.Of, st.Found = sc.Nodes, sc.Of(), sc.Found
			st.NodesTotal += sc.Nodes - before
			if done {
				st.Passes++
				st.EndedAt = time.Now()
				fs.ops.count(freeze.OpScrub)
			}
		})
		pass.Exit()
		if done || err != nil || !fs.pace(read) {
			return
		}
	}
}

// awaitInternal passes the gate of internal work; false: unmounted.
func (fs *FS) awaitInternal() (freeze.Pass, bool) {
	for {
		pass, ok := fs.startInternal.Try(freeze.OpScrub, 0)
		if ok {
			return pass, true
		}
		select {
		case <-fs.startInternal.Opened():
		case <-fs.ctx.Done():
			return freeze.Pass{}, false
		}
	}
}

// pace waits for as long as reading n nodes may take; false: unmounted.
func (fs *FS) pace(n int) bool {
	t := time.NewTimer(time.Duration(n) * format.BlockSize * time.Second / time.Duration(fs.opt.ScrubRate))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-fs.ctx.Done():
		return false
	}
}

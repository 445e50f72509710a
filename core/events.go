package core

import (
	"sync"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// stream is the bounded stream of events out of core, for one consumer.
//
// Drop policy: an event that finds no room is dropped, never waited for. Syncs,
// commits and mappings may fill three quarters of the buffer; the last quarter
// is for the events of freezes, so that these are lost only when the consumer
// has stopped. A gap in Seq tells the consumer.
type stream struct {
	mu      sync.Mutex // a leaf
	ch      chan Event // immutable; closed under mu
	seq     uint64     // guarded by mu
	dropped uint64     // guarded by mu
	closed  bool       // guarded by mu
}

func (s *stream) init(buffer int) { s.ch = make(chan Event, max(buffer, 16)) }

// emit never blocks.
func (s *stream) emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.seq++
	e.Seq = s.seq
	if e.Freeze == nil && e.Found == nil && len(s.ch) >= cap(s.ch)*3/4 {
		s.dropped++
		return
	}
	select {
	case s.ch <- e:
	default:
		s.dropped++
	}
}

// emitSync is emit for the most frequent event: one that will be dropped costs
// no allocation.
func (s *stream) emitSync(kind string, ino format.Ino, res *SyncResult) {
	s.mu.Lock()
	if s.closed || len(s.ch) >= cap(s.ch)*3/4 {
		s.seq++
		s.dropped++
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.emit(Event{Sync: &SyncEvent{Kind: kind, Ino: ino, SyncResult: *res}})
}

func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.ch)
	}
}

func (s *stream) lost() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Events is the stream of what happens; it closes at Unmount. One consumer.
func (fs *FS) Events() <-chan Event { return fs.events.ch }

// observe takes the freezer's events, outside the window.
func (fs *FS) observe(e freeze.Event) {
	fs.events.emit(Event{Time: e.Time, Freeze: &e})
	switch e.Kind {
	case freeze.EventFrozen:
		fs.noteFinalCommit(e.Freeze)
		fs.kickFound()
	case freeze.EventRolledBack:
		fs.kickFound()
	}
}

func (fs *FS) noteFinalCommit(r *freeze.Record) {
	if r == nil {
		return
	}
	fs.commits.total.Add(1)
	fs.commits.lastAt.Store(r.FrozenAt.UnixNano())
	d := time.Duration(0)
	for _, p := range r.Phases {
		if p.Name == "fs" {
			d = p.Duration
		}
	}
	fs.commits.latency.Store(int64(d))
	fs.events.emit(Event{Time: r.FrozenAt, Commit: &CommitEvent{Generation: format.Generation(r.Generation), FreezeID: r.ID, Duration: d}})
}

// foundQueue keeps what syncs found until there is time to name the paths:
// after a window, not in it.
type foundQueue struct {
	mu   sync.Mutex    // a leaf
	list []FoundEvent  // guarded by mu
	kick chan struct{} // capacity 1
}

// maxFound bounds the inodes that wait to be told.
const maxFound = 1 << 16

func (q *foundQueue) add(e FoundEvent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list)*syncGroup < maxFound {
		q.list = append(q.list, e)
	}
}

func (q *foundQueue) take() []FoundEvent {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.list
	q.list = nil
	return list
}

// kickFound has the queue told.
func (fs *FS) kickFound() {
	select {
	case fs.found.kick <- struct{}{}:
	default:
	}
}

func (fs *FS) tellFound() {
	defer fs.wg.Done()
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-fs.found.kick:
		}
		for _, e := range fs.found.take() {
			for i := range e.Inodes {
				if paths := fs.Paths(e.Inodes[i].Ino, 1); len(paths) > 0 {
					e.Inodes[i].Path = paths[0]
				}
			}
			fs.events.emit(Event{Found: &e})
		}
	}
}

// emitMap tells of a mapping that was made.
func (fs *FS) emitMap(m *Mapping, ended bool) { fs.emitMapInfo(m.info(), ended) }

func (fs *FS) emitMapInfo(i MappingInfo, ended bool) {
	if paths := fs.Paths(i.Ino, 1); len(paths) > 0 {
		i.Path = paths[0]
	}
	fs.events.emit(Event{Map: &MapEvent{MappingInfo: i, Ended: ended}})
}

// inodeQueue carries pinned inodes to syncUnmapped.
type inodeQueue struct {
	mu   sync.Mutex    // a leaf
	list []*inode      // guarded by mu; each with a pin of its own
	kick chan struct{} // capacity 1
}

func (q *inodeQueue) add(in *inode) {
	q.mu.Lock()
	q.list = append(q.list, in)
	q.mu.Unlock()
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

func (q *inodeQueue) take() []*inode {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.list
	q.list = nil
	return list
}

// syncUnmapped is fsync at unmap for ranges that clients unmapped by
// themselves.
func (fs *FS) syncUnmapped() {
	defer fs.wg.Done()
	for {
		select {
		case <-fs.ctx.Done():
			for _, in := range fs.unmapped.take() { // Unmount syncs what is dirty
				fs.put(in)
			}
			return
		case <-fs.unmapped.kick:
		}
		for _, in := range fs.unmapped.take() {
			if pg := in.pages.Load(); pg.listed.Load() {
				// Pages that could not be flushed stay dirty, and the next sync tells.
				_, _ = fs.fsync(fs.ctx, in, 0, maxPage, "unmap")
			}
			fs.put(in)
		}
	}
}

package core

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/core/tree"
)

// reaper frees inodes that have neither name nor pin: those that unlink left,
// and at mount those that a crash left. Like every modification it passes the
// gate, so that it is held while frozen.
type reaper struct {
	pending atomic.Int64  // orphans with a record in the tree
	steps   atomic.Uint64 // transactions that freed an orphan or a part of one
	queue   inoQueue
}

// inoQueue is an unbounded queue of inode numbers with one consumer; it is as
// long as there are orphans without pins.
type inoQueue struct {
	mu   sync.Mutex    // a leaf
	list []format.Ino  // guarded by mu
	busy bool          // guarded by mu: what was taken is being freed
	idle chan struct{} // guarded by mu: closed when there is nothing to free; nil: nobody waits for it
	kick chan struct{} // capacity 1
}

func (q *inoQueue) add(ino format.Ino) {
	q.mu.Lock()
	q.list = append(q.list, ino)
	q.mu.Unlock()
	q.wake()
}

func (q *inoQueue) wake() {
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

func (q *inoQueue) take() []format.Ino {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.list
	q.list, q.busy = nil, true
	return list
}

// rest ends what take began. again could not be freed yet; the next commit, or
// who looks for space, has it tried once more.
func (q *inoQueue) rest(again []format.Ino) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = false
	if len(q.list) == 0 && q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
	q.list = append(q.list, again...)
}

// whenIdle is closed when what is queued was freed, or found to be unfreeable for
// now; nil when nothing is queued.
func (q *inoQueue) whenIdle() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 && !q.busy {
		return nil
	}
	if q.idle == nil {
		q.idle = make(chan struct{})
	}
	q.wake()
	return q.idle
}

func (r *reaper) add(ino format.Ino) { r.queue.add(ino) }

// findOrphans queues what the last mount left.
func (fs *FS) findOrphans() error {
	n := int64(0)
	err := fs.store.Scan(key(format.OrphanIno, format.KindOrphan, 0), key(format.OrphanIno, format.KindOrphan+1, 0), func(k tree.Key, _ []byte) bool {
		n++
		fs.reaper.queue.list = append(fs.reaper.queue.list, format.Ino(k.Off)) // nobody else yet
		return true
	})
	if err != nil {
		return ioError(err, "read the list of orphans")
	}
	fs.reaper.pending.Store(n)
	fs.reaper.queue.wake()
	return nil
}

// reap runs until the file system is unmounted.
func (fs *FS) reap() {
	defer fs.wg.Done()
	select {
	case <-fs.adopted: // until then a surviving mapping may still claim any of them
	case <-fs.ctx.Done():
		return
	}
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-fs.reaper.queue.kick:
		}
		var again []format.Ino
		for _, ino := range fs.reaper.queue.take() {
			err := fs.reapOne(ino)
			if fs.ctx.Err() != nil {
				return
			}
			if errors.Is(err, ErrNoSpace) {
				again = append(again, ino)
			}
		}
		fs.reaper.queue.rest(again)
	}
}

// reapOne frees one orphan, a bounded transaction and a pass of the gate at a
// time.
func (fs *FS) reapOne(ino format.Ino) error {
	in, err := fs.get(ino)
	if err != nil {
		return err
	}
	defer fs.put(in)
	for {
		done, err := fs.reapStep(in)
		if err != nil {
			return err
		}
		if done {
			fs.tellInode(fs.ctx, ino, 0, -1)
			return nil
		}
	}
}

func (fs *FS) reapStep(in *inode) (done bool, err error) {
	pass, err := fs.enterWrite(fs.ctx, freeze.OpReclaim, in.ino)
	if err != nil {
		return false, err
	}
	defer pass.Exit()
	in.mu.Lock()
	defer in.mu.Unlock()
	// With another pin somebody reads it, or maps it (a mapping pins its inode):
	// the last put queues it again.
	if !in.is(flagOrphan) || in.refs.Load() != 1 {
		return true, nil
	}
	in.unset(flagLinkable) // from here on it is not whole
	t, limit, err := fs.beginCut(3)
	if err != nil {
		return false, err
	}
	done, err = t.cutExtents(in, 0, maxPage, limit)
	if err == nil && done {
		done, err = t.cutRecords(in, format.KindInode+1, limit)
	}
	if err != nil {
		t.fail(err)
	}
	if done && t.err == nil {
		t.del(key(format.OrphanIno, format.KindOrphan, uint64(in.ino)))
		t.freeInode(in)
		fs.reaper.pending.Add(-1)
	} else {
		in.a.Size = min(in.a.Size, in.a.Blocks*format.PageSize)
		t.dirtyAttrs(in)
	}
	if err := t.end(); err != nil {
		return false, err
	}
	fs.reaper.steps.Add(1)
	return done, nil
}

// cutRecords deletes an inode's records from a kind on, at most limit of them,
// and reports whether none is left.
func (t *txn) cutRecords(in *inode, kind uint8, limit int) (bool, error) {
	n, err := t.tx.DeleteRange(key(in.ino, kind, 0), key(in.ino+1, 0, 0), limit, nil)
	if err != nil {
		return false, fmt.Errorf("delete the records of inode %d: %w", in.ino, err)
	}
	return n < limit, nil
}

// Acquire pins an inode: it keeps its blocks after its last name is gone,
// until Release.
//
// Errors: ErrStale, ErrIO.
func (fs *FS) Acquire(ino format.Ino) error {
	in, err := fs.get(ino)
	if err != nil {
		return err
	}
	in.mu.RLock()
	err = in.aliveLocked()
	in.mu.RUnlock()
	if err != nil {
		fs.put(in)
	}
	return err
}

// Release gives an Acquire back.
func (fs *FS) Release(ino format.Ino) {
	s := fs.cache.shard(ino)
	s.mu.RLock()
	in := s.m[ino]
	s.mu.RUnlock()
	if in != nil { // pinned inodes are always cached
		fs.put(in)
	}
}

package core

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// BadBlock is one entry of the bad-block list: a block that is never allocated
// again.
type BadBlock struct {
	Block   format.Block
	Ino     format.Ino  // the file it belongs to; 0: none any more
	Page    format.Page // which page of it
	Path    string      // of the file; empty if it has none
	Pending bool        // met, and not in the image yet: it waits for a thaw
}

// badQueue is the bad blocks of files that were met and are not recorded in the
// image yet: while frozen they wait for the thaw.
type badQueue struct {
	errors atomic.Uint64 // accesses of file data that failed for a bad page

	mu   sync.Mutex                      // a leaf
	m    map[format.Block]format.BadData // guarded by mu
	kick chan struct{}                   // capacity 1
}

// maxBadQueue bounds the queue. A block that finds no room is met again by the
// next one who needs it.
const maxBadQueue = 4096

func (q *badQueue) init() {
	q.m = make(map[format.Block]format.BadData)
	q.kick = make(chan struct{}, 1)
}

func (q *badQueue) add(b format.Block, d format.BadData) {
	q.mu.Lock()
	if len(q.m) < maxBadQueue {
		q.m[b] = d
	}
	q.mu.Unlock()
	q.wake()
}

func (q *badQueue) wake() {
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

func (q *badQueue) remove(b format.Block) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.m, b)
}

// list is what is queued, by block.
func (q *badQueue) list() []tree.BadBlock {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make([]tree.BadBlock, 0, len(q.m))
	for b, d := range q.m {
		out = append(out, tree.BadBlock{Block: b, Ino: d.Ino, Page: d.Page})
	}
	slices.SortFunc(out, func(a, b tree.BadBlock) int { return cmp.Compare(a.Block, b.Block) })
	return out
}

// has reports whether any of the blocks of x is queued. It takes no lock before
// a bad page was met.
func (q *badQueue) has(x Extent) bool {
	if q.errors.Load() == 0 {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for b := range q.m {
		if x.has(b) {
			return true
		}
	}
	return false
}

func (q *badQueue) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.m)
}

// mediaBlock is the block that the processor could not reach, if err says so.
func mediaBlock(err error) (format.Block, bool) {
	var me *pmem.MediaError
	if errors.As(err, &me) {
		return format.Block(me.Off / format.BlockSize), true
	}
	return 0, false
}

// has reports whether a block is one of the extent's.
func (e Extent) has(b format.Block) bool { return b >= e.Block && uint64(b-e.Block) < e.Count }

// dataError is ioError for an access to the data of extent x of a file: a bad
// page is put on the bad-block list.
func (fs *FS) dataError(err error, ino format.Ino, x Extent, what string, args ...any) error {
	if b, ok := mediaBlock(err); ok && x.has(b) {
		fs.bad.errors.Add(1)
		if fs.store.IsBadBlock(b) {
			return ioError(err, what, args...)
		}
		fs.bad.add(b, format.BadData{Ino: ino, Page: x.Page + format.Page(b-x.Block)})
	}
	return ioError(err, what, args...)
}

// giveBack returns new blocks, which err has kept from being filled. One that
// could not be reached is retired instead; then others will do.
func (t *txn) giveBack(fresh []Extent, err error) (retired bool) {
	bad, _ := mediaBlock(err)
	for _, x := range fresh {
		if !x.has(bad) || t.tx.RetireBlock(bad) != nil {
			t.tx.FreeData(x.Block, x.Count)
			continue
		}
		retired = true
		t.fs.bad.errors.Add(1)
		before := uint64(bad - x.Block)
		t.tx.FreeData(x.Block, before)
		t.tx.FreeData(bad+1, x.Count-before-1)
	}
	return retired
}

// maxRetired is how many bad blocks in a row one allocation retires before it
// gives up.
const maxRetired = 16

// retireBad records queued bad blocks in the image, until the file system is
// unmounted. It is a modification: from level Write on they wait.
func (fs *FS) retireBad() {
	defer fs.wg.Done()
	select {
	case <-fs.adopted:
	case <-fs.ctx.Done():
		return
	}
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-fs.bad.kick:
		}
		for _, b := range fs.bad.list() {
			err := fs.recordBad(b)
			if fs.ctx.Err() != nil {
				return
			}
			// Without space the next commit wakes us; while nothing can be changed
			// the block stays in the queue, where it is seen.
			if err == nil || !errors.Is(err, ErrNoSpace) && !errors.Is(err, ErrReadOnly) {
				fs.bad.remove(b.Block)
			}
		}
	}
}

// recordBad puts one block on the list: as its file's, or as nobody's if the
// file has given it up meanwhile.
func (fs *FS) recordBad(b tree.BadBlock) error {
	pass, err := fs.awaitWrite(freeze.OpRetire, b.Ino)
	if err != nil {
		return err
	}
	defer pass.Exit()
	in, err := fs.get(b.Ino)
	switch {
	case err == nil:
		defer fs.put(in)
		in.mu.Lock()
		defer in.mu.Unlock()
	case !errors.Is(err, ErrStale):
		return err
	}
	owned := false
	if in != nil && !in.is(flagGone) {
		e, ok, err := fs.extentAt(b.Ino, b.Page)
		if err != nil {
			return err
		}
		owned = ok && b.Page < e.end() && e.at(b.Page) == b.Block
	}
	t, err := fs.begin(2, 0, true)
	if err != nil {
		return err
	}
	if owned {
		err = t.tx.MarkBadData(b.Block, format.BadData{Ino: b.Ino, Page: b.Page})
	} else {
		err = t.tx.RetireFree(b.Block)
	}
	if errors.Is(err, tree.ErrInUse) {
		err = nil // another's by now, who will meet it
	}
	if err != nil {
		t.fail(err)
	}
	return t.end()
}

// awaitWrite passes the gate of modifications for background work that is
// nobody's: it waits for a thaw without being counted among the held callers.
func (fs *FS) awaitWrite(op freeze.Op, ino format.Ino) (freeze.Pass, error) {
	for {
		if err := fs.writable(); err != nil {
			return freeze.Pass{}, err
		}
		if pass, ok := fs.startWrite.Try(op, uint64(ino)); ok {
			return pass, nil
		}
		select {
		case <-fs.startWrite.Opened():
		case <-fs.ctx.Done():
			return freeze.Pass{}, fmt.Errorf("%w: %w", ErrReadOnly, freeze.ErrClosed)
		}
	}
}

// BadBlocks is the bad-block list from a block on, ascending, at most limit
// entries, with those that wait to be recorded.
//
// Errors: ErrIO.
func (fs *FS) BadBlocks(_ context.Context, from format.Block, limit int) ([]BadBlock, error) {
	pending := fs.bad.list() // before the image: one that moves meanwhile is in both
	recorded, err := fs.store.BadBlocks(from, limit)
	if err != nil {
		return nil, ioError(err, "read the list of bad blocks")
	}
	out := make([]BadBlock, 0, len(recorded))
	for _, b := range recorded {
		out = append(out, BadBlock{Block: b.Block, Ino: b.Ino, Page: b.Page})
	}
	for _, b := range pending {
		if b.Block >= from && !slices.ContainsFunc(recorded, func(r tree.BadBlock) bool { return r.Block == b.Block }) {
			out = append(out, BadBlock{Block: b.Block, Ino: b.Ino, Page: b.Page, Pending: true})
		}
	}
	slices.SortFunc(out, func(a, b BadBlock) int { return cmp.Compare(a.Block, b.Block) })
	out = out[:min(len(out), max(limit, 0))]
	for i := range out {
		if out[i].Ino == 0 {
			continue
		}
		if paths := fs.Paths(out[i].Ino, 1); len(paths) > 0 {
			out[i].Path = paths[0]
		}
	}
	return out, nil
}

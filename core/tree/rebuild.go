package tree

import (
	"fmt"

	"permafrost/core/format"
	"permafrost/pmem"
)

// progressEvery is how many nodes are visited between two reports.
const progressEvery = 4096

// readAllocator loads the snapshot of a clean unmount or, if there is none or
// it is damaged, walks the tree.
func (s *Store) readAllocator() error {
	if s.mount.commit.Clean {
		a, err := loadAllocator(s.m, &s.super, &s.mount.commit)
		if err == nil {
			s.alloc = a
			return nil
		}
	}
	return s.rebuildAllocator()
}

// rebuildAllocator finds the blocks in use by one walk of the tree.
func (s *Store) rebuildAllocator() (err error) {
	prev := pmem.CatchFaults()
	defer pmem.Caught(prev, s.m, &err)
	s.mount.rebuilt = true
	w := &walker{s: s, alloc: newAllocator(s.super.First, s.super.Blocks)}
	w.total = s.mount.commit.Counters.Nodes
	w.ahead = startReadAhead(s.m)
	defer w.ahead.stop()
	if err := w.node(s.root.Ptr, int(s.root.Level)); err != nil {
		return fmt.Errorf("rebuild the allocator: %w; open the image read-only to save what can be read", err)
	}
	want := &s.mount.commit.Counters
	if w.nodes != want.Nodes || w.records != want.Records || w.data != want.Data {
		return damaged(slotBlock(&s.super, s.mount.commit.Generation),
			"the tree has %d nodes, %d records and %d data blocks, its commit says %d, %d and %d",
			w.nodes, w.records, w.data, want.Nodes, want.Records, want.Data)
	}
	if s.o.Progress != nil {
		s.o.Progress(w.nodes, w.total)
	}
	s.alloc = w.alloc
	return nil
}

// walker visits every node of the mounted tree once.
type walker struct {
	s                    *Store
	alloc                *allocator
	ahead                *readAhead
	nodes, records, data uint64
	total                uint64
	err                  error // first record whose blocks cannot be its own
}

// node visits the node that p points to and everything below it.
func (w *walker) node(p format.Ptr, level int) error {
	n, err := w.s.media(p, level)
	if err != nil {
		return err
	}
	if err := w.alloc.markUsed(p.Block, 1, true); err != nil {
		return fmt.Errorf("tree node: %w", err)
	}
	w.nodes++
	if w.nodes%progressEvery == 0 && w.s.o.Progress != nil {
		w.s.o.Progress(w.nodes, w.total)
	}
	if level == 0 {
		return w.leaf(n)
	}
	if level == 1 {
		w.ahead.children(n)
	}
	for i := range n.Count() {
		if err := w.node(n.Child(i), level-1); err != nil {
			return err
		}
	}
	return nil
}

// leaf marks what the records of a leaf own.
func (w *walker) leaf(n *format.Node) error {
	for i := range n.Count() {
		k := n.Key(i)
		w.records++
		owned(k, n.Value(i), w.s.o.Extents, func(b format.Block, count uint64) {
			if err := w.alloc.markUsed(b, count, false); err != nil && w.err == nil {
				w.err = fmt.Errorf("record %v: %w", k, err)
			}
			w.data += count
		})
	}
	return w.err
}

// owned calls used for the blocks that the record (k, v) owns.
func owned(k Key, v []byte, extents func(Key, []byte, func(format.Block, uint64)), used func(format.Block, uint64)) {
	switch {
	case k.Ino == 0 && k.Kind == format.KindBadBlock:
		used(format.Block(k.Off), 1)
	case extents != nil:
		extents(k, v, used)
	}
}

// readAhead makes the kernel read the leaves of a node while others are being
// looked at. Only the page cache has anything to read ahead.
type readAhead struct {
	m    pmem.Medium
	work chan []format.Block
	done chan struct{}
}

// readAheadWorkers is how many reads are in flight.
const readAheadWorkers = 8

// startReadAhead starts the workers; nil, which is harmless, if there is
// nothing to read ahead on this medium.
func startReadAhead(m pmem.Medium) *readAhead {
	if m.Domain() != pmem.DomainPageCache {
		return nil
	}
	r := &readAhead{m: m, work: make(chan []format.Block, 64), done: make(chan struct{})}
	for range readAheadWorkers {
		go r.worker()
	}
	return r
}

func (r *readAhead) worker() {
	var one [1]byte
	for list := range r.work {
		for _, b := range list {
			// An error shows again, with its block, when the node is read.
			_, _ = r.m.ReadAt(one[:], int64(b)*format.BlockSize)
		}
	}
	r.done <- struct{}{}
}

// children asks for the children of n, a few to a worker.
func (r *readAhead) children(n *format.Node) {
	if r == nil {
		return
	}
	const each = format.MaxChildren/readAheadWorkers + 1
	for i := 0; i < n.Count(); {
		list := make([]format.Block, 0, each)
		for ; i < n.Count() && len(list) < each; i++ {
			list = append(list, n.Child(i).Block)
		}
		select {
		case r.work <- list:
		default: // behind already: reading in turn does as well
		}
	}
}

// stop ends the workers and waits for them.
func (r *readAhead) stop() {
	if r == nil {
		return
	}
	close(r.work)
	for range readAheadWorkers {
		<-r.done
	}
}

package mount

import (
	"sync"
	"sync/atomic"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// collector is the state of the collect freeze.
type collector struct {
	arrived  atomic.Uint64 // write-backs begun, ever
	applying atomic.Int64  // of them, those that are not applied yet
	sizes    atomic.Uint64 // changes of a file's size begun and ended, ever
	sizing   atomic.Int64  // changes of a size under way
	held     atomic.Int64  // write-backs that wait now: replies held, and those at the gate

	mu       sync.Mutex
	freeze   uint64                // guarded by mu: whose replies are held; 0: nobody's
	letting  chan struct{}         // guarded by mu: non-nil while replies are held; closed to let them go before the thaw
	overflow bool                  // guarded by mu: they were let go because there were too many
	pages    map[format.Ino]uint64 // guarded by mu: pages of write-backs that are not answered
	hot      map[format.Ino]bool   // guarded by mu: inodes with a write-back since note; nil: not noted

	sealed atomic.Bool // the passes are over: what comes now waits for startPageFault to close
}

// resizing marks a change of a file's size until the function it returns is called: the
// kernel keeps the write-back of that file in its own queue meanwhile, so a pass
// may have left some behind.
func (c *collector) resizing() (end func()) {
	c.sizing.Add(1)
	c.sizes.Add(1)
	return func() {
		c.sizes.Add(1)
		c.sizing.Add(-1)
	}
}

// arrives counts a write-back of n bytes until the functions it returns are called: once it
// is applied, and when it is answered.
func (c *collector) arrives(ino format.Ino, off uint64, n int) (applied, answered func()) {
	pages := (off+uint64(n)+format.PageSize-1)/format.PageSize - off/format.PageSize
	c.mu.Lock()
	if c.pages == nil {
		c.pages = make(map[format.Ino]uint64)
	}
	c.pages[ino] += pages
	if c.hot != nil {
		c.hot[ino] = true
	}
	c.mu.Unlock()
	c.applying.Add(1) // before arrived: who sees it counted sees it applied or being applied
	c.arrived.Add(1)
	applied = sync.OnceFunc(func() { c.applying.Add(-1) })
	return applied, func() {
		applied()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.pages[ino] -= pages; c.pages[ino] == 0 {
			delete(c.pages, ino)
		}
	}
}

// suspects are the inodes with write-backs that are not answered, and those with one
// since note.
func (c *collector) suspects() (inodes []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ino := range c.pages {
		inodes = append(inodes, uint64(ino))
	}
	for ino := range c.hot {
		if c.pages[ino] == 0 {
			inodes = append(inodes, uint64(ino))
		}
	}
	return inodes
}

// unansweredOf is how many pages of an inode are in write-backs that are not
// answered.
func (c *collector) unansweredOf(ino uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pages[format.Ino(ino)]
}

// note begins to note the inodes that are written back; noted ends it and lists them.
func (c *collector) note() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hot = make(map[format.Ino]bool)
}

func (c *collector) noted() (inodes []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ino := range c.hot {
		inodes = append(inodes, uint64(ino))
	}
	c.hot = nil
	return inodes
}

// seal ends the passes if nothing has come since the counts were taken. What comes
// from here on, before the caller has closed startPageFault, waits for that
// (Mount.whileSealed): it was stored after what the last pass would have brought.
func (c *collector) seal(arrived, sizes uint64) bool {
	c.sealed.Store(true) // then look; who arrives counts itself, and then looks
	if c.quiet(arrived, sizes) {
		return true
	}
	c.sealed.Store(false)
	return false
}

// holdReply holds the reply to a write-back that was applied, while a freeze
// collects and then stands: the page stays under write-back, where the next
// store to it waits. It waits in the lobby of startWrite, so that /blocked
// shows it, with one who may be storing; whoever really waits is in the kernel.
func (c *collector) holdReply(m *Mount, ino format.Ino, off uint64, who freeze.Waiter) {
	c.mu.Lock()
	letting := c.letting
	c.mu.Unlock()
	if letting == nil {
		return
	}
	if c.held.Add(1) > maxHeld {
		c.held.Add(-1)
		c.tooMany(letting)
		return
	}
	defer c.held.Add(-1)
	// The kernel drops its attributes only with the answer; stat is to show the
	// new mtime now.
	m.notices.InodeChanged(ino, 0, 0)
	who.Op, who.Ino, who.Page = freeze.OpStore.String(), uint64(ino), off/format.PageSize
	if paths := m.fs.Paths(ino, 1); len(paths) > 0 {
		who.Path = paths[0]
	}
	thawed := make(chan struct{})
	unpark, err := m.fs.Freezer().StartWrite().Park(who, m, func() { close(thawed) })
	if err != nil { // too many are held already
		c.tooMany(letting)
		return
	}
	select {
	case <-thawed:
	case <-letting:
		unpark()
	case <-m.ended:
		unpark()
	}
}

// countHeld counts a write-back that waits at the gate.
func (c *collector) countHeld() (end func()) {
	c.held.Add(1)
	return func() { c.held.Add(-1) }
}

// hold begins to hold replies for a freeze.
func (c *collector) hold(freeze uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.freeze, c.letting, c.overflow = freeze, make(chan struct{}), false
	c.sealed.Store(false)
}

// release ends holding for a freeze: those that wait are let go by the thaw.
func (c *collector) release(freeze uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.freeze == freeze {
		c.freeze, c.letting = 0, nil
		c.sealed.Store(false)
	}
}

// letGo answers those that wait. With again it holds those that come from then
// on; without, it ends holding, which is a fall-back.
func (c *collector) letGo(freeze uint64, again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.freeze != freeze || c.letting == nil {
		return
	}
	close(c.letting)
	c.letting = nil
	if again {
		c.letting = make(chan struct{})
	}
}

// tooMany ends holding, because more than may be would be held.
func (c *collector) tooMany(letting chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.letting == letting {
		c.overflow, c.letting = true, nil
		close(letting)
	}
}

func (c *collector) overflowed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.overflow
}

// quiet says whether nothing was written back since the counts were taken, and all
// that was before is applied.
func (c *collector) quiet(arrived, sizes uint64) bool {
	return c.arrived.Load() == arrived && c.applying.Load() == 0 && c.sizes.Load() == sizes && c.sizing.Load() == 0
}

// whileSealed waits from the end of the passes until startPageFault closes, or the
// freeze is rolled back: a matter of microseconds.
func (m *Mount) whileSealed() {
	for m.collect.sealed.Load() && m.fs.Freezer().Level() == freeze.Write && m.life.Err() == nil {
		time.Sleep(sealPause)
	}
}

const sealPause = 20 * time.Microsecond

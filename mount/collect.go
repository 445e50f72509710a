package mount

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem/plant"
)

// How firmly a freeze held the programs of the mount, as its record says.
const (
	modeCollect = "collect" // in program order
	modeNotify  = "notify"  // unchanging and consistent, but without program order
	modeNone    = "none"    // nobody has a file open for writing
)

const (
	// collectTime is for collecting, before falling back; and no more than half
	// the patience. A program that stores to page after page of a large file runs
	// ahead of the passes until it comes to a page that is held: some
	// 10 us a page. On a machine that is not overloaded that is milliseconds.
	collectTime = 4 * time.Second
	stuckTime   = 20 * time.Millisecond // without a write-back, in a pass that is not done, until the held ones are let go
	settleTime  = 2 * time.Millisecond  // for requests that are queued to be taken, in a pass
	maxHeld     = 4096                  // replies of write-backs: each pins a request buffer
)

// collector is the state of the collect freeze.
type collector struct {
	arrived  atomic.Uint64 // write-backs begun, ever
	applying atomic.Int64  // of them, those that are not applied yet
	sizes    atomic.Uint64 // changes of a file's size begun and ended, ever
	sizing   atomic.Int64  // changes of a size under way
	held     atomic.Int64  // write-backs that wait now: replies held, and those at the gate

	mu       sync.Mutex
	freeze   uint64        // guarded by mu: whose replies are held; 0: nobody's
	letting  chan struct{} // guarded by mu: non-nil while replies are held; closed to let them go before the thaw
	overflow bool          // guarded by mu: they were let go because there were too many
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

// arrives counts a write-back until the function it returns is called, once it is applied.
func (c *collector) arrives() (applied func()) {
	c.applying.Add(1) // before arrived: who sees it counted sees it applied or being applied
	c.arrived.Add(1)
	return func() { c.applying.Add(-1) }
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
}

// release ends holding for a freeze: those that wait are let go by the thaw.
func (c *collector) release(freeze uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.freeze == freeze {
		c.freeze, c.letting = 0, nil
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

// Preclean has the kernel begin to write back, so that little is left for the window.
func (m *Mount) Preclean(ctx context.Context, _ uint64) {
	if _, writable := m.handles.counts(); writable == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, collectTime)
	defer cancel()
	if err := m.syncer.sync(ctx); err != nil {
		m.log.Warn("the mount's write-back before a freeze", "error", err)
	}
}

// Collect is steps 2 to 4 of the collect freeze (freeze.md), at level Write:
//
//   - hold the replies of write-backs from here on;
//   - have the kernel write back, again until a pass brings nothing new. Pages that
//     are held cannot become dirty again, so that ends, and what a pass did not
//     bring was stored after all that the passes before it brought: the image has
//     a prefix of each thread's stores.
//
// Who modifies otherwise is held at startWrite already. The caller closes
// startPageFault next. Should the kernel not be done in time, Collect falls back: the replies go, the
// kernel drops the pages of every file that may be mapped, and the image is still
// and consistent, but perhaps not in program order.
func (m *Mount) Collect(ctx context.Context, freezeID uint64) (string, error) {
	m.collect.hold(freezeID)
	done := m.fs.Freezer().Over(freezeID)
	go func() { // until the thaw, or the roll-back, which opens the lobby's door itself
		m.catchUp(done)
		<-done
		m.collect.release(freezeID)
	}()
	if _, writable := m.handles.counts(); writable == 0 || plant.On(plant.MountNoCollect) {
		return modeCollect, nil // nobody can have stored
	}
	err := m.passes(ctx, freezeID)
	if err == nil {
		return modeCollect, nil
	}
	if context.Cause(ctx) != nil {
		return modeCollect, err
	}
	m.log.Warn("a freeze of the mount falls back: the image will be still and consistent, but stores may be missing in it that were made before others that are there", "freeze", freezeID, "error", err)
	m.collect.letGo(freezeID, false)
	return modeNotify, m.dropPages(ctx)
}

// catchUp holds who goes on storing to pages that were clean when the freeze
// collected. Such stores are in the page cache only, and the image does not see
// them; written back, they wait at the gate, and the program's next store to
// the page waits for them. It goes on at growing intervals until the freeze is done.
func (m *Mount) catchUp(done <-chan struct{}) {
	for pause := catchUpFirst; ; pause = min(2*pause, catchUpLast) {
		select {
		case <-done:
			return
		case <-m.ended:
			return
		case <-time.After(pause):
		}
		if _, writable := m.handles.counts(); writable == 0 || m.fs.Freezer().Level() < freeze.PageFault {
			continue
		}
		ctx, cancel := context.WithTimeout(m.life, collectTime)
		err := m.syncer.sync(ctx)
		cancel()
		if err != nil && m.life.Err() == nil {
			m.log.Warn("the mount's write-back while frozen", "error", err)
		}
	}
}

const (
	catchUpFirst = 2 * time.Millisecond
	catchUpLast  = time.Second
)

var (
	errUnsettled = errors.New("the kernel goes on writing back")
	errUnknown   = errors.New("the kernel's account of the mount is not to be had")
	errTooMany   = fmt.Errorf("more than %d write-backs are held", maxHeld)
)

// passes has the kernel write back until it has nothing more.
func (m *Mount) passes(ctx context.Context, freezeID uint64) error {
	patience := collectTime
	if until, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(until)/2)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errUnsettled)
	defer cancel()
	var n, stuck, unsettled, brought, resized int // passes, and those that were not quiet, by why
	tell := func(err error) error {
		return fmt.Errorf("%w (%d passes: %d that were stuck, %d in which requests came all the time, %d that brought something, %d with files resized)", err, n, stuck, unsettled, brought, resized)
	}
	for ; ; n++ {
		arrived, sizes := m.collect.arrived.Load(), m.collect.sizes.Load()
		freed, err := m.pass(ctx, freezeID)
		if err != nil {
			return tell(err)
		}
		settled := m.settle(ctx)
		if m.collect.overflowed() {
			return errTooMany
		}
		if !freed && settled && m.collect.quiet(arrived, sizes) || plant.On(plant.MountOnePass) {
			return nil
		}
		switch {
		case freed:
			stuck++
		case !settled:
			unsettled++
		case m.collect.sizes.Load() != sizes || m.collect.sizing.Load() != 0:
			resized++
		default:
			brought++
		}
		if ctx.Err() != nil {
			return tell(context.Cause(ctx))
		}
	}
}

// pass has the kernel write back once. A program that unmaps a file with a held
// write-back waits for it in the kernel, with the inode marked as being written
// back (fuse_vma_close calls write_inode_now), and the kernel's writer then waits for
// that program. So when nothing comes any more and the pass is not done, the
// replies held so far are let go, and pass says so: the passes begin anew.
func (m *Mount) pass(ctx context.Context, freezeID uint64) (freed bool, err error) {
	done := make(chan error, 1)
	go func() { done <- m.syncer.sync(ctx) }() // ends with ctx at the latest
	look := time.NewTicker(stuckTime)
	defer look.Stop()
	for seen := m.collect.arrived.Load(); ; {
		select {
		case err := <-done:
			return freed, err
		case <-look.C:
		}
		now := m.collect.arrived.Load()
		if now == seen && m.collect.applying.Load() == 0 && m.collect.held.Load() > 0 {
			m.collect.letGo(freezeID, true)
			freed = true
		}
		seen = now
	}
}

// quiet says whether nothing was written back since the counts were taken, and all
// that was before is applied.
func (c *collector) quiet(arrived, sizes uint64) bool {
	return c.arrived.Load() == arrived && c.applying.Load() == 0 && c.sizes.Load() == sizes && c.sizing.Load() == 0
}

// settle waits until we have begun with all that the kernel has asked: syncfs
// queues write-backs and does not wait for them. The kernel counts the requests
// that are not answered, queued ones included. When that is not more than we are at, and we neither
// began nor ended one while it was read, none is in between. Others may ask all the time, so it is a matter of a
// moment, tried for settleTime; then the pass counts as one that brought something.
func (m *Mount) settle(ctx context.Context) bool {
	for began := time.Now(); time.Since(began) < settleTime && ctx.Err() == nil; {
		begun, ended := m.ops.begun.Load(), m.ops.ended.Load()
		n, err := m.unanswered()
		if err != nil {
			// Not to be known here: time is what is left.
			time.Sleep(settleTime / 2)
			return true
		}
		if m.ops.begun.Load() == begun && m.ops.ended.Load() == ended && n <= begun-ended {
			return true
		}
	}
	return false
}

// unanswered is how many requests the kernel has queued or given to us.
func (m *Mount) unanswered() (int64, error) {
	if m.waiting == "" {
		return 0, errUnknown
	}
	fd, err := unix.Open(m.waiting, unix.O_RDONLY|unix.O_CLOEXEC, 0) // each time: it cannot be read twice
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var buf [32]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(buf[:n])), 10, 64)
}

// dropPages has the kernel write back and unmap the pages of every file that may
// be mapped writably: the fall-back.
func (m *Mount) dropPages(ctx context.Context) error {
	seen := make(map[format.Ino]bool)
	for _, h := range m.handles.list(func(h *handle) bool { return h.writable }) {
		if seen[h.ino] {
			continue
		}
		seen[h.ino] = true
		done := make(chan struct{})
		go func() { // it may wait in the kernel for as long as it likes
			m.srv.InodeNotify(uint64(h.ino), 0, 0)
			close(done)
		}()
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("the kernel does not drop the pages of inode %d: %w", h.ino, context.Cause(ctx))
		}
	}
	return nil
}

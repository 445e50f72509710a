package mount

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
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

// Preclean has the kernel begin to write back, so that little is left for the window.
func (m *Mount) Preclean(ctx context.Context, freezeID uint64) {
	if _, writable := m.handles.counts(); writable == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, collectTime)
	defer cancel()
	m.collect.note()
	err := m.syncer.sync(ctx)
	hot := m.collect.noted()
	if err != nil {
		m.log.Warn("the mount's write-back before a freeze", "error", err)
		return
	}
	if len(hot) == 0 {
		return
	}
	// Who stored a moment ago may go on. What the child does not open now it opens
	// when kernelKeeps looks at it, in the window.
	_, _ = m.syncer.ask(ctx, askOpen, hot)
	done := m.fs.Freezer().Over(freezeID)
	go func() {
		<-done // the last chance, if it was rolled back before it collected
		m.closeCounted()
	}()
}

// closeCounted closes what the child opened.
func (m *Mount) closeCounted() {
	ctx, cancel := context.WithTimeout(m.life, collectTime)
	defer cancel()
	_, _ = m.syncer.ask(ctx, askClose, nil)
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
	m.collect.note()
	defer m.collect.noted()
	done := m.fs.Freezer().Over(freezeID)
	defer func() { go m.closeCounted() }()
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
	var n, stuck, hidden, unsettled, brought, resized int // passes, and those that were not quiet, by why
	tell := func(err error) error {
		return fmt.Errorf("%w (%d passes: %d that were stuck, %d that left something in the kernel, %d in which requests came all the time, %d that brought something, %d with files resized)",
			err, n, stuck, hidden, unsettled, brought, resized)
	}
	keeps := false // the pass before left something in the kernel
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
		if plant.On(plant.MountOnePass) {
			return nil
		}
		kept := false
		if !freed && settled && m.collect.quiet(arrived, sizes) {
			if kept, err = m.kernelKeeps(ctx); err != nil {
				return tell(err)
			}
			if !kept && m.collect.seal(arrived, sizes) {
				return nil
			}
		}
		if kept && keeps { // twice in a row: it was not just about to be sent
			m.collect.letGo(freezeID, true)
		}
		keeps = kept && !keeps
		switch {
		case freed:
			stuck++
		case kept:
			hidden++
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

// kernelKeeps says whether the kernel has begun to write back pages that it does
// not send. It keeps those of a file that somebody truncates, or punches a hole into,
// while that waits for the file's held write-backs (fs/fuse/file.c, fuse_set_nowrite), and
// until it is answered: so only files that had some in this freeze are looked at.
func (m *Mount) kernelKeeps(ctx context.Context) (bool, error) {
	inodes := m.collect.suspects()
	if len(inodes) == 0 || plant.On(plant.MountNoCount) {
		return false, nil
	}
	theirs, err := m.syncer.ask(ctx, askCount, inodes)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		m.uncounted.Do(func() {
			m.log.Warn("write-back that the kernel keeps to itself while a file is truncated cannot be seen here: it takes CAP_DAC_READ_SEARCH and Linux 6.5", "error", err)
		})
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("count what the kernel writes back: %w", err)
	}
	// Ours are counted afterwards: there may be fewer by then, never others, but
	// for those that the caller sees arrive.
	for i, n := range theirs {
		if n > m.collect.unansweredOf(inodes[i]) {
			return true, nil
		}
	}
	return false, nil
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

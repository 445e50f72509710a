package mount

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"permafrost/core"
	"permafrost/core/freeze"
)

// caller is one request that may be held: its context. It is done when whoever
// asked was killed, or the mount has ended, and not for other signals (M2): the
// kernel passes on every one of them as an interrupt, a Go program's hourly
// dozens of SIGURG among them.
//
// It costs a goroutine only when somebody waits for it.
type caller struct {
	m      *Mount
	cancel <-chan struct{} // the kernel's: some signal came, or the connection ended
	pid    uint32          // the thread that asks

	once sync.Once
	done chan struct{} // made by once; closed by watch
	over chan struct{} // made by once; closed by end
	mu   sync.Mutex
	gone bool // guarded by mu: done is closed
}

// ctx is the context of a request that modifies, which may be held: who asks is
// known by it, for /blocked. The caller must be ended.
//
// It is refused, EAGAIN, while as many are held as may be: each pins a buffer
// of the largest WRITE, whatever it asks.
func (m *Mount) ctx(cancel <-chan struct{}, h *fuse.InHeader) (context.Context, *caller, fuse.Status) {
	if m.held.Load() >= int64(m.opt.MaxHeld) && m.frozen() {
		m.refused.Add(1)
		return nil, nil, fuse.EAGAIN
	}
	ctx, c := m.syncCtx(cancel, h)
	return core.WhenHeld(ctx, m.countHeld), c, fuse.OK
}

// syncCtx is the context of a request that modifies nothing, but may wait.
func (m *Mount) syncCtx(cancel <-chan struct{}, h *fuse.InHeader) (context.Context, *caller) {
	c := &caller{m: m, cancel: cancel, pid: h.Pid}
	p := m.commands.of(h.Pid, m.frozen())
	return core.WithCaller(c, freeze.Waiter{WayIn: wayIn, PID: int(p.pid), Comm: p.name, UID: h.Uid}), c
}

// countHeld counts a request as held until the function it returns is called.
func (m *Mount) countHeld() (end func()) {
	m.held.Add(1)
	return func() { m.held.Add(-1) }
}

// end must be called when the request is finished.
func (c *caller) end() {
	c.once.Do(func() {}) // nobody waits from here on
	if c.over != nil {
		close(c.over)
	}
}

// Done is context.Context.
func (c *caller) Done() <-chan struct{} {
	c.once.Do(func() {
		c.done, c.over = make(chan struct{}), make(chan struct{})
		go c.watch()
	})
	return c.done
}

// lookAgain is how long after a signal that did not kill a caller we look
// whether a later one has.
const lookAgain = 20 * time.Millisecond

func (c *caller) watch() {
	select {
	case <-c.cancel:
	case <-c.over:
		return
	case <-c.m.ended:
	}
	for !c.m.over() && !killed(c.pid) {
		again := time.NewTimer(lookAgain)
		select {
		case <-again.C:
		case <-c.m.ended:
		case <-c.over:
			again.Stop()
			return
		}
		again.Stop()
	}
	c.mu.Lock()
	c.gone = true
	close(c.done)
	c.mu.Unlock()
}

// Err is context.Context.
func (c *caller) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return context.Canceled
	}
	return nil
}

// Deadline is context.Context.
func (c *caller) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value is context.Context.
func (c *caller) Value(any) any { return nil }

// killed says whether a thread has a SIGKILL pending, or is no more. What kills
// by default (SIGINT, SIGTERM) is a SIGKILL to each thread by then.
func killed(tid uint32) bool {
	if tid == 0 { // not visible from here: the kernel itself, or another pid namespace
		return false
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return true
	}
	for _, field := range []string{"\nSigPnd:\t", "\nShdPnd:\t"} {
		at := bytes.Index(text, []byte(field))
		if at < 0 {
			continue
		}
		line := text[at+len(field):]
		if n := bytes.IndexByte(line, '\n'); n >= 0 {
			line = line[:n]
		}
		if set, err := strconv.ParseUint(string(line), 16, 64); err == nil && set&(1<<8) != 0 { // signal 9
			return true
		}
	}
	return false
}

// commands remembers which process a thread is of, and its name: the kernel names
// the thread that asks. Both are read when it opens or changes something, and
// never while frozen (freeze.md, promise 4).
type commands struct {
	mu sync.RWMutex
	m  map[uint32]command // guarded by mu; by thread
}

type command struct {
	pid  uint32 // of the process
	name string
	at   time.Time
}

const (
	maxCommands = 4096
	commandAge  = 10 * time.Second // a number may be another thread's by then
)

// of is the process of a thread and its name. Of one that was not seen before the
// freeze it is the thread's own number, and no name.
func (c *commands) of(tid uint32, frozen bool) command {
	now := time.Now()
	c.mu.RLock()
	known, ok := c.m[tid]
	c.mu.RUnlock()
	if !ok {
		known.pid = tid
	}
	if tid == 0 || frozen || ok && now.Sub(known.at) < commandAge {
		return known
	}
	pid, name, err := processOf(tid)
	if err != nil { // it has ended
		return known
	}
	known = command{pid, name, now}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxCommands {
		c.m = make(map[uint32]command)
	}
	c.m[tid] = known
	return known
}

// processOf reads which process a thread is of, and the name of that. It reads no
// file of /proc that takes a lock of the address space.
func processOf(tid uint32) (pid uint32, name string, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0, "", err
	}
	_, text, _ := bytes.Cut(status, []byte("\nTgid:\t"))
	text, _, _ = bytes.Cut(text, []byte("\n"))
	n, err := strconv.ParseUint(string(text), 10, 32)
	if err != nil {
		return 0, "", fmt.Errorf("the process of thread %d: %w", tid, err)
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", n))
	if err != nil {
		return 0, "", err
	}
	return uint32(n), string(bytes.TrimSpace(comm)), nil
}

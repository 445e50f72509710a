package dax

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What is read of a client's /proc entry: comm, status and stat, which take no
// lock of its memory. Never cmdline, environ or maps while it is served: a
// thread of it may be held in a store, and they would wait for it.

const sockoptPeerPidfd = 77 // SO_PEERPIDFD, Linux 6.5

// peerPidfd is a descriptor of the process at the other end, free of the race
// that a number has.
func peerPidfd(sock syscall.RawConn, pid int) (int, error) {
	fd := -1
	var err error
	if e := sock.Control(func(s uintptr) {
		fd, err = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, sockoptPeerPidfd)
	}); e != nil {
		return -1, e
	}
	if err == unix.ENOPROTOOPT {
		return unix.PidfdOpen(pid, 0)
	}
	return fd, err
}

// watchExit calls exited once when the process of a pidfd, which it owns from
// now on, ends. stop gives up the watch.
func watchExit(pidfd int, exited func()) (stop func(), err error) {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		_ = unix.Close(pidfd)
		return nil, fmt.Errorf("watch a process: %w", err)
	}
	f := os.NewFile(uintptr(pidfd), "pidfd")
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("watch a process: %w", err)
	}
	go func() {
		err := raw.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, _ := unix.Poll(p, 0) // a failure reads as "not yet"; the poller asks again
			return n > 0
		})
		if err == nil {
			exited()
		}
		_ = f.Close() // a second Close is harmless
	}()
	return func() { _ = f.Close() }, nil
}

// processOf is the process that a thread belongs to.
func processOf(tid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Tgid:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, fmt.Errorf("/proc/%d/status names no process", tid)
}

// commOf is the command name of a process, "?" if it cannot be had.
func commOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "?"
	}
	return string(bytes.TrimSpace(b))
}

// startOf is when a process started, in clock ticks since boot. With the pid it
// names a process for ever.
func startOf(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses and may hold anything.
	rest := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const startField = 22 - 3 // the 22nd; rest begins with the third
	if len(rest) <= startField {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	return strconv.ParseUint(rest[startField], 10, 64)
}

// watch ends the member when its process has ended.
func (m *member) watch(pidfd int) (stop func(), err error) {
	return watchExit(pidfd, func() { m.check(exitChecks) })
}

// exitChecks is how often an address space that outlives its process is looked
// at again: somebody may hold it for a moment, or another process shares it.
const (
	exitChecks = 8
	exitPause  = 50 * time.Millisecond
)

// check finds out whether the address space has ended. Any address will do:
// protecting one that is not registered fails differently while it lives.
func (m *member) check(again int) {
	m.c.evMu.Lock()
	defer m.c.evMu.Unlock()
	if m.gone {
		return
	}
	const anywhere = 1 << 30
	if m.fd.WriteProtect(anywhere, pageBytes, true) == unix.ESRCH {
		m.goneLocked()
		return
	}
	if again > 0 {
		time.AfterFunc(exitPause, func() { m.check(again - 1) })
	}
}

// probeAlive checks every member whose end nobody tells us of.
func (c *client) probeAlive() {
	c.evMu.Lock()
	list := append([]*member(nil), c.members...)
	c.evMu.Unlock()
	for _, m := range list {
		m.check(0)
	}
}

// learnProcesses gives forked processes that have stored something their names,
// and watches them.
func (c *client) learnProcesses() {
	c.evMu.Lock()
	list := c.learn
	c.learn = nil
	c.evMu.Unlock()
	for _, l := range list {
		pid, err := processOf(l.tid)
		if err != nil {
			continue // it has ended: the next look at it will tell
		}
		comm := commOf(pid)
		c.evMu.Lock()
		known := l.m.pid != 0 || l.m.gone
		if !known {
			l.m.pid, l.m.comm = pid, comm
		}
		c.evMu.Unlock()
		if known {
			continue
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			l.m.check(exitChecks)
			continue
		}
		if l.m.stop, err = l.m.watch(pidfd); err != nil {
			c.srv.log.Error("attach: a forked process is not watched", "process", pid, "error", err)
		}
	}
}

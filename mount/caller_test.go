package mount

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestKilled(t *testing.T) {
	if killed(uint32(os.Getpid())) || killed(0) {
		t.Error("a process that lives is called killed")
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := uint32(cmd.Process.Pid)
	if killed(pid) {
		t.Error("a child that lives is called killed")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !killed(pid) {
		t.Error("a process that is gone is not called killed")
	}
}

// A thread's process is found, and remembered; while frozen nothing is read.
func TestProcessOfThread(t *testing.T) {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	self, want := uint32(os.Getpid()), strings.TrimSpace(string(comm))
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) < 2 {
		t.Fatalf("a Go program has threads: %v, %v", tasks, err)
	}
	var c commands
	for _, task := range tasks {
		n, _ := strconv.ParseUint(task.Name(), 10, 32)
		tid := uint32(n)
		if got := c.of(tid, true); got.pid != tid || got.name != "" {
			t.Errorf("thread %d, unknown, is %+v while frozen", tid, got)
		}
		for _, frozen := range []bool{false, true} {
			if got := c.of(tid, frozen); got.pid != self || got.name != want {
				t.Errorf("thread %d of process %d (%s) is %+v (frozen: %v)", tid, self, want, got, frozen)
			}
		}
	}
	if got := c.of(0, false); got.pid != 0 || got.name != "" {
		t.Errorf("nobody is %+v", got)
	}
	if got := c.of(1<<22+1, false); got.pid != 1<<22+1 || got.name != "" { // above the highest number there can be
		t.Errorf("a thread that is not there is %+v", got)
	}
}

// A held caller is let go by its death, not by a signal (M2), and by the end of
// the mount.
func TestCallerEnds(t *testing.T) {
	sleeper := func() *exec.Cmd {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	newMount := func() *Mount {
		m := &Mount{device: -1}
		m.life, m.cancel = context.WithCancelCause(context.Background())
		m.ended = m.life.Done()
		t.Cleanup(func() { m.cancel(nil) })
		return m
	}
	done := func(c *caller) bool {
		select {
		case <-c.Done():
			return c.Err() != nil
		case <-time.After(5 * lookAgain):
			return false
		}
	}
	t.Run("killed", func(t *testing.T) {
		cmd, signal := sleeper(), make(chan struct{})
		c := &caller{m: newMount(), cancel: signal, pid: uint32(cmd.Process.Pid)}
		defer c.end()
		if done(c) {
			t.Fatal("gone without a signal")
		}
		close(signal) // some signal came
		if done(c) {
			t.Fatal("a signal that did not kill ended a held request")
		}
		_ = cmd.Process.Signal(unix.SIGKILL)
		_ = cmd.Wait()
		if !done(c) {
			t.Fatal("held although it was killed")
		}
	})
	t.Run("mount ended", func(t *testing.T) {
		m := newMount()
		c := &caller{m: m, cancel: make(chan struct{}), pid: uint32(os.Getpid())}
		defer c.end()
		if done(c) {
			t.Fatal("gone without a reason")
		}
		m.cancel(errEnded)
		if !done(c) {
			t.Fatal("held although the mount has ended")
		}
	})
}

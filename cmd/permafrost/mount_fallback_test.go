package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// syncerOf is the child of a server that has its mount written back.
func syncerOf(t *testing.T, server int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", server, server))
	var pids []string
	if err == nil {
		pids = strings.Fields(string(text))
	}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", server))
	for _, task := range tasks { // a child is listed under the thread that started it
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", server, task.Name()))
		pids = append(pids, strings.Fields(string(text))...)
	}
	for _, p := range pids {
		comm, _ := os.ReadFile("/proc/" + p + "/comm")
		if strings.TrimSpace(string(comm)) == "permafrost-sync" {
			pid, _ := strconv.Atoi(p)
			return pid
		}
	}
	t.Fatalf("the server has no child that writes back among %v", pids)
	return 0
}

// TestMountFallsBack stops the child that has the kernel write back, so that a
// freeze cannot collect: it falls back, says so, and keeps every promise but the
// program order. With the child going on, the next freeze collects again.
func TestMountFallsBack(t *testing.T) {
	m := newMountFixture(t, "48MiB")
	child := syncerOf(t, m.cmd.Process.Pid)
	if err := unix.Kill(child, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(child, unix.SIGCONT) }()
	run := func() verdict {
		out, err := program(t, 3*time.Minute, "prove", "--via", "mount", "--json", "--socket", m.socket, "--before", "50ms", "--samples", "5", "--threads", "4")
		if code := exitCode(err); code != exitOK && code != exitFailed {
			t.Fatalf("%v\n%s", err, out)
		}
		return decode[verdict](t, out)
	}
	v := run()
	if v.Mode != "notify" || v.HashChanges != 0 || v.StoresLost != 0 || v.StoresBefore == 0 || v.HashSamples < 5 {
		t.Errorf("a freeze that fell back: %+v", v)
	}
	for _, f := range v.Failures {
		if !strings.Contains(f, "program order") && !strings.Contains(f, "is not held") {
			t.Errorf("a freeze that fell back broke more than order: %s", f)
		}
	}
	if err := unix.Kill(child, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if v := run(); !v.OK || v.Mode != "collect" {
		t.Errorf("after the child went on: %+v", v)
	}
}

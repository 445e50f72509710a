package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// needsMounts skips where loop devices cannot be mounted.
func needsMounts(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a loop device needs root")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("no mkfs.ext4 (e2fsprogs)")
	}
}

// benchLeft gives what a bench mount of this process number has left behind.
func benchLeft(t *testing.T, pid int) []string {
	t.Helper()
	name := fmt.Sprintf("permafrost-bench-%d-", pid)
	var left []string
	for _, parent := range []string{"/dev/shm", "/var/tmp"} {
		dirs, err := filepath.Glob(filepath.Join(parent, name+"*"))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, dirs...)
	}
	for _, table := range []string{"/proc/self/mountinfo", "/sys/block/loop*/loop/backing_file"} {
		files, _ := filepath.Glob(table)
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err == nil && strings.Contains(string(text), name) {
				left = append(left, f)
			}
		}
	}
	return left
}

// TestBenchMountRows runs every row on the rivals that are always there, and
// looks at the answer; then nothing is left of it.
func TestBenchMountRows(t *testing.T) {
	needsMounts(t)
	cmd, out, _ := benchMount(t, "--quick", "--json", "--on", bedExt4, "--on", bedTmpfs)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	var fig mountFigures
	if err := json.Unmarshal(out.Bytes(), &fig); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(fig.Rows) != len(mountRows) || len(fig.Freezes) != len(mountFreezes) {
		t.Fatalf("%d rows and %d freezes, not %d and %d", len(fig.Rows), len(fig.Freezes), len(mountRows), len(mountFreezes))
	}
	for _, r := range fig.Rows {
		for _, bed := range []string{bedExt4, bedTmpfs} {
			m := r.Beds[bed]
			if m == nil || len(m.Rounds) != 2 || m.Min > m.Median || m.Median > m.Max || m.Max <= 0 && !strings.HasPrefix(r.Row, "mmap_") {
				t.Errorf("%s on %s: %+v", r.Row, bed, m)
			}
		}
	}
	for _, f := range fig.Freezes {
		if f.Ext4 == nil || f.Ext4.FreezeUS.P50 <= 0 {
			t.Errorf("%s: %+v", f.Row, f.Ext4)
		}
	}
	if left := benchLeft(t, cmd.Process.Pid); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// benchMount starts it, and ends it with the test.
func benchMount(t *testing.T, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	cmd = exec.Command(exe, append([]string{"bench", "mount"}, args...)...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = time.Minute
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			t.Logf("it said: %s%s", stdout, stderr)
		}
	})
	return cmd, stdout, stderr
}

// awaitWork waits until the bench measures on a mount whose path ends in the
// name, and gives the mount.
func awaitWork(t *testing.T, pid int, file string) {
	t.Helper()
	pattern := fmt.Sprintf("/dev/shm/permafrost-bench-%d-*/mnt/%s", pid, file)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if found, _ := filepath.Glob(pattern); found != nil {
			return
		}
	}
	t.Fatalf("no %s within a minute", pattern)
}

// TestBenchMountInterrupted: whoever stops it in the middle finds nothing of it.
func TestBenchMountInterrupted(t *testing.T) {
	needsMounts(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd, _, stderr := benchMount(t, "--on", bedExt4, "--only", "write", "--rounds", "100000")
		awaitWork(t, cmd.Process.Pid, "write")
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "interrupted") {
			t.Errorf("%v: %v, %q", sig, err, stderr)
		}
		if left := benchLeft(t, cmd.Process.Pid); left != nil {
			t.Errorf("%v: left behind: %v", sig, left)
		}
	}
}

// TestBenchMountHangs: a file system in user space that does not answer ends
// with the time that the bench has, and so do those who wait for it.
func TestBenchMountHangs(t *testing.T) {
	needsMounts(t)
	if _, err := exec.LookPath("fuse2fs"); err != nil {
		t.Skip("no fuse2fs (.ci/setup bench)")
	}
	cmd, _, stderr := benchMount(t, "--on", bedFuse2fs, "--only", "write", "--rounds", "100000", "--timeout", "15s")
	awaitWork(t, cmd.Process.Pid, "fill")
	stopChild(t, cmd.Process.Pid, "fuse2fs")
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "not done within 15s") {
		t.Errorf("%v, %q", err, stderr)
	}
	if left := benchLeft(t, cmd.Process.Pid); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// stopChild sends SIGSTOP to the child of that name.
func stopChild(t *testing.T, parent int, comm string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, stat := range stats {
		text, _ := os.ReadFile(stat) // it may have ended
		var pid, ppid int
		var state string
		before, after, ok := strings.Cut(string(text), " ("+comm+") ")
		if !ok {
			continue
		}
		if _, err := fmt.Sscan(before, &pid); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(after, &state, &ppid); err != nil {
			t.Fatal(err)
		}
		if ppid == parent {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("process %d has no child %s", parent, comm)
}

// TestIsMountPoint asks about places of this machine.
func TestIsMountPoint(t *testing.T) {
	for dir, want := range map[string]bool{"/": true, "/proc": true, "/proc/self": false, t.TempDir(): false} {
		if got, err := isMountPoint(dir); err != nil || got != want {
			t.Errorf("%s: %v, %v", dir, got, err)
		}
	}
}

package api

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/core/freeze"
	"permafrost/pmem"
)

// scriptRig is an appliance on a pmem file that the backup script of the
// contract copies, and the directory it runs in.
type scriptRig struct {
	*rig
	work  string
	shell string
}

// newScriptRig makes one; cp stands first in the script's PATH if it is not "".
func newScriptRig(t *testing.T, shell, cp string) *scriptRig {
	t.Helper()
	for _, tool := range []string{shell, "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: the script cannot be run", tool)
		}
	}
	work := shmDir(t)
	r := newRig(t, rigOptions{image: filepath.Join(work, "fs.pmem"), bytes: 8 << 20})
	s := &scriptRig{rig: r, work: work, shell: shell}
	r.call("PUT", "/files/precious", randomBytes(1<<20)).want(201)
	if cp != "" {
		bin := filepath.Join(work, "bin")
		check(t, os.Mkdir(bin, 0o755))
		check(t, os.WriteFile(filepath.Join(bin, "cp"), []byte("#!/bin/sh\n"+strings.ReplaceAll(cp, "localhost:7433", r.hosts)+"\n"), 0o755))
	}
	return s
}

// command is the script as the contract has it, but for the port and the lease.
func (s *scriptRig) command(lease string) *exec.Cmd {
	s.t.Helper()
	text := string(must(os.ReadFile("testdata/backup.sh"))(s.t))
	text = strings.ReplaceAll(text, "localhost:7433", s.hosts)
	text = strings.ReplaceAll(text, "lease=10m", "lease="+lease)
	script := filepath.Join(s.work, "backup.sh")
	check(s.t, os.WriteFile(script, []byte(text), 0o644))
	c := exec.Command(s.shell, script)
	c.Dir = s.work
	c.Env = append(os.Environ(), "PATH="+filepath.Join(s.work, "bin")+":"+os.Getenv("PATH"))
	return c
}

// run runs the script to its end and returns its exit status.
func (s *scriptRig) run(lease string) (int, string) {
	s.t.Helper()
	out, err := s.command(lease).CombinedOutput()
	if err == nil {
		return 0, string(out)
	}
	ee, ok := err.(*exec.ExitError)
	if !ok {
		s.t.Fatal(err)
	}
	return ee.ExitCode(), string(out)
}

func (s *scriptRig) exists(name string) bool {
	_, err := os.Stat(filepath.Join(s.work, name))
	return err == nil
}

// lastEnd is how the last ended freeze ended.
func (s *scriptRig) lastEnd() freeze.State {
	last := s.fs.Status().LastFreeze
	if last == nil {
		return ""
	}
	return last.State
}

// TestScript is the script that every user writes, in its five cases, in the
// two shells that run it.
func TestScript(t *testing.T) {
	for _, shell := range []string{"bash", "dash"} {
		t.Run(shell+"/all well", func(t *testing.T) { scriptWell(t, shell) })
		t.Run(shell+"/copy fails", func(t *testing.T) { scriptCopyFails(t, shell) })
		t.Run(shell+"/lease lost", func(t *testing.T) { scriptLeaseLost(t, shell) })
		t.Run(shell+"/refused", func(t *testing.T) { scriptRefused(t, shell) })
		t.Run(shell+"/TERM", func(t *testing.T) { scriptTerminated(t, shell) })
	}
}

func scriptWell(t *testing.T, shell string) {
	s := newScriptRig(t, shell, "")
	if rc, out := s.run("10m"); rc != 0 {
		t.Fatalf("exit %d: %s", rc, out)
	}
	if s.fs.Freezer().Level() != freeze.Unfrozen || s.lastEnd() != freeze.StateThawed {
		t.Errorf("left %v, ended %v", s.fs.Freezer().Level(), s.lastEnd())
	}
	backup := must(pmem.Open(filepath.Join(s.work, "backup.img"), pmem.Options{}))(t)
	rep := must(core.Check(context.Background(), backup, nil))(t)
	if !rep.OK() {
		t.Errorf("the backup fails the check: %+v", rep.Problems)
	}
	fs := must(core.Mount(backup, core.Options{}))(t)
	a := must(fs.Resolve(context.Background(), "/precious"))(t)
	got := make([]byte, 1<<20)
	_ = must(fs.ReadAt(context.Background(), a.Ino, got, 0))(t)
	if !bytes.Equal(got, randomBytes(1<<20)) {
		t.Error("the backup has other bytes")
	}
	check(t, fs.Unmount(context.Background()))
	check(t, backup.Close())
}

func scriptCopyFails(t *testing.T, shell string) {
	s := newScriptRig(t, shell, "exit 7")
	rc, out := s.run("10m")
	if rc != 7 || s.exists("backup.img") {
		t.Errorf("exit %d, backup.img %v: %s", rc, s.exists("backup.img"), out)
	}
	if s.fs.Freezer().Level() != freeze.Unfrozen || s.lastEnd() != freeze.StateThawed {
		t.Errorf("left %v, ended %v", s.fs.Freezer().Level(), s.lastEnd())
	}
}

func scriptLeaseLost(t *testing.T, shell string) {
	s := newScriptRig(t, shell, `/bin/cp "$@"; sleep 1`)
	rc, out := s.run("300ms")
	if rc == 0 || s.exists("backup.img") {
		t.Errorf("exit %d, backup.img %v: %s", rc, s.exists("backup.img"), out)
	}
	if s.lastEnd() != freeze.StateExpired {
		t.Errorf("ended %v", s.lastEnd())
	}
}

func scriptRefused(t *testing.T, shell string) {
	s := newScriptRig(t, shell, "")
	f := s.frozen("holder=other")
	rc, out := s.run("10m")
	if rc == 0 || s.exists("backup.img") || s.exists("backup.part") {
		t.Errorf("exit %d: %s", rc, out)
	}
	// Nobody else's hold is ended.
	if th := s.thawed(fmt.Sprintf("hold=%v", f["hold"])); th["changed"] != true || th["held"] != true {
		t.Errorf("the other's hold: %v", th)
	}
}

func scriptTerminated(t *testing.T, shell string) {
	s := newScriptRig(t, shell, "sleep 1")
	c := s.command("10m")
	check(t, c.Start())
	until(t, "the copy runs", func() bool { return s.fs.Freezer().Level() == freeze.Complete })
	check(t, c.Process.Signal(syscall.SIGTERM))
	start := time.Now()
	err := c.Wait()
	ee, ok := err.(*exec.ExitError)
	if !ok || ee.ExitCode() != 143 {
		t.Errorf("ended with %v, want exit status 143", err)
	}
	if s.exists("backup.img") || time.Since(start) > 10*time.Second {
		t.Errorf("backup.img %v after %v", s.exists("backup.img"), time.Since(start))
	}
	if s.fs.Freezer().Level() != freeze.Unfrozen || s.lastEnd() != freeze.StateThawed {
		t.Errorf("left %v, ended %v", s.fs.Freezer().Level(), s.lastEnd())
	}
}

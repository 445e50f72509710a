package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The life of a mount: mount points that will not do, the end of the server in
// every way, and unmounts by somebody else.

// TestMountRefusals: what cannot be mounted on is refused at start, with what to
// do; nothing is left mounted, and what was there is as it was.
func TestMountRefusals(t *testing.T) {
	needMount(t)
	dir := shm(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	image, state := at("img/fs.pmem"), at("state")
	for _, d := range []string{"img", "state", "full", "good", "tmpfs", "state/inside"} {
		if err := os.Mkdir(at(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"full/precious", "file"} {
		if err := os.WriteFile(at(f), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := program(t, 30*time.Second, "mkfs", image, "--size", "8MiB"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := unix.Mount("tmpfs", at("tmpfs"), "tmpfs", 0, "size=100k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(at("tmpfs"), unix.MNT_DETACH)
	cases := []struct {
		name, at, options string
		code              int
		want              []string // all of these in what is said
	}{
		{"not empty", at("full"), "", exitFailed, []string{"not empty", "precious", "choose an empty directory"}},
		{"not there", at("none"), "", exitFailed, []string{"mkdir -p " + at("none")}},
		{"parent not there", at("none/none"), "", exitFailed, []string{"mkdir -p " + at("none/none")}},
		{"a file", at("file"), "", exitFailed, []string{"not a directory"}},
		{"mounted already", at("tmpfs"), "", exitFailed, []string{"mounted there already", "umount " + at("tmpfs")}},
		{"the state directory", state, "", exitFailed, []string{"holds", "would hide them", "choose another directory"}},
		{"in the state directory", at("state/inside"), "", exitFailed, []string{"lies in the state directory", "choose another directory"}},
		{"over the image", at("img"), "", exitFailed, []string{"holds " + at("img"), "would hide them", "choose another directory"}},
		{"over state and image", dir, "", exitFailed, []string{"holds", "would hide them", "choose another directory"}},
		{"unknown option", at("good"), "nosuchthing", exitUsage, []string{"nosuchthing", "is not known; known are"}},
		{"access control lists", at("good"), "acl", exitUsage, []string{"acl", "not supported"}},
		{"owner by name", at("good"), "uid=root", exitUsage, []string{"give a number", "uid=1000"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			out, err := program(t, 20*time.Second, "serve", "--pmem", image, "--state", state, "--socket", at("s.sock"), "--listen", "127.0.0.1:0",
				"--mount", c.at, "-o", c.options)
			if exitCode(err) != c.code {
				t.Errorf("exit %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("does not say %q:\n%s", w, out)
				}
			}
			if strings.Count(mountTable(t), " "+dir) != 1 { // the tmpfs of ours
				t.Errorf("mounts after it:\n%s", mountTable(t))
			}
		})
	}
	out, err := program(t, 20*time.Second, "serve", "--pmem", at("good/new.pmem"), "--create", "8MiB", "--state", state, "--socket", at("s.sock"),
		"--listen", "127.0.0.1:0", "--mount", at("good"))
	if exitCode(err) != exitFailed || !strings.Contains(out, "would hide them") {
		t.Errorf("over an image that is to be made: %v %s", err, out)
	}
	if b, err := os.ReadFile(at("full/precious")); err != nil || string(b) != "precious" {
		t.Errorf("what was in the directory: %q, %v", b, err)
	}
}

// mountTable is the text of the mount table.
func mountTable(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// mountedAt says whether something is mounted at a directory.
func mountedAt(t *testing.T, at string) bool {
	t.Helper()
	return strings.Contains(mountTable(t), " "+at+" ")
}

// TestMountWithoutFUSE: no device, a device that is not permitted. The server runs
// in a mount namespace of its own where /dev is empty, or /dev/fuse something else.
func TestMountWithoutFUSE(t *testing.T) {
	needMount(t)
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("unshare is not here")
	}
	for name, c := range map[string]struct{ hide, want string }{
		"not there":      {"mount -t tmpfs none /dev && mknod /dev/null c 1 3", "no /dev/fuse"},
		"something else": {"mount --bind /dev/null /dev/fuse", "mount at"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "mnt"), 0o755); err != nil {
				t.Fatal(err)
			}
			exe, _ := os.Executable()
			script := c.hide + fmt.Sprintf(" && exec %s serve --pmem %s/fs.pmem --create 8MiB --state %s/state --socket %s/s --listen 127.0.0.1:0 --mount %s/mnt", exe, dir, dir, dir, dir)
			out, err := bounded(t, unshare, "-m", "sh", "-c", script)
			if exitCode(err) != exitFailed || !strings.Contains(out, c.want) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// as runs permafrost as another user.
func as(t *testing.T, uid uint32, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(commonBinary(t), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

// commonBinary is a copy of this binary that everybody may run: go test keeps its
// own where only its user gets in.
func commonBinary(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	dir := shm(t)
	to := filepath.Join(dir, "permafrost")
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close(), os.Chmod(dir, 0o755), os.Chmod(to, 0o755)); err != nil {
		t.Fatal(err)
	}
	return to
}

// nobody is a user who owns nothing.
const nobody = 65534

// homeOf makes a directory that another user owns, with a mount point in it.
func homeOf(t *testing.T, uid int) (dir, at string) {
	t.Helper()
	dir = shm(t)
	at = filepath.Join(dir, "mnt")
	if err := errors.Join(os.Mkdir(at, 0o700), os.Chown(at, uid, uid), os.Chown(dir, uid, uid)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return dir, at
}

// TestMountAsAnotherUser: who is not root mounts by fusermount3, on a directory of
// his own, for himself; without fusermount3 he is told what to install.
// Attaching is off then, with the reason.
func TestMountAsAnotherUser(t *testing.T) {
	needMount(t)
	if st, err := os.Stat("/dev/fuse"); err == nil && st.Mode().Perm()&0o006 != 0o006 {
		defer os.Chmod("/dev/fuse", st.Mode().Perm())
		if err := os.Chmod("/dev/fuse", 0o666); err != nil { // as every distribution has it
			t.Fatal(err)
		}
	}
	dir, at := homeOf(t, nobody)
	args := []string{"serve", "--pmem", dir + "/fs.pmem", "--create", "8MiB", "--state", dir + "/state", "--socket", dir + "/s", "--listen", "127.0.0.1:0", "--mount", at}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skip("fusermount3 is not here")
	}
	cmd := as(t, nobody, args...)
	log := &strings.Builder{}
	cmd.Stderr = log
	s, err := awaitServer(cmd)
	if err != nil {
		t.Fatalf("%v: %s", err, log)
	}
	defer s.kill()
	file := at + "/mine"
	out, err := boundedCmd(t, asUser(nobody, nobody, "sh", "-c", "echo hello >"+file+" && cat "+file+" && stat -c '%u %a' "+file))
	if err != nil || !strings.Contains(out, "hello\n65534 ") {
		t.Errorf("the user's own file: %v %q", err, out)
	}
	if out, err := bounded(t, "cat", file); err == nil {
		t.Errorf("root, who did not mount, reads %q", out)
	}
	var st wireStatus
	if _, err := s.client.call(context.Background(), "GET", "/status", nil, &st); err != nil || st.Attach != nil || st.AttachRefused == "" {
		t.Errorf("attach is %+v, %q: %v", st.Attach, st.AttachRefused, err)
	}
	t.Logf("attach: %s", st.AttachRefused)
	if _, err := s.client.call(context.Background(), "POST", "/freeze", params("holder", "u"), nil); err != nil {
		t.Errorf("freeze: %v", err)
	}
	if _, err := s.client.call(context.Background(), "POST", "/thaw", params("holder", "u"), nil); err != nil {
		t.Errorf("thaw: %v", err)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exited:
		if err != nil {
			t.Errorf("the server ended with %v: %s", err, log)
		}
		s.exited <- nil
	case <-time.After(freezeTime):
		t.Errorf("the server does not stop")
	}
	if mountedAt(t, at) {
		t.Error("the mount is there still")
	}
	if out, err := program(t, 30*time.Second, "check", dir+"/fs.pmem"); err != nil {
		t.Errorf("check: %v\n%s", err, out)
	}
}

// TestMountAsAnotherUserRefused: no fusermount3, a directory of somebody else.
func TestMountAsAnotherUserRefused(t *testing.T) {
	needMount(t)
	dir, at := homeOf(t, nobody)
	serve := func(at string) []string {
		return []string{"serve", "--pmem", dir + "/fs.pmem", "--create", "8MiB", "--state", dir + "/state", "--socket", dir + "/s",
			"--listen", "127.0.0.1:0", "--mount", at}
	}
	root := filepath.Join(shm(t), "roots")
	if err := errors.Join(os.Chmod(filepath.Dir(root), 0o755), os.Mkdir(root, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Run("somebody else's directory", func(t *testing.T) {
		out, err := boundedCmd(t, as(t, nobody, serve(root)...))
		if exitCode(err) != exitFailed || !strings.Contains(out, "is the directory yours?") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("no fusermount3", func(t *testing.T) {
		unshare, err := exec.LookPath("unshare")
		if err != nil {
			t.Skip("unshare is not here")
		}
		setpriv, err := exec.LookPath("setpriv")
		if err != nil {
			t.Skip("setpriv is not here")
		}
		exe, _ := os.Executable()
		// A namespace whose programs' directory is empty.
		script := "cp " + setpriv + " " + dir + "/setpriv && mount -t tmpfs none /usr/bin && PATH=/none exec " + dir +
			"/setpriv --reuid 65534 --regid 65534 --clear-groups " + exe + " " + strings.Join(serve(at), " ")
		out, err := bounded(t, unshare, "-m", "sh", "-c", script)
		if exitCode(err) != exitFailed || !strings.Contains(out, "apt install fuse3") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

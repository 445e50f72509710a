package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// permafrost mount, and mount.permafrost as mount(8) calls it.

// mountHome is where the verb finds everything, with images made.
type mountHome struct {
	dir string
	env []string
}

func newMountHome(t *testing.T, images ...string) *mountHome {
	t.Helper()
	needMount(t)
	h := &mountHome{dir: shm(t)}
	h.env = append(os.Environ(), "XDG_STATE_HOME="+h.dir+"/xdg-state", "XDG_DATA_HOME="+h.dir+"/xdg-data")
	for _, image := range images {
		if out, err := program(t, 30*time.Second, "mkfs", h.at(image+".pmem"), "--size", "16MiB"); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		if err := os.Mkdir(h.at(image), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = unix.Unmount(h.at(image), 0)
			_ = unix.Unmount(h.at(image), unix.MNT_DETACH)
		})
	}
	return h
}

func (h *mountHome) at(name string) string { return filepath.Join(h.dir, name) }

func (h *mountHome) run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = h.env
	return boundedCmd(t, cmd)
}

// permafrost runs the verb.
func (h *mountHome) permafrost(t *testing.T, args ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return h.run(t, exe, args...)
}

// mount runs the verb, which must succeed, and returns the server's pid.
func (h *mountHome) mount(t *testing.T, args ...string) (pid int, out string) {
	t.Helper()
	out, err := h.permafrost(t, append([]string{"mount"}, args...)...)
	if err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	_, after, _ := strings.Cut(out, "server ")
	if _, err := fmt.Sscan(strings.TrimSpace(after), &pid); err != nil {
		// "1234," is read up to the comma.
		_, _ = fmt.Sscanf(strings.TrimSpace(after), "%d,", &pid)
	}
	if pid == 0 {
		t.Fatalf("no pid in %q", out)
	}
	return pid, out
}

// awaitEnd waits for a process that is not a child of ours.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	until(t, "the end of the server", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		return err != nil || strings.Contains(string(text), "\nState:\tZ")
	})
}

func (h *mountHome) check(t *testing.T, image string) {
	t.Helper()
	if out, err := program(t, 30*time.Second, "check", h.at(image+".pmem")); err != nil {
		t.Errorf("check: %v\n%s", err, out)
	}
}

// TestMountVerb: in the background, until it is unmounted; then the server ends in
// order, and the next mount has everything.
func TestMountVerb(t *testing.T) {
	h := newMountHome(t, "a")
	pid, out := h.mount(t, h.at("a.pmem"), h.at("a"), "-o", "noatime,lease_max=2h")
	for _, want := range []string{"is mounted at " + h.at("a"), "mount.log", "unix:" + h.at("xdg-state/permafrost/images/a.pmem-")} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("the server is in session %d (%v), not in its own", sid, err)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
		t.Errorf("the server's directory is %q (%v)", cwd, err)
	}
	mustBounded(t, "sh", "-c", "echo kept >"+h.at("a/f"))
	mustBounded(t, "umount", h.at("a"))
	awaitEnd(t, pid)
	h.check(t, "a")
	log, err := filepath.Glob(h.at("xdg-state/permafrost/images/a.pmem-*/mount.log"))
	if err != nil || len(log) != 1 {
		t.Fatalf("logs: %v %v", log, err)
	}
	if text, _ := os.ReadFile(log[0]); !strings.Contains(string(text), "was unmounted, shutting down") || strings.Contains(string(text), "ERROR") {
		t.Errorf("the log:\n%s", text)
	}
	pid, _ = h.mount(t, h.at("a.pmem"), h.at("a"))
	if out := mustBounded(t, "cat", h.at("a/f")); out != "kept\n" {
		t.Errorf("the file holds %q", out)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, pid)
	if mountedAt(t, h.at("a")) {
		t.Error("the mount is there after SIGTERM")
	}
	h.check(t, "a")
}

// TestMountVerbDefaultImage: without an image it is serve's own.
func TestMountVerbDefaultImage(t *testing.T) {
	h := newMountHome(t, "unused")
	pid, out := h.mount(t, h.at("unused"), "-o", "create=16MiB,socket="+h.at("s"))
	if !strings.Contains(out, h.at("xdg-data/permafrost/fs.pmem")) || !strings.Contains(out, h.at("xdg-state/permafrost/mount.log")) {
		t.Errorf("%s", out)
	}
	mustBounded(t, "umount", h.at("unused"))
	awaitEnd(t, pid)
}

// TestMountVerbFails: status 1 and the server's own error, or 2 for the usage.
func TestMountVerbFails(t *testing.T) {
	h := newMountHome(t, "a")
	if err := os.WriteFile(h.at("text"), []byte(strings.Repeat("not an image ", 100_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no image":         {[]string{h.at("none.pmem"), h.at("a")}, exitFailed, "permafrost mkfs"},
		"not ours":         {[]string{h.at("text"), h.at("a")}, exitFailed, "mkfs"},
		"no directory":     {[]string{h.at("a.pmem"), h.at("none")}, exitFailed, "mkdir -p"},
		"not empty":        {[]string{h.at("a.pmem"), h.dir}, exitFailed, "choose another directory"},
		"too many":         {[]string{h.at("a.pmem"), h.at("a"), "more"}, exitUsage, "unexpected argument more"},
		"unknown option":   {[]string{h.at("a.pmem"), h.at("a"), "-o", "zap"}, exitUsage, "known are"},
		"remount":          {[]string{h.at("a.pmem"), h.at("a"), "-o", "remount,ro"}, exitUsage, "unmount and mount again"},
		"no value":         {[]string{h.at("a.pmem"), h.at("a"), "-o", "state"}, exitUsage, "such as state="},
		"bad value":        {[]string{h.at("a.pmem"), h.at("a"), "-o", "lease_max=soon"}, exitFailed, "mount.log"},
		"insecure address": {[]string{h.at("a.pmem"), h.at("a"), "-o", "listen=0.0.0.0:0"}, exitFailed, "--allow-insecure-listen"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := h.permafrost(t, append([]string{"mount"}, c.args...)...)
			if exitCode(err) != c.code || !strings.Contains(out, c.want) {
				t.Errorf("%v: %s", err, out)
			}
			if mountedAt(t, h.at("a")) {
				t.Error("something is mounted")
			}
		})
	}
	h.check(t, "a")
}

// TestMountTwoImages: nothing of one is in the other's way, and a freeze of one does
// not hold the other. An image can be mounted once.
func TestMountTwoImages(t *testing.T) {
	h := newMountHome(t, "a", "b")
	taken, err := net.Listen("tcp", "127.0.0.1:7433") // unless it is taken already
	if err == nil {
		defer taken.Close()
	}
	first, _ := h.mount(t, h.at("a.pmem"), h.at("a"))
	second, out := h.mount(t, h.at("b.pmem"), h.at("b"), "-o", "listen=127.0.0.1:0")
	if !strings.Contains(out, "http://127.0.0.1:") {
		t.Errorf("the address that was asked for is not there: %s", out)
	}
	if out, err := h.permafrost(t, "mount", h.at("a.pmem"), h.at("b")); exitCode(err) != exitFailed {
		t.Errorf("over a mount: %v %s", err, out)
	}
	if err := os.Mkdir(h.at("c"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := h.permafrost(t, "mount", h.at("a.pmem"), h.at("c"), "-o", "state="+h.at("c-state")); exitCode(err) != exitFailed || !strings.Contains(out, "in use by another server") {
		t.Errorf("an image twice: %v %s", err, out)
	}
	sockets, _ := filepath.Glob(h.at("xdg-state/permafrost/images/a.pmem-*/permafrost.sock"))
	if len(sockets) != 1 {
		t.Fatalf("sockets: %v", sockets)
	}
	if out, err := h.permafrost(t, "freeze", "--socket", sockets[0], "--holder", "x"); err != nil {
		t.Fatalf("freeze: %v %s", err, out)
	}
	mustBounded(t, "sh", "-c", "echo x >"+h.at("b/f"))
	if out, err := h.permafrost(t, "thaw", "--socket", sockets[0], "--holder", "x"); err != nil {
		t.Fatalf("thaw: %v %s", err, out)
	}
	mustBounded(t, "umount", h.at("a"), h.at("b"))
	awaitEnd(t, first)
	awaitEnd(t, second)
	h.check(t, "a")
	h.check(t, "b")
}

// TestMountForeground: the process is the server; it tells systemd that it serves, and
// ends with its mount.
func TestMountForeground(t *testing.T) {
	h := newMountHome(t, "a")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.at("notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	exe, _ := os.Executable()
	for _, end := range []string{"umount", "SIGTERM"} {
		cmd := exec.CommandContext(context.Background(), exe, "mount", "--foreground", h.at("a.pmem"), h.at("a"))
		cmd.Env = append(h.env, "NOTIFY_SOCKET="+h.at("notify"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		buf := make([]byte, 64)
		_ = notify.SetReadDeadline(time.Now().Add(3 * freezeTime))
		if n, err := notify.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
			t.Errorf("systemd is told %q, %v", buf[:n], err)
		}
		mustBounded(t, "ls", h.at("a"))
		if end == "umount" {
			mustBounded(t, "umount", h.at("a"))
		} else {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("after %s the server ends with %v", end, err)
			}
		case <-time.After(2 * freezeTime):
			_ = cmd.Process.Kill()
			t.Fatalf("the server does not end after %s", end)
		}
	}
	h.check(t, "a")
}

// withHelper puts mount.permafrost where mount(8) looks for it, for as long as the
// test lasts.
func withHelper(t *testing.T) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, "/sbin/"+helperName); err != nil {
		t.Skipf("mount(8) looks for helpers in /sbin only: %v", err)
	}
	t.Cleanup(func() { os.Remove("/sbin/" + helperName) })
}

// TestMountHelper: mount -t permafrost, and a line in fstab.
func TestMountHelper(t *testing.T) {
	h := newMountHome(t, "a", "b")
	withHelper(t)
	must := func(name string, args ...string) string {
		t.Helper()
		out, err := h.run(t, name, args...)
		if err != nil {
			t.Fatalf("%s %v: %v %s", name, args, err, out)
		}
		return out
	}
	must("mount", "-t", "permafrost", h.at("a.pmem"), h.at("a"))
	must("sh", "-c", "echo kept >"+h.at("a/f"))
	must("umount", h.at("a"))
	must("mount", "-t", "permafrost", "-o", "ro,noexec,state="+h.at("own-state"), h.at("a.pmem"), h.at("a"))
	if out, err := h.run(t, "sh", "-c", "echo x >"+h.at("a/f")); err == nil || !strings.Contains(out, "Read-only") {
		t.Errorf("a write to a read-only mount: %v %s", err, out)
	}
	if _, err := os.Stat(h.at("own-state/ledger.db")); err != nil {
		t.Error(err)
	}
	must("umount", h.at("a"))

	fstab := h.at("fstab")
	lines := fmt.Sprintf("%s %s permafrost defaults,noatime,nofail 0 0\n%s %s permafrost ro,x-systemd.device-timeout=1 0 0\n", h.at("a.pmem"), h.at("a"), h.at("b.pmem"), h.at("b"))
	if err := os.WriteFile(fstab, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	must("mount", "-T", fstab, h.at("a"))
	if out := must("cat", h.at("a/f")); out != "kept\n" {
		t.Errorf("the file holds %q", out)
	}
	must("mount", "-a", "-T", fstab)
	must("mount", "-a", "-T", fstab)
	for _, dir := range []string{"a", "b"} {
		if n := strings.Count(mountTable(t), " "+h.at(dir)+" "); n != 1 {
			t.Errorf("%d mounts at %s", n, dir)
		}
	}
	must("umount", h.at("a"), h.at("b"))
	for range 5 { // again at once, while the last server may be ending
		must("mount", "-T", fstab, h.at("a"))
		must("umount", h.at("a"))
	}
	if out, err := h.run(t, "mount", "-t", "permafrost", "-o", "zap", h.at("a.pmem"), h.at("a")); exitCode(err) != exitMountUsage || !strings.Contains(out, "known are") {
		t.Errorf("an unknown option: %v %s", err, out)
	}
	must("mount", "-f", "-t", "permafrost", h.at("a.pmem"), h.at("a"))
	if mountedAt(t, h.at("a")) {
		t.Error("a fake mount has mounted")
	}
	must("mount", "-s", "-t", "permafrost", "-o", "zap", h.at("a.pmem"), h.at("a"))
	must("umount", h.at("a"))
	if out, err := h.run(t, "mount", "-t", "permafrost", h.at("none.pmem"), h.at("a")); exitCode(err) != exitMountFailed || !strings.Contains(out, "mkfs") {
		t.Errorf("no image: %v %s", err, out)
	}
	for _, image := range []string{"a", "b"} {
		until(t, image+" given up by its server", func() bool { return !imageInUse(h.at(image + ".pmem")) })
		h.check(t, image)
	}
}

// TestUmountVerb: when it returns the image is closed.
func TestUmountVerb(t *testing.T) {
	h := newMountHome(t, "a")
	for range 5 {
		h.mount(t, h.at("a.pmem"), h.at("a"))
		if !imageInUse(h.at("a.pmem")) {
			t.Fatal("a mounted image is not in use")
		}
		if out, err := h.permafrost(t, "umount", h.at("a")); err != nil {
			t.Fatalf("umount: %v %s", err, out)
		}
		h.check(t, "a")
	}
	h.mount(t, h.at("a.pmem"), h.at("a"))
	w := startWorker(t, "dirty", h.at("a/f"), 1).start(t)
	if out, err := h.permafrost(t, "umount", h.at("a")); exitCode(err) != exitFailed || !strings.Contains(out, "programs have files open there") {
		t.Errorf("a busy one: %v %s", err, out)
	}
	w.stop(t)
	<-w.ended
	w.ended <- nil
	if out, err := h.permafrost(t, "umount", h.at("a")); err != nil {
		t.Errorf("umount: %v %s", err, out)
	}
	if out, err := h.permafrost(t, "umount", h.at("a")); exitCode(err) != exitFailed || !strings.Contains(out, "is not where") {
		t.Errorf("a directory without a mount: %v %s", err, out)
	}
}

// TestHelperArguments: the arguments that mount(8) gives, and people.
func TestHelperArguments(t *testing.T) {
	for _, c := range []struct {
		args, want string // want: spec dir options flags; "" if refused
	}{
		{"/i /d", "/i /d  ---"},
		{"/i /d -o rw,noatime", "/i /d rw,noatime ---"},
		{"-o ro /i /d -o uid=1", "/i /d ro,uid=1 ---"},
		{"/i /d -sfnv -o x -t permafrost", "/i /d x sfv"},
		{"/i /d -oro -tpermafrost", "/i /d ro ---"},
		{"/i /d -rno x", "/i /d ro,x ---"},
		{"/i /d -w", "/i /d rw ---"},
		{"/i", ""}, {"/i /d /e", ""}, {"/i /d -o", ""}, {"/i /d -N 1", ""}, {"/i /d -z", ""},
	} {
		h, err := parseHelper(strings.Fields(c.args))
		got := ""
		if err == nil {
			flags := map[bool]string{true: "sfv", false: "---"}[h.sloppy && h.fake && h.verbo]
			got = fmt.Sprintf("%s %s %s %s", h.spec, h.dir, strings.Join(h.options, ","), flags)
		}
		if got != c.want {
			t.Errorf("%q is read as %q (%v), want %q", c.args, got, err, c.want)
		}
	}
	if got := knownOptions([]string{"ro,zap", "state=/s,uid=x,uid=1"}); !slices.Equal(got, []string{"ro", "state=/s", "uid=1"}) {
		t.Errorf("sloppy: %v", got)
	}
}

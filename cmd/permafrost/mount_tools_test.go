package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// underFreezes freezes the mount again and again, for a moment each, while a
// program that knows nothing of it works there; the image must not change
// meanwhile. stop ends it.
func (m *mountFixture) underFreezes(t testing.TB) (stop func()) {
	t.Helper()
	m.copyEvery = 1 << 30
	ctx, cancel := context.WithCancel(context.Background())
	type outcome struct {
		freezes int
		err     error
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		for o.err == nil && sleep(ctx, time.Duration(300+o.freezes%5*150)*time.Millisecond) == nil {
			if o.err = m.standStill(context.Background(), o.freezes%10 == 5); o.err == nil {
				o.freezes++
			}
		}
		done <- o
	}()
	return func() {
		cancel()
		o := <-done
		if o.err != nil {
			t.Errorf("after %d freezes: %v", o.freezes, o.err)
		}
		fmt.Printf("mount-tool: %s freezes=%d fell_back=%d\n", t.Name(), o.freezes, m.fellBack.Load())
	}
}

// tool runs a program in dir and returns what it printed; a failure ends the test.
func tool(t testing.TB, dir string, limit time.Duration, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		text := string(out)
		t.Fatalf("%s %s: %v (%v)\n%s", name, strings.Join(args, " "), err, ctx.Err(), text[max(0, len(text)-4000):])
	}
	return string(out)
}

func needTool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
}

// TestMountFio: every block that fio writes, through write(2), mappings and
// O_DIRECT, holds its checksum when read, and still does for the next server.
func TestMountFio(t *testing.T) {
	needTool(t, "fio")
	mib := mountFull(t, "PERMAFROST_MOUNT_FIO_MIB", 3)
	m, size := newMountFixture(t, fmt.Sprintf("%dMiB", 32+16*mib)), fmt.Sprintf("%dM", mib)
	jobs := []struct{ name, args string }{
		{"write", "--ioengine=psync --rw=randrw --bs=4k --fsync=64"},
		{"odd", "--ioengine=psync --rw=randrw --bsrange=512-72k --blockalign=512 --fdatasync=32"},
		{"mapped", "--ioengine=mmap --rw=randrw --bs=4k"},
		{"mapped-seq", "--ioengine=mmap --rw=write --bs=64k --fsync=16"},
		{"direct", "--ioengine=psync --direct=1 --rw=randrw --bs=4k"},
		{"vector", "--ioengine=pvsync2 --rw=randwrite --bs=16k"},
	}
	run := func(job struct{ name, args string }, dir string, more ...string) {
		args := append([]string{"--name=" + job.name, "--directory=" + dir, "--size=" + size, "--numjobs=2", "--group_reporting", "--verify=crc32c",
			"--verify_fatal=1", "--verify_state_save=0", "--randseed=7", "--fallocate=none", "--output-format=terse"}, strings.Fields(job.args)...)
		tool(t, "/", 4*time.Minute, nil, "fio", append(args, more...)...)
	}
	stop := m.underFreezes(t)
	for _, job := range jobs {
		run(job, m.sub(t, job.name))
	}
	stop()
	fz, err := m.freeze(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(m.dir, "fio.pmem")
	if err := errors.Join(copyFile(copied, m.image), fz.Thaw(context.Background())); err != nil {
		t.Fatal(err)
	}
	err = m.serveCopy(copied, func(dir string) error {
		for _, job := range jobs {
			run(job, filepath.Join(dir, job.name), "--verify_only")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// stressors are those of stress-ng's file system class, and its mappings of
// files, that mean something on a mount of this kind.
var stressors = [][]string{
	{"access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep"},
	{"dirmany", "dup", "fallocate", "fcntl", "filename", "flock", "fpunch", "fsize", "fstat"},
	{"getdent", "hdd", "io", "iomix", "link", "locka", "lockf", "lockofd"},
	{"mknod", "open", "readahead", "rename", "seek", "symlink", "sync-file", "touch", "utime", "xattr"},
}

// TestMountStress: stress-ng's file system stressors, with its own checks.
func TestMountStress(t *testing.T) {
	needTool(t, "stress-ng")
	seconds := mountFull(t, "PERMAFROST_MOUNT_STRESS_SECONDS", 2)
	size := "256MiB"
	if seconds > 2 { // copy-file alone fills 512 MiB when it has the time
		size = "1GiB"
	}
	m := newMountFixture(t, size)
	stop := m.underFreezes(t)
	for i, group := range append(stressors, []string{"mmap-file"}) {
		dir := m.sub(t, fmt.Sprintf("group-%d", i))
		args := []string{"--temp-path", dir, "--verify", "--no-rand-seed", "--timeout", fmt.Sprint(seconds), "--hdd-bytes", "4M", "--iomix-bytes", "4M",
			"--fallocate-bytes", "4M", "--readahead-bytes", "4M", "--sync-file-bytes", "4M", "--seek-size", "4M"}
		for _, s := range group {
			if s == "mmap-file" {
				args = append(args, "--mmap", "2", "--mmap-file", "--mmap-bytes", "8M")
				continue
			}
			args = append(args, "--"+s, "1")
		}
		out := tool(t, dir, time.Duration(seconds+90)*time.Second, nil, "stress-ng", args...)
		if !strings.Contains(out, "successful run completed") {
			t.Errorf("stress-ng says no success:\n%s", out)
		}
	}
	stop()
}

// goSources is a part of Go's own source, which is there wherever tests run.
func goSources(t testing.TB, parts ...string) []string {
	t.Helper()
	root := strings.TrimSpace(tool(t, "/", time.Minute, nil, "go", "env", "GOROOT"))
	var all []string
	for _, p := range parts {
		all = append(all, filepath.Join(root, "src", p))
	}
	return all
}

// TestMountGit: a repository is made, cloned in both ways, repacked and checked.
func TestMountGit(t *testing.T) {
	needTool(t, "git")
	size, parts := "128MiB", []string{"encoding", "sort", "strings"}
	if os.Getenv("PERMAFROST_MOUNT_FREEZES") != "" { // three checkouts of more in make mount-full
		size, parts = "512MiB", append(parts, "net", "crypto", "runtime")
	}
	m := newMountFixture(t, size)
	dir := m.sub(t, "git")
	env := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@localhost", "GIT_COMMITTER_NAME=a",
		"GIT_COMMITTER_EMAIL=a@localhost"}
	git := func(in string, args ...string) string {
		t.Helper()
		return tool(t, in, 2*time.Minute, env, "git", args...)
	}
	stop := m.underFreezes(t)
	git(dir, "init", "-q", "one")
	one := filepath.Join(dir, "one")
	for i, part := range goSources(t, parts...) {
		if err := os.CopyFS(filepath.Join(one, fmt.Sprint("part-", i)), os.DirFS(part)); err != nil {
			t.Fatal(err)
		}
		git(one, "add", "-A")
		git(one, "commit", "-q", "-m", part)
	}
	git(one, "mv", "part-0", "moved")
	git(one, "commit", "-q", "-m", "moved")
	git(dir, "clone", "-q", "one", "linked")
	git(dir, "clone", "-q", "--no-local", "one", "packed")
	git(one, "gc", "-q", "--aggressive", "--prune=now")
	head := git(one, "rev-parse", "HEAD^{tree}")
	for _, name := range []string{"one", "linked", "packed"} {
		in := filepath.Join(dir, name)
		git(in, "fsck", "--full", "--strict")
		if out := git(in, "status", "--porcelain"); out != "" {
			t.Errorf("%s is not clean:\n%s", name, out)
		}
		if got := git(in, "rev-parse", "HEAD^{tree}"); got != head {
			t.Errorf("%s has the tree %s, not %s", name, got, head)
		}
	}
	stop()
}

// TestMountGoBuild: Go builds a program whose sources and build cache are on the
// mount, and it runs from there; a second build finds everything in the cache.
func TestMountGoBuild(t *testing.T) {
	size, imports := "128MiB", ""
	if os.Getenv("PERMAFROST_MOUNT_FREEZES") != "" { // all that net/http needs in make mount-full
		size, imports = "512MiB", "_ \"net/http\""
	}
	m := newMountFixture(t, size)
	dir := m.sub(t, "build")
	for name, text := range map[string]string{
		"go.mod":         "module example.invalid/built\n\ngo 1.21\n",
		"main.go":        "package main\n\nimport (\n\t" + imports + "\n\n\t\"example.invalid/built/inner\"\n)\n\nfunc main() { print(inner.Text) }\n",
		"inner/inner.go": "package inner\n\nconst Text = \"built on the mount\"\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"cache", "tmp", "mod"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"GOCACHE=" + filepath.Join(dir, "cache"), "GOTMPDIR=" + filepath.Join(dir, "tmp"), "GOMODCACHE=" + filepath.Join(dir, "mod"), "GOFLAGS=-buildvcs=false",
		"GOPROXY=off", "GOTOOLCHAIN=local", "GOWORK=off", "CGO_ENABLED=0"}
	stop := m.underFreezes(t)
	tool(t, dir, 4*time.Minute, env, "go", "build", "-o", "built", ".")
	if out := tool(t, dir, time.Minute, nil, filepath.Join(dir, "built")); out != "built on the mount" {
		t.Errorf("the program says %q", out)
	}
	if out := tool(t, dir, time.Minute, env, "go", "build", "-x", "-o", "again", "."); strings.Contains(out, "/compile ") {
		t.Errorf("the cache on the mount was not found again:\n%s", out)
	}
	stop()
}

// TestMountXattrNames: attributes are kept in the namespaces of xattr(7), as on ext4.
func TestMountXattrNames(t *testing.T) {
	m := newMountFixture(t, "16MiB")
	path := filepath.Join(m.mnt, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{"user.a": nil, "trusted.a": nil, "security.a": nil, "other.a": unix.EOPNOTSUPP, "plain": unix.EOPNOTSUPP,
		"user.": unix.EOPNOTSUPP, "system.a": unix.EOPNOTSUPP} {
		if err := unix.Setxattr(path, name, []byte("v"), 0); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

// TestMountACLs: POSIX ACLs work, or are refused as what is not there.
func TestMountACLs(t *testing.T) {
	m := newMountFixture(t, "16MiB")
	path := filepath.Join(m.mnt, "file")
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	// Version 2; user::rw-, user:1:r--, group::r--, mask::r--, other::---
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	err := unix.Setxattr(path, "system.posix_acl_access", acl, 0)
	if err == nil {
		got := make([]byte, 100)
		n, err := unix.Getxattr(path, "system.posix_acl_access", got)
		if err != nil || string(got[:n]) != string(acl) {
			t.Fatalf("an ACL that was taken is given back as %x, %v", got[:max(n, 0)], err)
		}
		return
	}
	if !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatalf("an ACL is refused with %v", err)
	}
	if _, err := unix.Getxattr(path, "system.posix_acl_access", nil); !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENODATA) {
		t.Errorf("an ACL that cannot be is asked for: %v", err)
	}
}

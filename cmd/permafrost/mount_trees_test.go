package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// makeTree makes files of all kinds, names and attributes.
func makeTree(t testing.TB, dir string) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seedOf(t), 0))
	var errs []error
	do := func(err error) { errs = append(errs, err) }
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"empty", "deep/" + strings.Repeat("d/", 40), "many", "ünï/日本語", "sticky", "setgid"} {
		do(os.MkdirAll(at(d), 0o755))
	}
	do(os.Chmod(at("sticky"), 0o777|os.ModeSticky))
	do(os.Chmod(at("setgid"), 0o775|os.ModeSetgid))
	for i := range 600 {
		do(os.WriteFile(at(fmt.Sprintf("many/file %d", i)), fmt.Appendf(nil, "%d", i), 0o600))
	}
	for i, size := range []int{0, 1, 4095, 4096, 4097, 70_000, 1 << 20, 3<<20 + 17} {
		p := make([]byte, size)
		for j := range p {
			p[j] = byte(rng.Uint32())
		}
		do(os.WriteFile(at(fmt.Sprintf("size-%d", size)), p, os.FileMode(0o400+i)))
	}
	do(os.WriteFile(at(strings.Repeat("n", 255)), []byte("long"), 0o644))
	do(os.WriteFile(at("ünï/日本語/\x80\xff not utf-8\n"), []byte("odd"), 0o644))
	do(os.WriteFile(at("suid"), []byte("x"), 0o755))
	do(os.Chmod(at("suid"), 0o755|os.ModeSetuid))
	do(os.Link(at("size-4096"), at("deep/link")))
	do(os.Link(at("size-4096"), at("many/link")))
	do(os.Symlink("nowhere/at/all", at("dangling")))
	do(os.Symlink(strings.Repeat("x/", 2000), at("long-symlink")))
	do(unix.Mkfifo(at("fifo"), 0o640))
	sparse, err := os.Create(at("sparse"))
	do(err)
	for _, off := range []int64{0, 1 << 20, 9<<20 - 3} {
		_, err := sparse.WriteAt([]byte("data among holes"), off)
		do(err)
	}
	do(errors.Join(sparse.Truncate(10<<20), sparse.Close()))
	do(unix.Setxattr(at("size-4097"), "user.small", []byte("value"), 0))
	do(unix.Setxattr(at("size-4097"), "user.empty", nil, 0))
	do(unix.Setxattr(at("empty"), "user.large", []byte(strings.Repeat("v", 2000)), 0))
	if os.Getuid() == 0 {
		do(os.Lchown(at("size-1"), 1234, 4321))
		do(os.Lchown(at("dangling"), 12, 34))
		do(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		do(unix.Setxattr(at("size-0"), "trusted.one", []byte{0, 1, 2}, 0))
	}
	for i, name := range []string{"size-0", "many", "ünï", "empty", "sparse"} {
		when := time.Unix(1_000_000_000+int64(i)*86_400, 123_456_789-int64(i))
		do(os.Chtimes(at(name), when, when))
	}
	// Long ago: rsync leaves a directory's nanoseconds alone if its seconds are right.
	do(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		when := time.Unix(1_100_000_000+rng.Int64N(1e8), rng.Int64N(1e9))
		return os.Chtimes(path, when, when)
	}))
	// rsync carries the nanoseconds of files and directories only.
	for _, name := range []string{"dangling", "long-symlink", "fifo", "null"} {
		err := unix.UtimesNanoAt(unix.AT_FDCWD, at(name), []unix.Timespec{{Sec: 1e9}, {Sec: 1e9 + 7}}, unix.AT_SYMLINK_NOFOLLOW)
		if name != "null" || os.Getuid() == 0 {
			do(err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// sameTrees asks rsync for whatever differs between two trees: data, kinds,
// modes, owners, times, links, attributes.
func sameTrees(t testing.TB, a, b string) {
	t.Helper()
	args := []string{"-aHAX", "-n", "-i", "--delete", "--checksum", "--numeric-ids", "--modify-window=-1", a + "/", b + "/"}
	out := strings.Split(strings.TrimSpace(tool(t, "/", 2*time.Minute, nil, "rsync", args...)), "\n")
	if len(out) == 1 && out[0] == "" {
		return
	}
	for i, line := range out {
		if i < 20 {
			t.Errorf("%s and %s: rsync lists %.100s", a, b, line)
		}
	}
}

// TestMountRsync: a tree copied out to the mount and back is the same, and so is
// the one on the mount, also after a restart.
func TestMountRsync(t *testing.T) {
	needTool(t, "rsync")
	m := newMountFixture(t, "64MiB")
	from, to, back := t.TempDir(), filepath.Join(m.mnt, "tree"), t.TempDir()
	makeTree(t, from)
	stop := m.underFreezes(t)
	copyTree := func(a, b string) {
		tool(t, "/", 2*time.Minute, nil, "rsync", "-aHAX", "--numeric-ids", "--sparse", a+"/", b+"/")
	}
	copyTree(from, to)
	sameTrees(t, from, to)
	copyTree(to, back)
	sameTrees(t, from, back)
	stop()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(to, "sparse"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file takes %d KiB (%v)", st.Blocks/2, err)
	}
	m.end()
	m.start(t, "", "--mount", m.mnt)
	sameTrees(t, from, to)
}

// TestMountTar: what tar packs on the mount unpacks to the same tree, and the
// other way round.
func TestMountTar(t *testing.T) {
	needTool(t, "rsync")
	needTool(t, "tar")
	m := newMountFixture(t, "96MiB")
	from, back := t.TempDir(), t.TempDir()
	makeTree(t, from)
	stop := m.underFreezes(t)
	pack := func(archive, tree string) {
		tool(t, tree, 2*time.Minute, nil, "tar", "--format=posix", "--xattrs", "--xattrs-include=*", "--sparse", "--numeric-owner", "-cf", archive, ".")
	}
	unpack := func(archive, tree string) {
		tool(t, tree, 2*time.Minute, nil, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", archive)
	}
	archive := filepath.Join(m.mnt, "archive.tar")
	pack(archive, from)
	on := m.sub(t, "tree")
	unpack(archive, on)
	sameTrees(t, from, on)
	again := filepath.Join(m.mnt, "again.tar")
	pack(again, on)
	unpack(again, back)
	sameTrees(t, from, back)
	stop()
}

package core

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

const root = format.RootIno

func TestCreateWriteReadRemount(t *testing.T) {
	w := newWorld(t, 16<<20)
	d := w.dir(root, "d")
	f := w.file(d, "f")
	data := pattern(3, 100_000)
	w.write(f, 0, data)
	w.write(f, 50_000, []byte("in the middle"))
	copy(data[50_000:], "in the middle")
	for range 2 {
		if !bytes.Equal(w.read(f), data) {
			t.Fatal("the bytes read are not those written")
		}
		a, err := w.fs.Resolve(ctx, "/d/f")
		w.ok(err)
		if a.Ino != f || a.Size != int64(len(data)) || a.Nlink != 1 || a.Blocks != 25 {
			t.Fatalf("attributes %+v", a)
		}
		w.remount()
	}
}

func TestFsyncSurvivesCrash(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	w.write(f, 0, pattern(1, 5000))
	res, err := w.fs.Fsync(ctx, f, 0, 0)
	w.ok(err)
	if res.Generation < 1 {
		t.Fatal("no generation")
	}
	w.file(root, "lost")
	w.crash()
	if !bytes.Equal(w.read(f), pattern(1, 5000)) {
		t.Fatal("bytes that were synced are not there after the crash")
	}
	_, err = w.fs.Lookup(ctx, root, "lost")
	w.fails(err, ErrNotFound) // it was never made durable: the crash must be real
}

func TestNames(t *testing.T) {
	w := newWorld(t, 16<<20)
	for _, name := range []string{"", ".", "..", "a/b", "a\x00b"} {
		_, err := w.fs.Create(ctx, root, name, NewNode{Mode: format.TypeRegular})
		w.fails(err, ErrInvalid)
		w.fails(w.fs.Unlink(ctx, root, name), ErrInvalid)
	}
	long := strings.Repeat("x", 255)
	w.file(root, long)
	_, err := w.fs.Create(ctx, root, long+"y", NewNode{Mode: format.TypeRegular})
	w.fails(err, ErrNameTooLong)
	_, err = w.fs.Create(ctx, root, long, NewNode{Mode: format.TypeRegular})
	w.fails(err, ErrExists)
	_, err = w.fs.Resolve(ctx, "/"+strings.Repeat("a/", 3000))
	w.fails(err, ErrNameTooLong)
	_, err = w.fs.Resolve(ctx, "/a/../b")
	w.fails(err, ErrInvalid)
	f := w.file(root, "f")
	_, err = w.fs.Create(ctx, f, "in a file", NewNode{Mode: format.TypeRegular})
	w.fails(err, ErrNotDir)
	_, err = w.fs.Create(ctx, 999, "nowhere", NewNode{Mode: format.TypeRegular})
	w.fails(err, ErrStale)
	_, err = w.fs.Lookup(ctx, root, "nothing")
	w.fails(err, ErrNotFound)
}

// Names of one hash live side by side, and each can be found and removed.
func TestNameCollisions(t *testing.T) {
	w := newWorld(t, 16<<20)
	w.mask, w.fs.hashMask = 1, 1 // two hashes for all names
	inos := make(map[string]format.Ino)
	for i := range 300 {
		name := fmt.Sprint("n", i)
		inos[name] = w.file(root, name)
		if i%3 == 0 {
			w.ok(w.fs.Unlink(ctx, root, name))
			delete(inos, name)
		}
	}
	a := w.file(root, "a")
	for i := range 40 { // back-pointers collide too
		_, err := w.fs.Link(ctx, a, root, fmt.Sprint("link", i))
		w.ok(err)
	}
	for i := range 40 {
		w.ok(w.fs.Unlink(ctx, root, fmt.Sprint("link", (i*7)%40)))
	}
	for name, ino := range inos {
		got, err := w.fs.Lookup(ctx, root, name)
		if err != nil || got.Ino != ino {
			t.Fatalf("%s: %v, %v", name, got.Ino, err)
		}
	}
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		_, err = w.fs.Create(ctx, root, fmt.Sprint("m", i), NewNode{})
	}
	w.fails(err, ErrNoSpace) // 256 names of one hash, no more
}

func TestReadDir(t *testing.T) {
	w := newWorld(t, 32<<20)
	want := make(map[string]bool)
	for i := range 1000 {
		name := fmt.Sprint("file ", i)
		w.file(root, name)
		want[name] = true
	}
	cursor := uint64(0)
	for {
		list, err := w.fs.ReadDir(ctx, root, cursor, 17)
		w.ok(err)
		for _, e := range list {
			if !want[e.Name] || e.Type != format.TypeRegular || e.Cursor <= cursor {
				t.Fatalf("unexpected entry %+v after %d", e, cursor)
			}
			delete(want, e.Name)
			cursor = e.Cursor
			if len(want)%2 == 0 { // removing what was listed disturbs nothing
				w.ok(w.fs.Unlink(ctx, root, e.Name))
			}
		}
		if len(list) == 0 {
			break
		}
	}
	if len(want) > 0 {
		t.Fatalf("%d names were not listed", len(want))
	}
}

func TestLinksAndPaths(t *testing.T) {
	w := newWorld(t, 16<<20)
	d, e := w.dir(root, "d"), w.dir(root, "e")
	f := w.file(d, "one")
	_, err := w.fs.Link(ctx, f, e, "two")
	w.ok(err)
	a, err := w.fs.Link(ctx, f, root, "three")
	w.ok(err)
	if a.Nlink != 3 {
		t.Fatal("link count", a.Nlink)
	}
	if got := w.fs.Paths(f, 10); len(got) != 3 || got[0] != "/d/one" {
		t.Fatal(got)
	}
	w.ok(w.fs.Unlink(ctx, d, "one")) // the primary name: another takes over
	if got := w.fs.Paths(f, 10); len(got) != 2 || strings.Contains(fmt.Sprint(got), "one") {
		t.Fatal(got)
	}
	_, err = w.fs.Link(ctx, d, root, "dir")
	w.fails(err, ErrInvalid)
	w.ok(w.fs.Rmdir(ctx, root, "d"))
	w.ok(w.fs.Unlink(ctx, e, "two"))
	w.ok(w.fs.Unlink(ctx, root, "three"))
	_, err = w.fs.GetAttr(ctx, f)
	w.fails(err, ErrStale)
}

func TestSymlinks(t *testing.T) {
	w := newWorld(t, 16<<20)
	d := w.dir(root, "d")
	f := w.file(d, "f")
	for _, target := range []string{"d/f", "/d/f", "./d/../d/f", "self/../d/f"} {
		_, err := w.fs.Symlink(ctx, root, "l", NewNode{Target: target})
		w.ok(err)
		a, err := w.fs.Resolve(ctx, "/l")
		if target == "self/../d/f" {
			w.fails(err, ErrNotFound)
		} else if w.ok(err); a.Ino != f {
			t.Fatal(target, a.Ino)
		}
		w.ok(w.fs.Unlink(ctx, root, "l"))
	}
	long := strings.Repeat("t", 4095)
	a, err := w.fs.Symlink(ctx, root, "long", NewNode{Target: long})
	w.ok(err)
	got, err := w.fs.Readlink(ctx, a.Ino)
	if err != nil || got != long {
		t.Fatal("long target:", err)
	}
	_, err = w.fs.Symlink(ctx, root, "longer", NewNode{Target: long + "t"})
	w.fails(err, ErrNameTooLong)
	_, err = w.fs.Symlink(ctx, root, "loop", NewNode{Target: "loop"})
	w.ok(err)
	_, err = w.fs.Resolve(ctx, "/loop")
	w.fails(err, ErrLoop)
	_, err = w.fs.Readlink(ctx, f)
	w.fails(err, ErrInvalid)
	w.ok(w.fs.Unlink(ctx, root, "long"))
}

func TestRenameModes(t *testing.T) {
	w := newWorld(t, 16<<20)
	a, b := w.dir(root, "a"), w.dir(root, "b")
	sub := w.dir(a, "sub")
	f, g := w.file(a, "f"), w.file(b, "g")
	mv := func(od format.Ino, on string, nd format.Ino, nn string, m RenameMode) error {
		return w.fs.Rename(ctx, od, on, nd, nn, m)
	}
	w.fails(mv(root, "a", sub, "x", RenameReplace), ErrInvalid)
	w.fails(mv(root, "a", a, "x", RenameReplace), ErrInvalid)
	w.fails(mv(a, "sub", root, "a", RenameReplace), ErrNotEmpty)
	w.fails(mv(a, "sub", root, "a", RenameExchange), ErrInvalid)
	w.fails(mv(a, "f", b, "g", RenameNoReplace), ErrExists)
	w.fails(mv(a, "f", root, "b", RenameReplace), ErrIsDir)
	w.fails(mv(a, "sub", b, "g", RenameReplace), ErrNotDir)
	w.fails(mv(a, "none", b, "g", RenameReplace), ErrNotFound)
	w.fails(mv(a, "f", b, "none", RenameExchange), ErrNotFound)
	w.ok(mv(a, "f", b, "g", RenameReplace))
	if x, err := w.fs.Lookup(ctx, b, "g"); err != nil || x.Ino != f {
		t.Fatal(x.Ino, err)
	}
	_, err := w.fs.GetAttr(ctx, g)
	w.fails(err, ErrStale)
	w.ok(mv(a, "sub", b, "g", RenameExchange)) // a directory against a file, over directories
	if p := w.fs.Paths(sub, 1); p[0] != "/b/g" {
		t.Fatal(p)
	}
	if p := w.fs.Paths(f, 1); p[0] != "/a/sub" {
		t.Fatal(p)
	}
	w.ok(mv(root, "a", root, "aa", RenameReplace))
	w.ok(mv(root, "aa", sub, "deep", RenameReplace))
	if x, err := w.fs.Resolve(ctx, "/b/g/deep/sub"); err != nil || x.Ino != f {
		t.Fatal(x.Ino, err)
	}
	h := w.file(root, "h")
	_, err = w.fs.Link(ctx, h, root, "h2")
	w.ok(err)
	w.ok(mv(root, "h", root, "h2", RenameReplace)) // two names of one inode: nothing happens
	if x, _ := w.fs.GetAttr(ctx, h); x.Nlink != 2 {
		t.Fatal("link count", x.Nlink)
	}
	w.ok(mv(root, "h2", a, "h3", RenameReplace)) // a name that is not the primary one
	empty := w.dir(root, "empty")
	w.ok(mv(b, "g", root, "empty", RenameReplace))
	_, err = w.fs.GetAttr(ctx, empty)
	w.fails(err, ErrStale)
}

func TestSparsePunchZeroSeek(t *testing.T) {
	w := newWorld(t, 32<<20)
	f := w.file(root, "f")
	const K = 4096
	w.write(f, 10*K, pattern(1, 3*K))
	want := make([]byte, 13*K)
	copy(want[10*K:], pattern(1, 3*K))
	same := func(what string) {
		t.Helper()
		if !bytes.Equal(w.read(f), want) {
			t.Fatal(what, "changed other bytes")
		}
	}
	same("sparse write")
	seek := func(hole bool, off, want int64) {
		t.Helper()
		call := w.fs.SeekData
		if hole {
			call = w.fs.SeekHole
		}
		if got, err := call(ctx, f, off); err != nil || got != want {
			t.Fatalf("seek hole=%t from %d: %d, %v; want %d", hole, off, got, err, want)
		}
	}
	seek(false, 0, 10*K)
	seek(true, 0, 0)
	seek(true, 10*K+1, 13*K)
	_, err := w.fs.SeekData(ctx, f, 13*K)
	w.fails(err, ErrNXIO)
	w.ok(w.fs.Fallocate(ctx, f, FallocPunchHole, 10*K+100, 2*K))
	clear(want[10*K+100 : 12*K+100])
	same("punch")
	seek(true, 10*K, 11*K)
	w.ok(w.fs.Fallocate(ctx, f, FallocZeroRange, 12*K+50, 2*K))
	want = append(want, make([]byte, K+50)...)
	clear(want[12*K+50:])
	same("zero range")
	w.ok(w.fs.Fallocate(ctx, f, FallocKeepSize, 0, 40*K))
	same("allocate")
	seek(false, 0, 0)
	w.ok(w.fs.Truncate(ctx, f, 12*K+60))
	want = want[:12*K+60]
	same("truncate")
	w.ok(w.fs.Truncate(ctx, f, 20*K))
	want = append(want, make([]byte, 20*K-len(want))...)
	same("extension")
	a, _ := w.fs.GetAttr(ctx, f)
	if a.Blocks != 13 {
		t.Fatal("blocks", a.Blocks)
	}
	w.ok(w.fs.Fallocate(ctx, f, FallocPunchHole, 0, 1<<40))
	clear(want)
	same("punching everything")
	if a, _ = w.fs.GetAttr(ctx, f); a.Blocks != 0 {
		t.Fatal("blocks", a.Blocks)
	}
	for _, bad := range [][2]int64{{-1, 5}, {0, 0}, {0, -5}} {
		w.fails(w.fs.Fallocate(ctx, f, FallocAllocate, bad[0], bad[1]), ErrInvalid)
	}
	w.fails(w.fs.Fallocate(ctx, f, FallocAllocate, 1<<62, 1<<62), ErrTooBig)
}

// What lies in the last page past the end never shows.
func TestStaleTailNeverShows(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	for _, grow := range []func(){
		func() { w.ok(w.fs.Truncate(ctx, f, 8000)) },
		func() { w.write(f, 3000, []byte("x")) },
		func() { w.write(f, 7000, []byte("x")) },
		func() { w.ok(w.fs.Fallocate(ctx, f, FallocAllocate, 0, 6000)) },
		func() { w.ok(w.fs.Fallocate(ctx, f, FallocZeroRange, 5000, 1000)) },
	} {
		w.write(f, 0, bytes.Repeat([]byte{0xee}, 4096))
		w.ok(w.fs.Truncate(ctx, f, 100))
		grow()
		for i, b := range w.read(f)[100:] {
			if b != 0 && b != 'x' {
				t.Fatalf("byte %d is %#x", i+100, b)
			}
		}
		w.ok(w.fs.Truncate(ctx, f, 0))
	}
}

func TestAppendAndBounds(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	for i := range 5 {
		off, err := w.fs.Append(ctx, f, []byte("12345"))
		if err != nil || off != int64(i*5) {
			t.Fatal(off, err)
		}
	}
	buf := make([]byte, 10)
	if n, err := w.fs.ReadAt(ctx, f, buf, 20); n != 5 || err != io.EOF {
		t.Fatal(n, err)
	}
	if n, err := w.fs.ReadAt(ctx, f, buf, 25); n != 0 || err != io.EOF {
		t.Fatal(n, err)
	}
	_, err := w.fs.WriteAt(ctx, f, buf, 1<<63-5)
	w.fails(err, ErrTooBig)
	_, err = w.fs.WriteAt(ctx, f, buf, -1)
	w.fails(err, ErrInvalid)
	_, err = w.fs.WriteAt(ctx, root, buf, 0)
	w.fails(err, ErrIsDir)
	w.ok(w.fs.Truncate(ctx, f, 1<<63-1))
	w.write(f, 1<<63-1-10, buf)
	w.ok(w.fs.Truncate(ctx, f, 0))
	w.fails(w.fs.Truncate(ctx, f, -1), ErrInvalid)
	w.fails(w.fs.Truncate(ctx, root, 0), ErrIsDir)
}

func TestXattrs(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	want := make(map[string][]byte)
	for i, n := range []int{0, 1, 900, 960, 5000, 65536} {
		name := fmt.Sprint("user.", i)
		want[name] = pattern(i, n)
		w.ok(w.fs.SetXattr(ctx, f, name, want[name], true, false))
	}
	w.ok(w.fs.SetXattr(ctx, f, "user.4", []byte("short now"), false, true))
	want["user.4"] = []byte("short now")
	w.ok(w.fs.SetXattr(ctx, f, "user.1", pattern(9, 3000), false, false))
	want["user.1"] = pattern(9, 3000)
	w.fails(w.fs.SetXattr(ctx, f, "user.1", nil, true, false), ErrExists)
	w.fails(w.fs.SetXattr(ctx, f, "user.no", nil, false, true), ErrNoData)
	w.fails(w.fs.SetXattr(ctx, f, "user.big", make([]byte, 65537), false, false), ErrTooBig)
	w.fails(w.fs.SetXattr(ctx, f, strings.Repeat("n", 256), nil, false, false), ErrNameTooLong)
	w.fails(w.fs.SetXattr(ctx, f, "a\x00b", nil, false, false), ErrInvalid)
	w.fails(w.fs.RemoveXattr(ctx, f, "user.no"), ErrNoData)
	w.remount()
	names, err := w.fs.ListXattr(ctx, f)
	w.ok(err)
	if len(names) != len(want) {
		t.Fatal(names)
	}
	for name, v := range want {
		got, err := w.fs.GetXattr(ctx, f, name)
		if err != nil || !bytes.Equal(got, v) {
			t.Fatalf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	w.ok(w.fs.RemoveXattr(ctx, f, "user.5"))
	_, err = w.fs.GetXattr(ctx, f, "user.5")
	w.fails(err, ErrNoData)
	w.ok(w.fs.Unlink(ctx, root, "f")) // attributes go with it
}

func TestSetAttr(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	mode, uid, gid := uint32(0o7600), uint32(5), uint32(6)
	when := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	a, err := w.fs.SetAttr(ctx, f, SetAttr{Mode: &mode, UID: &uid, GID: &gid, Atime: &when, Mtime: &when})
	w.ok(err)
	w.remount()
	b, err := w.fs.GetAttr(ctx, f)
	w.ok(err)
	if b.Mode != format.TypeRegular|0o7600 || b.UID != 5 || b.GID != 6 || !b.Mtime.Equal(when) || !b.Atime.Equal(when) || !b.Ctime.Equal(a.Ctime) {
		t.Fatalf("%+v", b)
	}
	far := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	_, err = w.fs.SetAttr(ctx, f, SetAttr{Mtime: &far})
	w.fails(err, ErrInvalid)
}

// An image that fills up refuses, and keeps what it has.
func TestNoSpaceLosesNothing(t *testing.T) {
	w := newWorld(t, 2<<20)
	keep := w.file(root, "keep")
	w.write(keep, 0, pattern(5, 100_000))
	f := w.file(root, "f")
	done, err := 0, error(nil)
	for err == nil {
		var n int
		n, err = w.fs.WriteAt(ctx, f, pattern(done, 150_000), int64(done))
		done += n
	}
	w.fails(err, ErrNoSpace)
	if a, _ := w.fs.GetAttr(ctx, f); a.Size != int64(done) {
		t.Fatalf("size %d after %d bytes", a.Size, done)
	}
	if done < 800<<10 {
		t.Fatalf("only %d bytes found room", done)
	}
	for err = nil; err == nil; { // and the rest of it
		_, err = w.fs.Append(ctx, f, pattern(1, 4096))
	}
	w.fails(err, ErrNoSpace)
	w.write(keep, 10, []byte("in place"))
	w.remount()
	want := pattern(5, 100_000)
	copy(want[10:], "in place")
	if !bytes.Equal(w.read(keep), want) {
		t.Fatal("a full image changed what was there")
	}
	w.ok(w.fs.Unlink(ctx, root, "f"))
	_, err = w.fs.WaitDurable(ctx)
	w.ok(err)
	g := w.file(root, "g")
	w.write(g, 0, pattern(1, 500_000))
}

func TestLinkLimit(t *testing.T) {
	w := newWorld(t, 64<<20)
	f := w.file(root, "f")
	in, err := w.fs.get(f)
	w.ok(err)
	defer w.fs.put(in)
	for i := range format.MaxLinks - 1 {
		if _, err := w.fs.Link(ctx, f, root, fmt.Sprint(i)); err != nil {
			t.Fatal(i, err)
		}
	}
	_, err = w.fs.Link(ctx, f, root, "one more")
	w.fails(err, ErrTooManyLink)
}

// Orphans: open when unlinked, and freed by Release, by a crash, by a remount.
func TestOrphans(t *testing.T) {
	w := newWorld(t, 16<<20)
	free := w.fs.Status().Space.Free
	f := w.file(root, "f")
	w.write(f, 0, pattern(1, 1<<20))
	w.ok(w.fs.Acquire(f))
	w.ok(w.fs.Unlink(ctx, root, "f"))
	if !bytes.Equal(w.read(f), pattern(1, 1<<20)) {
		t.Fatal("an open file lost its bytes with its name")
	}
	if n := w.fs.Status().PendingOrphans; n != 1 {
		t.Fatal("orphans", n)
	}
	_, err := w.fs.Link(ctx, f, root, "again")
	w.fails(err, ErrNotFound)
	_, err = w.fs.WaitDurable(ctx)
	w.ok(err)
	w.crash()
	waitFor(t, func() bool { return w.fs.Status().PendingOrphans == 0 })
	_, err = w.fs.GetAttr(ctx, f)
	w.fails(err, ErrStale)
	for range 3 {
		_, err = w.fs.WaitDurable(ctx)
		w.ok(err)
		w.file(root, fmt.Sprint(time.Now().UnixNano()))
	}
	if now := w.fs.Status().Space.Free; now+64<<10 < free {
		t.Fatalf("%d bytes free, %d before", now, free)
	}
	g := w.file(root, "g")
	w.write(g, 0, pattern(1, 1<<20))
	w.ok(w.fs.Acquire(g))
	w.ok(w.fs.Unlink(ctx, root, "g"))
	w.fs.Release(g)
	waitFor(t, func() bool { _, err := w.fs.GetAttr(ctx, g); return errors.Is(err, ErrStale) })
}

// waitFor gives background work time; it is for things that have no event.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen in 10 s")
		}
	}
}

func TestUpload(t *testing.T) {
	w := newWorld(t, 16<<20)
	put := func(data []byte, pre Precondition) (Attr, bool, error) {
		u, err := w.fs.NewUpload(ctx, NewNode{Mode: 0o600})
		w.ok(err)
		defer u.Close()
		n, err := u.ReadFrom(bytes.NewReader(data))
		if err != nil || n != int64(len(data)) {
			t.Fatal(n, err)
		}
		return u.Commit(ctx, root, "f", pre)
	}
	a, replaced, err := put(pattern(1, 3<<20), nil)
	if err != nil || replaced {
		t.Fatal(replaced, err)
	}
	if !bytes.Equal(w.read(a.Ino), pattern(1, 3<<20)) {
		t.Fatal("other bytes")
	}
	b, replaced, err := put([]byte("new"), func(old *Attr) error {
		if old == nil || old.Ino != a.Ino {
			return ErrPrecond
		}
		return nil
	})
	if err != nil || !replaced {
		t.Fatal(replaced, err)
	}
	_, err = w.fs.GetAttr(ctx, a.Ino)
	w.fails(err, ErrStale)
	_, _, err = put([]byte("refused"), func(*Attr) error { return ErrPrecond })
	w.fails(err, ErrPrecond)
	if got, _ := w.fs.Lookup(ctx, root, "f"); got.Ino != b.Ino {
		t.Fatal("a refused upload replaced the file")
	}
	waitFor(t, func() bool { return w.fs.Status().PendingOrphans == 0 })
}

func TestInodesListing(t *testing.T) {
	w := newWorld(t, 32<<20)
	d := w.dir(root, "d")
	var inos []format.Ino
	for i := range 50 {
		inos = append(inos, w.file(d, fmt.Sprint("f", i)))
	}
	var maps []*mapped
	for i := 10; i < 20; i++ {
		maps = append(maps, w.mapFile(inos[i], 1))
		if i < 15 {
			w.ok(maps[i-10].store(0, 'x'))
		}
	}
	yes, no := true, false
	list := func(f InodeFilter) []InodeInfo {
		t.Helper()
		var all []InodeInfo
		for {
			items, next, err := w.fs.Inodes(ctx, f)
			w.ok(err)
			all = append(all, items...)
			if next == "" {
				return all
			}
			if len(items) > f.Limit {
				t.Fatal(len(items), "items of at most", f.Limit)
			}
			f.Cursor = next
		}
	}
	for _, c := range []struct {
		f    InodeFilter
		want int
	}{
		{InodeFilter{Limit: 7}, 52}, {InodeFilter{Limit: 3, Dirty: &yes}, 5}, {InodeFilter{Limit: 5, Dirty: &yes}, 5},
		{InodeFilter{Limit: 4, Dirty: &no}, 47}, {InodeFilter{Limit: 2, Mapped: &yes}, 10}, {InodeFilter{Limit: 100, Mapped: &no}, 42},
		{InodeFilter{Limit: 3, Mapped: &yes, Dirty: &no}, 5}, {InodeFilter{Limit: 2, PathPrefix: "/d/f1"}, 11},
		{InodeFilter{Limit: 2, PathPrefix: "/none"}, 0},
	} {
		got := list(c.f)
		seen := make(map[format.Ino]bool)
		for i, in := range got {
			if seen[in.Ino] {
				t.Fatalf("%+v: inode %d twice", c.f, in.Ino)
			}
			seen[in.Ino] = true
			if i > 0 && in.Dirty && !got[i-1].Dirty {
				t.Fatalf("%+v: a dirty inode behind a clean one", c.f)
			}
		}
		if len(got) != c.want {
			t.Fatalf("%+v: %d inodes, want %d", c.f, len(got), c.want)
		}
	}
	for _, bad := range []string{"x", "!!", "ZA"} {
		_, _, err := w.fs.Inodes(ctx, InodeFilter{Cursor: bad})
		w.fails(err, ErrInvalid)
	}
	for _, p := range maps {
		w.ok(p.m.Unmap(ctx))
	}
}

func TestGrow(t *testing.T) {
	w := newWorld(t, 4<<20)
	f := w.file(root, "f")
	_, err := w.fs.WriteAt(ctx, f, make([]byte, 8<<20), 0)
	w.fails(err, ErrNoSpace)
	w.fails(w.fs.Grow(ctx, 1<<20), ErrInvalid)
	w.ok(w.fs.Grow(ctx, 32<<20))
	data := pattern(2, 8<<20)
	w.write(f, 0, data)
	w.freeze()
	w.fails(w.fs.Grow(TryOnly(ctx), 64<<20), freeze.ErrFrozen)
	w.thaw()
	w.remount()
	if !bytes.Equal(w.read(f), data) || w.fs.Status().Space.Total != 32<<20 {
		t.Fatal("not what was written, or not as large")
	}
}

package core

import (
	"fmt"
	"strings"
	"testing"

	"permafrost/core/format"
)

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

package core

import (
	"context"
	"testing"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// A caller's name is asked for when it has to wait, and only then.
func TestCallerFunc(t *testing.T) {
	w := newWorld(t, 16<<20)
	asked := 0
	named := WithCallerFunc(ctx, func() freeze.Waiter {
		asked++
		return freeze.Waiter{WayIn: "mount", PID: 42, Comm: "cp"}
	})
	f := w.file(root, "f")
	_, err := w.fs.WriteAt(named, f, []byte("x"), 0)
	w.ok(err)
	if asked != 0 {
		t.Fatal("the name was asked for without need")
	}
	w.freeze()
	short, cancel := context.WithCancel(named)
	done := make(chan error, 1)
	go func() {
		_, err := w.fs.WriteAt(short, f, []byte("y"), 0)
		done <- err
	}()
	eventually(t, "the write is held", func() bool { return w.fs.freezer.BlockedCount() == 1 })
	b := w.fs.freezer.Blocked(0, 10)
	if len(b) != 1 || b[0].PID != 42 || b[0].Comm != "cp" || b[0].WayIn != "mount" || b[0].Path != "/f" || b[0].Op != "write" {
		t.Fatalf("%+v", b)
	}
	cancel()
	w.fails(<-done, freeze.ErrFrozen)
	w.thaw()
	who := func() freeze.Waiter { return freeze.Waiter{PID: 42} }
	n := testing.AllocsPerRun(1000, func() { WithCallerFunc(ctx, who) })
	if n > 1 {
		t.Fatalf("%v allocations to name a caller", n)
	}
}

// In a directory with S_ISGID new nodes get its group, and directories the bit,
// for callers who ask for it.
func TestInheritGroup(t *testing.T) {
	w := newWorld(t, 16<<20)
	d := w.dir(root, "d")
	mode, gid := uint32(0o2775), uint32(77)
	_, err := w.fs.SetAttr(ctx, d, SetAttr{Mode: &mode, GID: &gid})
	w.ok(err)
	expect := func(what string, a Attr, err error, mode, gid uint32) {
		t.Helper()
		w.ok(err)
		if got, err := w.fs.GetAttr(ctx, a.Ino); err != nil || got.Mode&0o7777 != mode || got.GID != gid || a.GID != gid || got.UID != 5 {
			t.Errorf("%s: mode %o, group %d, %v; want mode %o, group %d", what, got.Mode, got.GID, err, mode, gid)
		}
	}
	n := NewNode{Mode: 0o750, UID: 5, GID: 6, InheritGroup: true}
	a, err := w.fs.Create(ctx, d, "f", n)
	expect("file", a, err, 0o750, 77)
	a, err = w.fs.Mkdir(ctx, d, "sub", n)
	expect("directory", a, err, 0o2750, 77)
	a, err = w.fs.Mkdir(ctx, a.Ino, "subsub", n)
	expect("directory below", a, err, 0o2750, 77)
	a, err = w.fs.Create(ctx, d, "pipe", NewNode{Mode: format.TypeFIFO | 0o600, UID: 5, GID: 6, InheritGroup: true})
	expect("pipe", a, err, 0o600, 77)
	a, err = w.fs.Symlink(ctx, d, "link", NewNode{Mode: 0o777, UID: 5, GID: 6, Target: "t", InheritGroup: true})
	expect("symlink", a, err, 0o777, 77)
	a, err = w.fs.Tmpfile(ctx, d, n)
	expect("file without a name", a, err, 0o750, 77)
	w.fs.Release(a.Ino)
	a, err = w.fs.Mkdir(ctx, root, "plain", n)
	expect("in a plain directory", a, err, 0o750, 6)
	n.InheritGroup = false
	a, err = w.fs.Mkdir(ctx, d, "own", n)
	expect("without asking", a, err, 0o750, 6)
}

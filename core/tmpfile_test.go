package core

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

func (w *world) tmpfile(p []byte) format.Ino {
	w.t.Helper()
	a, err := w.fs.Tmpfile(ctx, root, NewNode{Mode: 0o640, UID: 7, GID: 8})
	w.ok(err)
	if a.Nlink != 0 || a.Mode != format.TypeRegular|0o640 || a.UID != 7 || a.GID != 8 {
		w.t.Fatalf("%+v", a)
	}
	w.write(a.Ino, 0, p)
	return a.Ino
}

func (w *world) gone(ino format.Ino) {
	w.t.Helper()
	eventually(w.t, "the inode is freed", func() bool {
		_, err := w.fs.GetAttr(ctx, ino)
		return errors.Is(err, ErrStale) && w.fs.Status().PendingOrphans == 0
	})
}

// A file without a name lives as long as its maker keeps it.
func TestTmpfile(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.tmpfile(pattern(1, 9000))
	w.durable()
	if got := w.read(f); !bytes.Equal(got, pattern(1, 9000)) {
		t.Fatal("it reads wrong")
	}
	if n := w.fs.Status().PendingOrphans; n != 1 {
		t.Fatalf("%d orphans", n)
	}
	w.fs.Release(f)
	w.gone(f)
	_, err := w.fs.Link(ctx, f, root, "f")
	w.fails(err, ErrStale)

	f = w.tmpfile(pattern(2, 9000))
	w.durable()
	w.crash()
	w.gone(f)

	sub := w.dir(root, "sub")
	w.ok(w.fs.Acquire(sub))
	w.ok(w.fs.Rmdir(ctx, root, "sub"))
	_, err = w.fs.Tmpfile(ctx, sub, NewNode{})
	w.fails(err, ErrNotFound)
	w.fs.Release(sub)
	_, err = w.fs.Tmpfile(ctx, w.file(root, "file"), NewNode{})
	w.fails(err, ErrNotDir)
	_, err = w.fs.Tmpfile(ctx, root, NewNode{Mode: format.TypeDir})
	w.fails(err, ErrInvalid)
}

// Link gives it its name in one transaction, once; what had a name and lost it
// gets none again.
func TestLinkTmpfile(t *testing.T) {
	w := newWorld(t, 16<<20)
	w.file(root, "taken")
	f := w.tmpfile(pattern(1, 9000))
	w.durable() // its orphan record is in the image
	_, err := w.fs.Link(ctx, f, root, "taken")
	w.fails(err, ErrExists)
	a, err := w.fs.Link(ctx, f, root, "f")
	w.ok(err)
	if a.Nlink != 1 || w.fs.Status().PendingOrphans != 0 {
		t.Fatalf("%+v, %d orphans", a, w.fs.Status().PendingOrphans)
	}
	if p := w.fs.Paths(f, 5); len(p) != 1 || p[0] != "/f" {
		t.Fatal(p)
	}
	w.durable()
	w.crash()
	if got := w.read(w.lookup(root, "f")); !bytes.Equal(got, pattern(1, 9000)) {
		t.Fatal("it reads wrong after a crash")
	}
	a, err = w.fs.Link(ctx, f, root, "g")
	w.ok(err)
	if a.Nlink != 2 {
		t.Fatal("links: ", a.Nlink)
	}

	// Without a name again, but not as if it never had one.
	h := w.tmpfile(nil)
	_, err = w.fs.Link(ctx, h, root, "h")
	w.ok(err)
	w.ok(w.fs.Unlink(ctx, root, "h"))
	_, err = w.fs.Link(ctx, h, root, "h")
	w.fails(err, ErrNotFound)
	w.fs.Release(h)
	w.gone(h)
	w.ok(w.fs.Acquire(f))
	w.ok(w.fs.Unlink(ctx, root, "f"))
	w.ok(w.fs.Unlink(ctx, root, "g"))
	_, err = w.fs.Link(ctx, f, root, "f")
	w.fails(err, ErrNotFound)
	w.fs.Release(f)
	w.gone(f)

	// An upload is nobody's to link.
	u, err := w.fs.NewUpload(ctx, NewNode{})
	w.ok(err)
	_, err = w.fs.Link(ctx, u.Ino(), root, "u")
	w.fails(err, ErrNotFound)
	w.ok(u.Close())
}

func TestTmpfileWhileFrozen(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.tmpfile(nil)
	w.freeze()
	_, err := w.fs.Tmpfile(TryOnly(ctx), root, NewNode{})
	w.fails(err, freeze.ErrFrozen)
	_, err = w.fs.Link(TryOnly(ctx), f, root, "f")
	w.fails(err, freeze.ErrFrozen)
	w.fs.Release(f) // freed after the thaw
	w.thaw()
	w.gone(f)
}

// A Link that comes too late, while the file is being freed a part at a time,
// is refused.
func TestLinkAgainstReaper(t *testing.T) {
	w := newWorld(t, 64<<20)
	f := w.tmpfile(nil)
	for p := range int64(4 * cutRecords) {
		w.write(f, 2*p*format.PageSize, []byte{1})
	}
	in, err := w.fs.get(f) // as the reaper does, which is kept away by this pin
	w.ok(err)
	w.fs.Release(f)
	done, err := w.fs.reapStep(in)
	w.ok(err)
	a, err := w.fs.GetAttr(ctx, f)
	w.ok(err)
	if done || a.Blocks == 0 || a.Blocks == 4*cutRecords {
		t.Fatalf("%d blocks are left, done: %t", a.Blocks, done)
	}
	_, err = w.fs.Link(ctx, f, root, "f")
	w.fails(err, ErrNotFound)
	w.fs.put(in)
	w.gone(f)
}

// An orphan that was found half freed, by a crash for one, is consistent: what
// is left of its attributes and of its target begins anywhere.
func TestCheckHalfFreed(t *testing.T) {
	w := newWorld(t, 4<<20)
	f, err := w.fs.Symlink(ctx, root, "link", NewNode{Mode: 0o777, Target: strings.Repeat("t", format.MaxTarget)})
	w.ok(err)
	for i := range 3 {
		w.ok(w.fs.SetXattr(ctx, f.Ino, fmt.Sprint("user.", i), pattern(i, format.MaxXattrValue), true, false))
	}
	w.ok(w.fs.Acquire(f.Ino))
	w.ok(w.fs.Unlink(ctx, root, "link"))
	in, err := w.fs.get(f.Ino)
	w.ok(err)
	seen := 0
	for done := false; !done; seen++ {
		func() {
			in.mu.Lock()
			defer in.mu.Unlock()
			tx, err := w.fs.begin(8, 0, true)
			w.ok(err)
			done, err = tx.cutRecords(in, format.KindInode+1, 1+seen%4)
			w.ok(err)
			w.ok(tx.end())
		}()
		_, err := w.fs.WaitDurable(ctx)
		w.ok(err)
		m := w.imageCopy()
		if r, err := checkImage(ctx, m, w.mask, nil); err != nil || !r.OK() {
			t.Errorf("after step %d: %v, %+v", seen, err, r)
		}
		r, err := Repair(ctx, m, RepairOptions{})
		if err != nil || !r.OK() {
			t.Errorf("repair after step %d: %v, %+v", seen, err, r)
		}
		w.ok(m.Close())
		if t.Failed() {
			break
		}
	}
	if seen < 60 {
		t.Fatalf("%d steps", seen)
	}
	w.fs.put(in)
	w.fs.Release(f.Ino)
	w.gone(f.Ino)
}

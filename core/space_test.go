package core

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"permafrost/core/freeze"
)

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

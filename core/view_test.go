package core

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"permafrost/core/format"
)

// view is the bytes that View gives, copied.
func (w *world) view(ino format.Ino, off int64, n int) ([]byte, bool) {
	v, ok := w.fs.View(ctx, ino, off, n)
	defer v.Release()
	return bytes.Clone(v.Bytes()), ok
}

// What View gives is what ReadAt reads, and it gives exactly what lies in one
// run of blocks.
func TestViewReads(t *testing.T) {
	seed := seedOf(t)
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, 32<<20)
	f, other := w.file(root, "f"), w.file(root, "other")
	given, refused := 0, 0
	for i := range 3000 {
		off, n := r.Int64N(300_000), 1+r.IntN(60_000)
		switch r.IntN(12) {
		case 0, 1:
			w.write(f, off, pattern(i, n))
		case 2:
			w.write(other, off, pattern(i, n)) // so that files lie in pieces
		case 3:
			w.ok(w.fs.Fallocate(ctx, f, FallocPunchHole, off, int64(n)))
		case 4:
			w.ok(w.fs.Truncate(ctx, f, off))
		case 5:
			w.ok(w.fs.Fallocate(ctx, f, FallocAllocate, off, int64(n)))
		}
		off, n = r.Int64N(300_000), r.IntN(60_000)
		want := make([]byte, n)
		m, err := w.fs.ReadAt(ctx, f, want, off)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		got, ok := w.view(f, off, n)
		if ok && !bytes.Equal(got, want[:m]) {
			t.Fatalf("seed %d: View gives %d bytes at %d, ReadAt %d others", seed, len(got), off, m)
		}
		if one := m > 0 && w.oneRun(f, pageOf(off), pagesUp(off+int64(m))); ok != one {
			t.Fatalf("seed %d: %d bytes at %d lie in one run: %t, and View gives them: %t", seed, m, off, one, ok)
		}
		if ok {
			given++
		} else {
			refused++
		}
	}
	if given < 300 || refused < 300 {
		t.Fatalf("%d views were given, %d refused", given, refused)
	}
}

// oneRun looks at each page by itself.
func (w *world) oneRun(ino format.Ino, first, end format.Page) bool {
	var b format.Block
	for p := first; p < end; p++ {
		e, ok, err := w.fs.extentAt(ino, p)
		w.ok(err)
		if !ok || e.end() <= p || p > first && e.at(p) != b+format.Block(p-first) {
			return false
		}
		if p == first {
			b = e.at(p)
		}
	}
	return true
}

// Neighbouring extents whose blocks are neighbours too are one run.
func TestViewAcrossExtents(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	w.write(f, 0, pattern(1, 8*format.PageSize))
	if _, ok := w.view(f, 0, 8*format.PageSize); !ok {
		t.Skip("the file lies in pieces")
	}
	b := w.blockAt(f, 0)
	tx, err := w.fs.begin(4, 0, false)
	w.ok(err)
	tx.writeExtent(f, Extent{Page: 0, Block: b, Count: 3})
	tx.writeExtent(f, Extent{Page: 3, Block: b + 3, Count: 1})
	tx.writeExtent(f, Extent{Page: 4, Block: b + 4, Count: 4})
	w.ok(tx.end())
	if got, ok := w.view(f, 100, 7*format.PageSize); !ok || !bytes.Equal(got, pattern(1, 8*format.PageSize)[100:][:7*format.PageSize]) {
		t.Fatal("three extents side by side are not given as one run: ", ok)
	}
}

func TestViewRefuses(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	w.write(f, 3*format.PageSize, pattern(1, 5000))
	size := int64(3*format.PageSize + 5000)
	gone := w.file(root, "gone")
	w.write(gone, 0, pattern(1, 10))
	w.ok(w.fs.Unlink(ctx, root, "gone"))
	for _, x := range []struct {
		what string
		ino  format.Ino
		off  int64
		n    int
	}{
		{"no bytes", f, 3 * format.PageSize, 0},
		{"fewer than none", f, 3 * format.PageSize, -1},
		{"before the file", f, -1, 10},
		{"a hole", f, 0, 10},
		{"from a hole on", f, 2*format.PageSize + 4000, 1000},
		{"at the end", f, size, 1},
		{"past the end, in its last page", f, size + 1, 1},
		{"far past the end", f, 1<<62 + 5, 1 << 30},
		{"a directory", root, 0, 10},
		{"a freed inode", gone, 0, 10},
		{"no inode", 1 << 40, 0, 10},
	} {
		v, ok := w.fs.View(ctx, x.ino, x.off, x.n)
		if ok || v.Bytes() != nil {
			t.Errorf("%s: %d bytes are given", x.what, len(v.Bytes()))
		}
		v.Release()
	}
	if got, ok := w.view(f, size-7, 1<<30); !ok || len(got) != 7 {
		t.Errorf("%d bytes up to the end, %t", len(got), ok)
	}
	w.remount() // had any of them kept a pin or a lock, this would hang or tell
	in, err := w.fs.get(f)
	w.ok(err)
	if !in.mu.TryLock() || in.refs.Load() != 1 {
		t.Error("a refused View keeps the inode")
	}
	in.mu.Unlock()
	w.fs.put(in)
}

// Until Release nobody changes the bytes, and nobody gets their blocks.
func TestViewHolds(t *testing.T) {
	for _, how := range []string{"write", "truncate", "punch", "unlink"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, 8<<20)
			f := w.file(root, "f")
			want := pattern(5, 64<<10)
			w.write(f, 0, want)
			others := w.dir(root, "others")
			w.durable()
			v, ok := w.fs.View(ctx, f, 0, 64<<10)
			if !ok {
				t.Fatal("no view")
			}
			done := make(chan error, 1)
			go func() {
				var err error
				switch how {
				case "write":
					_, err = w.fs.WriteAt(ctx, f, pattern(6, 64<<10), 0)
				case "truncate":
					err = w.fs.Truncate(ctx, f, 0)
				case "punch":
					err = w.fs.Fallocate(ctx, f, FallocPunchHole, 0, 64<<10)
				case "unlink":
					err = w.fs.Unlink(ctx, root, "f")
				}
				done <- err
			}()
			// It waits for the lock as soon as readers are turned away.
			eventually(t, how+" waits for the view", func() bool {
				if v.in.mu.TryRLock() {
					v.in.mu.RUnlock()
					return false
				}
				return true
			})
			// Whatever is free is taken, by commits enough to make freed blocks free.
			for i := range 4 {
				g := w.file(others, fmt.Sprint(i))
				w.write(g, 0, pattern(9, 1<<20))
				w.durable()
			}
			select {
			case err := <-done:
				t.Fatal("it did not wait: ", err)
			default:
			}
			if !bytes.Equal(v.Bytes(), want) {
				t.Fatal("the bytes changed under the view")
			}
			v.Release()
			v.Release()
			w.ok(<-done)
		})
	}
}

// View renews the access time as ReadAt does.
func TestViewTouchesAtime(t *testing.T) {
	w := newWorld(t, 8<<20)
	f := w.file(root, "f")
	w.write(f, 0, pattern(1, 100))
	atime := func() time.Time {
		a, err := w.fs.GetAttr(ctx, f)
		w.ok(err)
		return a.Atime
	}
	view := func() {
		t.Helper()
		if got, ok := w.view(f, 0, 100); !ok || !bytes.Equal(got, pattern(1, 100)) {
			t.Fatal("no view, or of other bytes")
		}
	}
	made := atime()
	w.freeze()
	view()
	if !atime().Equal(made) {
		t.Fatal("a view moved the access time while frozen")
	}
	w.thaw()
	view()
	first := atime()
	if !first.After(made) {
		t.Fatal("a view after a write does not move the access time")
	}
	view()
	if !atime().Equal(first) {
		t.Fatal("the second view moves the access time again")
	}
	old := time.Now().Add(-25 * time.Hour)
	past := time.Now().Add(-26 * time.Hour)
	_, err := w.fs.SetAttr(ctx, f, SetAttr{Atime: &old, Mtime: &past})
	w.ok(err)
	view()
	if !atime().After(first) {
		t.Fatal("an access time of a day ago is not renewed")
	}
}

// Pages on the bad-block list are not given, recorded or not; a view of the
// others goes on.
func TestViewOfBadBlocks(t *testing.T) {
	w, path := fileWorld(t, 16<<20)
	w.write(w.file(root, "old"), 0, pattern(2, 11<<20)) // most of what there is
	w.durable()
	w.ok(w.fs.Grow(ctx, 32<<20)) // nodes stay below, new data goes above
	f := w.file(root, "f")
	w.write(f, 0, pattern(3, 4<<20))
	w.durable()
	const cutPage = 800
	cut := w.blockAt(f, cutPage)
	if w.blockAt(f, 1023) < cut || cut < 16<<20/format.BlockSize {
		t.Skip("the file does not lie in order")
	}
	views := func(p format.Page, want bool) {
		t.Helper()
		v, ok := w.fs.View(ctx, f, pageStart(p), format.PageSize)
		v.Release()
		if ok != want {
			t.Fatalf("a view of page %d is given: %t", p, ok)
		}
	}
	page := make([]byte, format.PageSize)
	meet := func(p format.Page) {
		t.Helper()
		w.ok(os.Truncate(path, int64(cut)*format.BlockSize))
		_, err := w.fs.ReadAt(ctx, f, page, pageStart(p))
		w.fails(err, ErrIO)
	}
	meet(900)
	eventually(t, "the block is recorded", func() bool { return w.fs.Status().BadBlocks == 1 && w.fs.Status().BadBlocksPending == 0 })
	views(900, false)
	w.freeze()
	meet(901)
	if n := w.fs.Status().BadBlocksPending; n != 1 {
		t.Fatalf("%d blocks are pending", n)
	}
	views(901, false)
	if _, ok := w.view(f, pageStart(700), 100*format.PageSize); !ok {
		t.Fatal("pages that can be read are not given")
	}
	v, ok := w.fs.View(ctx, f, pageStart(700), 250*format.PageSize)
	if v.Release(); ok {
		t.Fatal("a run with a bad block in the middle is given")
	}
	w.thaw()
	eventually(t, "the second block is recorded", func() bool { return w.fs.Status().BadBlocks == 2 && w.fs.Status().BadBlocksPending == 0 })
	w.durable()
	w.ok(os.Truncate(path, 32<<20))
	w.remount() // now both are known from the image alone
	views(900, false)
	views(901, false)
	views(902, true)
	w.unmount()
	w.opt.ReadOnly = true
	w.mount()
	views(900, false)
	w.unmount()
	w.ok(w.m.Close())
}

func TestViewAllocates(t *testing.T) {
	w := newWorld(t, 8<<20)
	f := w.file(root, "f")
	w.write(f, 0, pattern(1, 64<<10))
	w.view(f, 0, 1)
	n := testing.AllocsPerRun(1000, func() {
		v, ok := w.fs.View(ctx, f, 4096, 32<<10)
		if !ok {
			t.Fatal("no view")
		}
		v.Release()
	})
	if n != 0 {
		t.Fatalf("%v allocations a view", n)
	}
}

// BenchmarkRead is View and Release beside ReadAt of as many bytes. A view
// loads no byte.
func BenchmarkRead(b *testing.B) {
	const size = 64 << 20
	w := benchWorld(b, 200<<20)
	f := w.file(root, "f")
	for off := int64(0); off < size; off += 1 << 20 {
		w.write(f, off, pattern(1, 1<<20))
	}
	buf := make([]byte, 1<<20)
	for _, n := range []int{4 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("view/%dKiB", n>>10), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for i := range b.N {
				v, ok := w.fs.View(ctx, f, int64(i)*int64(n)%size, n)
				if !ok {
					b.Fatal("no view")
				}
				v.Release()
			}
		})
		b.Run(fmt.Sprintf("readat/%dKiB", n>>10), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for i := range b.N {
				if _, err := w.fs.ReadAt(ctx, f, buf[:n], int64(i)*int64(n)%size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package core

import (
	"bytes"
	"io"
	"testing"

	"permafrost/core/format"
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

package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem"
)

var ctx = context.Background()

// world is one image and the file system mounted from it. Every test that
// makes one ends with the full check, mounted and unmounted.
type world struct {
	t    testing.TB
	m    *pmem.Region
	fs   *FS
	opt  Options
	mask uint64
}

func newWorld(t testing.TB, size int64, opt ...func(*Options)) *world {
	t.Helper()
	m, err := pmem.CreateMemfd("core-test", size, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Mkfs(m, MkfsOptions{Label: "test"}); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, m: m, mask: ^uint64(0)}
	w.opt.CommitInterval = time.Hour
	for _, o := range opt {
		o(&w.opt)
	}
	w.mount()
	t.Cleanup(w.close)
	return w
}

func (w *world) mount() {
	w.t.Helper()
	fs, err := Mount(w.m, w.opt)
	if err != nil {
		w.t.Fatal(err)
	}
	fs.hashMask = w.mask
	w.fs = fs
}

func (w *world) unmount() {
	w.t.Helper()
	if err := w.fs.Unmount(ctx); err != nil {
		w.t.Fatal("unmount:", err)
	}
}

func (w *world) remount() {
	w.t.Helper()
	w.unmount()
	w.check()
	w.mount()
}

var zeroBlock = make([]byte, format.BlockSize)

// imageCopy is what the image holds now.
func (w *world) imageCopy() *pmem.Region {
	w.t.Helper()
	m, err := pmem.CreateMemfd("core-crash", w.m.Size(), pmem.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	b := m.Begin()
	for off := int64(0); off < w.m.Size(); off += format.BlockSize {
		if p := w.m.Bytes(off, format.BlockSize); !bytes.Equal(p, zeroBlock) {
			w.ok(b.Write(off, p))
		}
	}
	w.ok(b.Fence())
	b.End()
	return m
}

// crash goes on with what the image holds now, without unmount: as after the
// death of the process.
func (w *world) crash() {
	w.t.Helper()
	m := w.imageCopy()
	if err := errors.Join(w.fs.Unmount(ctx), w.m.Close()); err != nil {
		w.t.Fatal(err)
	}
	w.m = m
	w.check()
	w.mount()
}

func (w *world) check() {
	w.t.Helper()
	r, err := checkImage(ctx, w.m, w.mask, nil)
	if err != nil {
		w.t.Fatal("check:", err)
	}
	for _, p := range r.Problems {
		w.t.Error("check:", p)
	}
}

func (w *world) close() {
	w.t.Helper()
	if w.fs.store.Err() == nil && w.fs.freezer.Level() == freeze.Unfrozen {
		if r, err := w.fs.Check(ctx); err != nil {
			w.t.Error("check while mounted:", err)
		} else if !r.OK() {
			w.t.Error("check while mounted:", r.Problems[0])
		}
	}
	if err := w.fs.Unmount(ctx); err != nil && w.fs.store.Err() == nil {
		w.t.Error("unmount:", err)
	}
	w.check()
	if err := w.m.Close(); err != nil {
		w.t.Error(err)
	}
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) fails(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Fatalf("got %v, want %v", err, want)
	}
}

func (w *world) file(dir format.Ino, name string) format.Ino {
	w.t.Helper()
	a, err := w.fs.Create(ctx, dir, name, NewNode{Mode: format.TypeRegular | 0o644})
	w.ok(err)
	return a.Ino
}

func (w *world) dir(dir format.Ino, name string) format.Ino {
	w.t.Helper()
	a, err := w.fs.Mkdir(ctx, dir, name, NewNode{Mode: 0o755})
	w.ok(err)
	return a.Ino
}

func (w *world) write(ino format.Ino, off int64, p []byte) {
	w.t.Helper()
	n, err := w.fs.WriteAt(ctx, ino, p, off)
	if err != nil || n != len(p) {
		w.t.Fatalf("wrote %d of %d: %v", n, len(p), err)
	}
}

func (w *world) read(ino format.Ino) []byte {
	w.t.Helper()
	a, err := w.fs.GetAttr(ctx, ino)
	w.ok(err)
	p := make([]byte, a.Size)
	if n, err := w.fs.ReadAt(ctx, ino, p, 0); n != len(p) || err != nil && err != io.EOF {
		w.t.Fatalf("read %d of %d: %v", n, len(p), err)
	}
	return p
}

func (w *world) freeze() freeze.Hold {
	w.t.Helper()
	_, h, err := w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute})
	w.ok(err)
	return h
}

func (w *world) thaw() {
	w.t.Helper()
	r, err := w.fs.Thaw(ctx, freeze.ThawRequest{Holder: "test"})
	w.ok(err)
	if !r.Held {
		w.t.Fatal("the freeze was not held")
	}
}

// pattern is bytes that tell where they belong.
func pattern(seed, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(seed + i*7 + i>>8)
	}
	return p
}

// seed of a random test: PERMAFROST_SEED repeats a failed run.
func seedOf(t testing.TB) uint64 {
	if s := os.Getenv("PERMAFROST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal("PERMAFROST_SEED:", err)
		}
		return n
	}
	n := uint64(time.Now().UnixNano())
	t.Cleanup(func() {
		if t.Failed() {
			fmt.Printf("repeat with PERMAFROST_SEED=%d go test ./core -run '%s'\n", n, t.Name())
		}
	})
	return n
}

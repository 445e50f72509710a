package core

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"permafrost/core/format"
	"permafrost/pmem"
)

// snooper shows the image as it is just before and after every fence: what a
// crash there leaves, if everything stored by then has reached the medium.
type snooper struct {
	pmem.Medium
	on   atomic.Bool
	look func()
}

type snooperBatch struct {
	pmem.Batch
	m *snooper
}

func (m *snooper) Begin() pmem.Batch { return &snooperBatch{m.Medium.Begin(), m} }

func (b *snooperBatch) Fence() error {
	if b.m.on.Load() {
		b.m.look()
	}
	err := b.Batch.Fence()
	if b.m.on.Load() {
		b.m.look()
	}
	return err
}

// A crash at any fence leaves an image that checks clean, mounts, and has every
// file that was synced before, with its bytes.
func TestCrashAtEveryFence(t *testing.T) {
	seed := seedOf(t)
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, 4<<20)
	w.unmount()
	copied, err := pmem.CreateMemfd("core-crash", w.m.Size(), pmem.Options{})
	w.ok(err)
	defer copied.Close()
	m := &snooper{Medium: w.m}
	synced := make(map[string]byte) // name: what each of its bytes is
	looks := 0
	m.look = func() {
		if looks++; r.IntN(3) > 0 {
			return
		}
		// Not Fatal: the commit that is looked at holds locks.
		if err := w.verifyCopy(copied, synced); err != nil {
			t.Errorf("after look %d: %v", looks, err)
			m.on.Store(false)
		}
	}
	fs, err := Mount(m, w.opt)
	w.ok(err)
	w.fs = fs
	m.on.Store(true)
	for i := range 150 {
		name, c := fmt.Sprint("f", r.IntN(12)), byte(1+r.IntN(200))
		if a, err := w.fs.Lookup(ctx, root, name); err == nil {
			delete(synced, name)
			if r.IntN(3) == 0 {
				w.ok(w.fs.Unlink(ctx, root, name))
				continue
			}
			w.ok(w.fs.Truncate(ctx, a.Ino, 0))
			fillFile(w, a.Ino, c, 1+r.IntN(40_000))
			_, err = w.fs.Fsync(ctx, a.Ino, 0, 0)
			w.ok(err)
			synced[name] = c
			continue
		}
		ino := w.file(root, name)
		fillFile(w, ino, c, 1+r.IntN(40_000))
		if i%2 == 0 {
			_, err = w.fs.Fsync(ctx, ino, 0, 0)
			w.ok(err)
			synced[name] = c
		}
	}
	m.on.Store(false)
	if looks < 100 && !t.Failed() {
		t.Fatal("only", looks, "fences were seen")
	}
}

// verifyCopy copies the image, checks and mounts the copy, and looks for the
// files in it.
func (w *world) verifyCopy(to pmem.Medium, synced map[string]byte) error {
	b := to.Begin()
	err := errors.Join(b.Write(0, w.m.Bytes(0, w.m.Size())), b.Fence())
	b.End()
	if err != nil {
		return err
	}
	rep, err := checkImage(ctx, to, w.mask, nil)
	if err != nil {
		return err
	}
	if !rep.OK() {
		return fmt.Errorf("%d problems, the first: %v", rep.ProblemTotal, rep.Problems[0])
	}
	fs, err := Mount(to, w.opt)
	if err != nil {
		return err
	}
	for name, c := range synced {
		a, e := fs.Lookup(ctx, root, name)
		p := make([]byte, a.Size)
		if n, _ := fs.ReadAt(ctx, a.Ino, p, 0); e != nil || n == 0 || p[0] != c || p[n-1] != c {
			err = fmt.Errorf("%s: %d bytes are not those synced, %v", name, n, e)
		}
	}
	return errors.Join(err, fs.Unmount(ctx))
}

// fillFile writes n bytes c at the beginning of a file.
func fillFile(w *world, ino format.Ino, c byte, n int) {
	p := make([]byte, n)
	for i := range p {
		p[i] = c
	}
	w.write(ino, 0, p)
}

package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// The image of a freeze does not change, whatever is tried, and has every store
// that was finished before; nothing is lost after the thaw.
func TestFreezeHoldsStores(t *testing.T) {
	w := newWorld(t, 32<<20)
	const files, pages = 4, 8
	var stop atomic.Bool
	var wg sync.WaitGroup
	var last [files]atomic.Uint64
	var maps [files]*mapped
	var inos [files]format.Ino
	for i := range files {
		inos[i] = w.file(root, fmt.Sprint("f", i))
		maps[i] = w.mapFile(inos[i], pages)
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := uint64(0); !stop.Load(); n++ {
				if err := maps[i].store(format.Page(n%pages), byte(n)); errors.Is(err, freeze.ErrFrozen) {
					resumed := make(chan struct{})
					maps[i].m.Park(maps[i], format.Page(n%pages), func() { close(resumed) })
					<-resumed
					n--
					continue
				} else if err != nil {
					t.Error(err)
					return
				}
				last[i].Store(n + 1)
			}
		}()
	}
	wg.Add(1)
	go func() { // and a writer through the file system
		defer wg.Done()
		f := w.file(root, "g")
		for n := 0; !stop.Load(); n++ {
			w.write(f, int64(n%50)*4096, pattern(n, 4096))
		}
	}()
	for round := range 20 {
		time.Sleep(2 * time.Millisecond)
		var before [files]uint64
		for i := range before {
			before[i] = last[i].Load()
		}
		h := w.freeze()
		image := bytes.Clone(w.m.Bytes(0, w.m.Size()))
		r, err := checkImage(ctx, w.m, w.mask, nil)
		if err != nil || !r.OK() {
			t.Fatalf("round %d: %v %+v", round, err, r)
		}
		if s := w.fs.Status(); s.State != "frozen" || s.InodesDirty != 0 || s.DirtyPages != 0 {
			t.Fatalf("round %d: %s with %d dirty", round, s.State, s.DirtyPages)
		}
		for i := range files {
			got := w.read(inos[i])
			// byte p holds the last n with n%pages == p; one store may be in the image
			// and not in the count yet.
			n := last[i].Load()
			if n < before[i] {
				t.Fatal("a store was lost")
			}
			for back := uint64(1); back < min(n, pages); back++ {
				k := n - back
				if got[(k%pages)*4096] != byte(k) {
					t.Fatalf("round %d: store %d of file %d is not in the image", round, k, i)
				}
			}
		}
		w.fails(w.fs.Unlink(TryOnly(ctx), root, "f0"), freeze.ErrFrozen)
		w.ok(w.fs.freezerAnswers())
		time.Sleep(time.Millisecond)
		if !bytes.Equal(image, w.m.Bytes(0, w.m.Size())) {
			t.Fatalf("round %d: the image changed while frozen", round)
		}
		p := make([]byte, 4096)
		if _, err := w.fs.ReadImage(h.FreezeID, p, 0); err != nil || !bytes.Equal(p, image[:4096]) {
			t.Fatal("image read:", err)
		}
		w.thaw()
		if _, err := w.fs.ReadImage(h.FreezeID, p, 0); !errors.Is(err, freeze.ErrFreezeLost) {
			t.Fatal("image read after the thaw:", err)
		}
	}
	stop.Store(true)
	wg.Wait()
	for _, p := range maps {
		w.ok(p.m.Unmap(ctx))
	}
}

// freezerAnswers calls what must answer while frozen.
func (fs *FS) freezerAnswers() error {
	if _, err := fs.ReadDir(ctx, root, 0, 100); err != nil {
		return err
	}
	if _, err := fs.Fsync(ctx, root, 0, 0); err != nil {
		return err
	}
	if _, err := fs.Sync(ctx); err != nil {
		return err
	}
	if _, err := fs.WaitDurable(ctx); err != nil {
		return err
	}
	_, _, err := fs.Inodes(ctx, InodeFilter{})
	fs.Status()
	fs.Mappings()
	fs.Blocked()
	return err
}

// Mapping what is allocated changes nothing and so works while frozen; what
// must allocate waits.
func TestMapWhileFrozen(t *testing.T) {
	w := newWorld(t, 16<<20)
	f, g := w.file(root, "f"), w.file(root, "g")
	w.write(f, 0, pattern(1, 8192))
	w.freeze()
	p := w.mapFile(f, 2)
	w.fails(p.store(0, 'x'), freeze.ErrFrozen)
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, _, err := w.fs.Map(short, g, MapRequest{Length: 4096, Writable: true, Grow: true, Protector: newTable()})
	w.fails(err, freeze.ErrFrozen)
	w.ok(p.m.Unmap(ctx))
	w.thaw()
}

// walk-all gives the same image.
func TestWalkAllStrategy(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	p := w.mapFile(f, 8)
	w.ok(p.store(5, 'x'))
	_, _, err := w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute, WalkAll: true})
	w.ok(err)
	if got := p.calls[len(p.calls)-1]; !slices.Equal(got, []PageRun{{0, 8}}) {
		t.Fatal("protected", got)
	}
	if w.fs.Status().InodesDirty != 0 || w.read(f)[5*4096] != 'x' {
		t.Fatal("not clean, or not there")
	}
	w.thaw()
	w.ok(p.m.Unmap(ctx))
}

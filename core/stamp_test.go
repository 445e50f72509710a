package core

import (
	"testing"
	"time"
)

// A backup that trusts mtime must find every file that was stored to since the
// freeze before. These are the ways in which a stamp could get lost.

// TestStampOfRefusedStore: a store that is refused after its stamp leaves no
// stamp behind for the next dirty period.
func TestStampOfRefusedStore(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	p := w.mapFile(f, 4)
	ended := w.mapFile(f, 4)
	w.ok(ended.m.Unmap(ctx))
	refused := map[string]func() error{
		"past the mapping":    func() error { return p.m.Mkwrite(9, 1, p.grant) },
		"mapping that ended":  func() error { return ended.m.Mkwrite(0, 1, ended.grant) },
		"client that is gone": func() error { return p.m.Mkwrite(0, 1, func(PageRun) error { return ErrStale }) },
	}
	for name, store := range refused {
		w.fails(store(), ErrStale)
		w.freeze()
		frozen, err := w.fs.GetAttr(ctx, f)
		w.ok(err)
		w.thaw()
		time.Sleep(time.Millisecond)
		w.ok(p.store(1, 'x'))
		if a, err := w.fs.GetAttr(ctx, f); err != nil || !a.Mtime.After(frozen.Mtime) {
			t.Errorf("after a store refused for a %s, a store did not stamp mtime (%v)", name, err)
		}
		_, err = w.fs.Fsync(ctx, f, 0, 0)
		w.ok(err)
	}
	w.ok(p.m.Unmap(ctx))
}

// TestStampOfAdoptedStore: the stamp of a store may die with the server, before
// a commit; the store itself does not. Taking the page back stamps anew.
func TestStampOfAdoptedStore(t *testing.T) {
	w := newWorld(t, 16<<20)
	f := w.file(root, "f")
	p := w.mapFile(f, 4)
	w.freeze()
	frozen, err := w.fs.GetAttr(ctx, f)
	w.ok(err)
	w.thaw()
	time.Sleep(time.Millisecond)
	w.ok(p.store(1, 'x'))
	w.crash()
	for _, written := range [][]PageRun{nil, {{1, 1}}} {
		m, _, err := w.fs.AdoptMapping(f, MapRequest{Length: 4 * 4096, Writable: true, Protector: p}, written)
		w.ok(err)
		a, err := w.fs.GetAttr(ctx, f)
		w.ok(err)
		if stamped := a.Mtime.After(frozen.Mtime); stamped != (written != nil) {
			t.Errorf("taken back with %v written: stamped %v", written, stamped)
		}
		w.ok(m.Unmap(ctx))
	}
}

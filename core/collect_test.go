package core

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// scriptedCache is a way in whose stores come when it is collected.
type scriptedCache struct {
	preclean func()
	collect  func(ctx context.Context) (string, error)
}

func (c *scriptedCache) Preclean(context.Context, uint64) { c.preclean() }

func (c *scriptedCache) Collect(ctx context.Context, _ uint64) (string, error) { return c.collect(ctx) }

// What a cache writes back while it is collected is in the image; what others
// change meanwhile is not, and what comes afterwards is held.
func TestCollectTakesWriteBacks(t *testing.T) {
	w := newWorld(t, 8<<20)
	a, err := w.fs.Create(ctx, format.RootIno, "f", NewNode{Mode: 0o600})
	w.ok(err)
	_, err = w.fs.WriteAt(ctx, a.Ino, make([]byte, 8192), 0)
	w.ok(err)
	var order []string
	c := &scriptedCache{preclean: func() { order = append(order, "preclean") }}
	c.collect = func(context.Context) (string, error) {
		order = append(order, "collect")
		w.ok(w.fs.WriteBack(ctx, a.Ino, bytes.Repeat([]byte{7}, 4096), 4096))
		if _, err := w.fs.SetAttr(WroteBack(ctx), a.Ino, SetAttr{Mode: new(uint32)}); err != nil {
			t.Errorf("a change that a write-back may wait for: %v", err)
		}
		_, err := w.fs.WriteAt(TryOnly(ctx), a.Ino, []byte{9}, 0)
		if !errors.Is(err, freeze.ErrFrozen) {
			t.Errorf("a write while the cache is collected: %v", err)
		}
		return "collect", nil
	}
	remove, err := w.fs.AddCache(c)
	w.ok(err)
	if _, err := w.fs.AddCache(c); !errors.Is(err, ErrExists) {
		t.Errorf("a second cache: %v", err)
	}
	rec, h, err := w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute})
	w.ok(err)
	if len(order) != 2 || order[1] != "collect" || rec.Modes["mount"] != "collect" {
		t.Errorf("order %v, modes %v", order, rec.Modes)
	}
	if err := w.fs.WriteBack(TryOnly(ctx), a.Ino, []byte{8}, 4096); !errors.Is(err, freeze.ErrFrozen) {
		t.Errorf("a write-back while frozen: %v", err)
	}
	buf := make([]byte, 2)
	_, err = w.fs.ReadAt(ctx, a.Ino, buf, 4095)
	w.ok(err)
	if buf[0] != 0 || buf[1] != 7 {
		t.Errorf("the image has %v", buf)
	}
	_, err = w.fs.Thaw(ctx, freeze.ThawRequest{Hold: h.ID})
	w.ok(err)
	remove()
	rec, h, err = w.fs.Freeze(ctx, freeze.Request{Holder: "test", Lease: time.Minute})
	w.ok(err)
	if len(order) != 2 || rec.Modes["mount"] != "none" {
		t.Errorf("without the cache: order %v, modes %v", order, rec.Modes)
	}
	_, err = w.fs.Thaw(ctx, freeze.ThawRequest{Hold: h.ID})
	w.ok(err)
}

// A write-back stays within its file, whatever has become of it since.
func TestWriteBackStaysWithin(t *testing.T) {
	w := newWorld(t, 8<<20)
	a, err := w.fs.Create(ctx, format.RootIno, "f", NewNode{Mode: 0o600})
	w.ok(err)
	_, err = w.fs.WriteAt(ctx, a.Ino, []byte("0123456789"), 0)
	w.ok(err)
	w.ok(w.fs.WriteBack(ctx, a.Ino, bytes.Repeat([]byte{'x'}, 4096), 8))
	w.ok(w.fs.WriteBack(ctx, a.Ino, bytes.Repeat([]byte{'y'}, 4096), 4096))
	buf := make([]byte, 20)
	n, _ := w.fs.ReadAt(ctx, a.Ino, buf, 0)
	if got := string(buf[:n]); got != "01234567xx" {
		t.Errorf("the file holds %q", got)
	}
	w.fails(w.fs.WriteBack(ctx, a.Ino, []byte{1}, -1), ErrInvalid)
	w.fails(w.fs.WriteBack(ctx, 9999, []byte{1}, 0), ErrStale)
}

package pmem

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
)

// lockThreadForGood makes the thread end with its goroutine.
func lockThreadForGood() { runtime.LockOSThread() }

// truncated is a region of 8 pages of whose file only the first 4 are left.
func truncated(t *testing.T) *Region {
	t.Helper()
	path := filepath.Join(shmDir(t), "image")
	r, err := Create(path, 8*4096, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Truncate(path, 4*4096); err != nil {
		t.Fatal(err)
	}
	return r
}

const badOff = 4 * 4096

// wantMedia fails unless err is a *MediaError at off for op.
func wantMedia(t *testing.T, what string, err error, op string, off int64) {
	t.Helper()
	var m *MediaError
	if !errors.As(err, &m) {
		t.Errorf("%s: %v, want a MediaError", what, err)
		return
	}
	if m.Op != op || m.Off != off || !errors.Is(err, syscall.EIO) {
		t.Errorf("%s: %+v, want %s at %d", what, m, op, off)
	}
}

// load reads one byte as core's lookups do.
func load(m Medium, off int64) (v byte, err error) {
	prev := CatchFaults()
	defer Caught(prev, m, &err)
	return m.Bytes(0, m.Size())[off], nil
}

func TestFaultsBecomeErrors(t *testing.T) {
	r := truncated(t)
	if v, err := load(r, badOff-1); v != 0 || err != nil {
		t.Errorf("good page: %v", err)
	}
	_, err := load(r, badOff+5)
	wantMedia(t, "load", err, "load", badOff+5)

	n, err := r.ReadAt(make([]byte, 8192), badOff-4096)
	if e := (*MediaError)(nil); !errors.As(err, &e) || e.Op != "read" || e.Off < badOff || e.Off >= badOff+4096 {
		t.Errorf("ReadAt: %v", err) // which byte is first is up to memmove
	}
	if n != 0 {
		t.Errorf("ReadAt copied %d", n)
	}
	for _, length := range []int{1, 63, 255, 256, 4096, 4097} {
		for _, off := range []int64{badOff, badOff + 1, badOff + 64, badOff + 77} {
			b := r.Begin()
			err := b.Write(off, make([]byte, length))
			if e := (*MediaError)(nil); !errors.As(err, &e) || e.Op != "write" || e.Off < badOff || e.Off >= off+int64(length) {
				t.Errorf("Write(%d, %d): %v", off, length, err)
			}
			if err := b.Fence(); !errors.Is(err, ErrFenceFailed) || !errors.Is(err, syscall.EIO) {
				t.Errorf("the fence after it: %v", err)
			}
			b.End()

			b = r.Begin()
			err = b.Zero(off, int64(length))
			if e := (*MediaError)(nil); !errors.As(err, &e) || e.Op != "zero" || e.Off < badOff || e.Off >= off+int64(length) {
				t.Errorf("Zero(%d, %d): %v", off, length, err)
			}
			if err := b.Fence(); !errors.Is(err, ErrFenceFailed) {
				t.Errorf("the fence after it: %v", err)
			}
			b.End()
		}
	}
	b := r.Begin()
	wantMedia(t, "Flush", b.Flush(badOff+70, 1), "flush", badOff+64)
	if err := b.Fence(); !errors.Is(err, ErrFenceFailed) {
		t.Errorf("fence after a failed flush: %v", err)
	}
	b.End()
	b = r.Begin()
	wantMedia(t, "write across", b.Write(badOff-1000, make([]byte, 2000)), "write", badOff)
	b.End()

	// A copy whose source is bad, from block to block of the same medium.
	b = r.Begin()
	wantMedia(t, "bad source", b.Write(0, r.Bytes(badOff, 4096)), "write", badOff)
	b.End()

	// The region still works.
	mustWrite(t, r, 0, make([]byte, 4096))
	if debug.SetPanicOnFault(false) {
		t.Error("the setting was not restored")
	}
}

// TestFaultInEveryLoop runs each assembly loop, also those this processor would
// not choose, up to the bad page, which must be fine, and one line into it.
func TestFaultInEveryLoop(t *testing.T) {
	for name, loop := range loops() {
		r := truncated(t)
		into := func(lines, over int64) (err error) {
			prev := CatchFaults()
			defer Caught(prev, r, &err)
			loop.run(r.at(badOff-(lines-over)*lineBytes), r.at(0), uintptr(lines))
			return nil
		}
		for lines := int64(1); lines < 12; lines++ {
			if err := into(lines, 0); err != nil {
				t.Errorf("%s of %d lines goes too far: %v", name, lines, err)
			}
			wantMedia(t, name, into(lines, 1), "load", badOff)
		}
	}
}

func TestForeignPanicsGoOn(t *testing.T) {
	r := truncated(t)
	other := truncated(t)
	for name, blow := range map[string]func(){
		"panic":          func() { panic("boom") },
		"nil":            func() { var p *int; *p = 1 },
		"index":          func() { i := 9; _ = make([]byte, 3)[i] },
		"another medium": func() { other.Bytes(badOff, 1)[0] = 1 },
		"past the end":   func() { *(*byte)(r.at(8 * 4096)) = 1 },
	} {
		var err error
		again := func() (p any) {
			defer func() { p = recover() }()
			prev := CatchFaults()
			defer Caught(prev, r, &err)
			blow()
			return nil
		}()
		if again == nil || err != nil {
			t.Errorf("%s: panic %v, error %v", name, again, err)
		}
		if debug.SetPanicOnFault(false) {
			t.Errorf("%s: the setting was not restored", name)
		}
	}
}

func TestCaughtNests(t *testing.T) {
	r := truncated(t)
	var err error
	func() {
		prev := CatchFaults()
		defer Caught(prev, r, &err)
		if _, e := load(r, badOff); e == nil {
			t.Error("inner load succeeded")
		}
		v := r.Bytes(badOff, 1)[0] // still caught out here
		t.Errorf("outer load read %d", v)
	}()
	wantMedia(t, "outer", err, "load", badOff)
}

package core

import (
	"bytes"
	"testing"
)

func TestUpload(t *testing.T) {
	w := newWorld(t, 16<<20)
	put := func(data []byte, pre Precondition) (Attr, bool, error) {
		u, err := w.fs.NewUpload(ctx, NewNode{Mode: 0o600})
		w.ok(err)
		defer u.Close()
		n, err := u.ReadFrom(bytes.NewReader(data))
		if err != nil || n != int64(len(data)) {
			t.Fatal(n, err)
		}
		return u.Commit(ctx, root, "f", pre)
	}
	a, replaced, err := put(pattern(1, 3<<20), nil)
	if err != nil || replaced {
		t.Fatal(replaced, err)
	}
	if !bytes.Equal(w.read(a.Ino), pattern(1, 3<<20)) {
		t.Fatal("other bytes")
	}
	b, replaced, err := put([]byte("new"), func(old *Attr) error {
		if old == nil || old.Ino != a.Ino {
			return ErrPrecond
		}
		return nil
	})
	if err != nil || !replaced {
		t.Fatal(replaced, err)
	}
	_, err = w.fs.GetAttr(ctx, a.Ino)
	w.fails(err, ErrStale)
	_, _, err = put([]byte("refused"), func(*Attr) error { return ErrPrecond })
	w.fails(err, ErrPrecond)
	if got, _ := w.fs.Lookup(ctx, root, "f"); got.Ino != b.Ino {
		t.Fatal("a refused upload replaced the file")
	}
	waitFor(t, func() bool { return w.fs.Status().PendingOrphans == 0 })
}

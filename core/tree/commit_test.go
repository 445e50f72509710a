package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"permafrost/core/format"
)

// gate stops a medium's fences until they are let through.
type gate struct {
	stopped chan struct{} // a fence has come
	pass    chan struct{}
}

// stopFences makes the next fence of m wait for pass.
func stopFences(m *heapMedium) *gate {
	g := &gate{stopped: make(chan struct{}), pass: make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onFence = func() error {
		m.onFence = nil
		m.mu.Unlock()
		close(g.stopped)
		<-g.pass
		m.mu.Lock()
		return nil
	}
	return g
}

// TestWhileSealed changes and reads the tree while a commit is stuck in its
// fence: sealed nodes are copied, and pointers to them stay good (T3, T12).
func TestWhileSealed(t *testing.T) {
	rnd := newRand(t)
	h := newHarness(t, rnd, 8<<20)
	h.inos, h.maxValue = 100, 60
	for range 150 {
		for range rnd.IntN(12) {
			h.step()
		}
		g := stopFences(h.m)
		done := make(chan error, 1)
		atSeal := h.now.clone()
		// Without deferred records, so that the model is known at the seal.
		go func() {
			_, err := h.s.Commit(context.Background(), CommitOptions{FreezeID: 1})
			done <- err
		}()
		<-g.stopped
		for range rnd.IntN(12) {
			h.step()
		}
		if rnd.IntN(4) == 0 {
			h.verify(h.now)
		}
		close(g.pass)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if rnd.IntN(8) == 0 {
			h.verify(h.now)
		}
		if rnd.IntN(5) == 0 {
			// What is durable now is the tree as it was sealed.
			c := h.m.clone()
			checkImage(t, c)
			s := h.s
			h.s = mustOpen(t, c, Options{ReadOnly: true})
			if h.s.Counters().Records != uint64(len(atSeal.recs)) {
				t.Fatal("the sealed tree changed")
			}
			h.verify(atSeal)
			h.s = s
		}
	}
	checkStore(t, h.s)
	h.verify(h.now)
	finish(t, h.s, h.m)
}

// stuckTree is a store with n records of three a leaf, ascending. Their commit
// is stuck until done is called; or, with touch, they are durable, and the
// commit of a change to record touch is stuck.
func stuckTree(t *testing.T, n, touch int) (s *Store, m *heapMedium, done func()) {
	t.Helper()
	m = mkfs(t, 16<<20)
	s = mustOpen(t, m, testOptions())
	for i := range n {
		put(t, s, deepKey(i), make([]byte, 1270))
	}
	if touch > 0 {
		checkStore(t, s)
		put(t, s, deepKey(touch), []byte("touched"))
	}
	g := stopFences(m)
	res := make(chan error, 1)
	go func() {
		_, err := s.Commit(context.Background(), CommitOptions{})
		res <- err
	}()
	<-g.stopped
	return s, m, func() {
		close(g.pass)
		if err := <-res; err != nil {
			t.Fatal(err)
		}
	}
}

func deepKey(i int) Key { return Key{Ino: format.Ino(i + 1), Off: 1} }

// TestShapeWhileSealed splits, merges and takes away nodes that are copies of
// sealed ones: the handles in them must become checksums wherever they end up
// (T12).
func TestShapeWhileSealed(t *testing.T) {
	del := func(t *testing.T, s *Store, from, to int) {
		update(t, s, Reserve{Nodes: 100}, func(tx *Tx) {
			if n, err := tx.DeleteRange(deepKey(from), deepKey(to), to, nil); n != to-from || err != nil {
				t.Fatal(n, err)
			}
		})
	}
	for _, c := range []struct {
		name   string
		n      int // records: 3 a leaf; the left one of two inner nodes has 100 leaves
		touch  int
		depth  int // before
		change func(t *testing.T, s *Store)
	}{
		{"split", 300, 0, 2, func(t *testing.T, s *Store) {
			for i := range 10 {
				put(t, s, Key{Ino: format.Ino(100), Off: uint64(2 + i)}, make([]byte, 1270))
			}
		}},
		{"merge with a sealed neighbour", 420, 0, 3, func(t *testing.T, s *Store) { del(t, s, 0, 231) }},
		{"merge with a copied neighbour", 420, 0, 3, func(t *testing.T, s *Store) {
			put(t, s, deepKey(400), nil)
			del(t, s, 0, 231)
		}},
		{"merge to the left", 420, 0, 3, func(t *testing.T, s *Store) {
			del(t, s, 0, 150)
			del(t, s, 330, 390)
		}},
		{"durable node with a sealed neighbour", 420, 400, 3, func(t *testing.T, s *Store) { del(t, s, 0, 231) }},
		{"durable node with a copied neighbour", 420, 400, 3, func(t *testing.T, s *Store) {
			put(t, s, deepKey(410), nil)
			del(t, s, 0, 231)
		}},
		{"another root", 6, 0, 2, func(t *testing.T, s *Store) { del(t, s, 0, 3) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, m, done := stuckTree(t, c.n, c.touch)
			if d := s.Info().Depth; d != c.depth {
				t.Fatalf("depth %d before", d)
			}
			c.change(t, s)
			if d := s.Info().Depth; d == c.depth && c.depth != 3 || d == 3 && c.depth == 3 {
				t.Fatalf("depth %d after: the shape did not change", d)
			}
			done()
			finish(t, s, m)
		})
	}
}

// TestFailedCommit fails every write and fence of a commit in turn: the ERROR
// state is entered, told to everybody, and left by a remount only (T11).
func TestFailedCommit(t *testing.T) {
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	for i := range 200 {
		put(t, s, Key{Ino: format.Ino(i + 1)}, bytes.Repeat([]byte{1}, 100))
	}
	finish(t, s, m)
	for n := 1; ; n++ {
		c := m.clone()
		s := mustOpen(t, c, testOptions())
		put(t, s, Key{Ino: 7}, []byte("new"))
		count := 0
		fault := func() error {
			if count++; count == n {
				return errPlanted
			}
			return nil
		}
		c.onWrite = func(int64, []byte) error { return fault() }
		c.onFence = fault
		err := s.WaitDurable(context.Background(), s.OpenGeneration())
		c.onWrite, c.onFence = nil, nil
		if count < n { // every place has had its fault
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, c)
			if n < 5 {
				t.Fatalf("only %d places to fail", n)
			}
			return
		}
		if !errors.Is(err, ErrState) || !errors.Is(err, errPlanted) || !errors.Is(s.Err(), errPlanted) {
			t.Fatalf("fault %d: %v", n, err)
		}
		if _, err := s.Begin(Reserve{Nodes: 1}); !errors.Is(err, ErrState) {
			t.Fatalf("begin in the ERROR state: %v", err)
		}
		if v, err := s.Get(Key{Ino: 7}, nil); err != nil || string(v) != "new" {
			t.Fatalf("get in the ERROR state: %q, %v", v, err)
		}
		if err := s.Close(context.Background()); !errors.Is(err, ErrState) {
			t.Fatalf("close in the ERROR state: %v", err)
		}
		checkImage(t, c)
		again := mustOpen(t, c, testOptions())
		if _, err := again.Get(Key{Ino: 7}, nil); err != nil {
			t.Fatal(err)
		}
		finish(t, again, c)
	}
}

// TestHalfTransaction: an error after a transaction's first change must not let
// the other half be committed.
func TestHalfTransaction(t *testing.T) {
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	for i := range 300 {
		put(t, s, Key{Ino: format.Ino(i + 1)}, bytes.Repeat([]byte{1}, 200))
	}
	checkStore(t, s)
	finish(t, s, m)
	// Damage the last leaf.
	img, err := readImage(m)
	if err != nil {
		t.Fatal(err)
	}
	root := (*format.Node)(m.Bytes(int64(img.commits[0].Roots[0].Block)*format.BlockSize, format.BlockSize))
	bad := root.Child(root.Count() - 1).Block
	clean := m.clone()
	m.data[int64(bad)*format.BlockSize+2000] ^= 1

	s = mustOpen(t, m, testOptions()) // by snapshot: nothing is walked
	tx, err := s.Begin(Reserve{Nodes: 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Put(Key{Ino: 300}, nil); !errors.Is(err, format.ErrDamaged) {
		t.Fatalf("put into a damaged leaf: %v", err)
	}
	if s.Failed() != nil || s.Err() == nil {
		t.Fatal("nothing was changed: damage (T14), and not the ERROR state: ", s.Failed(), s.Err())
	}
	if err := tx.Put(Key{Ino: 1}, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Delete(Key{Ino: 300}); !errors.Is(err, ErrState) || !errors.Is(err, format.ErrDamaged) {
		t.Fatalf("second half failed: %v", err)
	}
	tx.End()
	if _, err := s.Commit(context.Background(), CommitOptions{}); !errors.Is(err, ErrState) {
		t.Fatalf("half a transaction was committed: %v", err)
	}
	checkImage(t, clean)
}

// TestGroupCommit: callers that wait for the same group share a commit, and a
// cancelled one leaves.
func TestGroupCommit(t *testing.T) {
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	put(t, s, Key{Ino: 1}, nil)
	g := stopFences(m)
	first := make(chan error, 1)
	go func() { first <- s.WaitDurable(context.Background(), s.OpenGeneration()) }()
	<-g.stopped
	const callers = 20
	start := s.OpenGeneration()
	var wg sync.WaitGroup
	for i := range callers {
		put(t, s, Key{Ino: format.Ino(10 + i)}, nil)
		wg.Go(func() {
			if err := s.WaitDurable(context.Background(), start); err != nil {
				t.Error(err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := s.WaitDurable(ctx, start); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("cancelled wait: %v", err)
	}
	close(g.pass)
	wg.Wait()
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if d := s.DurableGeneration(); d != start {
		t.Fatalf("%d callers took the commits up to %d, want %d", callers, d, start)
	}
	if err := s.WaitDurable(context.Background(), start+2); err == nil {
		t.Fatal("waited for a generation not begun")
	}
	if err := s.WaitDurable(context.Background(), start+1); err != nil {
		t.Fatalf("nothing to wait for: %v", err)
	}
	finish(t, s, m)
}

// TestFreezeCommit: a freeze id writes a record even if nothing changed, and
// the next mount knows it.
func TestFreezeCommit(t *testing.T) {
	m := mkfs(t, 1<<20)
	s := mustOpen(t, m, testOptions())
	before := s.DurableGeneration()
	if g, err := s.Commit(context.Background(), CommitOptions{}); err != nil || g != before {
		t.Fatalf("commit of nothing: %d, %v", g, err)
	}
	g, err := s.Commit(context.Background(), CommitOptions{FreezeID: 42})
	if err != nil || g != before+1 || s.Info().FreezeID != 42 {
		t.Fatalf("freeze commit: %d, %v", g, err)
	}
	frozen := m.clone()
	if r := checkImage(t, frozen); r.FreezeID != 42 || r.Generation != g {
		t.Fatalf("report %+v", r)
	}
	ro := mustOpen(t, frozen, Options{ReadOnly: true})
	if i := ro.Info(); i.MountedFreezeID != 42 || i.FreezeID != 42 {
		t.Fatalf("info %+v", i)
	}
	if !bytes.Equal(frozen.data, m.data) {
		t.Fatal("a read-only mount changed the image")
	}
	finish(t, s, m)
}

// TestConcurrent runs writers, readers and committers together; the race
// detector watches the heap medium.
func TestConcurrent(t *testing.T) {
	m := mkfs(t, 8<<20)
	s := mustOpen(t, m, testOptions())
	const writers, rounds = 3, 400
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				tx, err := s.Begin(Reserve{Nodes: s.NodesFor(3)})
				if err != nil {
					t.Error(err)
					return
				}
				// Two records that always agree.
				k := format.Ino(1 + (i*7)%50)
				v := fmt.Append(nil, w, i)
				err = errors.Join(tx.Put(Key{Ino: k, Kind: uint8(w), Off: 0}, v), tx.Put(Key{Ino: k, Kind: uint8(w), Off: 1 << 40}, v))
				if i%5 == 4 {
					_, e := tx.Delete(Key{Ino: k, Kind: uint8(w), Off: 0})
					_, f := tx.Delete(Key{Ino: k, Kind: uint8(w), Off: 1 << 40})
					err = errors.Join(err, e, f)
				}
				g := tx.Generation()
				tx.End()
				if err == nil && i%3 == 0 {
					err = s.WaitDurable(context.Background(), g)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				last := Key{}
				err := s.Scan(Key{}, format.MaxKey, func(k Key, v []byte) bool {
					if k.Less(last) {
						t.Errorf("%v after %v", k, last)
					}
					last = k
					return true
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	// Every commit must hold both records of a pair: look at the last one.
	checkStore(t, s)
	err := s.Scan(Key{}, format.MaxKey, func(k Key, v []byte) bool {
		k.Off ^= 1 << 40
		if w, err := s.Get(k, nil); err != nil || !bytes.Equal(v, w) {
			t.Errorf("%v: %q, %q, %v", k, v, w, err)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	finish(t, s, m)
}

// TestOnSeal: the callback's records land in the commit that is being sealed,
// and replacing one whose leaf the group owns takes no node even if none is
// left (T4, T10).
func TestOnSeal(t *testing.T) {
	m := mkfs(t, 1<<20)
	o := testOptions()
	var sealed format.Generation
	var free [2]uint64
	var s *Store
	o.OnSeal = func(tx *Tx) error {
		sealed = tx.Generation()
		free[0] = s.Space().Free
		err := tx.Put(Key{Ino: 5}, []byte("deferred"))
		free[1] = s.Space().Free
		return err
	}
	s = mustOpen(t, m, o)
	put(t, s, Key{Ino: 5}, []byte("12345678"))
	// Whatever is left is promised to somebody else.
	all := s.alloc.avail.Swap(0)
	g, err := s.Commit(context.Background(), CommitOptions{})
	s.alloc.avail.Add(all)
	if err != nil || g != sealed || free[0] != free[1] {
		t.Fatalf("generation %d, sealed %d, %v; %v blocks were free", g, sealed, err, free)
	}
	if v, err := s.Get(Key{Ino: 5}, nil); err != nil || string(v) != "deferred" {
		t.Fatalf("%q, %v", v, err)
	}
	if r := checkImage(t, m.clone()); r.Generation != g || r.Records != 1 {
		t.Fatalf("%+v", r)
	}
	finish(t, s, m)
}

// TestOnSealFails: an error of the callback is the ERROR state (T11).
func TestOnSealFails(t *testing.T) {
	m := mkfs(t, 1<<20)
	o := testOptions()
	fail := false
	o.OnSeal = func(tx *Tx) error {
		if !fail {
			return nil
		}
		return errors.Join(tx.Put(Key{Ino: 6}, nil), errPlanted)
	}
	s := mustOpen(t, m, o)
	put(t, s, Key{Ino: 5}, []byte("kept"))
	checkStore(t, s)
	fail = true
	put(t, s, Key{Ino: 5}, []byte("lost"))
	if err := s.WaitDurable(context.Background(), s.OpenGeneration()); !errors.Is(err, ErrState) || !errors.Is(err, errPlanted) {
		t.Fatal(err)
	}
	if r := checkImage(t, m); r.Records != 1 {
		t.Fatalf("%+v", r)
	}
	again := mustOpen(t, m, testOptions())
	if v, err := again.Get(Key{Ino: 5}, nil); err != nil || string(v) != "kept" {
		t.Fatalf("%q, %v", v, err)
	}
	finish(t, again, m)
}

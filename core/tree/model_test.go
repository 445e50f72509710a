package tree

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"permafrost/core/format"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0: a new one, printed")

func newRand(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to repeat: go test -run '%s$' -seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// model is what a store should hold.
type model struct {
	recs map[Key][]byte
	keys []Key // sorted; nil when out of date
}

func (m *model) sorted() []Key {
	if m.keys == nil {
		m.keys = slices.SortedFunc(maps.Keys(m.recs), Key.Compare)
	}
	return m.keys
}

func (m *model) clone() *model { return &model{recs: maps.Clone(m.recs)} }

// harness drives a store and its model with random operations.
type harness struct {
	t        testing.TB
	rnd      *rand.Rand
	m        *heapMedium
	s        *Store
	now      *model                       // after the last operation
	durable  map[format.Generation]*model // by generation that may be mounted
	deferred map[Key][]byte               // written by OnSeal
	inos     uint64                       // spread of the keys
	maxValue int
	maxRange int
	full     int // how often the image was full
}

func newHarness(t testing.TB, rnd *rand.Rand, size int64) *harness {
	h := &harness{
		t: t, rnd: rnd, m: mkfs(t, size), now: &model{recs: map[Key][]byte{}},
		durable: map[format.Generation]*model{}, deferred: map[Key][]byte{}, inos: 40, maxValue: 200, maxRange: 200,
	}
	h.m.track()
	h.open(h.m)
	return h
}

func (h *harness) open(m *heapMedium) {
	o := testOptions()
	o.OnSeal = func(tx *Tx) error {
		for k, v := range h.deferred {
			if err := tx.Put(k, v); err != nil {
				return err
			}
		}
		return nil
	}
	h.m = m
	h.s = mustOpen(h.t, m, o)
	for back := range format.Generation(keepCommits) { // the mount's own commits
		h.durable[h.s.DurableGeneration()-back] = h.now.clone()
	}
}

func (h *harness) key() Key {
	kinds := []uint8{0, 1, 7, kindData, 255}
	return Key{
		Ino:  format.Ino(1 + h.rnd.Uint64N(h.inos)),
		Kind: kinds[h.rnd.IntN(len(kinds))],
		Off:  h.rnd.Uint64N(60) << (h.rnd.UintN(2) * 40),
	}
}

func (h *harness) value() []byte {
	n := h.rnd.IntN(h.maxValue)
	if h.rnd.IntN(20) == 0 {
		n = h.rnd.IntN(format.MaxValue + 1)
	}
	v := make([]byte, n)
	for i := range v {
		v[i] = byte(h.rnd.Uint32())
	}
	return v
}

// step does a few random operations in a transaction; if the image is full it
// makes room instead, from the emergency blocks.
func (h *harness) step() {
	const ops = 6
	tx, err := h.begin(Reserve{Nodes: h.s.NodesFor(ops), DataBlocks: 20 * ops, Emergency: h.rnd.IntN(8) == 0})
	if errors.Is(err, ErrNoSpace) {
		h.full++
		tx, err = h.begin(Reserve{Nodes: h.s.NodesFor(2), Emergency: true})
		if err != nil {
			h.t.Fatalf("no room even to delete: %v", err)
		}
		defer tx.End()
		h.delRange(tx)
		return
	}
	if err != nil {
		h.t.Fatal(err)
	}
	defer tx.End()
	for range h.rnd.IntN(ops) {
		switch h.rnd.IntN(10) {
		case 0, 1, 2:
			h.del(tx, h.key())
		case 3:
			if h.rnd.IntN(4) == 0 {
				h.delRange(tx)
			}
		default:
			h.put(tx, h.key())
		}
	}
	h.now.keys = nil
}

// begin is Begin, which commits what there is if space is short.
func (h *harness) begin(r Reserve) (*Tx, error) {
	g := h.s.OpenGeneration()
	tx, err := h.s.Begin(r)
	for ; g < h.s.OpenGeneration(); g++ {
		h.durable[g] = h.now.clone()
	}
	return tx, err
}

func (h *harness) put(tx *Tx, k Key) {
	v := h.value()
	if k.Kind == kindData {
		b, n, err := tx.AllocData(format.Block(h.rnd.Uint64N(300)), 1+h.rnd.Uint64N(20))
		if err != nil {
			h.t.Fatal(err)
		}
		v = dataValue(b, n)
		h.free(tx, k, h.now.recs[k])
	}
	if err := tx.Put(k, v); err != nil {
		h.t.Fatal(err)
	}
	h.now.recs[k] = v
}

// free gives back the blocks of a record that goes.
func (h *harness) free(tx *Tx, k Key, v []byte) {
	if v != nil {
		testExtents(k, v, tx.FreeData)
	}
}

func (h *harness) del(tx *Tx, k Key) {
	ok, err := tx.Delete(k)
	if err != nil {
		h.t.Fatal(err)
	}
	v, want := h.now.recs[k]
	if ok != want {
		h.t.Fatalf("delete of %v: %v, want %v", k, ok, want)
	}
	h.free(tx, k, v)
	delete(h.now.recs, k)
}

func (h *harness) delRange(tx *Tx) {
	from, to := h.key(), h.key()
	limit := 1 + h.rnd.IntN(h.maxRange)
	var got []Key
	n, err := tx.DeleteRange(from, to, limit, func(k Key, v []byte) {
		if !bytes.Equal(v, h.now.recs[k]) {
			h.t.Fatalf("deleted %v with a wrong value", k)
		}
		got = append(got, k)
		h.free(tx, k, v)
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.now.keys = nil
	var want []Key
	for _, k := range h.now.sorted() {
		if !k.Less(from) && k.Less(to) && len(want) < limit {
			want = append(want, k)
		}
	}
	if !slices.Equal(got, want) || n != len(got) {
		h.t.Fatalf("deleted %v of [%v,%v), want %v", got, from, to, want)
	}
	for _, k := range want {
		delete(h.now.recs, k)
	}
	h.now.keys = nil
}

// commit makes everything durable and remembers it.
func (h *harness) commit(freezeID uint64) {
	for range h.rnd.IntN(3) {
		k := Key{Ino: format.Ino(1 + h.rnd.Uint64N(h.inos)), Kind: 3}
		h.deferred[k] = h.value()
		h.now.recs[k] = h.deferred[k]
	}
	h.now.keys = nil
	g, err := h.s.Commit(context.Background(), CommitOptions{FreezeID: freezeID})
	if err != nil {
		h.t.Fatal(err)
	}
	clear(h.deferred)
	h.durable[g] = h.now.clone()
}

// verify compares every way to look at the store with the model.
func (h *harness) verify(m *model) {
	t, s := h.t, h.s
	keys := m.sorted()
	i := 0
	err := s.Scan(Key{}, format.MaxKey, func(k Key, v []byte) bool {
		if i >= len(keys) || keys[i] != k || !bytes.Equal(v, m.recs[k]) {
			t.Fatalf("record %d is %v", i, k)
		}
		i++
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if i != len(keys) {
		t.Fatalf("%d records, want %d", i, len(keys))
	}
	for range 50 {
		k := h.key()
		v, err := s.Get(k, nil)
		want, ok := m.recs[k]
		if ok != (err == nil) || !bytes.Equal(v, want) || err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatalf("get %v: %v", k, err)
		}
		x, exact := slices.BinarySearchFunc(keys, k, Key.Compare)
		if !exact {
			x--
		}
		got, v, err := s.SeekLE(k, nil)
		switch {
		case x < 0 && !errors.Is(err, ErrNotFound):
			t.Fatalf("seek %v: %v, %v", k, got, err)
		case x >= 0 && (err != nil || got != keys[x] || !bytes.Equal(v, m.recs[got])):
			t.Fatalf("seek %v: %v, %v; want %v", k, got, err, keys[x])
		}
	}
	if c := s.Counters(); c.Records != uint64(len(keys)) {
		t.Fatalf("%d records counted, want %d", c.Records, len(keys))
	}
}

// TestModel compares a store with a sorted map through random operations,
// commits, clean and unclean remounts.
func TestModel(t *testing.T) {
	for _, c := range []struct {
		size     int64
		inos     uint64
		maxRange int
		fill     int // records to begin with
		depth    int // least depth wanted
	}{
		{size: 1 << 20, inos: 40, maxRange: 200},
		{size: 4 << 20, inos: 400, maxRange: 10},
		{size: 100 << 20, inos: 2000, maxRange: 40, fill: 6000, depth: 3},
	} {
		rnd := newRand(t)
		h := newHarness(t, rnd, c.size)
		h.inos, h.maxRange = c.inos, c.maxRange
		for range c.fill {
			update(t, h.s, Reserve{Nodes: h.s.NodesFor(1), DataBlocks: 20}, func(tx *Tx) { h.put(tx, h.key()) })
		}
		h.now.keys = nil
		deepest := 0
		for i := range 3000 {
			h.step()
			switch rnd.IntN(60) {
			case 0:
				h.commit(0)
			case 1:
				h.commit(7)
			case 2:
				h.verify(h.now)
			}
			if rnd.IntN(400) == 0 {
				h.remount()
			}
			deepest = max(deepest, h.s.Info().Depth)
			if i == 1500 {
				h.maxRange *= 50 // from here on the tree shrinks
			}
		}
		h.verify(h.now)
		checkStore(t, h.s)
		h.commit(0)
		finish(t, h.s, h.m)
		t.Logf("%d MiB: %d records, depth up to %d, full %d times", c.size>>20, len(h.now.recs), deepest, h.full)
		if deepest < c.depth {
			t.Errorf("the tree was never deeper than %d", deepest)
		}
	}
}

// TestDeep grows a tree of four levels and takes it down again, in random and
// in ascending order, and looks at the whole of it on the way.
func TestDeep(t *testing.T) {
	if testing.Short() {
		t.Skip("40,000 records of 1.2 KiB")
	}
	const n = 45_000
	for _, random := range []bool{true, false} {
		rnd := newRand(t)
		m := mkfs(t, 256<<20)
		s := mustOpen(t, m, testOptions())
		v := make([]byte, 1270)
		order := rnd.Perm(n)
		if !random {
			slices.Sort(order)
		}
		nodes := s.NodesFor(3)
		each := func(fn func(tx *Tx, k Key)) {
			for i, x := range order {
				update(t, s, Reserve{Nodes: nodes}, func(tx *Tx) { fn(tx, Key{Ino: format.Ino(x + 1), Off: 5}) })
				if i%15_000 == 14_999 {
					checkStore(t, s)
				}
			}
		}
		each(func(tx *Tx, k Key) {
			if err := tx.Put(k, v); err != nil {
				t.Fatal(err)
			}
		})
		info := s.Info()
		if info.Depth != 4 {
			t.Fatalf("depth %d", info.Depth)
		}
		t.Logf("random=%v: %d nodes", random, info.Counters.Nodes)
		if !random && info.Counters.Nodes > n/3*102/100 {
			t.Errorf("%d nodes for %d records: ascending keys must leave full nodes", info.Counters.Nodes, n)
		}
		rnd.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
		each(func(tx *Tx, k Key) {
			if ok, err := tx.Delete(k); !ok || err != nil {
				t.Fatal(k, ok, err)
			}
		})
		if i := s.Info(); i.Depth != 1 || i.Counters.Nodes != 1 || i.Counters.Records != 0 {
			t.Fatalf("after all was deleted: %+v", i)
		}
		finish(t, s, m)
	}
}

// remount closes the store, or leaves it as after a kill, and opens it again.
func (h *harness) remount() {
	h.commit(0)
	if h.rnd.IntN(2) == 0 {
		if err := h.s.Close(context.Background()); err != nil {
			h.t.Fatal(err)
		}
		checkImage(h.t, h.m)
		h.open(h.m)
		if h.s.Info().Rebuilt {
			h.t.Fatal("the allocator was rebuilt after a clean unmount")
		}
	} else {
		h.open(h.m)
		if !h.s.Info().Rebuilt {
			h.t.Fatal("the allocator was not rebuilt after a crash")
		}
	}
	h.verify(h.now)
	checkStore(h.t, h.s)
}

// TestCrash cuts the power at random writes and fences and mounts what is left:
// it must be the last durable commit or the one in progress.
func TestCrash(t *testing.T) {
	rnd := newRand(t)
	rounds := 400
	if testing.Short() {
		rounds = 60
	}
	h := newHarness(t, rnd, 1<<20)
	for range rounds {
		for range rnd.IntN(20) {
			h.step()
		}
		h.commit(0)
		for range 1 + rnd.IntN(10) {
			h.step()
		}
		last := h.s.DurableGeneration() // of this commit, or of one that made room
		// Cut the power at a random point of the next commit.
		countdown := rnd.IntN(30)
		var left *heapMedium
		cut := func() error {
			if countdown--; countdown == 0 {
				h.m.mu.Unlock()
				left = h.m.crash(rnd, []float64{0, 0.5, 0.9, 1}[rnd.IntN(4)])
				h.m.mu.Lock()
			}
			return nil
		}
		h.m.onWrite = func(int64, []byte) error { return cut() }
		h.m.onFence = cut
		h.commit(0)
		h.m.onWrite, h.m.onFence = nil, nil
		next := h.s.DurableGeneration()
		if left == nil {
			left = h.m.crash(rnd, 0)
		}
		before, after := h.durable[last], h.durable[next]
		checkImage(t, left.clone())
		im, err := readImage(left)
		if err != nil {
			t.Fatal(err)
		}
		whole := im.commits[0].Generation
		left.track()
		h.deferred = map[Key][]byte{}
		h.open(left)
		g := h.s.Info().Mounted
		if g != whole {
			t.Fatalf("generation %d is on the medium, but not the nodes it needs: mounted %d", whole, g)
		}
		switch g {
		case last:
			h.now = before.clone()
		case next:
			h.now = after.clone()
		default:
			t.Fatalf("mounted generation %d, want %d or %d", g, last, next)
		}
		h.verify(h.now)
		checkStore(t, h.s)
	}
	finish(t, h.s, h.m)
}

package tree

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"permafrost/core/format"
	"permafrost/pmem"
)

// hookMedium calls onRead before each read.
type hookMedium struct {
	*heapMedium
	onRead func(b format.Block)
}

func (m *hookMedium) ReadAt(p []byte, off int64) (int, error) {
	if m.onRead != nil {
		m.onRead(format.Block(off / format.BlockSize))
	}
	return m.heapMedium.ReadAt(p, off)
}

// grown is a store with n records, each a leaf's third, on a tree of at least
// three levels.
func grown(t *testing.T, m pmem.Medium, n int) *Store {
	t.Helper()
	s := mustOpen(t, m, testOptions())
	for i := 0; i < n; {
		update(t, s, Reserve{Nodes: s.NodesFor(32)}, func(tx *Tx) {
			for range min(32, n-i) {
				at := i * 1789 % n // each once, in no order: 1789 is a prime
				if err := tx.Put(scrubKey(at), scrubValue(at)); err != nil {
					t.Fatal(err)
				}
				i++
			}
		})
	}
	checkStore(t, s)
	if d := s.Depth(); d < 3 {
		t.Fatalf("the tree has %d levels", d)
	}
	return s
}

func scrubKey(i int) Key { return Key{Ino: 5, Kind: 1, Off: uint64(i)} }

func scrubValue(i int) []byte {
	v := make([]byte, 1200)
	binary.LittleEndian.PutUint64(v, uint64(i))
	return v
}

// scrubAll walks to the end in steps of n nodes.
func scrubAll(t *testing.T, s *Store, n int) *Scrub {
	t.Helper()
	sc := s.NewScrub()
	for steps := 0; ; steps++ {
		read, done, err := sc.Step(context.Background(), n)
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return sc
		}
		if read == 0 || steps > 100_000 {
			t.Fatalf("step %d read %d nodes", steps, read)
		}
	}
}

// nodesOf lists the blocks of the durable tree's nodes.
func nodesOf(t *testing.T, m pmem.Medium) (list []format.Block) {
	t.Helper()
	sv, err := OpenSalvage(m)
	if err == nil {
		err = sv.Choose(0)
	}
	if err != nil {
		t.Fatal(err)
	}
	sv.Walk(Key{}, format.MaxKey, Visit{Node: func(p format.Ptr, _ int, _ *format.Node) bool {
		list = append(list, p.Block)
		return true
	}})
	return list
}

// A scrub reads every node once, whatever the length of its steps.
func TestScrubReadsEveryNode(t *testing.T) {
	m := &hookMedium{heapMedium: mkfs(t, 16<<20)}
	s := grown(t, m, 3000)
	nodes := nodesOf(t, m)
	steps := []int{100, 1 << 20}
	for n := range 60 {
		steps = append(steps, n)
	}
	for _, n := range steps {
		read := map[format.Block]int{}
		m.onRead = func(b format.Block) { read[b]++ }
		sc := scrubAll(t, s, n)
		m.onRead = nil
		if sc.Nodes != uint64(len(nodes)) || sc.Found != 0 || sc.Of() != sc.Nodes {
			t.Errorf("steps of %d: %d nodes, %d of them bad, of %d; there are %d", n, sc.Nodes, sc.Found, sc.Of(), len(nodes))
		}
		for _, b := range nodes {
			if read[b] == 0 {
				t.Errorf("steps of %d: node in block %d was not read", n, b)
			}
		}
		if _, done, err := sc.Step(context.Background(), 1); !done || err != nil {
			t.Error("after the end:", done, err)
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	finish(t, s, m)
}

// A scrub finds a flipped bit in any node, and in each of the fixed places,
// although lookups have verified them before; it names the block and goes on.
// From then on the lookups of that node fail, others do not, and nothing can be
// changed; what was changed before is committed still.
func TestScrubFindsFlippedBits(t *testing.T) {
	base := mkfs(t, 16<<20)
	s := grown(t, base, 3000)
	nodes := nodesOf(t, base)
	last := slotBlock(&s.super, s.last.Generation)
	finish(t, s, base)

	last += 3 // of the close, and two of the next mount
	places := []format.Block{0, 1, last}
	for i := 0; i < len(nodes); i += 97 {
		places = append(places, nodes[i])
	}
	places = append(places, nodes[0], nodes[len(nodes)-1])
	for x, b := range places {
		m := base.clone()
		s := mustOpen(t, m, testOptions())
		for i := range 3000 { // a read of everything
			if _, err := s.Get(scrubKey(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		put(t, s, Key{Ino: 6, Kind: 1}, []byte("before"))
		m.data[int64(b)*format.BlockSize+int64(80+x)%format.BlockSize] ^= 1 << (x % 8)
		sc := scrubAll(t, s, 40)
		list, total := s.Damages()
		if sc.Found != 1 || total != 1 || len(list) != 1 || list[0].Block != b || s.DamageCount() != 1 {
			t.Fatalf("block %d: found %d, %d: %+v", b, sc.Found, total, list)
		}
		if sc := scrubAll(t, s, 40); sc.Found != 1 || s.DamageCount() != 1 {
			t.Fatalf("block %d: found again: %d, %d blocks", b, sc.Found, s.DamageCount())
		}
		bad := 0
		for i := range 3000 {
			v, err := s.Get(scrubKey(i), nil)
			switch at, ok := DamagedBlock(err); {
			case err == nil && binary.LittleEndian.Uint64(v) != uint64(i):
				t.Fatalf("record %d is another's", i)
			case err != nil && (!ok || at != b):
				t.Fatalf("record %d: %v", i, err)
			case err != nil:
				bad++
			}
		}
		// Lookups do not need the fixed places, nor nodes that the open group has copies of.
		if needed := b > last && s.alloc.isLiveLocked(b, 1); needed != (bad > 0) || bad == 3000 {
			t.Fatalf("block %d: %d records cannot be read", b, bad)
		}
		wantHarmed(t, s, b)
		if v, err := s.Get(Key{Ino: 6, Kind: 1}, nil); err != nil || string(v) != "before" {
			t.Fatalf("%q, %v", v, err)
		}
		if err := s.Close(context.Background()); !errors.Is(err, ErrState) {
			t.Fatal("close:", err)
		}
	}
}

// wantHarmed fails unless the store refuses changes because of block b, and
// commits what was changed before.
func wantHarmed(t *testing.T, s *Store, b format.Block) {
	t.Helper()
	_, err := s.Begin(Reserve{})
	if at, ok := DamagedBlock(err); !errors.Is(err, ErrState) || !ok || at != b {
		t.Fatalf("begin after damage to block %d: %v", b, err)
	}
	if err := s.Grow(context.Background(), 32<<20); !errors.Is(err, ErrState) {
		t.Fatal("grow:", err)
	}
	gen := s.OpenGeneration()
	if s.Failed() != nil {
		t.Fatal("the ERROR state:", s.Failed())
	}
	if s.Dirty() {
		if err := s.WaitDurable(context.Background(), gen); err != nil {
			t.Fatal("commit of what was changed before:", err)
		}
		if s.DurableGeneration() != gen {
			t.Fatalf("generation %d is durable, not %d", s.DurableGeneration(), gen)
		}
	}
}

// Every way into the tree that meets a damaged node names it, and ends changes.
func TestDamageEndsChanges(t *testing.T) {
	base := mkfs(t, 16<<20)
	s := grown(t, base, 3000)
	finish(t, s, base)
	k := scrubKey(1500)
	for name, meet := range map[string]func(s *Store, tx *Tx) error{
		"get":    func(s *Store, _ *Tx) error { _, err := s.Get(k, nil); return err },
		"seek":   func(s *Store, _ *Tx) error { _, _, err := s.SeekLE(k, nil); return err },
		"scan":   func(s *Store, _ *Tx) error { return s.Scan(k, k.Next(), func(Key, []byte) bool { return true }) },
		"put":    func(_ *Store, tx *Tx) error { return tx.Put(k, []byte("x")) },
		"delete": func(_ *Store, tx *Tx) error { _, err := tx.Delete(k); return err },
		"range":  func(_ *Store, tx *Tx) error { _, err := tx.DeleteRange(k, k.Next(), 1, nil); return err },
	} {
		m := base.clone()
		s := mustOpen(t, m, testOptions())
		put(t, s, Key{Ino: 6, Kind: 1}, []byte("before"))
		var b format.Block
		for _, x := range nodesOf(t, m) { // the leaf with k: the store is unclean, but the node has not moved
			n := (*format.Node)(m.data[int64(x)*format.BlockSize:][:format.BlockSize])
			if _, found := n.Find(k); n.Level() == 0 && found {
				b = x
			}
		}
		m.data[int64(b)*format.BlockSize+500] ^= 4
		tx, err := s.Begin(Reserve{Nodes: 20})
		if err != nil {
			t.Fatal(err)
		}
		err = meet(s, tx)
		tx.End()
		if at, ok := DamagedBlock(err); !ok || at != b {
			t.Errorf("%s: %v, block %d is damaged", name, err, b)
			continue
		}
		wantHarmed(t, s, b)
		if err := s.Close(context.Background()); !errors.Is(err, ErrState) {
			t.Errorf("%s: close: %v", name, err)
		}
		// The next mount is not a clean one: it walks, and says where it is.
		if _, err := Open(m, testOptions()); !errors.Is(err, format.ErrDamaged) {
			t.Errorf("%s: mount: %v", name, err)
		}
		ro := testOptions()
		ro.ReadOnly = true
		s = mustOpen(t, m, ro)
		if v, err := s.Get(Key{Ino: 6, Kind: 1}, nil); err != nil || string(v) != "before" {
			t.Errorf("%s: what was changed before: %q, %v", name, v, err)
		}
		if err := s.Close(context.Background()); err != nil {
			t.Error(name, err)
		}
	}
}

// Nodes that are freed, and whose blocks are used again for others, while a
// scrub is on its way to them are not taken for damage: neither a few commits in
// the middle of a step nor more of them before every read.
func TestScrubWhileTheTreeMoves(t *testing.T) {
	m := &hookMedium{heapMedium: mkfs(t, 16<<20)}
	s := grown(t, m, 3000)
	round := 0
	churn := func(commits int) {
		for range commits {
			round++
			update(t, s, Reserve{Nodes: s.NodesFor(64)}, func(tx *Tx) {
				for i := range 64 {
					at := (round*64 + i*41) % 3000
					if err := tx.Put(scrubKey(at), scrubValue(at)); err != nil {
						t.Fatal(err)
					}
				}
			})
			if _, err := s.Commit(context.Background(), CommitOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, every := range []int{1, 3, 50} {
		reads, stale := 0, 0
		sc := s.NewScrub()
		m.onRead = func(b format.Block) {
			reads++
			if b >= s.super.First && len(s.commitSem) == 0 && reads%every == 0 {
				churn(keepCommits + 3)
			}
		}
		for done := false; !done; {
			var err error
			if _, done, err = sc.Step(context.Background(), 40); err != nil {
				t.Fatal(err)
			}
			if sc.stale {
				stale++
			}
		}
		m.onRead = nil
		if list, total := s.Damages(); total != 0 {
			t.Fatalf("commits before every %d. read: false alarm: %+v", every, list[0])
		}
		if sc.Nodes < s.Counters().Nodes/2 {
			t.Errorf("commits before every %d. read: %d nodes of %d", every, sc.Nodes, s.Counters().Nodes)
		}
	}
	checkStore(t, s)
	finish(t, s, m)
}

// A scrub of a store that is closed meanwhile ends with an error, and one whose
// context ends as well.
func TestScrubEnds(t *testing.T) {
	m := mkfs(t, 16<<20)
	s := grown(t, m, 3000)
	sc := s.NewScrub()
	if _, done, err := sc.Step(context.Background(), 10); done || err != nil {
		t.Fatal(done, err)
	}
	finish(t, s, m)
	if _, _, err := sc.Step(context.Background(), 10); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, _, err := s.NewScrub().Step(context.Background(), 10); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	s = mustOpen(t, m, testOptions())
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	s.commitSem <- struct{}{}
	if _, _, err := s.NewScrub().Step(gone, 10); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-s.commitSem
	finish(t, s, m)
}

// A page that faults below a commit is damage, too.
func TestCommitMeetsABadPage(t *testing.T) {
	m := mkfs(t, 4<<20)
	s := mustOpen(t, m, testOptions())
	put(t, s, Key{Ino: 6, Kind: 1}, []byte("x"))
	m.onWrite = func(off int64, _ []byte) error { return &pmem.MediaError{Off: off, Op: "write"} }
	if _, err := s.Commit(context.Background(), CommitOptions{}); !errors.Is(err, ErrState) {
		t.Fatal(err)
	}
	list, total := s.Damages()
	if total != 1 || s.Failed() == nil || list[0].What == "" {
		t.Fatal(fmt.Sprint(list), s.Failed())
	}
	_ = s.Close(context.Background())
}

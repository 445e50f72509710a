package tree

import (
	"context"
	"errors"
	"testing"
	"time"

	"permafrost/core/format"
)

// TestSharedNodes: in a damaged tree of eleven levels every pointer of a node
// leads to the same node below, with right checksums: 20^10 ways lead to the one
// leaf. Whatever walks the tree ends all the same.
func TestSharedNodes(t *testing.T) {
	const fan = 20
	m := mkfs(t, 1<<20)
	im, err := readImage(m)
	if err != nil {
		t.Fatal(err)
	}
	rec := *im.commits[0]
	first := im.super.Blocks - 20
	var ptr format.Ptr
	for level := range format.MaxLevel + 1 {
		var n format.Node
		b := first + format.Block(level)
		n.Init(level, b, 1)
		for i := range fan {
			k := Key{Ino: format.Ino(i + 1)}
			if level == 0 {
				n.Insert(i, k, []byte("v"))
			} else {
				n.InsertChild(i, k, ptr)
			}
		}
		ptr = format.Ptr{Block: b, Birth: 1, CRC: n.Seal()}
		copy(m.data[int64(b)*format.BlockSize:], n[:])
	}
	rec.Roots[0] = format.Root{Ptr: ptr, Level: format.MaxLevel}
	var buf [format.CommitSize]byte
	rec.Encode(&buf)
	copy(m.data[int64(slotBlock(im.super, rec.Generation))*format.BlockSize:], buf[:])

	done := make(chan struct{})
	go func() {
		defer close(done)
		walkShared(t, m)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("a walk does not end")
	}
}

// walkShared walks the tree in every way there is.
func walkShared(t *testing.T, m *heapMedium) {
	r, err := Check(m, CheckOptions{})
	if err != nil || r.Err() == nil || r.Nodes > 10_000 {
		t.Errorf("check: %v, %d nodes, %v", err, r.Nodes, r.Err())
	}
	if _, err := Open(m.clone(), testOptions()); !errors.Is(err, format.ErrDamaged) {
		t.Errorf("open: %v", err)
	}
	s := mustOpen(t, m, Options{ReadOnly: true})
	n := 0
	if err := s.Scan(Key{}, format.MaxKey, func(Key, []byte) bool { n++; return true }); err != nil || n > 1000 {
		t.Errorf("scan: %d records, %v", n, err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	sv, err := OpenSalvage(m)
	if err != nil {
		t.Error(err)
		return
	}
	nodes := 0
	sv.Walk(Key{}, format.MaxKey, Visit{Node: func(format.Ptr, int, *format.Node) bool { nodes++; return true }})
	if nodes > 10_000 {
		t.Errorf("salvage met %d nodes", nodes)
	}
	if _, err := sv.Sweep(context.Background(), nil, nil); err != nil {
		t.Error(err)
	}
}

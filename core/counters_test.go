package core

import (
	"bytes"
	"errors"
	"testing"

	"permafrost/core/format"
)

// TestNumbersWithoutRoom: a commit whose generation, freeze id or next inode
// number was never reached by counting is found by check and not mounted to be
// written to. Repair makes the numbers right, but for the generation.
func TestNumbersWithoutRoom(t *testing.T) {
	base := newFuzzBase(t, frozenImage)
	for name, at := range map[string]int{"generation": 8, "freeze id": 16, "next inode number": 48, "greatest freeze id": 96} {
		t.Run(name, func(t *testing.T) {
			d := *base.d
			d.p = bytes.Clone(base.p)
			slot := d.block(d.sb.Ring + format.Block(uint64(d.rec.Generation)%uint64(d.sb.Slots)))
			n := uint64(format.MaxNumber)
			if name == "generation" { // one that belongs in this slot
				n -= (n - uint64(d.rec.Generation)) % uint64(d.sb.Slots)
			}
			d.le.PutUint64(slot[at:], n)
			clear(slot[104:112]) // no second checksum
			d.le.PutUint32(slot, format.Checksum(slot[4:format.CommitSize]))
			if err := fillMedium(base.m, d.p); err != nil {
				t.Fatal(err)
			}
			if r, err := Check(ctx, base.m, nil); err == nil && r.OK() {
				t.Error("check finds nothing")
			}
			if _, err := Mount(base.m, Options{}); !errors.Is(err, format.ErrDamaged) {
				t.Fatalf("mount: %v", err)
			}
			r, err := Repair(ctx, base.m, RepairOptions{})
			if want := name == "generation"; errors.Is(err, format.ErrDamaged) != want || !want && err != nil {
				t.Fatalf("repair: %v", err)
			}
			if err != nil && (r.Repaired != nil || !bytes.Equal(base.m.Bytes(0, base.m.Size()), d.p)) {
				t.Fatal("a repair that was refused changed the image")
			}
		})
	}
}

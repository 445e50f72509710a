package freeze

import "testing"

// Every pair of levels, of the current freeze and of another one.
func TestMoveTable(t *testing.T) {
	allowed := map[[2]Level]bool{
		{Unfrozen, Write}: true, {Write, PageFault}: true, {PageFault, FS}: true, {FS, Complete}: true,
		{Write, Unfrozen}: true, {PageFault, Unfrozen}: true, {FS, Unfrozen}: true, {Complete, Unfrozen}: true,
	}
	const id = 7
	for at := Unfrozen; at <= Complete; at++ { // where the machine is
		for from := Unfrozen; from <= Complete+1; from++ { // where the mover believes it is
			for to := Unfrozen; to <= Complete+1; to++ {
				for _, mover := range []uint64{id, id - 1, id + 1, 0} {
					var b box
					if at != Unfrozen {
						b.word.Store(pack(id, at))
					}
					before := b.word.Load()
					want := allowed[[2]Level{from, to}] && from == at && mover != 0 && (mover == id || at == Unfrozen)
					if got := b.move(mover, from, to); got != want {
						t.Errorf("at %d: move(%d, %d, %d) = %v, want %v", at, mover, from, to, got, want)
					}
					gotID, l := b.load()
					switch {
					case !want && b.word.Load() != before:
						t.Errorf("at %d: refused move(%d, %d, %d) changed the state", at, mover, from, to)
					case want && (l != to || to != Unfrozen && gotID != mover || to == Unfrozen && gotID != 0):
						t.Errorf("at %d: move(%d, %d, %d) led to %d of %d", at, mover, from, to, l, gotID)
					}
				}
			}
		}
	}
}

func TestOpenAndStands(t *testing.T) {
	for at := Unfrozen; at <= Complete; at++ {
		var b box
		if at != Unfrozen {
			b.word.Store(pack(3, at))
		}
		if got := b.stands(3); got != (at == Complete) {
			t.Errorf("level %d: stands = %v", at, got)
		}
		if b.stands(2) || b.stands(4) {
			t.Errorf("level %d: another freeze stands", at)
		}
		if b.open(4) {
			t.Errorf("level %d: opened for another freeze", at)
		}
		if got := b.open(3); got != (at != Unfrozen) {
			t.Errorf("level %d: open = %v", at, got)
		}
		if b.level() != Unfrozen || b.stands(3) {
			t.Errorf("level %d: not open", at)
		}
	}
}

func TestOpNames(t *testing.T) {
	seen := map[string]Op{}
	for o := OpOther; o < opCount; o++ {
		n := o.String()
		if n == "" || n == "none" {
			t.Errorf("operation %d has no name", o)
		}
		if p, dup := seen[n]; dup {
			t.Errorf("operations %d and %d are both %q", p, o, n)
		}
		seen[n] = o
	}
	if opCount.String() != "other" || Op(255).String() != "other" {
		t.Error("unknown operations are not other")
	}
}

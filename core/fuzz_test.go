package core

import (
	"bytes"
	"errors"
	"os"
	"runtime/pprof"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// fuzzPatience is how long one damaged image may keep the program busy, on a
// machine that does much else: it takes milliseconds.
const fuzzPatience = 20 * time.Second

// watch makes a hang a crash that tells where every goroutine stands.
func watch(what string) (done func()) {
	t := time.AfterFunc(fuzzPatience, func() {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		panic(what + ": it did not end in " + fuzzPatience.String())
	})
	return func() { t.Stop() }
}

// The first byte of a program of FuzzImage.
const (
	fuzzReseal   = 1 << iota // make the checksums right after the damage
	fuzzFrozen               // damage the frozen image, not the clean one
	fuzzRepair               // repair it as well
	fuzzReadOnly             // mount it read-only
)

// FuzzImage damages the metadata of a populated image. Check and Repair end;
// Mount refuses or succeeds, and then every operation ends with an answer or
// an error of this package. Of an image that checks clean the answers are what
// its records say, and after changes it checks clean again. What Repair wrote
// checks clean.
func FuzzImage(f *testing.F) {
	for _, prog := range damageSeeds() {
		for flags := range byte(16) {
			f.Add(append([]byte{flags}, prog...))
		}
	}
	bases := map[byte]*fuzzBase{0: newFuzzBase(f, cleanImage), fuzzFrozen: newFuzzBase(f, frozenImage)}
	f.Fuzz(func(t *testing.T, prog []byte) {
		if len(prog) == 0 {
			return
		}
		defer watch("FuzzImage")()
		base := bases[prog[0]&fuzzFrozen]
		d := *base.d
		d.p = bytes.Clone(base.p)
		d.apply(prog[1:])
		if prog[0]&fuzzReseal != 0 {
			d.reseal()
		}
		judgeImage(t, base.m, d.p, prog[0]&fuzzRepair != 0, prog[0]&fuzzReadOnly != 0)
	})
}

// fuzzBase is a populated image that is damaged again and again.
type fuzzBase struct {
	p []byte       // its bytes; immutable
	d *damager     // knows its metadata; immutable
	m *pmem.Region // holds the damaged one
}

func newFuzzBase(t testing.TB, name string) *fuzzBase {
	t.Helper()
	x := &fuzzBase{p: populatedImage(t, name)}
	x.m = mediumOf(t, x.p)
	var err error
	if x.d, err = newDamager(x.m); err != nil {
		t.Fatal(err)
	}
	return x
}

// damageSeeds are programs for the damager that reach every kind of damage.
func damageSeeds() [][]byte {
	step := func(kind byte, block, at int, rest ...byte) []byte {
		s := make([]byte, 12)
		s[0], s[1], s[2], s[3], s[4] = kind, byte(block), byte(block>>8), byte(at), byte(at>>8)
		copy(s[5:], rest)
		return s
	}
	return [][]byte{
		{},
		step(hurtXor, 10, 0, 1),                      // the root's checksum
		step(hurtXor, 12, 26, 4),                     // a leaf's low
		step(hurtStore|3<<5, 5, 48, 1),               // next inode number
		step(hurtStore|128|3<<5, 5, 48),              // the same, far too large
		step(hurtStore|128|3<<5, 5, 8),               // a generation
		step(hurtPoint, 0, 0, 11),                    // a child
		step(hurtPoint, 1, 3, 10),                    // a child that is above
		step(hurtCopy, 12, 32, 13, 0, 32, 0, 240, 0), // slots of another leaf
		append(step(hurtStore, 0, 116, 255), step(hurtXor, 1, 120, 3)...), // superblocks
	}
}

// judgeImage holds the promises of FuzzImage against the damaged image p, which
// is put on m.
func judgeImage(t *testing.T, m *pmem.Region, p []byte, repair, readOnly bool) {
	if err := fillMedium(m, p); err != nil {
		t.Fatal(err)
	}
	before, err := Check(ctx, m, nil)
	clean := err == nil && before.OK()
	if err != nil && !knownOpenError(err) {
		t.Fatalf("check: %v is no error of a damaged image", err)
	}
	if !bytes.Equal(m.Bytes(0, m.Size()), p) {
		t.Fatal("check changed the image")
	}
	fs, err := Mount(m, Options{ReadOnly: readOnly, CommitInterval: time.Hour})
	if err == nil {
		v := &visitor{t: t, fs: fs, strict: clean}
		if clean {
			v.want = recordsOf(t, p)
		}
		v.walk()
		if !readOnly {
			v.change()
		}
		if err := fs.Unmount(ctx); err != nil && (clean || !knownOpenError(err) && !errors.Is(err, tree.ErrState)) {
			t.Fatalf("unmount (clean before: %t): %v", clean, err)
		}
		if clean {
			if r, err := Check(ctx, m, nil); err != nil || !r.OK() {
				t.Fatalf("it was clean, and is not after changes: %v %+v", err, r)
			}
		}
	} else if clean || !knownOpenError(err) {
		t.Fatalf("mount (clean: %t): %v", clean, err)
	}
	if repair {
		judgeRepair(t, m, p)
	}
}

// judgeRepair repairs p: it ends, and what it made of it is clean.
func judgeRepair(t *testing.T, m *pmem.Region, p []byte) {
	if err := fillMedium(m, p); err != nil {
		t.Fatal(err)
	}
	if r, err := Repair(ctx, m, RepairOptions{}); err != nil {
		if r != nil && r.Repaired != nil {
			t.Fatalf("repair wrote a tree that is not clean: %v", err)
		}
		if !knownOpenError(err) && !errors.Is(err, ErrNoSpace) && !errors.Is(err, ErrInvalid) {
			t.Fatalf("repair: %v", err)
		}
		return
	}
	if r, err := Check(ctx, m, nil); err != nil || !r.OK() {
		t.Fatalf("after the repair: %v %+v", err, r)
	}
	fs, err := Mount(m, Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatalf("mount after the repair: %v", err)
	}
	v := &visitor{t: t, fs: fs, strict: true, want: recordsOf(t, bytes.Clone(m.Bytes(0, m.Size())))}
	v.walk()
	if err := fs.Unmount(ctx); err != nil {
		t.Fatalf("unmount after the repair: %v", err)
	}
}

// knownOpenError reports an error that says what is wrong with an image.
func knownOpenError(err error) bool {
	for _, want := range []error{format.ErrNotOurs, format.ErrNewerFormat, format.ErrTruncated, format.ErrTooSmall, format.ErrDamaged, ErrIO, ErrStale} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

// knownError reports an error of this package, which has an errno of its own.
func knownError(err error) bool {
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return true
		}
	}
	return false
}

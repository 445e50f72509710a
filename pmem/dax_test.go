package pmem

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOnDAX needs a real DAX mount, which few machines have: it runs where
// PERMAFROST_TEST_DAX names a directory on one, as in the guest of
// `make dax-guest`.
func TestOnDAX(t *testing.T) {
	dir := os.Getenv("PERMAFROST_TEST_DAX")
	if dir == "" {
		t.Skip("PERMAFROST_TEST_DAX names no directory on a DAX mount; make dax-guest has one")
	}
	path := filepath.Join(dir, "on-dax")
	t.Cleanup(func() { mustDo(t, os.Remove(path)) })
	const size, grown = 3<<20 + 777, 5<<20 + 33
	r, err := Create(path, size, Options{Reserve: 8 << 20})
	mustDo(t, err)
	checkSynchronous(t, r)
	want := make([]byte, grown)
	checkStores(t, r, want[:size])
	mustDo(t, r.Grow(grown))
	checkSynchronous(t, r)
	checkStores(t, r, want)
	mustDo(t, r.Close())

	r, err = Open(path, Options{})
	mustDo(t, err)
	defer r.Close()
	checkSynchronous(t, r)
	if !bytes.Equal(r.Bytes(0, grown), want) {
		t.Error("opened anew the region differs")
	}
	// A file truncated under its mapping is an error there as elsewhere.
	mustDo(t, os.Truncate(path, 1<<20))
	b := r.Begin()
	defer b.End()
	var media *MediaError
	if err := b.Write(2<<20, make([]byte, 4096)); !errors.As(err, &media) {
		t.Errorf("a write behind the end of the file: %v", err)
	}
}

// checkSynchronous requires the domain of a DAX mount and, by the kernel's own
// account, that all of the region is mapped with MAP_SYNC: the flag sf.
func checkSynchronous(t *testing.T, r *Region) {
	t.Helper()
	if d := r.Domain(); d != DomainDAX && d != DomainCPUCache {
		t.Fatalf("the domain is %v", d)
	}
	var kib int64
	smapsOf(t, r, func(line string) {
		var n int64
		if k, _ := fmt.Sscanf(line, "Size: %d kB", &n); k == 1 {
			kib += n
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && !slices.Contains(strings.Fields(flags), "sf") {
			t.Errorf("a part of the region is mapped without MAP_SYNC: %s", flags)
		}
	})
	if kib<<10 != roundUp(r.Size(), pageBytes) {
		t.Errorf("smaps has %d KiB of a region of %d bytes", kib, r.Size())
	}
}

// checkStores stores random ranges into the region and into want, and requires
// that read(2), which goes past the mapping, then sees want.
func checkStores(t *testing.T, r *Region, want []byte) {
	t.Helper()
	rng := newRand(t)
	for range 20 {
		b := r.Begin()
		for range 1 + rng.IntN(4) {
			n := randomLen(rng, len(want))
			off := rng.IntN(len(want) - n + 1)
			p := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, n)
			mustDo(t, b.Write(int64(off), p))
			copy(want[off:], p)
		}
		mustDo(t, b.Fence())
		b.End()
	}
	got, err := os.ReadFile(r.Path())
	mustDo(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("the file of %d bytes does not hold what was stored", len(want))
	}
}

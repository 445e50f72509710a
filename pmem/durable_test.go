package pmem

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"
)

// lineState is what a trace did to a line, as bits.
const (
	lineNonTemporal = 1 << iota
	lineFlushed
)

// traceLines makes the region note what is done to each of its lines. The
// second result clears the notes.
func traceLines(t *testing.T, r *Region) (lines []uint8, again func()) {
	lines = make([]uint8, roundUp(r.Size(), lineBytes)/lineBytes)
	r.trace = func(what traced, off, n int64) {
		if off%lineBytes != 0 || n%lineBytes != 0 || n <= 0 {
			t.Errorf("%d bytes at %d are not lines", n, off)
		}
		for line := off / lineBytes; line < (off+n)/lineBytes; line++ {
			lines[line] |= 1 << what
		}
	}
	return lines, func() { clear(lines) }
}

// TestEveryStoredLineIsOnItsWay holds P4: each line of a write or zeroing is
// either stored past the caches, and then lies wholly inside, or is flushed;
// lines outside are left alone.
func TestEveryStoredLineIsOnItsWay(t *testing.T) {
	if cpuFlush == flushNone {
		t.Skip("no line flush on this processor")
	}
	for _, d := range everyDomain {
		t.Run(d.String(), func(t *testing.T) {
			rng := newRand(t)
			const size = 1<<20 + 33
			r := newMemfd(t, size, Options{Domain: d})
			lines, again := traceLines(t, r)
			b := r.Begin()
			defer b.End()
			for range 1000 {
				again()
				n := randomLen(rng, size)
				off := rng.IntN(size - n + 1)
				op := []string{"write", "zero", "flush"}[rng.IntN(3)]
				switch op {
				case "write":
					mustDo(t, b.Write(int64(off), make([]byte, n)))
				case "zero":
					mustDo(t, b.Zero(int64(off), int64(n)))
				case "flush":
					mustDo(t, b.Flush(int64(off), int64(n)))
				}
				for line, got := range lines {
					checkLine(t, d, op, off, n, line, got)
				}
				if t.Failed() {
					t.Fatalf("%s of %d bytes at %d", op, n, off)
				}
			}
		})
	}
}

// checkLine compares what was done to one line with what the domain needs.
func checkLine(t *testing.T, d Domain, op string, off, n, line int, got uint8) {
	from, to := line*lineBytes, (line+1)*lineBytes
	touched := n > 0 && from < off+n && off < to
	inside := off <= from && to <= off+n
	lineDomain := d == DomainDAX || d == DomainVolatile
	switch {
	case !touched && got != 0:
		t.Errorf("line %d lies outside, but %b", line, got)
	case got == lineNonTemporal|lineFlushed:
		t.Errorf("line %d was stored past the caches and flushed", line)
	case got == lineNonTemporal && (!inside || op == "flush"):
		t.Errorf("line %d was stored past the caches without being whole", line)
	case got == lineFlushed && !lineDomain:
		t.Errorf("line %d was flushed in vain", line)
	case got == 0 && touched && lineDomain:
		t.Errorf("line %d stays in the cache", line)
	}
}

// TestLongWritesAreNonTemporal sees that the threshold is used.
func TestLongWritesAreNonTemporal(t *testing.T) {
	r := newMemfd(t, 1<<20, Options{})
	lines, again := traceLines(t, r)
	b := r.Begin()
	defer b.End()
	for n, want := range map[int]uint8{NonTemporalMin - 64: lineFlushed, NonTemporalMin: lineNonTemporal, 4096: lineNonTemporal} {
		if !nonTemporal {
			want = lineFlushed
		}
		again()
		mustDo(t, b.Write(4096, make([]byte, n)))
		if lines[64] != want {
			t.Errorf("%d bytes: %b, want %b", n, lines[64], want)
		}
	}
}

// TestFenceCleansPageCache asks the kernel, by smaps, whether pages of a disk
// file are dirty: after stores they are, after a fence none is.
func TestFenceCleansPageCache(t *testing.T) {
	r, err := Create(filepath.Join(t.TempDir(), "image"), 1<<20, Options{Reserve: 4 << 20})
	mustDo(t, err)
	defer r.Close()
	if r.Domain() != DomainPageCache {
		t.Skipf("the temporary directory is %v", r.Domain())
	}
	rng := newRand(t)
	for range 5 {
		b := r.Begin()
		mustDo(t, b.Write(rng.Int64N(1<<19), bytes.Repeat([]byte{1}, 4096+rng.IntN(1<<18))))
		if dirtyKiB(t, r) == 0 {
			t.Error("nothing is dirty after a write")
		}
		b.Order()
		mustDo(t, b.Fence())
		if n := dirtyKiB(t, r); n != 0 {
			t.Errorf("%d KiB are dirty after a fence", n)
		}
		b.End()
	}
}

// dirtyKiB is what /proc/self/smaps counts as dirty in the region.
func dirtyKiB(t *testing.T, r *Region) (sum int) {
	t.Helper()
	smapsOf(t, r, func(line string) {
		var kib int
		if n, _ := fmt.Sscanf(line, "Shared_Dirty: %d kB", &kib); n == 1 {
			sum += kib
		}
		if n, _ := fmt.Sscanf(line, "Private_Dirty: %d kB", &kib); n == 1 {
			sum += kib
		}
	})
	return sum
}

// smapsOf calls each for every line that /proc/self/smaps has of the region's
// mappings.
func smapsOf(t *testing.T, r *Region, each func(line string)) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	mustDo(t, err)
	base := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.Bytes(0, 1)))))
	end := base + uint64(roundUp(r.Size(), pageBytes))
	inside, found := false, false
	for line := range strings.Lines(string(text)) {
		var from, to uint64
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			inside = from >= base && to <= end
			found = found || inside
			continue
		}
		if inside {
			each(line)
		}
	}
	if !found {
		t.Fatal("the region is not in smaps")
	}
}

// TestManyFencesAtOnce mixes batches of several goroutines with growth.
func TestManyFencesAtOnce(t *testing.T) {
	r, err := Create(filepath.Join(t.TempDir(), "image"), 1<<20, Options{})
	mustDo(t, err)
	defer r.Close()
	seed := newRand(t).Uint64()
	done := make(chan error)
	const writers = 4
	for w := range writers {
		go func() { done <- writeAndCheck(r, rand.New(rand.NewPCG(seed, uint64(w))), int64(w), writers) }()
	}
	for i := range int64(8) {
		if err := r.Grow(1<<20 + i*12345); err != nil {
			t.Error(err)
		}
	}
	for range writers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// writeAndCheck stores random ranges into its own quarter and reads them back.
func writeAndCheck(r *Region, rng *rand.Rand, w, writers int64) error {
	quarter := int64(1<<20) / writers
	for range 20 {
		p := bytes.Repeat([]byte{byte(rng.Uint32())}, rng.IntN(5000))
		off := w*quarter + rng.Int64N(quarter-5000)
		b := r.Begin()
		err := b.Write(off, p)
		if err == nil {
			err = b.Fence()
		}
		b.End()
		if err != nil {
			return err
		}
		got := make([]byte, len(p))
		if _, err := r.ReadAt(got, off); err != nil {
			return err
		}
		if !bytes.Equal(got, p) {
			return fmt.Errorf("writer %d: %d bytes at %d differ", w, len(p), off)
		}
	}
	return nil
}

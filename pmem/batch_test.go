package pmem

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one")

// newRand is a source whose seed the log names.
func newRand(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// everyDomain is every way a region can make stores durable.
var everyDomain = []Domain{DomainVolatile, DomainPageCache, DomainDAX, DomainCPUCache}

// randomLen favours lengths around lines, the threshold and chunks.
func randomLen(rng *rand.Rand, most int) int {
	around := []int{0, 1, 8, 64, 128, NonTemporalMin, 4096, chunkBytes, chunkBytes + 4096}
	n := around[rng.IntN(len(around))] + rng.IntN(131) - 65
	if rng.IntN(3) == 0 {
		n = rng.IntN(5000)
	}
	return min(max(n, 0), most)
}

// TestStoresMatchPlainCopy compares random writes and zeroings with the same
// done to a slice; what lies around each range is the canary.
func TestStoresMatchPlainCopy(t *testing.T) {
	for _, d := range everyDomain {
		t.Run(d.String(), func(t *testing.T) {
			rng := newRand(t)
			const size = 1<<20 + 33
			r := newMemfd(t, size, Options{Domain: d})
			want := make([]byte, size)
			source := make([]byte, size+64)
			for i := range source {
				source[i] = byte(rng.Uint32()) | 1
			}
			b := r.Begin()
			mustDo(t, b.Write(0, source[:size]))
			copy(want, source)
			for i := range 3000 {
				n := randomLen(rng, size)
				off := rng.IntN(size - n + 1)
				if rng.IntN(4) == 0 {
					off = size - n // against the end
				}
				switch rng.IntN(5) {
				case 0, 1:
					from := rng.IntN(len(source) - n + 1)
					mustDo(t, b.Write(int64(off), source[from:from+n]))
					copy(want[off:], source[from:from+n])
				case 2, 3:
					mustDo(t, b.Zero(int64(off), int64(n)))
					clear(want[off : off+n])
				case 4:
					mustDo(t, b.Flush(int64(off), int64(n)))
				}
				if lo, hi := max(off-4096, 0), min(off+n+4096, size); !bytes.Equal(r.Bytes(int64(lo), int64(hi-lo)), want[lo:hi]) {
					t.Fatalf("step %d, offset %d, length %d: the region differs", i, off, n)
				}
			}
			mustDo(t, b.Fence())
			b.End()
			got := make([]byte, size)
			if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("the whole region differs, %v", err)
			}
			inFile := make([]byte, size)
			if _, err := r.file.ReadAt(inFile, 0); err != nil && err != io.EOF || !bytes.Equal(inFile, want) {
				t.Fatalf("the file differs, %v", err)
			}
		})
	}
}

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestLoops checks each assembly function for every small count of lines and
// every alignment of the source, with canaries on both sides.
func TestLoops(t *testing.T) {
	const lines, guard = 13, 256
	r := newMemfd(t, 1<<16, Options{})
	dst := r.Bytes(0, 2*guard+lines*lineBytes)
	source := make([]byte, lines*lineBytes+lineBytes)
	for i := range source {
		source[i] = byte(i*7 + 1)
	}
	canary := bytes.Repeat([]byte{0xC5}, len(dst))
	for name, l := range loops() {
		for n := range lines + 1 {
			for shift := range lineBytes {
				copy(dst, canary)
				l.run(unsafe.Pointer(&dst[guard]), unsafe.Pointer(&source[shift]), uintptr(n))
				storeFence()
				want := bytes.Clone(canary)
				switch {
				case l.copies:
					copy(want[guard:guard+n*lineBytes], source[shift:])
				case l.zeroes:
					clear(want[guard : guard+n*lineBytes])
				}
				if !bytes.Equal(dst, want) {
					t.Fatalf("%s of %d lines, source shifted by %d: wrong bytes", name, n, shift)
				}
			}
		}
	}
}

// TestConcurrentBatches has many goroutines write neighbouring, unaligned
// ranges: edge lines are shared, bytes are not.
func TestConcurrentBatches(t *testing.T) {
	const writers, length, rounds = 8, 777, 200
	r := newMemfd(t, 1<<16, Options{})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				b := r.Begin()
				if err := b.Write(int64(w*length), bytes.Repeat([]byte{byte(w + i)}, length)); err != nil {
					t.Error(err)
				}
				b.Order()
				if err := b.Fence(); err != nil {
					t.Error(err)
				}
				b.End()
			}
		})
	}
	wg.Wait()
	for w := range writers {
		if want := bytes.Repeat([]byte{byte(w + rounds - 1)}, length); !bytes.Equal(r.Bytes(int64(w*length), length), want) {
			t.Errorf("writer %d's range holds something else", w)
		}
	}
}

// TestFenceFailureIsFinal makes fdatasync fail once: no later fence of any
// batch may succeed (P6).
func TestFenceFailureIsFinal(t *testing.T) {
	r, err := Create(filepath.Join(shmDir(t), "image"), 1<<16, Options{Domain: DomainPageCache})
	mustDo(t, err)
	b := r.Begin()
	mustDo(t, b.Write(0, []byte{1}))
	mustDo(t, b.Fence())
	b.End()

	// fdatasync of a pipe is EINVAL; the descriptor is put back afterwards.
	fd := int(r.file.Fd())
	saved, err := unix.Dup(fd)
	mustDo(t, err)
	var pipe [2]int
	mustDo(t, unix.Pipe(pipe[:]))
	mustDo(t, unix.Dup3(pipe[0], fd, unix.O_CLOEXEC))
	b = r.Begin()
	if err := b.Fence(); !errors.Is(err, ErrFenceFailed) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("fence: %v", err)
	}
	b.End()
	mustDo(t, unix.Dup3(saved, fd, unix.O_CLOEXEC))
	b = r.Begin()
	if err := b.Fence(); !errors.Is(err, ErrFenceFailed) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("the fence after it: %v", err)
	}
	b.End()
	for _, fd := range append(pipe[:], saved) {
		mustDo(t, unix.Close(fd))
	}
	mustDo(t, r.Close())
}

// TestPageCacheOnDisk takes a file on a disk through detection and a real
// fdatasync.
func TestPageCacheOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	r, err := Create(path, 1<<20, Options{})
	mustDo(t, err)
	defer r.Close()
	if r.Domain() == DomainVolatile {
		t.Skip("the temporary directory is on tmpfs")
	}
	if r.Domain() != DomainPageCache || !r.Domain().SurvivesPowerLoss() {
		t.Fatalf("domain %v", r.Domain())
	}
	p := bytes.Repeat([]byte("frost"), 2000)
	mustWrite(t, r, 123, p)
	got, err := os.ReadFile(path)
	mustDo(t, err)
	if !bytes.Equal(got[123:123+len(p)], p) {
		t.Error("the file does not hold what was fenced")
	}
}

// TestNoAllocation holds the write path to no garbage.
func TestNoAllocation(t *testing.T) {
	r := newMemfd(t, 1<<20, Options{})
	p := make([]byte, 4096)
	allocs := testing.AllocsPerRun(1000, func() {
		b := r.Begin()
		mustDo(t, b.Write(5, p))
		mustDo(t, b.Zero(8192, 100))
		mustDo(t, b.Flush(8192, 100))
		b.Order()
		mustDo(t, b.Fence())
		b.End()
		if _, err := r.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
	})
	if allocs >= 1 && !raceEnabled { // the race detector empties pools at random
		t.Errorf("%v allocations a batch", allocs)
	}
}

// TestBatchKeepsItsThread shuffles goroutines between Begin and End: the batch
// must stay on its thread, and leave the thread alive and free.
func TestBatchKeepsItsThread(t *testing.T) {
	r := newMemfd(t, 1<<16, Options{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 20 {
				b := r.Begin()
				first := unix.Gettid()
				for range 50 {
					runtime.Gosched()
					if now := unix.Gettid(); now != first {
						t.Errorf("the batch moved from thread %d to %d", first, now)
					}
				}
				b.End()
			}
		})
	}
	wg.Wait()
	// A goroutine that ends while locked takes its thread along.
	before := threadNames(t)
	for range 64 {
		wg.Go(func() { r.Begin().End() })
		wg.Wait()
	}
	for tid := range before {
		if _, err := os.Stat("/proc/self/task/" + tid); err != nil {
			t.Errorf("a batch ended its thread: %v", err)
		}
	}
}

// threadNames are the ids of the threads of this process.
func threadNames(t *testing.T) map[string]bool {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	mustDo(t, err)
	names := make(map[string]bool)
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names
}

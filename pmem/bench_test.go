package pmem

import (
	"fmt"
	"path/filepath"
	"testing"
	"unsafe"
)

// BenchmarkCopy is what NonTemporalMin rests on: a copy with its fence, by
// non-temporal stores, by ordinary stores with flushes, and without making it
// durable at all. Destinations move through 64 MiB, more than the caches hold.
func BenchmarkCopy(b *testing.B) {
	const span = 64 << 20
	r := newMemfd(b, span, Options{})
	ways := []struct {
		name string
		copy func(off int64, p []byte)
	}{
		{"plain", func(off int64, p []byte) { copy(r.Bytes(off, int64(len(p))), p) }},
		{"flush", func(off int64, p []byte) { r.storeCached(off, p); storeFence() }},
		{"nontemporal", func(off int64, p []byte) {
			ntCopy(r.at(off), unsafe.Pointer(unsafe.SliceData(p)), uintptr(len(p))/lineBytes)
			storeFence()
		}},
	}
	for _, n := range []int{64, 128, 256, 512, 1 << 10, 4 << 10, 64 << 10, 1 << 20} {
		p := make([]byte, n)
		for _, w := range ways {
			b.Run(fmt.Sprintf("%s/%d", w.name, n), func(b *testing.B) {
				touch(r)
				b.SetBytes(int64(n))
				off := int64(0)
				for b.Loop() {
					w.copy(off, p)
					// Another page each time, as scattered blocks are.
					off = (off + int64(max(n, 4096)) + 64*31) % (span - 1<<20) &^ (lineBytes - 1)
				}
			})
		}
	}
}

// touch faults every page of the region in.
func touch(r *Region) {
	w := r.Begin()
	defer w.End()
	_ = w.Zero(0, r.Size())
}

// BenchmarkWrite goes through a batch; the odd offset has edge lines.
func BenchmarkWrite(b *testing.B) {
	const span = 64 << 20
	r := newMemfd(b, span, Options{})
	for _, n := range []int64{64, 192, 256, 320, 4096, 1 << 20} {
		for _, odd := range []int64{0, 21} {
			b.Run(fmt.Sprintf("%d+%d", n, odd), func(b *testing.B) {
				touch(r)
				p := make([]byte, n)
				b.SetBytes(n)
				b.ReportAllocs()
				off := int64(0)
				for b.Loop() {
					w := r.Begin()
					if w.Write(off+odd, p) != nil || w.Fence() != nil {
						b.Fatal("write failed")
					}
					w.End()
					off = (off + 8192) % (span - 2<<20)
				}
			})
		}
	}
}

func BenchmarkZero(b *testing.B) {
	r := newMemfd(b, 64<<20, Options{})
	for _, n := range []int64{4096, 2 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			touch(r)
			b.SetBytes(n)
			off := int64(0)
			for b.Loop() {
				w := r.Begin()
				if w.Zero(off, n) != nil || w.Fence() != nil {
					b.Fatal("zero failed")
				}
				w.End()
				off = (off + n) % (32 << 20)
			}
		})
	}
}

// BenchmarkFlush flushes lines that were just stored to, a fence included.
func BenchmarkFlush(b *testing.B) {
	r := newMemfd(b, 16<<20, Options{})
	for _, lines := range []int64{1, 64, 1024, 16384} {
		for _, state := range []string{"clean", "dirty"} {
			b.Run(fmt.Sprintf("%s/%d", state, lines), func(b *testing.B) {
				touch(r)
				mem := r.Bytes(0, lines*lineBytes)
				for b.Loop() {
					if state == "dirty" {
						for i := 0; i < len(mem); i += lineBytes {
							mem[i]++
						}
					}
					w := r.Begin()
					if w.Flush(0, lines*lineBytes) != nil || w.Fence() != nil {
						b.Fatal("flush failed")
					}
					w.End()
				}
			})
		}
	}
}

func BenchmarkReadAt(b *testing.B) {
	r := newMemfd(b, 64<<20, Options{})
	for _, n := range []int64{64, 4096, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			touch(r)
			p := make([]byte, n)
			b.SetBytes(n)
			off := int64(0)
			for b.Loop() {
				if _, err := r.ReadAt(p, off); err != nil {
					b.Fatal(err)
				}
				off = (off + 2*n) % (32 << 20)
			}
		})
	}
}

// BenchmarkBatch is a batch that does nothing, and one that only fences.
func BenchmarkBatch(b *testing.B) {
	r := newMemfd(b, 1<<20, Options{})
	b.Run("begin-end", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Begin().End()
		}
	})
	b.Run("fence", func(b *testing.B) {
		for b.Loop() {
			w := r.Begin()
			if w.Fence() != nil {
				b.Fatal("fence failed")
			}
			w.End()
		}
	})
}

// BenchmarkCatchFaults is what a lookup pays to read through Bytes.
func BenchmarkCatchFaults(b *testing.B) {
	r := newMemfd(b, 1<<20, Options{})
	touch(r)
	mem := r.Bytes(0, 4096)
	b.Run("without", func(b *testing.B) {
		for b.Loop() {
			if _, err := loadPlain(mem); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("with", func(b *testing.B) {
		for b.Loop() {
			if _, err := loadCaught(r, mem); err != nil {
				b.Fatal(err)
			}
		}
	})
}

//go:noinline
func loadPlain(mem []byte) (v byte, err error) { return mem[77], nil }

//go:noinline
func loadCaught(m Medium, mem []byte) (v byte, err error) {
	prev := CatchFaults()
	defer Caught(prev, m, &err)
	return mem[77], nil
}

// BenchmarkFdatasync is a fence of the page-cache domain on a real disk.
func BenchmarkFdatasync(b *testing.B) {
	r, err := Create(filepath.Join(b.TempDir(), "image"), 16<<20, Options{})
	mustDo(b, err)
	defer r.Close()
	if r.Domain() != DomainPageCache {
		b.Skipf("the temporary directory is %v", r.Domain())
	}
	p := make([]byte, 4096)
	off := int64(0)
	for b.Loop() {
		w := r.Begin()
		if w.Write(off, p) != nil || w.Fence() != nil {
			b.Fatal("write failed")
		}
		w.End()
		off = (off + 4096) % (16 << 20)
	}
}

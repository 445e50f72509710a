package core

import (
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// manyFiles makes n files, a thousand to a directory.
func (w *world) manyFiles(n int) []format.Ino {
	inos := make([]format.Ino, 0, n)
	var d format.Ino
	for i := range n {
		if i%1000 == 0 {
			d = w.dir(root, "d"+strconv.Itoa(i/1000))
		}
		inos = append(inos, w.file(d, "file"+strconv.Itoa(i)))
	}
	return inos
}

func benchWorld(b *testing.B, size int64) *world {
	w := newWorld(b, size, func(o *Options) { o.CommitInterval, o.MaxInodes = 5*time.Second, 1<<30 })
	return w
}

// cpu reports the processor time of the calling goroutine alone, which tells more
// than the clock on a busy machine. Call it before the loop, and what it
// returns after.
func cpu(b *testing.B) (stop func()) {
	runtime.LockOSThread()
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &before); err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &after); err != nil {
			b.Fatal(err)
		}
		runtime.UnlockOSThread()
		ns := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
		b.ReportMetric(float64(ns)/float64(b.N), "cpu-ns/op")
	}
}

func BenchmarkCreate(b *testing.B) {
	w := benchWorld(b, 2<<30)
	var d format.Ino
	b.ReportAllocs()
	b.ResetTimer()
	stop := cpu(b)
	for i := range b.N {
		if i%1000 == 0 {
			d = w.dir(root, "d"+strconv.Itoa(i))
		}
		if _, err := w.fs.Create(ctx, d, "file"+strconv.Itoa(i), NewNode{Mode: format.TypeRegular | 0o644}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	stop()
}

func BenchmarkUnlink(b *testing.B) {
	w := benchWorld(b, 2<<30)
	w.manyFiles(b.N)
	dirs := make([]format.Ino, 0, b.N/1000+1)
	for i := 0; i < b.N; i += 1000 {
		a, err := w.fs.Lookup(ctx, root, "d"+strconv.Itoa(i/1000))
		w.ok(err)
		dirs = append(dirs, a.Ino)
	}
	b.ReportAllocs()
	b.ResetTimer()
	stop := cpu(b)
	for i := range b.N {
		if err := w.fs.Unlink(ctx, dirs[i/1000], "file"+strconv.Itoa(i)); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	stop()
}

func BenchmarkGetAttr(b *testing.B) {
	w := benchWorld(b, 512<<20)
	inos := w.manyFiles(100_000)
	b.ReportAllocs()
	b.ResetTimer()
	stop := cpu(b)
	for i := range b.N {
		if _, err := w.fs.GetAttr(ctx, inos[i*7919%len(inos)]); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	stop()
}

func BenchmarkLookup(b *testing.B) {
	w := benchWorld(b, 512<<20)
	w.manyFiles(100_000)
	d, err := w.fs.Lookup(ctx, root, "d50")
	w.ok(err)
	names := make([]string, 1000)
	for i := range names {
		names[i] = "file" + strconv.Itoa(50_000+i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	stop := cpu(b)
	for i := range b.N {
		if _, err := w.fs.Lookup(ctx, d.Ino, names[i%1000]); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	stop()
}

// BenchmarkOverwriteFsync is 4 KiB overwrite and fsync by four goroutines.
func BenchmarkOverwriteFsync(b *testing.B) {
	for _, files := range []int{10, 100_000} {
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			w := benchWorld(b, 1<<30)
			inos := w.manyFiles(files)
			p := pattern(1, 4096)
			const each = 256
			for _, ino := range inos[:4] {
				for i := range int64(each) {
					w.write(ino, i*4096, p)
				}
			}
			_, err := w.fs.WaitDurable(ctx)
			w.ok(err)
			var next atomic.Int64
			b.SetParallelism(2)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				ino := inos[next.Add(1)%4]
				for i := int64(0); pb.Next(); i++ {
					if _, err := w.fs.WriteAt(ctx, ino, p, i*37%each*4096); err != nil {
						b.Error(err)
						return
					}
					if _, err := w.fs.Fsync(ctx, ino, 0, 0); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(w.fs.Status().TreeDepth), "depth")
		})
	}
}

func BenchmarkSequential(b *testing.B) {
	const size = 256 << 20
	w := benchWorld(b, 600<<20)
	f := w.file(root, "f")
	buf := pattern(1, 1<<20)
	for off := int64(0); off < size; off += 1 << 20 {
		w.write(f, off, buf)
	}
	b.Run("write", func(b *testing.B) {
		b.SetBytes(1 << 20)
		for i := range b.N {
			w.write(f, int64(i)%(size>>20)<<20, buf)
		}
	})
	b.Run("read", func(b *testing.B) {
		b.SetBytes(1 << 20)
		for i := range b.N {
			if _, err := w.fs.ReadAt(ctx, f, buf, int64(i)%(size>>20)<<20); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("memcpy", func(b *testing.B) {
		src, dst := make([]byte, size), make([]byte, 1<<20)
		b.SetBytes(1 << 20)
		for i := range b.N {
			copy(dst, src[i%(size>>20)<<20:])
		}
	})
}

// BenchmarkFreeze is freeze and thaw with dirty files of one page each, whose
// protection costs nothing: what core itself costs.
func BenchmarkFreeze(b *testing.B) {
	for _, files := range []int{0, 10, 100, 1000} {
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			w := benchWorld(b, 512<<20)
			maps := make([]*mapped, files)
			for i := range maps {
				maps[i] = w.mapFile(w.file(root, fmt.Sprint("m", i)), 1)
			}
			go func() {
				for range w.fs.Events() {
				}
			}()
			var took, window time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				for _, p := range maps {
					w.ok(p.store(0, 'x'))
				}
				b.StartTimer()
				start := time.Now()
				r, _, err := w.fs.Freeze(ctx, freeze.Request{Holder: "bench", Lease: time.Minute})
				took += time.Since(start)
				window += r.Window
				w.ok(err)
				_, err = w.fs.Thaw(ctx, freeze.ThawRequest{Holder: "bench"})
				w.ok(err)
			}
			b.StopTimer()
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "freeze-ns")
			b.ReportMetric(float64(window.Nanoseconds())/float64(b.N), "window-ns")
			for _, p := range maps {
				w.ok(p.m.Unmap(ctx))
			}
		})
	}
}

// BenchmarkCachedInode tells the memory of a cached clean inode.
func BenchmarkCachedInode(b *testing.B) {
	w := benchWorld(b, 2<<30)
	const n = 1_000_000
	inos := w.manyFiles(n)
	w.remount()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, ino := range inos {
		if _, err := w.fs.GetAttr(ctx, ino); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "bytes/inode")
	b.ReportMetric(float64(after.Sys-before.Sys)/n, "sysbytes/inode")
}

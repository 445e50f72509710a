package tree

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"permafrost/core/format"
	"permafrost/pmem"
)

// cpuTime reports the processor time of the benchmark's loop beside its wall
// time, which says little while others use the machine.
func cpuTime(b *testing.B) (stop func()) {
	read := func() int64 {
		var ru unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
			b.Fatal(err)
		}
		return ru.Utime.Nano() + ru.Stime.Nano()
	}
	start := read()
	return func() { b.ReportMetric(float64(read()-start)/float64(b.N), "cpu-ns/op") }
}

// benchRegion is a pmem file on tmpfs.
func benchRegion(b *testing.B, size int64) pmem.Medium {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tree-bench")
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	r, err := pmem.Create(filepath.Join(dir, "pmem"), size, pmem.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.Close() })
	if err := Format(r, FormatOptions{}); err != nil {
		b.Fatal(err)
	}
	return r
}

// benchStore has records of 100 bytes under inode numbers 1 to n, committed.
func benchStore(b *testing.B, size int64, n int) *Store {
	b.Helper()
	s := mustOpen(b, benchRegion(b, size), Options{})
	b.Cleanup(func() { _ = s.Close(context.Background()) })
	v := make([]byte, 100)
	for i := 0; i < n; {
		update(b, s, Reserve{Nodes: s.NodesFor(100)}, func(tx *Tx) {
			for range 100 {
				i++
				if err := tx.Put(Key{Ino: format.Ino(i)}, v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	if _, err := s.Commit(context.Background(), CommitOptions{}); err != nil {
		b.Fatal(err)
	}
	return s
}

// depth3 is a number of records that gives a tree of three levels.
const depth3 = 100_000

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{1000, depth3, 1_000_000} {
		s := benchStore(b, 512<<20, n)
		b.Run(fmt.Sprintf("depth=%d", s.Info().Depth), func(b *testing.B) {
			rnd := rand.New(rand.NewPCG(1, 2))
			var buf []byte
			var err error
			stop := cpuTime(b)
			for b.Loop() {
				if buf, err = s.Get(Key{Ino: format.Ino(1 + rnd.IntN(n))}, buf); err != nil {
					b.Fatal(err)
				}
			}
			stop()
		})
	}
}

func BenchmarkGetParallel(b *testing.B) {
	s := benchStore(b, 256<<20, depth3)
	b.RunParallel(func(pb *testing.PB) {
		var buf []byte
		var err error
		for i := 0; pb.Next(); i += 7919 {
			if buf, err = s.Get(Key{Ino: format.Ino(1 + i%depth3)}, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkPutWarm(b *testing.B) {
	s := benchStore(b, 256<<20, depth3)
	rnd := rand.New(rand.NewPCG(1, 2))
	v := make([]byte, 100)
	tx, err := s.Begin(Reserve{Nodes: 10_000})
	if err != nil {
		b.Fatal(err)
	}
	defer tx.End()
	for i := range depth3 { // warm the group
		if err := tx.Put(Key{Ino: format.Ino(1 + i)}, v); err != nil {
			b.Fatal(err)
		}
	}
	stop := cpuTime(b)
	for b.Loop() {
		binary.LittleEndian.PutUint64(v, rnd.Uint64())
		if err := tx.Put(Key{Ino: format.Ino(1 + rnd.IntN(depth3))}, v); err != nil {
			b.Fatal(err)
		}
	}
	stop()
}

// BenchmarkPutSequential is inserting, commits at the group's bound included.
func BenchmarkPutSequential(b *testing.B) {
	s := benchStore(b, 1<<30, depth3)
	v := make([]byte, 32)
	nodes := s.NodesFor(16)
	i := depth3
	stop := cpuTime(b)
	for b.Loop() {
		tx, err := s.Begin(Reserve{Nodes: nodes})
		if err != nil {
			b.Fatal(err)
		}
		for range 16 {
			i++
			if err := tx.Put(Key{Ino: format.Ino(i % 10_000_000)}, v); err != nil {
				b.Fatal(err)
			}
		}
		tx.End()
	}
	stop()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*16), "ns/put")
}

func BenchmarkBegin(b *testing.B) {
	s := benchStore(b, 64<<20, 1000)
	stop := cpuTime(b)
	for b.Loop() {
		tx, err := s.Begin(Reserve{Nodes: 10})
		if err != nil {
			b.Fatal(err)
		}
		tx.End()
	}
	stop()
}

func BenchmarkCommitOneLeaf(b *testing.B) {
	s := benchStore(b, 256<<20, depth3)
	rnd := rand.New(rand.NewPCG(1, 2))
	v := make([]byte, 100)
	stop := cpuTime(b)
	for b.Loop() {
		tx, err := s.Begin(Reserve{Nodes: 20})
		if err != nil {
			b.Fatal(err)
		}
		binary.LittleEndian.PutUint64(v, rnd.Uint64())
		if err := tx.Put(Key{Ino: format.Ino(1 + rnd.IntN(depth3))}, v); err != nil {
			b.Fatal(err)
		}
		g := tx.Generation()
		tx.End()
		if err := s.WaitDurable(context.Background(), g); err != nil {
			b.Fatal(err)
		}
	}
	stop()
}

func BenchmarkCommitFreezeEmpty(b *testing.B) {
	s := benchStore(b, 64<<20, 1000)
	stop := cpuTime(b)
	for b.Loop() {
		if _, err := s.Commit(context.Background(), CommitOptions{FreezeID: 1}); err != nil {
			b.Fatal(err)
		}
	}
	stop()
}

func BenchmarkRebuild(b *testing.B) {
	m := benchRegion(b, 512<<20)
	s := mustOpen(b, m, Options{})
	v := make([]byte, 100)
	for i := 0; i < 1_000_000; {
		update(b, s, Reserve{Nodes: s.NodesFor(100)}, func(tx *Tx) {
			for range 100 {
				i++
				if err := tx.Put(Key{Ino: format.Ino(i)}, v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	if _, err := s.Commit(context.Background(), CommitOptions{}); err != nil {
		b.Fatal(err)
	}
	stop := cpuTime(b)
	for b.Loop() {
		mustOpen(b, m, Options{})
	}
	stop()
	b.ReportMetric(float64(s.Counters().Nodes), "nodes")
}

package store

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// onDisk is a ledger on the disk that holds the temporary directory, as it is
// in use.
func onDisk(b *testing.B) *Ledger {
	o := quick()
	o.RetainEvery = time.Hour
	return mustOpen(b, filepath.Join(b.TempDir(), "ledger.db"), o)
}

// BenchmarkIntent is what a freeze pays for the ledger before its first gate
// closes: quiet, and with a flood of other records.
func BenchmarkIntent(b *testing.B) {
	for _, busy := range []bool{false, true} {
		name := "idle"
		if busy {
			name = "flood"
		}
		b.Run(name, func(b *testing.B) {
			l := onDisk(b)
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				rows := make([]FoundInode, 64)
				for i := range rows {
					rows[i] = FoundInode{FreezeID: 1, Ino: int64(i), Path: "/a/path/of/usual/length", FoundAt: t0}
				}
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for busy {
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
						l.RecordFound(rows)
					}
				}
			}()
			took := make([]time.Duration, 0, b.N)
			id := int64(0)
			b.ResetTimer()
			for range b.N {
				id++
				begin := time.Now()
				if err := l.Intent(context.Background(), openFreeze(id)); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
			}
			b.StopTimer()
			cancel()
			<-ended
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
		})
	}
}

// BenchmarkRecord is the way of found inodes to the disk, in rows a second.
func BenchmarkRecord(b *testing.B) {
	l := onDisk(b)
	l.RecordFreeze(openFreeze(1))
	rows := make([]FoundInode, 1000)
	for i := range rows {
		rows[i] = FoundInode{FreezeID: 1, Ino: int64(i), Path: "/a/path/of/usual/length", FoundAt: t0}
	}
	b.ResetTimer()
	for i := range b.N {
		l.RecordFound(rows)
		if i%32 == 31 {
			mustFlush(b, l)
		}
	}
	mustFlush(b, l)
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "rows/s")
}

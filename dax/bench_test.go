package dax

import (
	"fmt"
	"testing"

	"permafrost/core"
	"permafrost/core/format"
)

// BenchmarkFirstStore is what a storer pays for its first store to a clean page.
func BenchmarkFirstStore(b *testing.B) {
	for _, c := range []struct {
		name   string
		stride int // pages
	}{{"alone", 26}, {"run", 1}} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b)
			const pages = 4096
			w := r.attached("/f", pages)
			count := pages / c.stride
			var ns uint64
			for b.Loop() {
				ns += w.do("timed 0 0 %d %d", c.stride*pageBytes, count)
				w.do("sync 0 0 0")
			}
			b.ReportMetric(float64(ns)/float64(b.N*count), "ns/page")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkProtect is what the sync path pays for one inode's pages.
func BenchmarkProtect(b *testing.B) {
	for _, hot := range []bool{false, true} {
		for _, c := range []struct{ pages, stride uint64 }{{1, 1}, {10000, 1}, {1000, 26}} {
			b.Run(fmt.Sprintf("hot=%v/pages=%d/stride=%d", hot, c.pages, c.stride), func(b *testing.B) {
				r := newRig(b)
				const pages = 10000
				w := r.attached("/f", pages)
				if c.stride > 1 {
					w.kill()
					w = r.attached("/f", pages*2)
				}
				if hot {
					w.do("map 1 /g 0 4096 wcg")
					w.do("hammer 0 1 0 4096 1") // runs, and never faults
				}
				var runs []core.PageRun
				for i := range c.pages {
					if p := i * c.stride; p < pages*2 {
						runs = append(runs, core.PageRun{First: format.Page(p), Count: 1})
					}
				}
				runs = unionRuns(runs)
				mp := r.only(w)
				for b.Loop() {
					b.StopTimer()
					w.do("timed 0 0 %d %d", c.stride*pageBytes, min(c.pages, pages*2/c.stride))
					b.StartTimer()
					if err := mp.Protect(r.bg, runs); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// only is the first mapping of a worker's client.
func (r *rig) only(w *worker) *mapping {
	r.t.Helper()
	for _, c := range r.srv.allClients() {
		if c.proc.PID != w.cmd.Process.Pid {
			continue
		}
		c.evMu.Lock()
		defer c.evMu.Unlock()
		var first *mapping
		for _, mp := range c.mappings {
			if first == nil || mp.id < first.id {
				first = mp
			}
		}
		return first
	}
	r.t.Fatal("no such client")
	return nil
}

package freeze

import (
	"context"
	"testing"
	"time"
)

// still is a target with nothing dirty.
type still struct{}

func (still) Dirty() (inodes, pages uint64)                            { return 0, 0 }
func (still) SyncDirty(context.Context, SyncOptions) (Flushed, error)  { return Flushed{}, nil }
func (still) FinalCommit(_ context.Context, id uint64) (uint64, error) { return id, nil }

func benchFreezer(b *testing.B, o func(Event)) *Freezer {
	f, err := New(Config{Target: still{}, Observer: o})
	if err != nil {
		b.Fatal(err)
	}
	return f
}

func BenchmarkEnterExit(b *testing.B) {
	g := benchFreezer(b, nil).StartWrite()
	ctx := context.Background()
	path := "/a/b"
	b.ReportAllocs()
	for b.Loop() {
		p, err := g.Enter(ctx, OpWrite, 7, func() Waiter { return Waiter{Path: path} })
		if err != nil {
			b.Fatal(err)
		}
		p.Exit()
	}
}

func BenchmarkTryExitParallel(b *testing.B) {
	g := benchFreezer(b, nil).StartPageFault()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if p, ok := g.Try(OpStore, 7); ok {
				p.Exit()
			}
		}
	})
}

func benchFreezeThaw(b *testing.B, o func(Event)) {
	f := benchFreezer(b, o)
	ctx := context.Background()
	var window time.Duration
	b.ReportAllocs()
	for b.Loop() {
		rec, h, err := f.Freeze(ctx, Request{Holder: "bench", Lease: 60e9})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Thaw(ThawRequest{Hold: h.ID}); err != nil {
			b.Fatal(err)
		}
		window += rec.Window
	}
	b.ReportMetric(float64(window.Nanoseconds())/float64(b.N), "window-ns/op")
}

func BenchmarkFreezeThaw(b *testing.B)         { benchFreezeThaw(b, nil) }
func BenchmarkFreezeThawObserved(b *testing.B) { benchFreezeThaw(b, func(Event) {}) }

package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/core/freeze"
	"permafrost/store"
)

// A clock that was set back keeps no minute of fsyncs back: the next look at it
// records it.
func TestMinuteAfterTheClockWasSetBack(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ledger, err := store.Open(ctx, filepath.Join(t.TempDir(), "ledger.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close(ctx)
	r := &recorder{ledger: ledger, log: slog.New(slog.DiscardHandler)}
	// A minute of today: retention deletes what is older than its days, at once.
	at := time.Now().UTC().Truncate(time.Minute).Add(7 * time.Second)
	r.syncEvent(at, &core.SyncEvent{Kind: "fsync", SyncResult: core.SyncResult{Flushed: freeze.Flushed{Pages: 3}}})
	r.flushMinute(at.Add(10 * time.Second)) // the minute goes on
	if r.minute.Count != 1 {
		t.Fatalf("a minute that goes on is recorded: %+v", r.minute)
	}
	r.flushMinute(at.Add(-time.Hour))
	if err := ledger.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	rows, err := ledger.FsyncStats(ctx, at.Add(-time.Minute), at.Add(time.Minute))
	if err != nil || len(rows) != 1 || rows[0].Pages != 3 || r.minute.Count != 0 {
		t.Errorf("recorded: %+v, %v; kept back: %+v", rows, err, r.minute)
	}
}

package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/core/freeze"
	"permafrost/pmem"
	"permafrost/store"
)

// What was asked for is in the ledger before the freeze is reached: id, holder,
// reason, lease and patience.
func TestIntentIsWhole(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ledger, err := store.Open(ctx, filepath.Join(t.TempDir(), "ledger.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close(ctx)
	region, err := pmem.CreateMemfd("recorder-test", 4<<20, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	if err := core.Mkfs(region, core.MkfsOptions{}); err != nil {
		t.Fatal(err)
	}
	a := &appliance{ledger: ledger}
	var row store.Freeze
	intent := func(ctx context.Context, r freeze.Record) error {
		if err := a.recordIntent(ctx, r); err != nil {
			return err
		}
		var err error
		row, err = ledger.Freeze(ctx, int64(r.ID)) // the gates are still open
		return err
	}
	fs, err := core.Mount(region, core.Options{Intent: intent})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Unmount(ctx)
	rec, hold, err := fs.Freeze(ctx, freeze.Request{Holder: "nightly", Reason: "copy", Lease: 90 * time.Second, Patience: 7 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if row.ID != int64(rec.ID) || row.State != "freezing" || row.PatienceUS != 7e6 || len(row.Holds) != 1 {
		t.Fatalf("intent: %+v", row)
	}
	if h := row.Holds[0]; h.Hold != hold.ID || h.Holder != "nightly" || h.Reason != "copy" || h.LeaseUS != 90e6 {
		t.Errorf("intent: %+v", h)
	}
	if _, _, err := fs.Renew(ctx, freeze.RenewRequest{Hold: hold.ID, Lease: 2 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	if h := freezeRow(*fs.Status().Freeze).Holds[0]; h.LeaseUS != 120e6 {
		t.Errorf("after a renewal: %+v", h)
	}
}

// Thousands of small reads of the image are a few rows of the ledger, which add
// up to what was read; the count is with the freeze.
func TestImageReadsAreRecorded(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ledger, err := store.Open(ctx, filepath.Join(t.TempDir(), "ledger.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close(ctx)
	region, err := pmem.CreateMemfd("recorder-test", 4<<20, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	if err := core.Mkfs(region, core.MkfsOptions{}); err != nil {
		t.Fatal(err)
	}
	fs, err := core.Mount(region, core.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := startRecorder(fs, ledger, slog.New(slog.DiscardHandler))
	rec, _, err := fs.Freeze(ctx, freeze.Request{Holder: "nightly", Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	const requests = 5000
	begun := time.Now()
	for range requests {
		read, err := fs.Freezer().BeginImageRead(rec.ID, "uid:0")
		if err != nil {
			t.Fatal(err)
		}
		read.Add(100)
	}
	if err := fs.Unmount(ctx); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if err := ledger.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	row, err := ledger.Freeze(ctx, int64(rec.ID))
	if err != nil || row.ImageReads != requests || row.EndedAt.IsZero() {
		t.Fatalf("freeze %+v, %v", row, err)
	}
	reads, err := ledger.ImageReads(ctx, row.ID, row.FrozenAt, row.EndedAt, 1000)
	if atMost := 3 + int(time.Since(begun)/(2*time.Second)); err != nil || len(reads) < 2 || len(reads) > atMost {
		t.Fatalf("%d rows of %d reads, want 2 to %d: %+v, %v", len(reads), requests, atMost, reads, err)
	}
	var n, bytes int64
	for _, r := range reads {
		n, bytes = n+r.Requests, bytes+r.Bytes
		if r.Reader != "uid:0" || r.Since.Before(row.FrozenAt) || r.Until.Before(r.Since) || r.Until.After(row.EndedAt) {
			t.Errorf("row %+v of freeze %+v", r, row)
		}
	}
	if n != requests || bytes != 100*requests {
		t.Errorf("the rows say %d requests and %d bytes", n, bytes)
	}
}

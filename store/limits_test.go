package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBadRowDoesNotHoldUpOthers mixes rows that SQLite refuses with good ones
// in one batch (L7).
func TestBadRowDoesNotHoldUpOthers(t *testing.T) {
	l := newTestLedger(t)
	release := lockOut(t, l.Path())
	l.RecordFreeze(openFreeze(1))
	l.RecordBlocked([]Blocked{{FreezeID: 99, Op: "no such freeze", Since: t0}})
	l.RecordRenewal(Renewal{"99.1", t0, t0})
	l.RecordFound([]FoundInode{{Ino: 4, Path: "neither freeze nor sync", FoundAt: t0}})
	l.RecordFound([]FoundInode{{FreezeID: 1, Ino: 4, FoundAt: t0}})
	if err := l.RecordEvent(LedgerEvent{Kind: "x", Data: []byte("{")}); !errors.Is(err, ErrBadRecord) {
		t.Errorf("event that is not JSON: %v", err)
	}
	release()
	mustFlush(t, l)
	if s := l.Stats(); s.Rejected != 3 || s.Found != 1 || s.Freezes != 1 || s.Blocked != 0 {
		t.Errorf("%+v", s)
	}
	waitHealth(t, l, OK)
}

// TestFullQueueLosesTheOldest bounds memory while nothing can be written (L6).
func TestFullQueueLosesTheOldest(t *testing.T) {
	o := quick()
	o.Limits.Events = Limit{Rows: 10, Bytes: 1 << 20}
	o.Limits.Found = Limit{Rows: 1 << 20, Bytes: 40 * (rowBytes + 1000)}
	o.Limits.Freezes = Limit{Rows: 5, Bytes: 1 << 20}
	l := mustOpen(t, filepath.Join(shm(t), "ledger.db"), o)
	release := lockOut(t, l.Path())
	ctx := patient(t)
	if err := l.Intent(ctx, openFreeze(1)); !errors.Is(err, ErrLocked) {
		t.Fatalf("intent: %v", err)
	}
	waitHealth(t, l, Degraded)
	first := l.Stats().Waiting // the writer may hold a batch of its own by now
	for i := range 100 {
		l.RecordEvent(LedgerEvent{At: t0, Kind: fmt.Sprint("k", i)})
		l.RecordFound([]FoundInode{{FreezeID: 1, Path: strings.Repeat("p", 1000), Pages: int64(i), FoundAt: t0}})
	}
	for id := int64(2); id <= 10; id++ {
		f := openFreeze(id)
		if id != 3 {
			f.State = "thawed"
		}
		l.RecordFreeze(f)
		l.RecordFreeze(f) // takes the place of the one before
	}
	s := l.Stats()
	if s.Dropped["events"]+uint64(s.Waiting) == 0 || s.Dropped["found"] == 0 {
		t.Errorf("nothing was dropped: %+v (first %d)", s, first)
	}
	if s.WaitingBytes > 41*(rowBytes+1000)+20*rowBytes*4+batchRows*(rowBytes+1000) {
		t.Errorf("%d bytes wait", s.WaitingBytes)
	}
	release()
	mustFlush(t, l)
	evs := must(l.EventsAfter(ctx, 0, 1000))(t)
	if len(evs) < 10 || len(evs) == 100 || evs[len(evs)-1].Kind != "k99" || evs[len(evs)-10].Kind != "k90" {
		t.Errorf("the newest events were not kept: %d of them", len(evs))
	}
	if f := must(l.Freeze(ctx, 3))(t); f.State != "frozen" {
		t.Errorf("an open freeze was dropped: %+v", f)
	}
	if f := must(l.Freeze(ctx, 10))(t); f.ID != 10 {
		t.Errorf("%+v", f)
	}
	s = l.Stats()
	if s.Dropped["events"] != uint64(100-len(evs)) || s.Dropped["freezes"] == 0 || s.Dropped["found"] != uint64(100-s.Found) {
		t.Errorf("losses are not counted: %+v", s)
	}
}

func TestCloseSaysWhatIsLost(t *testing.T) {
	l := newTestLedger(t)
	release := lockOut(t, l.Path())
	l.RecordFreeze(openFreeze(1))
	err := l.Close(patient(t))
	wantError(t, err, ErrLocked, "1 rows could not be written")
	release()
	if err := l.Close(patient(t)); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := l.Intent(patient(t), openFreeze(2)); !errors.Is(err, ErrClosed) {
		t.Errorf("intent after Close: %v", err)
	}
	l.RecordFreeze(openFreeze(3))
	if s := l.Stats(); s.Dropped["freezes"] != 2 {
		t.Errorf("%+v", s)
	}
	if _, err := l.Subscribe(); !errors.Is(err, ErrClosed) {
		t.Errorf("Subscribe: %v", err)
	}
	if _, err := l.Freeze(patient(t), 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
}

// TestCloseWritesWhatWaits loses nothing when all is well.
func TestCloseWritesWhatWaits(t *testing.T) {
	path := filepath.Join(shm(t), "ledger.db")
	l := mustOpen(t, path, quick())
	for id := int64(1); id <= 2000; id++ {
		l.RecordFreeze(fullFreeze(id))
	}
	if err := l.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the write-ahead log was left behind: %v", err)
	}
	l = mustOpen(t, path, quick())
	if s := l.Stats(); s.Freezes != 2000 {
		t.Errorf("%d freezes", s.Freezes)
	}
}

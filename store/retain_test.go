package store

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// waitCount waits until the ledger's figures satisfy ok.
func waitCount(t *testing.T, l *Ledger, ok func(Stats) bool) Stats {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		s := l.Stats()
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("still %+v", s)
		}
	}
}

// checkCounts compares the figures kept in memory with the tables.
func checkCounts(t *testing.T, l *Ledger) {
	t.Helper()
	s := l.Stats()
	l.connMu.RLock()
	defer l.connMu.RUnlock()
	c := must(l.conn.rq.CountRows(patient(t)))(t)
	got := fmt.Sprint(s.Freezes, s.Renewals, s.Blocked, s.Found, s.Syncs, s.Minutes, s.Samples, s.Events)
	want := fmt.Sprint(c.Freezes, c.Renewals, c.Blocked, c.Found, c.Syncs, c.Minutes, c.Samples, c.Events)
	if got != want {
		t.Errorf("counted %s, the tables hold %s", got, want)
	}
	var bad int
	if err := l.conn.r.QueryRow("SELECT count(*) FROM pragma_foreign_key_check").Scan(&bad); err != nil || bad != 0 {
		t.Errorf("%d broken references, %v", bad, err)
	}
}

func TestRetentionByCount(t *testing.T) {
	path := filepath.Join(shm(t), "ledger.db")
	o := quick()
	o.Retention = Retention{MaxAge: -1, Freezes: -1, Renewals: -1, Blocked: -1, Found: -1, Syncs: -1, Minutes: -1, Samples: -1, Events: -1}
	l := mustOpen(t, path, o)
	for id := int64(1); id <= 40; id++ {
		l.RecordFreeze(fullFreeze(id))
		n := 2
		if id == 7 {
			n = 3 * retainRows // more than one step deletes
		}
		found, blocked := make([]FoundInode, n), make([]Blocked, n)
		for i := range n {
			found[i] = FoundInode{FreezeID: id, Ino: 1, FoundAt: t0}
			blocked[i] = Blocked{FreezeID: id, Since: t0}
		}
		l.RecordFound(found)
		l.RecordBlocked(blocked)
		l.RecordRenewal(Renewal{fmt.Sprintf("%d.1", id), t0, t0})
		l.RecordSync(Sync{At: t0}, found)
		at := t0.Add(time.Duration(id) * time.Minute)
		l.RecordFsyncStats(FsyncStats{Minute: at, Count: 1})
		l.RecordSample(Sample{At: at})
		l.RecordEvent(event(int(id)))
	}
	mustFlush(t, l)
	checkCounts(t, l)
	time.Sleep(3 * o.RetainEvery) // no limit: nothing goes
	if s := l.Stats(); s.Freezes != 40 || s.Events != 40 {
		t.Errorf("deleted without a limit: %+v", s)
	}
	if err := l.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	r := &o.Retention
	r.Freezes, r.Syncs, r.Minutes, r.Samples, r.Events = 10, 5, 6, 7, 8
	l = mustOpen(t, path, o)
	s := waitCount(t, l, func(s Stats) bool { return s.Freezes <= 10 })
	if s.Freezes != 10 {
		t.Errorf("%+v", s)
	}
	waitCount(t, l, func(s Stats) bool { return s.Syncs == 5 && s.Minutes == 6 && s.Samples == 7 && s.Events == 8 })
	checkCounts(t, l)
	list := must(l.Freezes(patient(t), FreezeQuery{}))(t)
	if len(list) != 10 || list[0].ID != 40 || list[9].ID != 31 {
		t.Errorf("kept %d freezes", len(list))
	}
	ev := must(l.EventsAfter(patient(t), 0, 0))(t)
	if len(ev) != 8 || string(ev[0].Data) != "33" {
		t.Errorf("kept events %+v", ev)
	}
}

// TestRetentionKeepsOpenFreeze has one older than everything (L9).
func TestRetentionKeepsOpenFreeze(t *testing.T) {
	o := quick()
	o.Retention = Retention{Freezes: 3, MaxAge: 30 * time.Minute} // now is t0 + 1 h
	l := mustOpen(t, filepath.Join(shm(t), "ledger.db"), o)
	l.RecordFreeze(openFreeze(1))
	l.RecordFound([]FoundInode{{FreezeID: 1, FoundAt: t0.Add(50 * time.Minute)}})
	for id := int64(2); id <= 50; id++ {
		l.RecordFreeze(fullFreeze(id))
	}
	mustFlush(t, l)
	// The open one counts, so two of the others stay.
	waitCount(t, l, func(s Stats) bool { return s.Freezes == 3 })
	list := must(l.Freezes(patient(t), FreezeQuery{}))(t)
	if len(list) != 3 || list[2].ID != 1 || list[1].ID != 49 {
		t.Errorf("%+v", list)
	}
	ended := openFreeze(1)
	ended.State = "thawed"
	l.RecordFreeze(ended)
	mustFlush(t, l)
	waitCount(t, l, func(s Stats) bool { return s.Freezes == 2 && s.Found == 0 })
	checkCounts(t, l)
}

func TestRetentionByAge(t *testing.T) {
	o := quick()
	o.Retention = Retention{MaxAge: 30 * time.Minute}
	l := mustOpen(t, filepath.Join(shm(t), "ledger.db"), o)
	for m := range 60 {
		at := t0.Add(time.Duration(m)*time.Minute + time.Second)
		l.RecordSample(Sample{At: at})
		l.RecordEvent(LedgerEvent{At: at, Kind: "k"})
		l.RecordSync(Sync{At: at}, []FoundInode{{FoundAt: at}})
	}
	mustFlush(t, l)
	s := waitCount(t, l, func(s Stats) bool { return s.Samples <= 30 && s.Events <= 30 && s.Syncs <= 30 && s.Found <= 30 })
	if s.Samples != 30 || s.Events != 30 || s.Syncs != 30 || s.Found != 30 {
		t.Errorf("%+v", s)
	}
	checkCounts(t, l)
}

package store

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestEverythingAtOnce has writers, intents, readers and listeners together,
// with a lock that comes and goes.
func TestEverythingAtOnce(t *testing.T) {
	const workers, rounds = 6, 40
	o := quick()
	o.Limits.SubscriberEvents = workers * rounds * 2
	l := mustOpen(t, filepath.Join(shm(t), "ledger.db"), o)
	ctx := patient(t)
	sub := must(l.Subscribe())(t)
	defer sub.Close()
	var work, noise sync.WaitGroup
	stop := make(chan struct{})
	for w := range workers {
		work.Go(func() {
			for i := range rounds {
				id := int64(1 + w*rounds + i)
				l.Intent(ctx, openFreeze(id)) // may fail while the lock is held
				l.RecordFound([]FoundInode{{FreezeID: id, Ino: id, FoundAt: t0}})
				l.RecordBlocked([]Blocked{{FreezeID: id, Since: t0}})
				l.RecordRenewal(Renewal{fmt.Sprintf("%d.1", id), t0, t0})
				l.RecordEvent(event(int(id)))
				l.RecordSync(Sync{At: t0}, []FoundInode{{Ino: id, FoundAt: t0}})
				f := fullFreeze(id)
				l.RecordFreeze(f)
				if got, err := l.Freeze(ctx, id); err != nil || got.State != "thawed" {
					t.Errorf("freeze %d: %s, %v", id, got.State, err)
				}
			}
		})
	}
	for range 2 {
		noise.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				list, err := l.Freezes(ctx, FreezeQuery{Limit: 20})
				if err != nil {
					t.Error(err)
					return
				}
				for i := 1; i < len(list); i++ {
					if list[i].ID >= list[i-1].ID {
						t.Errorf("not newest first: %d before %d", list[i-1].ID, list[i].ID)
					}
				}
				l.Stats()
				l.Health()
				l.EventsAfter(ctx, 0, 10)
				l.InodeHistory(ctx, 3, 0, 10)
			}
		})
	}
	noise.Go(func() {
		for range 3 {
			release := lockOut(t, l.Path())
			time.Sleep(250 * time.Millisecond)
			release()
			time.Sleep(20 * time.Millisecond)
		}
	})
	work.Wait()
	mustFlush(t, l)
	close(stop)
	noise.Wait()
	mustFlush(t, l)
	waitHealth(t, l, OK)
	const n = workers * rounds
	s := l.Stats()
	if s.Freezes != n || s.Found != 2*n || s.Blocked != n || s.Renewals != n || s.Syncs != n || s.Events != n || s.Rejected != 0 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	checkCounts(t, l)
	if len(sub.C) != n {
		t.Errorf("the subscriber got %d of %d events", len(sub.C), n)
	}
}

// TestPragmasReachEveryConnection looks at what the DSN really did.
func TestPragmasReachEveryConnection(t *testing.T) {
	l := newTestLedger(t)
	ctx := context.Background()
	for range readers {
		c := must(l.conn.r.Conn(ctx))(t)
		defer c.Close()
		var queryOnly, fk int
		if err := c.QueryRowContext(ctx, "SELECT * FROM pragma_query_only, pragma_foreign_keys").Scan(&queryOnly, &fk); err != nil || queryOnly != 1 || fk != 1 {
			t.Errorf("reader: query_only %d, foreign_keys %d, %v", queryOnly, fk, err)
		}
		if _, err := c.ExecContext(ctx, "DELETE FROM freezes"); err == nil {
			t.Error("a reader could write")
		}
	}
	var mode string
	var synchronous, fk int
	err := l.conn.w.QueryRowContext(ctx, "SELECT * FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys").Scan(&mode, &synchronous, &fk)
	if err != nil || mode != "wal" || synchronous != 2 || fk != 1 {
		t.Errorf("writer: journal %s, synchronous %d, foreign_keys %d, %v", mode, synchronous, fk, err)
	}
}

package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
)

func event(i int) LedgerEvent {
	return LedgerEvent{At: t0, Kind: "k", Data: []byte(strconv.Itoa(i))}
}

// TestSubscribeWithoutGap replays and then listens, while events are written.
func TestSubscribeWithoutGap(t *testing.T) {
	o := quick()
	o.Limits.SubscriberEvents = 10_000
	l := mustOpen(t, filepath.Join(shm(t), "ledger.db"), o)
	ctx := patient(t)
	const n = 3000
	go func() {
		for i := range n {
			l.RecordEvent(event(i))
		}
	}()
	sub := must(l.Subscribe())(t)
	defer sub.Close()
	var seen []LedgerEvent
	last := int64(0)
	take := func(e LedgerEvent) {
		if e.ID <= last {
			return
		}
		last = e.ID
		seen = append(seen, e)
	}
	for {
		page := must(l.EventsAfter(ctx, last, 100))(t)
		for _, e := range page {
			take(e)
		}
		if len(page) < 100 {
			break
		}
	}
	if last < sub.Start {
		t.Fatalf("the log ends at %d, before the subscription's start at %d", last, sub.Start)
	}
	for len(seen) < n {
		select {
		case e := <-sub.C:
			take(e)
		case <-ctx.Done():
			t.Fatalf("only %d of %d events", len(seen), n)
		}
	}
	for i, e := range seen {
		if string(e.Data) != strconv.Itoa(i) {
			t.Fatalf("event %d is %s", i, e.Data)
		}
	}
	if id := must(l.LastEventID(ctx))(t); id != last {
		t.Errorf("LastEventID %d, saw %d", id, last)
	}
}

func TestSlowSubscriberIsCut(t *testing.T) {
	o := quick()
	o.Limits.SubscriberEvents, o.Limits.Subscribers = 4, 2
	l := mustOpen(t, filepath.Join(shm(t), "ledger.db"), o)
	slow := must(l.Subscribe())(t)
	keen := must(l.Subscribe())(t)
	defer keen.Close()
	if _, err := l.Subscribe(); !errors.Is(err, ErrTooMany) {
		t.Errorf("third subscriber: %v", err)
	}
	ctx := patient(t)
	for i := range 10 {
		l.RecordEvent(event(i))
		select {
		case e := <-keen.C:
			if string(e.Data) != fmt.Sprint(i) || e.ID == 0 {
				t.Fatalf("event %d: %+v", i, e)
			}
		case <-ctx.Done():
			t.Fatal("no event")
		}
	}
	got := 0
	for range slow.C { // closed: ends
		got++
	}
	if got != 4 || !errors.Is(slow.Err(), ErrSlow) {
		t.Errorf("the slow one got %d events and %v", got, slow.Err())
	}
	if s := l.Stats(); s.Cut != 1 || s.Subscribers != 1 {
		t.Errorf("%+v", s)
	}
	slow.Close()
	keen.Close()
	if keen.Err() != nil {
		t.Errorf("after Close: %v", keen.Err())
	}
	last := must(l.Subscribe())(t)
	if err := l.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if _, open := <-last.C; open || !errors.Is(last.Err(), ErrClosed) {
		t.Errorf("after the ledger closed: %v", last.Err())
	}
}

// TestEventIDsAreNeverUsedAgain deletes the newest events by retention.
func TestEventIDsAreNeverUsedAgain(t *testing.T) {
	path := filepath.Join(shm(t), "ledger.db")
	o := quick()
	o.Retention.Events = 1
	l := mustOpen(t, path, o)
	for i := range 20 {
		l.RecordEvent(event(i))
	}
	mustFlush(t, l)
	waitCount(t, l, func(s Stats) bool { return s.Events == 1 })
	if err := l.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, path, o)
	sub := must(l.Subscribe())(t)
	defer sub.Close()
	if sub.Start != 20 {
		t.Errorf("the log starts again from %d", sub.Start)
	}
	l.RecordEvent(event(20))
	if e := <-sub.C; e.ID != 21 {
		t.Errorf("id %d", e.ID)
	}
}

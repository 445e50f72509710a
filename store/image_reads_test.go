package store

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

// TestImageReads plants reads of two freezes among other events, a little out of
// order, and asks for every stretch of them.
func TestImageReads(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	if got := must(l.ImageReads(ctx, 1, t0, t0.Add(time.Hour), 10))(t); len(got) != 0 {
		t.Errorf("reads of an empty ledger: %v", got)
	}
	type planted struct {
		at     time.Time
		freeze int64
	}
	var reads []planted
	for i := range 300 {
		at := t0.Add(time.Duration(i) * time.Second)
		if i%7 == 3 {
			at = at.Add(-1500 * time.Millisecond) // queued late
		}
		e := LedgerEvent{At: at, Kind: "image_read", Data: fmt.Appendf(nil, `{"freeze_id":%d,"state":"frozen"}`, 1+i/100)}
		if i%3 == 0 {
			e.Kind = "hold_renew"
		} else {
			reads = append(reads, planted{at, int64(1 + i/100)})
		}
		if err := l.RecordEvent(e); err != nil {
			t.Fatal(err)
		}
	}
	mustFlush(t, l)
	for from := -10; from < 310; from += 3 {
		for _, length := range []int{1, 2, 40, 400} {
			start := t0.Add(time.Duration(from) * time.Second)
			end := start.Add(time.Duration(length) * time.Second)
			want := []time.Time{}
			for _, r := range reads {
				if r.freeze == 2 && !r.at.Before(start) && r.at.Before(end) {
					want = append(want, r.at)
				}
			}
			slices.SortFunc(want, time.Time.Compare)
			if got := must(l.ImageReads(ctx, 2, start, end, 1000))(t); !reflect.DeepEqual(got, want) {
				t.Fatalf("%d s for %d s: %d reads, want %d\n%v\n%v", from, length, len(got), len(want), got, want)
			}
		}
	}
	all := must(l.ImageReads(ctx, 3, t0, t0.Add(time.Hour), 1000))(t)
	if got := must(l.ImageReads(ctx, 3, t0, t0.Add(time.Hour), 5))(t); len(all) < 60 || len(got) != 5 {
		t.Errorf("%d reads in all, %d of at most 5", len(all), len(got))
	}
	if _, err := l.ImageReads(ctx, 3, t0, t0, 5); !errors.Is(err, ErrBadQuery) {
		t.Errorf("no time at all: %v", err)
	}
}

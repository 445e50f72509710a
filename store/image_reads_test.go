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
			want := []ImageRead{}
			for _, r := range reads {
				if r.freeze == 2 && !r.at.Before(start) && !r.at.After(end) {
					want = append(want, ImageRead{Since: r.at, Until: r.at, Requests: 1})
				}
			}
			slices.SortFunc(want, func(a, b ImageRead) int { return a.Since.Compare(b.Since) })
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

// TestImageReadsAreWhole: what an event says of a reader is read back, and what
// was told at the end of the time asked for belongs to it.
func TestImageReadsAreWhole(t *testing.T) {
	l := newTestLedger(t)
	want := []ImageRead{
		{Reader: "uid:0", Since: t0, Until: t0, Requests: 1},
		{Reader: "127.0.0.1", Since: t0.Add(time.Second), Until: t0.Add(9 * time.Second), Requests: 512, Bytes: 1 << 40},
		{Reader: "uid:0", Since: t0.Add(2 * time.Second), Until: t0.Add(10 * time.Second), Bytes: 4096},
	}
	for i, told := range []time.Duration{0, 10 * time.Second, 10 * time.Second} {
		r := want[i]
		data := fmt.Appendf(nil, `{"freeze_id":1,"reader":%q,"since":%q,"until":%q,"requests":%d,"bytes":%d}`,
			r.Reader, r.Since.Format(time.RFC3339Nano), r.Until.Format(time.RFC3339Nano), r.Requests, r.Bytes)
		if err := l.RecordEvent(LedgerEvent{At: t0.Add(told), Kind: "image_read", Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	mustFlush(t, l)
	got := must(l.ImageReads(patient(t), 1, t0, t0.Add(10*time.Second), 10))(t)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

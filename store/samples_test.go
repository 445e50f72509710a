package store

import (
	"errors"
	"reflect"
	"testing"
	"time"
)

func TestSamples(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	base := t0.Truncate(time.Minute)
	in := []Sample{
		{At: base, DirtyInodes: 10, DirtyPages: 100, UsedBytes: 1000, FreeBytes: 5000, OpsTotal: 7, Blocked: 1},
		{At: base.Add(5 * time.Second), DirtyInodes: 20, DirtyPages: 201, UsedBytes: 3000, FreeBytes: 3000, OpsTotal: 3, Blocked: 9, Frozen: true},
		{At: base.Add(9 * time.Second), DirtyInodes: 30, DirtyPages: 0, UsedBytes: 2000, FreeBytes: 4000, OpsTotal: 5},
		{At: base.Add(20 * time.Second), DirtyInodes: 0, OpsTotal: 6},
		{At: base.Add(21 * time.Second), DirtyInodes: 1, OpsTotal: 8},
		{At: base.Add(22 * time.Second), DirtyInodes: 0, OpsTotal: 9},
	}
	for _, s := range in {
		l.RecordSample(s)
	}
	l.RecordSample(in[0]) // the same moment again
	mustFlush(t, l)
	raw := must(l.Samples(ctx, base, base.Add(time.Hour), 0))(t)
	if !reflect.DeepEqual(raw, in) {
		t.Errorf("raw: %+v", raw)
	}
	stepped := must(l.Samples(ctx, base, base.Add(23*time.Second), 10*time.Second))(t)
	want := []Sample{
		// The process started again within the step: the counter is the newest, not the largest.
		{At: base, DirtyInodes: 20, DirtyPages: 100, UsedBytes: 2000, FreeBytes: 4000, OpsTotal: 5, Blocked: 9, Frozen: true},
		{At: base.Add(20 * time.Second), DirtyInodes: 1, OpsTotal: 9},
	}
	if !reflect.DeepEqual(stepped, want) {
		t.Errorf("stepped: %+v\nwant     %+v", stepped, want)
	}
	for _, c := range []struct {
		to   time.Duration
		step time.Duration
	}{{0, 0}, {-time.Hour, time.Minute}, {time.Hour, -1}, {100 * time.Hour, time.Second}} {
		if _, err := l.Samples(ctx, base, base.Add(c.to), c.step); !errors.Is(err, ErrBadQuery) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestFsyncMinutesAddUp(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	base := t0.Truncate(time.Minute)
	l.RecordFsyncStats(FsyncStats{Minute: t0, Count: 2, Pages: 3, Bytes: 4, TotalUS: 10.5, MaxUS: 8})
	l.RecordFsyncStats(FsyncStats{Minute: base.Add(59 * time.Second), Count: 1, Pages: 1, Bytes: 1, TotalUS: 9, MaxUS: 9})
	l.RecordFsyncStats(FsyncStats{Minute: base, Count: 1, TotalUS: 1, MaxUS: 1})
	l.RecordFsyncStats(FsyncStats{Minute: base.Add(time.Minute), Count: 1, TotalUS: 1, MaxUS: 1})
	mustFlush(t, l)
	got := must(l.FsyncStats(ctx, base, base.Add(time.Minute)))(t)
	want := []FsyncStats{{Minute: base, Count: 4, Pages: 4, Bytes: 5, TotalUS: 20.5, MaxUS: 9}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if s := l.Stats(); s.Minutes != 2 {
		t.Errorf("%d minutes", s.Minutes)
	}
}

package store

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func bigQueue() *queue {
	l := Options{}.withDefaults().Limits
	return newQueue(l, newHub(10, 100))
}

func noWake() {}

// TestFreezeTakesItsFirstPlace records one freeze again and again (L3).
func TestFreezeTakesItsFirstPlace(t *testing.T) {
	q := bigQueue()
	f := openFreeze(1)
	f.Reported = true
	q.putFreeze(f, noWake)
	q.put(kindFound, 1, 1, &foundRec{}, noWake)
	f.Reported, f.State = false, "thawed"
	q.putFreeze(f, noWake)
	other := f
	other.RequestedAt = f.RequestedAt.Add(time.Second)
	q.putFreeze(other, noWake) // another freeze under the id: not in its place
	batch := q.take(100)
	if len(batch) != 3 {
		t.Fatalf("%d records", len(batch))
	}
	got := batch[0].rec.(*freezeRec).f
	if got.State != "thawed" || !got.Reported || !got.RequestedAt.Equal(f.RequestedAt) {
		t.Errorf("first: %+v", got)
	}
	if _, ok := batch[1].rec.(*foundRec); !ok {
		t.Errorf("second: %T", batch[1].rec)
	}
	// What is taken is not changed any more.
	f.State = "expired"
	q.putFreeze(f, noWake)
	if got := batch[0].rec.(*freezeRec).f; got.State != "thawed" {
		t.Errorf("a record in the writer's hands became %s", got.State)
	}
	if v := q.unwritten()[1]; v.State != "expired" {
		t.Errorf("readers see %s", v.State)
	}
	q.settle(3)
	if v, ok := q.unwritten()[1]; !ok || v.State != "expired" {
		t.Errorf("after the batch readers see %+v", v)
	}
	q.take(100)
	q.settle(1)
	if len(q.unwritten()) != 0 {
		t.Errorf("%+v", q.unwritten())
	}
}

// TestFailedEventIsShownWithoutID has an id from a transaction that failed (L5).
func TestFailedEventIsShownWithoutID(t *testing.T) {
	q := bigQueue()
	sub := must((&Ledger{hub: q.hub}).Subscribe())(t)
	q.putEvent(LedgerEvent{Kind: "a"}, noWake)
	batch := q.take(1)
	batch[0].rec.(*eventRec).e.ID = 7
	q.putEvent(LedgerEvent{Kind: "b"}, noWake)
	q.setLive(true)
	q.putEvent(LedgerEvent{Kind: "c"}, noWake)
	for _, want := range []string{"a", "b", "c"} {
		if e := <-sub.C; e.Kind != want || e.ID != 0 {
			t.Errorf("got %+v, want %s without an id", e, want)
		}
	}
}

// TestQueueModel compares the queue with a plain list: everything that was put
// and not dropped comes out once, in order, within the bounds (L3, L6).
func TestQueueModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Options{}.withDefaults().Limits
		limits.Found = Limit{Rows: 20, Bytes: 100}
		limits.Events = Limit{Rows: 5, Bytes: 1000}
		q := newQueue(limits, newHub(1, 1))
		type item struct{ rec record }
		waiting := map[kind][]item{}
		var out []uint64
		inBatch := 0
		check := func() {
			for _, k := range []kind{kindFound, kindEvent} {
				ln := &q.lanes[k]
				rows, bytes := 0, 0
				for _, o := range ln.ops {
					rows += o.rows
					bytes += o.bytes
				}
				if rows != ln.rows || bytes != ln.bytes {
					t.Fatalf("%s: counts %d rows, %d bytes, has %d, %d", k, ln.rows, ln.bytes, rows, bytes)
				}
				if len(ln.ops) > 1 && (rows > ln.limit.Rows || bytes > ln.limit.Bytes) {
					t.Fatalf("%s: over its limit: %d rows, %d bytes", k, rows, bytes)
				}
				tail := waiting[k]
				tail = tail[len(tail)-len(ln.ops):]
				for i, o := range ln.ops {
					if o.rec != tail[i].rec {
						t.Fatalf("%s: not the newest are kept", k)
					}
				}
				waiting[k] = tail
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"found": func(t *rapid.T) {
				r := &foundRec{rows: make([]FoundInode, rapid.IntRange(1, 6).Draw(t, "rows"))}
				waiting[kindFound] = append(waiting[kindFound], item{r})
				q.put(kindFound, len(r.rows), rapid.IntRange(1, 60).Draw(t, "bytes"), r, noWake)
			},
			"event": func(t *rapid.T) {
				r := &reportedRec{}
				waiting[kindEvent] = append(waiting[kindEvent], item{r})
				q.put(kindEvent, 1, 10, r, noWake)
			},
			"take": func(t *rapid.T) {
				most := rapid.IntRange(1, 8).Draw(t, "most")
				batch := q.take(most)
				rows := 0
				for _, o := range batch {
					rows += o.rows
				}
				if inBatch > 0 && len(batch) != inBatch {
					t.Fatalf("L2: an unsettled batch grew from %d to %d", inBatch, len(batch))
				}
				if inBatch == 0 && len(batch) > 1 && rows > most {
					t.Fatalf("L2: %d rows, asked for %d", rows, most)
				}
				for _, o := range batch[inBatch:] {
					waiting[o.kind] = waiting[o.kind][1:]
					out = append(out, o.seq)
				}
				inBatch = len(batch)
			},
			"settle": func(t *rapid.T) {
				n := rapid.IntRange(0, inBatch).Draw(t, "n")
				inBatch = len(q.settle(n))
			},
			"": func(t *rapid.T) {
				check()
				for i := 1; i < len(out); i++ {
					if out[i] <= out[i-1] {
						t.Fatalf("L3: record %d came out after %d", out[i], out[i-1])
					}
				}
			},
		})
	})
}

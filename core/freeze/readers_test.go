package freeze

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// toldReads collects what an observer is told of reads of images.
func toldReads(told *[]Event) func(Event) {
	return func(e Event) {
		if e.Kind == EventImageRead {
			*told = append(*told, e)
		}
	}
}

// sum adds up what was told of one reader; "" means all.
func sum(told []Event, reader string) (requests, bytes uint64) {
	for _, e := range told {
		if reader == "" || e.Reads.Reader == reader {
			requests, bytes = requests+e.Reads.Requests, bytes+e.Reads.Bytes
		}
	}
	return requests, bytes
}

// A reader that makes very many requests for an hour is told some seventy
// times, and what is told adds up to what it did.
func TestManyReadsAreFewEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Event
		f := newFreezer(t, Config{Observer: toldReads(&told)})
		rec, h := mustFreeze(t, f, ask("a", time.Hour))
		const requests = 100_000
		for i := range requests {
			r, err := f.BeginImageRead(rec.ID, "uid:0")
			if err != nil {
				t.Fatal(err)
			}
			r.Add(512)
			if i == 0 {
				synctest.Wait()
				if len(told) != 1 || told[0].Reads.Requests != 1 || told[0].Freeze.ID != rec.ID || told[0].Hold != nil {
					t.Fatalf("at the first request the observer was told %+v", told)
				}
			}
			time.Sleep(30 * time.Millisecond)
		}
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		if n := len(told); n < 40 || n > 70 {
			t.Errorf("%d events of %d requests in 50 minutes", n, requests)
		}
		if n, b := sum(told, ""); n != requests || b != 512*requests {
			t.Errorf("told %d requests and %d bytes, want %d and %d", n, b, requests, 512*requests)
		}
		for i, e := range told {
			u := e.Reads
			if u.Until.Before(u.Since) || e.Time.Before(u.Until) || i > 0 && u.Since.Before(told[i-1].Reads.Until) {
				t.Errorf("event %d, told at %v: %+v", i, e.Time, *u)
			}
		}
	})
}

// What a reader did last is told soon without a further request, and at the
// freeze's end at once, before the end itself; then no timer is left.
func TestReadsAreToldInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Event
		var ended bool
		collect := toldReads(&told)
		f := newFreezer(t, Config{Observer: func(e Event) {
			collect(e)
			ended = ended || e.Kind == EventThawed
			if ended && e.Kind == EventImageRead {
				t.Error("a read was told after the end")
			}
		}})
		rec, h := mustFreeze(t, f, ask("a", time.Minute))
		begun := time.Now()
		r, err := f.BeginImageRead(rec.ID, "slow")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.Add(1000)
		time.Sleep(readPause)
		synctest.Wait()
		if len(told) != 2 || told[1].Reads.Bytes != 1000 || told[1].Reads.Requests != 0 || !told[1].Reads.Since.Equal(begun.Add(time.Second)) {
			t.Fatalf("after a pause: %+v", told)
		}
		for _, name := range []string{"b", "a"} {
			other, err := f.BeginImageRead(rec.ID, name)
			if err != nil {
				t.Fatal(err)
			}
			other.Add(1)
		}
		r.Add(5)
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		r.Add(1 << 20) // its freeze has ended: not of the image that stood
		if n, b := sum(told, ""); n != 3 || b != 1007 || !ended {
			t.Errorf("in all %d requests and %d bytes were told", n, b)
		}
		before := len(told)
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(told) != before {
			t.Errorf("%d events after the end", len(told)-before)
		}
	})
}

// Readers beyond the bound count together, and nothing of them is lost.
func TestReadersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Event
		f := newFreezer(t, Config{Observer: toldReads(&told)})
		rec, h := mustFreeze(t, f, ask("a", time.Hour))
		const readers = 5 * maxReaders
		for i := range readers {
			if _, err := f.BeginImageRead(rec.ID, fmt.Sprint("192.0.2.", i)); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(f.cur.readers); n != maxReaders+1 {
			t.Errorf("%d readers are kept", n)
		}
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		if n, _ := sum(told, otherReaders); n != readers-maxReaders || len(told) != maxReaders+2 {
			t.Errorf("%d requests of others, %d events", n, len(told))
		}
	})
}

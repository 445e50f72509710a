package freeze

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestImageReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Event
		f := newFreezer(t, Config{MaxLease: 3 * time.Minute, Observer: func(e Event) {
			if e.Kind == EventImageRead {
				told = append(told, e)
			}
		}})
		if _, err := f.BeginImageRead(1, "r"); err == nil {
			t.Error("read of a freeze that never was")
		}
		rec, h := mustFreeze(t, f, ask("a", time.Minute))
		if f.Epoch() != rec.ID || !f.StillHeld(rec.ID) || f.StillHeld(rec.ID+1) || f.StillHeld(0) {
			t.Error("epoch")
		}
		read1, err := f.BeginImageRead(rec.ID, "r")
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.BeginImageRead(rec.ID+1, "r")
		wantErr(t, err, ErrUnknownHold)
		if n := f.Status().Freeze.ImageReads; n != 1 {
			t.Errorf("%d reads", n)
		}
		if len(told) != 1 || !told[0].Time.Equal(time.Now()) || told[0].Freeze.ID != rec.ID || told[0].Freeze.ImageReads != 1 || told[0].Hold != nil {
			t.Errorf("the observer was told %+v", told)
		}
		// Reading renews, not by every chunk, not backwards, up to the cap.
		read := func() time.Time {
			if err := f.RenewByReading(rec.ID, "", ""); err != nil {
				t.Fatal(err)
			}
			return f.Status().Freeze.ExpiresAt
		}
		if e := read(); !e.Equal(h.ExpiresAt) {
			t.Errorf("renewed at once to %v", e)
		}
		time.Sleep(20 * time.Second)
		if e := read(); !e.Equal(rec.FrozenAt.Add(80 * time.Second)) {
			t.Errorf("expiry %v", e)
		}
		for range 14 {
			time.Sleep(10 * time.Second)
			read()
		}
		if e := f.Status().Freeze.ExpiresAt; !e.Equal(rec.FrozenAt.Add(3 * time.Minute)) {
			t.Errorf("expiry %v, not the cap", e)
		}
		select {
		case <-read1.Done():
			t.Error("done while frozen")
		case <-f.Done(rec.ID + 1):
		}
		mustThaw(t, f, ThawRequest{Hold: h.ID})
		<-read1.Done()
		<-f.Done(rec.ID)
		if f.StillHeld(rec.ID) || f.Epoch() != 0 {
			t.Error("still held")
		}
		_, err = f.BeginImageRead(rec.ID, "r")
		wantErr(t, err, ErrFreezeLost)
		rec2, _ := mustFreeze(t, f, ask("b", time.Minute))
		if f.StillHeld(rec.ID) || !f.StillHeld(rec2.ID) {
			t.Error("the old freeze stands again")
		}
		if err := f.RenewByReading(rec.ID, "", ""); err == nil {
			t.Error("reading an old freeze renewed a new one")
		}
	})
}

// Done is closed before the gates open (F5), however the freeze ends.
func TestDoneBeforeGatesOpen(t *testing.T) {
	for name, end := range map[string]func(*Freezer, Hold){
		"thaw":    func(f *Freezer, h Hold) { f.Thaw(ThawRequest{Hold: h.ID}) },
		"force":   func(f *Freezer, h Hold) { f.Thaw(ThawRequest{Force: true}) },
		"abandon": func(f *Freezer, h Hold) { f.Abandon(h.ID) },
		"expiry":  func(f *Freezer, h Hold) { f.Renew(RenewRequest{Hold: h.ID, Lease: 1}) },
	} {
		for range 200 {
			f := newFreezer(t, Config{})
			rec, h := mustFreeze(t, f, ask("a", time.Minute))
			done := f.Done(rec.ID)
			seen := make(chan bool)
			ready := make(chan struct{})
			go func() {
				close(ready)
				for f.StartWrite().Closed() {
				}
				select {
				case <-done:
					seen <- true
				default:
					seen <- false
				}
			}()
			<-ready
			end(f, h)
			if !<-seen {
				t.Fatalf("%s: the gate was open before done was closed", name)
			}
		}
	}
}

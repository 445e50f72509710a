package uffd

import "testing"

// FuzzMessage: any 32 bytes from a descriptor are an event with the fields of
// its kind, and no other field.
func FuzzMessage(f *testing.F) {
	for _, e := range []Event{EventFault, EventFork, EventRemap, EventRemove, EventUnmap, 0} {
		b := make([]byte, messageSize)
		for i := range b {
			b[i] = byte(i)
		}
		b[0] = byte(e)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != messageSize {
			return
		}
		m := parse(b)
		if m.Event != Event(b[0]) || m.Event != EventFork && m.FD != 0 || m.FD < 0 || m.Thread < 0 || m.Event != EventFault && m.Flags != 0 || m.Event != EventRemap && m.Length != 0 {
			t.Fatalf("%x is %+v", b, m)
		}
	})
}

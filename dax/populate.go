package dax

import (
	"time"

	"permafrost/dax/uffd"
)

// populateLimit is when a populate counts as stuck. It takes 0.7 us a page.
const populateLimit = 20 * time.Millisecond

// populateLocked saves the storer one minor fault a page in a run that was
// just granted (U6).
//
// It would wait for ever on a page that is protected. Under evMu nobody here
// protects, but the peer has the descriptor too. So when a populate takes long
// the pages are granted again, as they were just before, until it is through:
// by another goroutine, while this one holds evMu for both.
//
// BUG: a peer that puts memory of another userfaultfd of its own where the run
// was, within the microseconds since the grant, holds evMu, and with it freezes,
// until it ends. Peers are trusted with the whole image (see "What is not held").
func (m *member) populateLocked(addr, length uint64) {
	if m.pid == 0 || length == 0 {
		return
	}
	through, helped := make(chan struct{}), make(chan struct{})
	late := time.AfterFunc(populateLimit, func() {
		defer close(helped)
		for {
			m.fd.WriteProtect(addr, length, false)
			select {
			case <-through:
				return
			case <-time.After(populateLimit):
			}
		}
	})
	uffd.Populate(m.pid, addr, length)
	close(through)
	if !late.Stop() {
		<-helped
	}
}

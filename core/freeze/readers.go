package freeze

import (
	"slices"
	"strings"
	"time"
)

// Readers of the image. A reader may make thousands of small requests, so the
// observer is not told each: a reader's first request is told at once, and from
// then on what it read since (ImageReads), at first after readPause, then after
// twice that, up to readPauseMax, and the rest when the freeze ends. The sums
// over what is told of a freeze are its requests and bytes.
const (
	readPause    = 2 * time.Second
	readPauseMax = time.Minute
	maxReaders   = 64 // of one freeze; those beyond count together
)

// otherReaders names the readers beyond maxReaders.
const otherReaders = "others"

// ImageReads is what one reader read of a frozen image since that was last
// told: a copy.
type ImageReads struct {
	Reader   string
	Since    time.Time // first request or byte of it
	Until    time.Time // last request or byte of it
	Requests uint64    // begun; 0 when an earlier one goes on
	Bytes    uint64
}

// reader is one reader of one freeze. All fields are guarded by Freezer.mu.
type reader struct {
	untold ImageReads    // nothing if Since is zero; Reader is immutable
	next   time.Time     // it is told again no sooner
	pause  time.Duration // between the newest telling and next
	timer  Timer         // tells at next; nil if nothing is untold
}

// ImageRead is one request for the image of a freeze.
type ImageRead struct {
	f  *Freezer // immutable
	fr *freeze  // immutable
	by *reader  // immutable
}

// Done is closed when the freeze ends, before its gates open.
func (r *ImageRead) Done() <-chan struct{} { return r.fr.done }

// Add counts bytes that were read while the freeze stood.
func (r *ImageRead) Add(bytes int) {
	f := r.f
	f.mu.Lock()
	if f.cur == r.fr && r.fr.rec.State == StateFrozen {
		f.noteReadLocked(r.fr, r.by, 0, uint64(bytes), f.clock.Now())
	}
	f.mu.Unlock()
	f.out.flush()
}

// reader finds a reader by its name. Freezer.mu is held.
func (fr *freeze) reader(name string) *reader {
	r := fr.readers[name]
	if r == nil && len(fr.readers) >= maxReaders {
		name = otherReaders
		r = fr.readers[name]
	}
	if r == nil {
		r = &reader{untold: ImageReads{Reader: name}, pause: readPause}
		if fr.readers == nil {
			fr.readers = make(map[string]*reader)
		}
		fr.readers[name] = r
	}
	return r
}

// noteReadLocked counts what a reader did and tells it, now or at r.next.
func (f *Freezer) noteReadLocked(fr *freeze, r *reader, requests, bytes uint64, now time.Time) {
	u := &r.untold
	if u.Since.IsZero() {
		u.Since = now
	}
	u.Until = now
	u.Requests += requests
	u.Bytes += bytes
	switch {
	case !now.Before(r.next):
		f.tellReadsLocked(fr, r, now)
	case r.timer == nil:
		r.timer = f.clock.AfterFunc(r.next.Sub(now), func() { f.tellReads(fr, r) })
	}
}

// tellReads is the function of a reader's timer. One that was stopped too late
// changes nothing.
func (f *Freezer) tellReads(fr *freeze, r *reader) {
	f.mu.Lock()
	now := f.clock.Now()
	f.expireLocked(now)
	if f.cur == fr && !r.untold.Since.IsZero() && !now.Before(r.next) {
		f.tellReadsLocked(fr, r, now)
	}
	f.mu.Unlock()
	f.out.flush()
}

func (f *Freezer) tellReadsLocked(fr *freeze, r *reader, now time.Time) {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	u := r.untold
	r.untold = ImageReads{Reader: u.Reader}
	if !r.next.IsZero() { // the first telling is of one request: the next follows soon
		r.pause = min(2*r.pause, readPauseMax)
	}
	r.next = now.Add(r.pause)
	f.readsEventLocked(fr, u, now)
}

// tellAllReadsLocked tells what is left of a freeze that has ended.
func (f *Freezer) tellAllReadsLocked(fr *freeze, now time.Time) {
	var left []*reader
	for _, r := range fr.readers {
		if !r.untold.Since.IsZero() {
			left = append(left, r)
		}
	}
	slices.SortFunc(left, func(a, b *reader) int { return strings.Compare(a.untold.Reader, b.untold.Reader) })
	for _, r := range left {
		f.tellReadsLocked(fr, r, now)
	}
	fr.readers = nil
}

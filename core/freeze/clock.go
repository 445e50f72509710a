package freeze

import "time"

// Clock is where time comes from. Its Now must carry a monotonic reading.
type Clock interface {
	Now() time.Time
	// AfterFunc runs f on its own goroutine after d, unless stopped.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a pending AfterFunc.
type Timer interface {
	// Stop prevents the function from running; false if it has been started.
	Stop() bool
}

// SystemClock is the clock of package time (and of testing/synctest).
type SystemClock struct{}

// Now is time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

// AfterFunc is time.AfterFunc.
func (SystemClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }

package core

import (
	"math/bits"
	"time"
)

// MountStatus is the FUSE mount as /status, the metrics and the dashboard show
// it. It stands here because those who show it may not import the mount.
type MountStatus struct {
	Dir      string
	Options  string // those given, as -o takes them: comma-separated
	Since    time.Time
	Ended    bool   // somebody has unmounted it: nothing is served at Dir any more
	Open     int    // files that are open, or mapped still
	Writable int    // those of them that are open for reading and writing, and so may be mapped writably
	Inside   int64  // requests being answered, held ones included
	Held     int64  // modifying requests that wait for a thaw, and replies to write-backs that do
	Refused  uint64 // modifying requests that were refused because too many waited
	Ops      []MountOp
}

// MountOp is the account of one kind of request since the mount.
type MountOp struct {
	Op string
	Latency
}

// LatencyBuckets is the size of a Latency: its last bucket but one ends at 19 hours.
const LatencyBuckets = 48

// Latency is how long requests took to be answered, waiting for a thaw included:
// a histogram of powers of two nanoseconds.
type Latency struct {
	Sum     time.Duration
	Buckets [LatencyBuckets]uint64 // [i]: requests of less than 1<<i ns, but not of less than 1<<(i-1); the last: all longer ones too
}

// LatencyBucket is the bucket a duration belongs in.
func LatencyBucket(d time.Duration) int {
	return min(bits.Len64(uint64(max(d, 0))), LatencyBuckets-1)
}

// Count is how many requests there were.
func (l *Latency) Count() (n uint64) {
	for _, b := range l.Buckets {
		n += b
	}
	return n
}

// Mean is 0 if there was no request.
func (l *Latency) Mean() time.Duration {
	if n := l.Count(); n > 0 {
		return l.Sum / time.Duration(n)
	}
	return 0
}

// Below is a bound that at least share (0 to 1) of the requests took less than: a
// power of two nanoseconds, at most twice the true quantile. It is 0 if there was no request.
func (l *Latency) Below(share float64) time.Duration {
	n := l.Count()
	if n == 0 {
		return 0
	}
	seen := uint64(0)
	for i, b := range l.Buckets {
		if seen += b; seen > 0 && float64(seen) >= share*float64(n) {
			return time.Duration(1) << i
		}
	}
	return time.Duration(1) << (LatencyBuckets - 1)
}

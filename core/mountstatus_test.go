package core

import (
	"math"
	"testing"
	"time"
)

// TestLatency: a bound is never below the true quantile, and above it by a
// factor of two at most; extremes have their buckets.
func TestLatency(t *testing.T) {
	var none Latency
	if none.Count() != 0 || none.Mean() != 0 || none.Below(0.5) != 0 {
		t.Errorf("no request: %d, mean %s, half below %s", none.Count(), none.Mean(), none.Below(0.5))
	}
	for d, want := range map[time.Duration]int{-1: 0, 0: 0, 1: 1, 2: 2, 3: 2, 4: 3, 1023: 10, 1024: 11, time.Hour: 42, math.MaxInt64: LatencyBuckets - 1} {
		if got := LatencyBucket(d); got != want {
			t.Errorf("%d ns: bucket %d, want %d", d, got, want)
		}
	}
	var l Latency
	for i := 1; i <= 100; i++ { // 1 to 100 µs
		d := time.Duration(i) * time.Microsecond
		l.Sum += d
		l.Buckets[LatencyBucket(d)]++
	}
	if l.Count() != 100 || l.Mean() != 50500*time.Nanosecond {
		t.Errorf("%d requests, mean %s", l.Count(), l.Mean())
	}
	for share, true_ := range map[float64]time.Duration{0: 1, 0.01: 1, 0.5: 50, 0.99: 99, 1: 100} {
		true_ *= time.Microsecond
		if got := l.Below(share); got <= true_ || got > 2*true_+50*time.Nanosecond {
			t.Errorf("%v of them below %s, in truth %s", share, got, true_)
		}
	}
	var one Latency
	one.Buckets[LatencyBucket(time.Second)]++
	if got := one.Below(0.5); got <= time.Second || got > 2*time.Second {
		t.Errorf("one request of a second: half below %s", got)
	}
}

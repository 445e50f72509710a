package store

import (
	"log/slog"
	"time"
)

// Options direct a Ledger. The zero value is usable.
type Options struct {
	Retention Retention
	Now       func() time.Time // nil: time.Now
	Logger    *slog.Logger     // nil: nothing is logged
	Limits    Limits
	// RetryMin and RetryMax bound the pauses between attempts while Degraded.
	// Zero: 100 ms and 5 s.
	RetryMin, RetryMax time.Duration
	// RetainEvery is how often retention looks for rows to delete. Zero: 1 min.
	RetainEvery time.Duration
}

// Retention says how long rows are kept: a row goes when it is older than
// MaxAge or when its table holds more than its count. Zero takes the default,
// a negative value means no limit.
type Retention struct {
	MaxAge   time.Duration // 90 days
	Freezes  int64         // 100,000
	Renewals int64         // 100,000
	Blocked  int64         // 200,000
	Found    int64         // 1,000,000
	Syncs    int64         // 100,000
	Minutes  int64         // 200,000
	Samples  int64         // 1,000,000
	Events   int64         // 100,000
}

// Limits bound what waits in memory, for each kind of record. Zero takes the
// default.
type Limits struct {
	Freezes, Renewals, Blocked, Found, Syncs, Samples, Events Limit
	Subscribers                                               int // 256
	SubscriberEvents                                          int // 256 waiting for one subscriber
}

// Limit is a bound in rows and in bytes of memory.
type Limit struct {
	Rows  int
	Bytes int
}

const day = 24 * time.Hour

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.RetryMin, 100*time.Millisecond)
	setDefault(&o.RetryMax, 5*time.Second)
	setDefault(&o.RetainEvery, time.Minute)
	r := &o.Retention
	setDefault(&r.MaxAge, 90*day)
	setDefault(&r.Freezes, 100_000)
	setDefault(&r.Renewals, 100_000)
	setDefault(&r.Blocked, 200_000)
	setDefault(&r.Found, 1_000_000)
	setDefault(&r.Syncs, 100_000)
	setDefault(&r.Minutes, 200_000)
	setDefault(&r.Samples, 1_000_000)
	setDefault(&r.Events, 100_000)
	l := &o.Limits
	setDefault(&l.Freezes, Limit{4096, 16 << 20})
	setDefault(&l.Renewals, Limit{8192, 4 << 20})
	setDefault(&l.Blocked, Limit{16384, 16 << 20})
	setDefault(&l.Found, Limit{65536, 32 << 20})
	setDefault(&l.Syncs, Limit{4096, 2 << 20})
	setDefault(&l.Samples, Limit{16384, 2 << 20})
	setDefault(&l.Events, Limit{16384, 16 << 20})
	setDefault(&l.Subscribers, 256)
	setDefault(&l.SubscriberEvents, 256)
	return o
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

package api

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"permafrost/core"
)

// mountView is the FUSE mount, in /status.
type mountView struct {
	Dir                 string        `json:"dir" doc:"Where it is mounted."`
	Options             string        `json:"options" doc:"Mount options that were given, as -o takes them."`
	Since               stamp         `json:"since" doc:"When it was mounted."`
	OpenTotal           int           `json:"open_total" doc:"Files that programs have open through it, or map still."`
	WritableTotal       int           `json:"writable_total" doc:"Those of them that are open for reading and writing, and so may be mapped writably."`
	RequestsInsideTotal int64         `json:"requests_inside_total" doc:"Requests of the kernel that are being answered, held ones included."`
	HeldTotal           int64         `json:"held_total" doc:"Requests that wait for a thaw, replies to write-backs included: GET /blocked."`
	RefusedTotal        uint64        `json:"refused_total" doc:"Requests refused with EAGAIN because too many waited for a thaw, since it was mounted."`
	Operations          []mountOpView `json:"operations" doc:"Kinds of request that there were, since it was mounted."`
}

// mountOpView is the latency of one kind of request, waiting for a thaw included.
type mountOpView struct {
	Op         string  `json:"op" doc:"Kind of request: lookup, read, write, writeback (pages stored to through a mapping), and so on."`
	CountTotal uint64  `json:"count_total" doc:"How many were answered."`
	MeanUS     float64 `json:"mean_us" doc:"Mean time to answer, waiting for a thaw included."`
	MedianUS   float64 `json:"median_us" doc:"Half of them took less: a power of two nanoseconds, at most twice the true median."`
	P99US      float64 `json:"p99_us" doc:"99 of 100 took less: a power of two nanoseconds, at most twice the true value."`
}

func viewMount(m *core.MountStatus) *mountView {
	v := &mountView{Dir: m.Dir, Options: m.Options, Since: stamp(m.Since), OpenTotal: m.Open, WritableTotal: m.Writable,
		RequestsInsideTotal: m.Inside, HeldTotal: m.Held, RefusedTotal: m.Refused, Operations: make([]mountOpView, 0, len(m.Ops))}
	for i := range m.Ops {
		o := &m.Ops[i]
		v.Operations = append(v.Operations, mountOpView{Op: o.Op, CountTotal: o.Count(), MeanUS: microseconds(o.Mean()),
			MedianUS: microseconds(o.Below(0.5)), P99US: microseconds(o.Below(0.99))})
	}
	return v
}

// mountSeconds is the histogram of the mount's latencies.
const mountSeconds = "permafrost_mount_request_duration_seconds"

// Buckets of mountSeconds: powers of four nanoseconds from 1 µs to 17 s, which
// are every second one of core.Latency's.
const (
	firstMountBucket = 10
	lastMountBucket  = 34
)

// collectMount shows the mount: nothing without one, and nothing but that it is
// down once it has ended.
func (c *stateCollector) collectMount(ch chan<- prometheus.Metric, gauge func(string, float64, ...string), counter func(string, uint64, ...string)) {
	if c.s.opt.Mount == nil {
		return
	}
	m := c.s.opt.Mount.Status()
	gauge("permafrost_mount_up", one(!m.Ended))
	if m.Ended {
		return
	}
	gauge("permafrost_mount_open_files", float64(m.Open))
	gauge("permafrost_mount_writable_files", float64(m.Writable))
	gauge("permafrost_mount_requests_inside", float64(m.Inside))
	gauge("permafrost_mount_requests_held", float64(m.Held))
	counter("permafrost_mount_requests_refused_total", m.Refused)
	for i := range m.Ops {
		o := &m.Ops[i]
		ch <- prometheus.MustNewConstHistogram(c.descs[mountSeconds], o.Count(), o.Sum.Seconds(), cumulative(&o.Latency), o.Op)
	}
}

// cumulative is a latency as Prometheus counts: how many requests took at most so
// many seconds.
func cumulative(l *core.Latency) map[float64]uint64 {
	buckets := make(map[float64]uint64, (lastMountBucket-firstMountBucket)/2+1)
	seen := uint64(0)
	for i := 0; i <= lastMountBucket; i++ {
		seen += l.Buckets[i]
		if i >= firstMountBucket && (i-firstMountBucket)%2 == 0 {
			buckets[(time.Duration(1) << i).Seconds()] = seen
		}
	}
	return buckets
}

package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"permafrost/core"
	"permafrost/core/freeze"
	"permafrost/store"
)

// metrics is this server's own registry: nothing is global.
type metrics struct {
	registry *prometheus.Registry     // immutable
	requests *prometheus.CounterVec   // immutable
	seconds  *prometheus.HistogramVec // immutable
	inFlight prometheus.Gauge         // immutable
	handler  http.Handler             // immutable
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "permafrost_http_requests_total",
			Help: "Answered HTTP requests by call and status."}, []string{"call", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "permafrost_http_request_duration_seconds",
			Help: "Time to answer, waiting for a thaw included.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 11)}, []string{"call"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "permafrost_http_requests_in_flight",
			Help: "HTTP requests that are being answered, streams and held writes included."}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.inFlight, newStateCollector(s),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return m
}

// count observes a call. A broken answer counts under status "broken".
func (m *metrics) count(call string, next http.HandlerFunc) http.HandlerFunc {
	seconds := m.seconds.WithLabelValues(call)
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		status := "broken"
		m.inFlight.Inc()
		defer func() {
			m.inFlight.Dec()
			seconds.Observe(time.Since(start).Seconds())
			m.requests.WithLabelValues(call, status).Inc()
		}()
		next(w, r)
		status = "200"
		if pw, ok := w.(*progressWriter); ok && pw.status != 0 {
			status = strconv.Itoa(pw.status)
		}
	}
}

func (s *Server) metricsRoute() {
	route(s, operation{
		method: http.MethodGet, pattern: "/metrics", id: "metrics", tag: tagAbout, early: true,
		summary: "Metrics for Prometheus", description: "The state of the appliance in the Prometheus text format.",
		answers: []answer{{status: 200, describe: "The metrics.", media: mediaText}},
	}, func(w http.ResponseWriter, r *http.Request, _ *noParams) error {
		s.metrics.handler.ServeHTTP(w, r)
		return nil
	})
}

// stateCollector turns one snapshot of the file system into metrics at each
// scrape, so that every figure of a scrape is of the same moment.
type stateCollector struct {
	s     *Server                     // immutable
	descs map[string]*prometheus.Desc // immutable
}

// stateMetrics are the metrics of the file system: name, help, labels.
var stateMetrics = []struct {
	name, help string
	labels     []string
}{
	{"permafrost_up", "1 when the image is mounted.", nil},
	{"permafrost_frozen", "1 while the file system is frozen.", nil},
	{"permafrost_freeze_level", "0 unfrozen, 1 write, 2 page fault, 3 fs, 4 complete.", nil},
	{"permafrost_freeze_lease_remaining_seconds", "Until the last lease of the standing freeze ends; 0 if none stands.", nil},
	{"permafrost_freezes_last_id", "Id of the newest freeze.", nil},
	{"permafrost_last_freeze_window_seconds", "Length of the newest ended freeze's window.", nil},
	{"permafrost_last_freeze_longest_wait_seconds", "The longest that the newest ended freeze held anybody.", nil},
	{"permafrost_blocked", "Callers held now.", nil},
	{"permafrost_dirty_inodes", "Inodes with dirty pages.", nil},
	{"permafrost_dirty_pages", "Dirty pages.", nil},
	{"permafrost_inodes", "Inodes in the image.", nil},
	{"permafrost_inodes_cached", "Inodes in memory.", nil},
	{"permafrost_mappings", "Shared mappings of attached programs.", nil},
	{"permafrost_attach_clients", "Programs attached.", nil},
	{"permafrost_mount_up", "1 while the FUSE mount serves, 0 once somebody has ended it; not there without one.", nil},
	{"permafrost_mount_open_files", "Files open through the mount.", nil},
	{"permafrost_mount_writable_files", "Files open through the mount for reading and writing: those that may be mapped writably.", nil},
	{"permafrost_mount_requests_inside", "Requests of the mount that are being answered, held ones included.", nil},
	{"permafrost_mount_requests_held", "Requests of the mount that wait for a thaw, replies to write-backs included.", nil},
	{"permafrost_mount_requests_refused_total", "Requests of the mount that were refused because too many waited for a thaw.", nil},
	{mountSeconds, "Time to answer a request of the mount, waiting for a thaw included, by kind.", []string{"op"}},
	{"permafrost_space_bytes", "Space in the image.", []string{"kind"}},
	{"permafrost_generation", "Newest durable commit.", nil},
	{"permafrost_commits_total", "Commits since the start.", nil},
	{"permafrost_last_commit_latency_seconds", "How long the newest commit took.", nil},
	{"permafrost_fsyncs_total", "Syncs since the start.", nil},
	{"permafrost_faults_total", "First stores to clean pages since the start.", nil},
	{"permafrost_operations_total", "Operations since the start, by kind.", []string{"op"}},
	{"permafrost_bad_blocks", "Blocks on the bad-block list.", nil},
	{"permafrost_bad_blocks_pending", "Bad blocks that wait for the thaw to be recorded.", nil},
	{"permafrost_data_errors_total", "Accesses of file data that met a bad block, since the start.", nil},
	{"permafrost_metadata_errors_total", "Damaged blocks of metadata met since the start. Any makes the file system read-only.", nil},
	{"permafrost_scrub_running", "1 while a scrub is under way, held ones included.", nil},
	{"permafrost_scrub_progress_ratio", "How much of the metadata the running or the last scrub has read, 0 to 1.", nil},
	{"permafrost_scrub_nodes_total", "Metadata nodes that scrubs have read since the start.", nil},
	{"permafrost_scrub_last_end_timestamp_seconds", "When the newest scrub came to its end; 0: none since the start.", nil},
	{"permafrost_pending_orphans", "Unlinked inodes whose blocks are not freed yet.", nil},
	{"permafrost_read_only", "1 after a failed flush or commit, or damage to the metadata.", nil},
	{"permafrost_events_dropped_total", "Events that nobody took in time.", nil},
	{"permafrost_event_streams", "Clients of GET /events.", nil},
	{"permafrost_http_connections", "Connections open, all listeners together.", nil},
	{"permafrost_http_connections_max", "From how many on only urgent calls are answered.", nil},
	{"permafrost_http_connections_refused_total", "Requests answered 503 because too many connections were open.", nil},
	{"permafrost_ledger_degraded", "1 while the ledger cannot be written.", nil},
	{"permafrost_tree_depth", "Levels of the metadata tree.", nil},
}

func newStateCollector(s *Server) *stateCollector {
	c := &stateCollector{s: s, descs: map[string]*prometheus.Desc{}}
	for _, m := range stateMetrics {
		c.descs[m.name] = prometheus.NewDesc(m.name, m.help, m.labels, nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(name string, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], prometheus.GaugeValue, v, labels...)
	}
	counter := func(name string, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], prometheus.CounterValue, float64(v), labels...)
	}
	gauge("permafrost_event_streams", float64(c.s.streams.Load()))
	gauge("permafrost_http_connections", float64(c.s.conns.count()))
	gauge("permafrost_http_connections_max", float64(c.s.conns.limit))
	counter("permafrost_http_connections_refused_total", c.s.conns.refused.Load())
	if l := c.s.opt.Ledger; l != nil {
		health, _ := l.Health()
		gauge("permafrost_ledger_degraded", one(health != store.OK))
	}
	if a := c.s.opt.Attach; a != nil {
		gauge("permafrost_attach_clients", float64(a.Clients()))
	}
	c.collectMount(ch, gauge, counter)
	fs := c.s.fs()
	gauge("permafrost_up", one(fs != nil))
	if fs == nil {
		return
	}
	st := fs.Status()
	gauge("permafrost_frozen", one(st.Level == freeze.Complete))
	gauge("permafrost_freeze_level", float64(st.Level))
	c.collectFreezes(gauge, st.Freeze, st.LastFreeze)
	gauge("permafrost_blocked", float64(st.Blocked))
	gauge("permafrost_dirty_inodes", float64(st.InodesDirty))
	gauge("permafrost_dirty_pages", float64(st.DirtyPages))
	gauge("permafrost_inodes", float64(st.InodesTotal))
	gauge("permafrost_inodes_cached", float64(st.InodesCached))
	gauge("permafrost_mappings", float64(st.Mappings))
	gauge("permafrost_space_bytes", float64(st.Space.Total), "total")
	gauge("permafrost_space_bytes", float64(st.Space.Used), "used")
	gauge("permafrost_space_bytes", float64(st.Space.Free), "free")
	gauge("permafrost_generation", float64(st.Generation))
	counter("permafrost_commits_total", st.CommitTotal)
	gauge("permafrost_last_commit_latency_seconds", st.LastCommitLatency.Seconds())
	counter("permafrost_fsyncs_total", st.FsyncTotal)
	counter("permafrost_faults_total", st.FaultTotal)
	for op, n := range st.OpsTotal {
		counter("permafrost_operations_total", n, op)
	}
	c.collectDamage(gauge, counter, &st)
	gauge("permafrost_pending_orphans", float64(st.PendingOrphans))
	gauge("permafrost_read_only", one(st.Degraded != nil))
	counter("permafrost_events_dropped_total", st.EventsDropped)
	gauge("permafrost_tree_depth", float64(st.TreeDepth))
}

// collectDamage shows what is bad, and how far the search for it is.
func (c *stateCollector) collectDamage(gauge func(string, float64, ...string), counter func(string, uint64, ...string), st *core.Status) {
	gauge("permafrost_bad_blocks", float64(st.BadBlocks))
	gauge("permafrost_bad_blocks_pending", float64(st.BadBlocksPending))
	counter("permafrost_data_errors_total", st.DataErrors)
	counter("permafrost_metadata_errors_total", st.MetadataErrors)
	scrub := &st.Scrub
	gauge("permafrost_scrub_running", one(scrub.State != core.ScrubIdle))
	gauge("permafrost_scrub_progress_ratio", float64(scrub.Nodes)/float64(max(scrub.Of, 1)))
	counter("permafrost_scrub_nodes_total", scrub.NodesTotal)
	ended := 0.0
	if !scrub.EndedAt.IsZero() {
		ended = float64(scrub.EndedAt.UnixNano()) / 1e9
	}
	gauge("permafrost_scrub_last_end_timestamp_seconds", ended)
}

// collectFreezes shows the freeze that stands and the one before.
func (c *stateCollector) collectFreezes(gauge func(string, float64, ...string), now, last *freeze.Record) {
	remaining, newest := 0.0, uint64(0)
	if last != nil {
		newest = last.ID
		gauge("permafrost_last_freeze_window_seconds", last.Window.Seconds())
		gauge("permafrost_last_freeze_longest_wait_seconds", last.LongestWait.Seconds())
	}
	if now != nil {
		newest = now.ID
		if !now.ExpiresAt.IsZero() {
			remaining = max(0, now.ExpiresAt.Sub(c.s.now()).Seconds())
		}
	}
	gauge("permafrost_freeze_lease_remaining_seconds", remaining)
	gauge("permafrost_freezes_last_id", float64(newest))
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

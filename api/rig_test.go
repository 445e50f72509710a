package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/core/freeze"
	"permafrost/pmem"
	"permafrost/store"
)

// rig is a whole appliance without its programs: an image in a memfd or a file,
// a ledger, and the surface on a TCP listener and a Unix socket.
type rig struct {
	t        *testing.T
	dir      string
	medium   *faultyMedium
	fs       *core.FS
	ledger   *store.Ledger
	srv      *Server
	hosts    string // address of the TCP listener
	base     string // URL of it
	sock     string // path of the Unix socket
	local    *http.Client
	observed func(*freeze.Event) // sees every event of freezes; set before the first
	broken   bool                // the test broke the image's medium on purpose: no check at the end
}

// rigOptions change what newRig makes.
type rigOptions struct {
	image    string // path of a pmem file; "": a memfd
	bytes    int64
	leaseMax time.Duration
	survivor bool // a mapping of before a restart is not taken back yet
	change   func(*Options)
	limits   func(*limits)
}

func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	if o.bytes == 0 {
		o.bytes = 24 << 20
	}
	r := &rig{t: t, dir: shmDir(t)}
	region := must(pmem.CreateMemfd("api-test", o.bytes, pmem.Options{}))(t)
	if o.image != "" {
		check(t, region.Close())
		region = must(pmem.Create(o.image, o.bytes, pmem.Options{}))(t)
	}
	r.medium = &faultyMedium{Medium: region}
	check(t, core.Mkfs(r.medium, core.MkfsOptions{Label: "test"}))
	r.ledger = must(store.Open(context.Background(), filepath.Join(r.dir, "ledger.db"), store.Options{}))(t)
	r.fs = must(core.Mount(r.medium, core.Options{Path: "memfd", LeaseMax: o.leaseMax, DeferOrphans: o.survivor,
		Intent: func(ctx context.Context, f freeze.Record) error { return r.ledger.Intent(ctx, ledgerRow(&f)) }}))(t)
	recorded := make(chan struct{})
	go r.record(recorded)
	opt := Options{FS: r.fs, Ledger: r.ledger, Version: "test", LeaseMax: o.leaseMax,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if o.change != nil {
		o.change(&opt)
	}
	r.srv = must(New(opt))(t)
	if o.limits != nil {
		o.limits(&r.srv.limits)
	}
	servers := r.listen()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for _, s := range servers {
			if err := s.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
				_ = s.Close()
			}
		}
		if err := r.fs.Unmount(ctx); err != nil && !r.broken {
			t.Errorf("unmount: %v", err)
		}
		<-recorded
		if !r.broken {
			r.checkImage(ctx)
		}
		if err := r.ledger.Close(ctx); err != nil {
			t.Errorf("close ledger: %v", err)
		}
		check(t, region.Close())
	})
	return r
}

func (r *rig) listen() []*http.Server {
	r.t.Helper()
	tcp := must(net.Listen("tcp", "127.0.0.1:0"))(r.t)
	r.hosts = tcp.Addr().String()
	r.base = "http://" + r.hosts
	r.sock = filepath.Join(r.dir, "api.sock")
	unix := must(net.Listen("unix", r.sock))(r.t)
	r.local = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.sock)
	}}}
	r.t.Cleanup(r.local.CloseIdleConnections)
	r.t.Cleanup(http.DefaultClient.CloseIdleConnections)
	var servers []*http.Server
	for _, l := range []net.Listener{tcp, unix} {
		srv := r.srv.HTTPServer()
		servers = append(servers, srv)
		go func() { _ = srv.Serve(r.srv.Limit(l)) }()
	}
	return servers
}

func (r *rig) checkImage(ctx context.Context) {
	rep, err := core.Check(ctx, r.medium, nil)
	if err != nil {
		r.t.Errorf("check: %v", err)
		return
	}
	for _, p := range rep.Problems {
		r.t.Errorf("check: %+v", p)
	}
}

// record does what the appliance's recorder does, as far as tests look.
func (r *rig) record(done chan struct{}) {
	defer close(done)
	for e := range r.fs.Events() {
		if e.Freeze != nil && r.observed != nil {
			r.observed(e.Freeze)
		}
		switch {
		case e.Freeze != nil && e.Freeze.Wait != nil:
			b := e.Freeze.Wait
			r.ledger.RecordBlocked([]store.Blocked{{FreezeID: int64(b.FreezeID), Gate: b.Gate.String(), Op: b.Op, Ino: int64(b.Ino),
				Path: b.Path, WayIn: b.WayIn, PID: b.PID, Comm: b.Comm, UID: int64(b.UID), Remote: b.Remote, Since: b.Since,
				WaitedUS: microseconds(b.Waited), Cancelled: b.Cancelled}})
		case e.Freeze != nil && e.Freeze.Freeze != nil:
			r.ledger.RecordFreeze(ledgerRow(e.Freeze.Freeze))
			_ = r.ledger.RecordEvent(store.LedgerEvent{At: e.Time, Kind: string(e.Freeze.Kind),
				Data: fmt.Appendf(nil, `{"freeze_id":%d}`, e.Freeze.Freeze.ID)})
		case e.Found != nil && e.Found.FreezeID != 0:
			var rows []store.FoundInode
			for _, f := range e.Found.Inodes {
				rows = append(rows, store.FoundInode{FreezeID: int64(e.Found.FreezeID), Ino: int64(f.Ino), Path: f.Path,
					Pages: int64(f.Pages), Bytes: int64(f.Bytes), DirtySince: f.DirtySince, FoundAt: e.Time, Window: e.Found.Window})
			}
			r.ledger.RecordFound(rows)
		}
	}
}

func ledgerRow(f *freeze.Record) store.Freeze {
	row := store.Freeze{ID: int64(f.ID), State: string(f.State), Generation: int64(f.Generation), RequestedAt: f.RequestedAt,
		FrozenAt: f.FrozenAt, EndedAt: f.EndedAt, ExpiresAt: f.ExpiresAt, WindowUS: microseconds(f.Window), TotalUS: microseconds(f.Total),
		Strategy: f.Strategy, Modes: f.Modes, BlockedTotal: int64(f.BlockedTotal), ImageReads: int64(f.ImageReads), WaitingFor: f.WaitingFor, Error: f.Error}
	for _, h := range f.Holds {
		row.Holds = append(row.Holds, store.Hold{Hold: h.ID, FreezeID: int64(h.FreezeID), Holder: h.Holder, Reason: h.Reason, Since: h.Since,
			ExpiresAt: h.ExpiresAt, EndedAt: h.EndedAt, End: h.End, Renewals: h.Renewals, HasToken: h.HasToken})
	}
	for _, p := range f.Phases {
		row.Phases = append(row.Phases, store.Phase{Name: p.Name, DurationUS: microseconds(p.Duration)})
	}
	return row
}

// flush waits until what core told is in the ledger.
func (r *rig) flush() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	check(r.t, r.ledger.Flush(ctx))
}

// shmDir is a directory in memory that goes with the test.
func shmDir(t *testing.T) string {
	t.Helper()
	parent := "/dev/shm"
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	dir := must(os.MkdirTemp(parent, "permafrost-api-"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// faultyMedium fails every fence once broken: a medium that has died.
type faultyMedium struct {
	pmem.Medium
	broken atomic.Bool
}

func (m *faultyMedium) Begin() pmem.Batch { return &faultyBatch{m.Medium.Begin(), m} }

type faultyBatch struct {
	pmem.Batch
	m *faultyMedium
}

func (b *faultyBatch) Fence() error {
	if b.m.broken.Load() {
		return fmt.Errorf("the medium was broken by the test")
	}
	return b.Batch.Fence()
}

// reply is an answer, read whole.
type reply struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
}

// call sends a request; body may be a string, []byte, io.Reader or nil. Further
// arguments are headers, "Name: value".
func (r *rig) call(method, path string, body any, headers ...string) *reply {
	r.t.Helper()
	return r.callBy(http.DefaultClient, method, r.base+path, body, headers...)
}

func (r *rig) callBy(c *http.Client, method, url string, body any, headers ...string) *reply {
	r.t.Helper()
	rep, err := r.try(context.Background(), c, method, url, body, headers...)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, url, err)
	}
	return rep
}

func (r *rig) try(ctx context.Context, c *http.Client, method, url string, body any, headers ...string) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	case []byte:
		rd = bytes.NewReader(b)
	case io.Reader:
		rd = b
	}
	req, err := http.NewRequestWithContext(ctx, method, url, rd)
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		} else {
			req.Header.Add(name, value)
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return &reply{r.t, resp.StatusCode, resp.Header, got}, err
}

// want fails unless the status is the one expected.
func (p *reply) want(status int) *reply {
	p.t.Helper()
	if p.status != status {
		p.t.Fatalf("status %d, want %d: %s", p.status, status, p.body)
	}
	return p
}

// json decodes the body.
func (p *reply) json() map[string]any {
	p.t.Helper()
	var v map[string]any
	if err := json.Unmarshal(p.body, &v); err != nil {
		p.t.Fatalf("not JSON: %v: %s", err, p.body)
	}
	return v
}

// problem fails unless the answer is this problem, well formed and without the
// fields a refusal must not have.
func (p *reply) problem(status int, name string) map[string]any {
	p.t.Helper()
	p.want(status)
	if ct := p.header.Get("Content-Type"); ct != "application/problem+json" {
		p.t.Fatalf("Content-Type %q of a problem", ct)
	}
	v := p.json()
	if v["type"] != "/problems/"+name {
		p.t.Fatalf("problem %v, want %s: %s", v["type"], name, p.body)
	}
	if v["status"] != float64(status) || v["title"] == "" || len(fmt.Sprint(v["detail"])) < 10 {
		p.t.Errorf("incomplete problem: %s", p.body)
	}
	for _, banned := range []string{"id", "hold"} {
		if _, has := v[banned]; has {
			p.t.Errorf("a refusal with a top-level %q: %s", banned, p.body)
		}
	}
	if p.header.Get("Cache-Control") != "no-store" {
		p.t.Errorf("Cache-Control %q of a problem", p.header.Get("Cache-Control"))
	}
	return v
}

// frozen freezes by a holder and returns the answer.
func (r *rig) frozen(params string) map[string]any {
	r.t.Helper()
	return r.call("POST", "/freeze?"+params, nil).want(200).json()
}

// thawed thaws by a holder.
func (r *rig) thawed(params string) map[string]any {
	r.t.Helper()
	return r.call("POST", "/thaw?"+params, nil).want(200).json()
}

// until waits for a condition that another goroutine brings about.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("not reached: %s", what)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		check(t, err)
		return v
	}
}

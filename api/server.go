package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/store"
)

// Ledger is what this package reads of the ledger. Reads return
// store.ErrNotFound for what is not there; any other error means that the
// history cannot be read now.
type Ledger interface {
	Health() (health store.Health, reason string)
	Freezes(ctx context.Context, q store.FreezeQuery) ([]store.Freeze, error)
	Freeze(ctx context.Context, id int64) (store.Freeze, error)
	FreezeInodes(ctx context.Context, freezeID, after int64, limit int) ([]store.FoundInode, error)
	FreezeBlocked(ctx context.Context, freezeID, after int64, limit int) ([]store.Blocked, error)
	InodeHistory(ctx context.Context, ino, before int64, limit int) ([]store.InodeHistory, error)
	Samples(ctx context.Context, from, to time.Time, step time.Duration) ([]store.Sample, error)
	EventsAfter(ctx context.Context, id int64, limit int) ([]store.LedgerEvent, error)
	// Subscribe begins a live stream of events; errors store.ErrTooMany, store.ErrClosed.
	Subscribe() (*store.Subscription, error)
	// Path of the database, for people.
	Path() string
}

// Attach is what this package shows of the attach server.
type Attach interface {
	Socket() string
	Clients() int
}

// Mount is what this package shows of the FUSE mount.
type Mount interface {
	Status() core.MountStatus
	// Mappings lists the files that may be mapped through it: of one inode, or all for 0.
	Mappings(ino format.Ino) []core.MappingInfo
}

// Options configures a Server. Immutable once given to New.
type Options struct {
	// FS may be nil: then everything but health and documents answers 503
	// `starting` until Mounted is called.
	FS *core.FS
	// Ledger may be nil: then there is no history and no event stream.
	Ledger Ledger
	// Attach may be nil: programs cannot map files directly.
	Attach Attach
	// AttachRefused says why Attach is nil, and what to use instead.
	AttachRefused string
	// Mount may be nil: there is no FUSE mount.
	Mount Mount
	// Version of the program.
	Version string
	// Listen are the URLs it listens on, for people.
	Listen []string
	// AllowedHosts are Host names served beside localhost, without ports.
	AllowedHosts []string
	// UI serves /ui/; may be nil.
	UI http.Handler
	// LeaseMax bounds a freeze, counted from frozen_at; 0: 1 h.
	LeaseMax time.Duration
	// MaxStreams bounds event streams; 0: 256.
	MaxStreams int
	// MaxConnections bounds open connections of all listeners that Limit was
	// called for; 0: DefaultMaxConnections.
	MaxConnections int
	// NotReady gives further reasons not to be ready; may be nil.
	NotReady func() []string
	Logger   *slog.Logger
	Now      func() time.Time
}

// Server is the REST surface. It is an http.Handler.
type Server struct {
	opt     Options
	log     *slog.Logger     // immutable
	now     func() time.Time // immutable
	router  *chi.Mux         // immutable after New
	handler http.Handler     // immutable after New: router within its guards
	doc     *huma.OpenAPI    // immutable after New
	openapi []byte           // immutable after New: doc rendered
	metrics *metrics         // immutable
	inside  atomic.Int64     // requests being answered
	started time.Time        // immutable
	limits  limits           // immutable once it serves
	hangups hangups          // has its own lock
	conns   connections      // has its own lock

	fsys    atomic.Pointer[core.FS] // nil until mounted
	done    chan struct{}           // closed by Close: streams end
	once    sync.Once               // guards the closing of done
	streams atomic.Int64            // event streams open
}

// New builds the surface. It starts nothing.
func New(o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.LeaseMax == 0 {
		o.LeaseMax = time.Hour
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = 256
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	s := &Server{opt: o, log: o.Logger, now: o.Now, router: chi.NewRouter(), doc: newDocument(o.Version),
		started: o.Now(), limits: defaultLimits, done: make(chan struct{})}
	if o.FS != nil {
		s.fsys.Store(o.FS)
	}
	s.conns.init(o.MaxConnections)
	s.metrics = newMetrics(s)
	s.router.NotFound(s.notFound)
	s.router.MethodNotAllowed(s.methodNotAllowed)
	s.routes()
	var err error
	if s.openapi, err = s.render(); err != nil {
		return nil, err
	}
	s.handler = s.withProgress(withHeaders(s.withReserve(s.withHosts(s.withSameSite(s.router)))))
	return s, nil
}

// routes registers every call, resource by resource.
func (s *Server) routes() {
	s.freezeVerbs()
	s.fsyncRoute()
	s.freezeRoutes()
	s.imageRoute()
	s.fileRoutes()
	s.inodeRoutes()
	s.mappingRoutes()
	s.damageRoutes()
	s.sampleRoute()
	s.statusRoute()
	s.eventRoute()
	s.healthRoutes()
	s.metricsRoute()
	s.problemRoutes()
	s.openapiRoute()
	s.rootRoute()
	if s.opt.UI != nil {
		s.router.Mount("/ui", s.opt.UI)
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.inside.Add(1)
	defer s.inside.Add(-1)
	s.handler.ServeHTTP(w, r)
}

// Drained waits until no request is being answered. http.Server.Close cuts off
// connections and does not wait for who answers on them: they use the file system
// for a moment longer. Errors: ctx's.
func (s *Server) Drained(ctx context.Context) error {
	for s.inside.Load() > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// Mounted hands in the file system of a server that was started without one.
func (s *Server) Mounted(fs *core.FS) { s.fsys.Store(fs) }

// fs is the file system; route refuses calls before there is one.
func (s *Server) fs() *core.FS { return s.fsys.Load() }

// HTTPServer is an http.Server for this surface with its limits set; one serves
// any number of listeners, each through Limit. Deadlines of bodies and answers are kept by
// withProgress, so that streams live as long as they move.
func (s *Server) HTTPServer() *http.Server {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       s.ConnContext,
		ConnState:         s.conns.state,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	srv.RegisterOnShutdown(s.Close)
	return srv
}

// Close ends event streams, which http.Server.Shutdown would wait for.
func (s *Server) Close() { s.once.Do(func() { close(s.done) }) }

// starting refuses a call that needs the image before it is mounted.
func starting() *Problem {
	p := problem(kindStarting, "the image is being mounted; try again in a moment")
	p.Retry = time.Second
	return p
}

// ledger is the ledger, or a refusal if there is none.
func (s *Server) ledger() (Ledger, error) {
	if s.opt.Ledger == nil {
		return nil, problem(kindLedger, "this appliance keeps no ledger")
	}
	return s.opt.Ledger, nil
}

// ledgerProblem turns an error of reading the ledger into a refusal.
func ledgerProblem(err error) error {
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, context.Canceled) {
		return err
	}
	return problem(kindLedger, "%v; freezing and thawing work without it", err).because(err)
}

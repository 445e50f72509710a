package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"permafrost/api"
	"permafrost/core"
	"permafrost/dax"
	"permafrost/mount"
	"permafrost/pmem"
	"permafrost/store"
	"permafrost/web"
)

// appliance is the wiring of one running server. It is started bottom up
// (ledger, region, file system, recorder, attach, mount, REST) and stopped top down,
// so that nothing is used after it has ended:
//
//  1. a standing freeze ends as interrupted: whoever it holds goes on, and is
//     answered, instead of holding up the steps that follow;
//  2. listeners close and streams end: nobody asks for anything new;
//  3. the mount ends: what its page cache holds is written back first;
//  4. attach stops: mappings are made clean and stay protected, so clients
//     block instead of storing where nobody watches, until the next server;
//  5. the file system unmounts: the last commit carries the allocator;
//  6. the recorder drains its events, the ledger is flushed and closed;
//  7. the region is unmapped and unlocked.
type appliance struct {
	cmd     *serveCmd
	places  places
	log     *slog.Logger
	console *console
	failed  chan error // a listener that died; buffered for all of them

	stopping  chan struct{} // closed when stop begins
	surviving bool          // mappings of a former server were there at the start

	mountFlags mount.Flags
	unmounted  chan struct{} // closed when somebody has unmounted it, with --until-unmounted

	ledger    *store.Ledger
	region    *pmem.Region
	fs        *core.FS
	recorder  *recorder
	attach    *dax.Server
	mounted   *mount.Mount // nil: no --mount
	rest      *api.Server
	ui        *web.UI
	servers   []*http.Server
	listening []string // for people
	serving   sync.WaitGroup
}

func (a *appliance) start(ctx context.Context) (err error) {
	a.failed = make(chan error, len(a.cmd.Listen)+1)
	a.stopping, a.unmounted = make(chan struct{}), make(chan struct{})
	if err := a.openLedger(ctx); err != nil {
		return err
	}
	if err := a.mount(ctx); err != nil {
		return err
	}
	a.recorder = startRecorder(a.fs, a.ledger, a.log)
	if err := a.startAttach(ctx); err != nil {
		return err
	}
	if err := a.startMount(ctx); err != nil {
		return err
	}
	return a.startREST()
}

// startMount mounts the file system where --mount says. That it is unmounted
// by somebody else is no reason to stop: REST and attach go on.
func (a *appliance) startMount(ctx context.Context) (err error) {
	if a.places.mount == "" {
		return nil
	}
	a.mounted, err = mount.New(ctx, mount.Options{FS: a.fs, Dir: a.places.mount, Flags: a.mountFlags, Child: startSyncer, Log: a.log})
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), mountProcs))
	a.serving.Go(func() {
		select {
		case <-a.mounted.Ended():
			if a.cmd.UntilUnmounted {
				close(a.unmounted)
				return
			}
			a.log.Warn("somebody has unmounted the file system; it is served by REST and attach still, and mounted again by a restart", "mount", a.places.mount)
		case <-a.stopping:
		}
	})
	return nil
}

// mountProcs is how many goroutines may run at once beside a mount, at least.
// go-fuse keeps one more reader of requests than there were when it mounted.
// All of them wait in read(2); the one that comes back without one to be had
// would park, and go on when the runtime has taken one from a reader that
// waits, 20 us to 10 ms later.
const mountProcs = 8

// openLedger never keeps the appliance from starting: a ledger that cannot be
// opened starts degraded and goes on trying.
func (a *appliance) openLedger(ctx context.Context) error {
	o := store.Options{Logger: a.log}
	l, err := store.Open(ctx, a.places.ledger, o)
	if err != nil {
		a.log.Error("the ledger is degraded: history is kept in memory until it can be written", "path", a.places.ledger, "error", err)
		if l, err = store.OpenDegraded(a.places.ledger, o, err); err != nil {
			return err
		}
	}
	a.ledger = l
	return nil
}

// mount opens the image, makes it if that was asked for, and mounts it.
func (a *appliance) mount(ctx context.Context) error {
	r, made, err := openRegion(a.places)
	if err != nil {
		return err
	}
	a.region = r
	if made {
		if err := core.Mkfs(r, mkfsOptions("permafrost", false)); err != nil {
			_ = os.Remove(a.places.pmem) // half made, by us
			return err
		}
	}
	// Before anybody is given a descriptor: it would count as surviving.
	if a.surviving, err = r.SurvivingMappings(); err != nil {
		return err
	}
	past, next := a.pastFreezes(ctx)
	a.fs, err = core.Mount(r, core.Options{
		Path:           a.places.pmem,
		CommitInterval: a.cmd.CommitInterval,
		LeaseMax:       a.cmd.LeaseMax,
		MaxInodes:      a.cmd.CacheInodes,
		ScrubInterval:  a.cmd.ScrubInterval,
		ScrubRate:      int64(a.cmd.ScrubRate),
		NextFreezeID:   next,
		PastHolds:      past,
		Intent:         a.recordIntent,
		DeferOrphans:   a.surviving,
	})
	if err == nil {
		a.tellRecovery()
	}
	return err
}

// tellRecovery logs what the mount had to do without.
func (a *appliance) tellRecovery() {
	st := a.fs.Status()
	if st.FellBack > 0 {
		a.log.Warn("the newest commit cannot be read, an older one is served: a crash in the middle of a commit leaves it so, and nothing that was answered is lost; "+
			"if it was damaged since, the changes it had are lost", "newer_commits", st.FellBack)
	}
	if st.SuperDamaged {
		a.log.Warn("the superblock is damaged; its copy is used: stop the server and run permafrost check --repair")
	}
}

// startAttach serves programs that map files themselves, where the domain can.
// First it takes back the mappings that outlived a former server; until every
// one is back or has ended, nothing may be allocated: its blocks could be
// given to somebody else.
func (a *appliance) startAttach(ctx context.Context) error {
	srv, err := dax.New(dax.Options{FS: a.fs, Image: a.region.DuplicateForClients, Socket: a.places.attach, UIDs: a.cmd.AttachUID,
		RecordDir: a.places.records, Log: a.log})
	if err != nil {
		return err
	}
	a.attach = srv
	adopted, err := srv.Adopt(ctx, a.surviving)
	if err != nil {
		return err
	}
	if adopted.Clients > 0 {
		a.log.Info("took back mappings of a former server", "clients", adopted.Clients, "mappings", adopted.Mappings)
	}
	if len(adopted.Survivors) == 0 {
		a.fs.Adopted()
	} else {
		for _, p := range adopted.Survivors {
			a.log.Warn("a process maps the image and cannot be held: nothing is allocated and no freeze is given until it ends", "pid", p.PID, "command", p.Comm, "why", p.Why)
		}
		a.serving.Go(func() { a.awaitSurvivors(adopted.Gone) })
	}
	return srv.Start()
}

// awaitSurvivors lets the file system allocate once nobody is left whom the
// attach server cannot hold.
func (a *appliance) awaitSurvivors(gone <-chan struct{}) {
	select {
	case <-gone:
		a.log.Info("the last surviving mapping has ended")
		a.fs.Adopted()
	case <-a.stopping:
	}
}

func (a *appliance) startREST() error {
	listeners, err := a.listen()
	if err != nil {
		return err
	}
	ui, err := web.New(web.Options{FS: a.fs, Ledger: a.ledger, Version: version(), LeaseMax: a.cmd.LeaseMax, Attach: a.attachStatus, Mount: a.mountForUI(), Server: curlAddress(a.firstAddress()), Logger: a.log})
	if err != nil {
		return err
	}
	a.ui = ui
	a.rest, err = api.New(api.Options{FS: a.fs, Ledger: a.ledger, Attach: a.attachForREST(), AttachRefused: a.attachRefused(), Mount: a.mountForREST(),
		Version: version(), Listen: a.listening, AllowedHosts: a.cmd.AllowedHost, UI: ui, LeaseMax: a.cmd.LeaseMax, MaxConnections: a.cmd.MaxConnections, NotReady: a.notReady, Logger: a.log})
	if err != nil {
		return err
	}
	for _, l := range listeners {
		srv := a.rest.HTTPServer()
		a.servers = append(a.servers, srv)
		a.serving.Go(func() {
			if err := srv.Serve(a.rest.Limit(l)); err != nil && !errors.Is(err, http.ErrServerClosed) {
				a.failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
		})
	}
	return nil
}

// listen opens the Unix socket and every address. An IPv6 address that this
// machine does not have is left out; any other failure is an error.
func (a *appliance) listen() ([]net.Listener, error) {
	var all []net.Listener
	fail := func(err error) ([]net.Listener, error) {
		for _, l := range all {
			l.Close()
		}
		return nil, err
	}
	l, err := listenUnix(a.places.socket)
	if err != nil {
		return fail(err)
	}
	all = append(all, l)
	for _, addr := range a.cmd.Listen {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			if host, _, _ := net.SplitHostPort(addr); host == "::1" && len(a.cmd.Listen) > 1 && !errors.Is(err, syscall.EADDRINUSE) {
				a.log.Info("no IPv6 loopback here", "listen", addr)
				continue
			}
			if a.cmd.ListenIfFree && errors.Is(err, syscall.EADDRINUSE) {
				a.log.Info("this address is taken: choose one with -o listen=ADDR", "listen", addr)
				continue
			}
			return fail(fmt.Errorf("listen on %s: %w (another appliance? choose with --listen)", addr, err))
		}
		all = append(all, l)
		a.listening = append(a.listening, "http://"+l.Addr().String())
	}
	return all, nil
}

// listenUnix replaces a socket that nobody answers on.
func listenUnix(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("another appliance serves on %s: stop it, or choose another place with --socket", path)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is not a socket: it is in the way, choose another place with --socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the stale socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// cutOffTime is how long requests may take to notice that they were cut off.
const cutOffTime = 3 * time.Second

// notReady gives the reasons not to be ready that REST cannot see.
func (a *appliance) notReady() []string {
	var why []string
	for _, p := range a.attach.Survivors() {
		why = append(why, fmt.Sprintf("process %d (%s) maps the image and cannot be held: %s", p.PID, p.Comm, p.Why))
	}
	return why
}

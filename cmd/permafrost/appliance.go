package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"permafrost/api"
	"permafrost/core"
	"permafrost/dax"
	"permafrost/pmem"
	"permafrost/store"
	"permafrost/web"
)

// appliance is the wiring of one running server. It is started bottom up
// (ledger, region, file system, recorder, attach, REST) and stopped top down,
// so that nothing is used after it has ended:
//
//  1. listeners close and streams end: nobody asks for anything new;
//  2. attach stops: mappings are made clean and stay protected, so clients
//     block instead of storing where nobody watches, until the next server;
//  3. the file system unmounts: a standing freeze ends as interrupted, the
//     last commit carries the allocator;
//  4. the recorder drains its events, the ledger is flushed and closed;
//  5. the region is unmapped and unlocked.
type appliance struct {
	cmd     *serveCmd
	places  places
	log     *slog.Logger
	console *console
	failed  chan error // a listener that died; buffered for all of them

	ledger    *store.Ledger
	region    *pmem.Region
	fs        *core.FS
	recorder  *recorder
	attach    *dax.Server // nil where the domain cannot do it
	attachWhy string      // why not
	rest      *api.Server
	servers   []*http.Server
	listening []string // for people
	serving   sync.WaitGroup
}

func (a *appliance) start(ctx context.Context) (err error) {
	a.failed = make(chan error, len(a.cmd.Listen)+1)
	if err := a.openLedger(ctx); err != nil {
		return err
	}
	if err := a.mount(ctx); err != nil {
		return err
	}
	a.recorder = startRecorder(a.fs, a.ledger, a.log)
	if err := a.startAttach(); err != nil {
		return err
	}
	a.fs.Adopted()
	return a.startREST()
}

// openLedger never keeps the appliance from starting: a ledger that cannot be
// opened starts degraded and goes on trying.
func (a *appliance) openLedger(ctx context.Context) error {
	o := store.Options{Logger: a.log}
	l, err := store.Open(ctx, a.places.ledger, o)
	if err != nil {
		a.log.Error("the ledger is degraded: history is kept in memory until it can be written", "path", a.places.ledger, "error", err)
		l = store.OpenDegraded(a.places.ledger, o, err)
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
		if err := core.Mkfs(r, core.MkfsOptions{Label: "permafrost"}); err != nil {
			return err
		}
	}
	surviving, err := r.SurvivingMappings()
	if err != nil {
		return err
	}
	past, next := a.pastFreezes(ctx)
	a.fs, err = core.Mount(r, core.Options{
		Path:           a.places.pmem,
		CommitInterval: a.cmd.CommitInterval,
		LeaseMax:       a.cmd.LeaseMax,
		MaxInodes:      a.cmd.CacheInodes,
		NextFreezeID:   next,
		PastHolds:      past,
		Intent:         a.recordIntent,
		DeferOrphans:   surviving,
	})
	return err
}

// startAttach serves programs that map files themselves, where the domain can.
func (a *appliance) startAttach() error {
	uids := a.cmd.AttachUID
	if len(uids) == 0 {
		uids = []uint32{uint32(os.Geteuid())}
	}
	srv, err := dax.New(dax.Options{FS: a.fs, Descriptor: a.region.DuplicateForClients, Surviving: a.region.SurvivingMappings,
		Socket: a.places.attach, UIDs: uids, RecordDir: a.places.records, Logger: a.log})
	if err != nil {
		return err
	}
	if err := srv.Start(); err != nil {
		return err
	}
	a.attach = srv
	return nil
}

func (a *appliance) startREST() error {
	instance := make([]byte, 8)
	if _, err := rand.Read(instance); err != nil {
		return err
	}
	_ = hex.EncodeToString(instance)
	listeners, err := a.listen()
	if err != nil {
		return err
	}
	ui, err := web.New(web.Options{FS: a.fs, Ledger: a.ledger, Version: version(), LeaseMax: a.cmd.LeaseMax, Attach: a.attachStatus, Server: a.firstAddress()})
	if err != nil {
		return err
	}
	a.rest, err = api.New(api.Options{FS: a.fs, Ledger: a.ledger, LedgerPath: a.places.ledger, LedgerEvents: a.wakeOnEvents, Attach: a.attachInfo(),
		Version: version(), Listen: a.listening, AllowedHosts: a.cmd.AllowedHost, UI: ui, LeaseMax: a.cmd.LeaseMax, Logger: a.log})
	if err != nil {
		return err
	}
	for _, l := range listeners {
		srv := a.rest.HTTPServer()
		a.servers = append(a.servers, srv)
		a.serving.Go(func() {
			if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
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
			if host, _, _ := net.SplitHostPort(addr); host == "::1" && len(a.cmd.Listen) > 1 && !isInUse(err) {
				a.log.Info("no IPv6 loopback here", "listen", addr)
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

// shutdownTime bounds each step of stopping.
const shutdownTime = 20 * time.Second

// stop goes top down; it works after a start that failed half way as well.
func (a *appliance) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	if a.rest != nil {
		a.rest.Close()
	}
	for _, s := range a.servers {
		if err := s.Shutdown(ctx); err != nil {
			s.Close()
		}
	}
	a.serving.Wait()
	if a.attach != nil {
		a.report("stop the attach server", a.attach.Close(ctx))
	}
	if a.fs != nil {
		a.report("unmount", a.fs.Unmount(ctx))
	}
	if a.recorder != nil {
		a.recorder.stop()
	}
	if a.ledger != nil {
		a.report("flush the ledger", a.ledger.Flush(ctx))
		a.report("close the ledger", a.ledger.Close())
	}
	if a.region != nil {
		a.report("close the image", a.region.Close())
	}
}

func (a *appliance) report(what string, err error) {
	if err != nil {
		a.log.Error("shutdown: "+what, "error", err)
	}
}

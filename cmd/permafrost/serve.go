package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"

	"permafrost/mount"
	"permafrost/pmem"
)

type serveCmd struct {
	Pmem                string        `help:"The pmem file; by default fs.pmem in the XDG data directory, made (1 GiB) if it is not there." placeholder:"FILE" type:"path"`
	Create              size          `help:"Make the pmem file, of this size, if it is not there." placeholder:"SIZE"`
	State               string        `help:"State directory: ledger, socket, records of attached programs." placeholder:"DIR" type:"path"`
	Listen              []string      `help:"Address to serve HTTP on; repeatable. By default 127.0.0.1:7433 and [::1]:7433." default:"127.0.0.1:7433,[::1]:7433" placeholder:"ADDR"`
	Socket              string        `help:"Unix socket to serve HTTP on; by default the first usable of the places where clients look." placeholder:"PATH" type:"path"`
	AttachSocket        string        `help:"Unix socket for programs that map files themselves; by default attach.sock beside the other." placeholder:"PATH" type:"path"`
	AttachUID           []uint32      `name:"attach-uid" help:"Users who may attach: holding the descriptor is holding the whole image. Repeatable; by default the server's own." placeholder:"UID"`
	Mount               string        `help:"Mount the file system there too, for unmodified programs: an empty directory." placeholder:"DIR" type:"path"`
	MountOptions        []string      `name:"mount-options" short:"o" help:"Options of the mount, as for mount(8): ro, private, allow_other, uid=, noexec, ..." placeholder:"OPTIONS"`
	CommitInterval      time.Duration `help:"Longest time a finished change stays uncommitted without an fsync." default:"5s"`
	LeaseMax            time.Duration `help:"Longest a freeze may last, renewals included." default:"1h"`
	ScrubInterval       time.Duration `help:"Time between two scrubs, which read and verify all metadata; 0: only on demand." default:"24h"`
	ScrubRate           size          `help:"Bytes a scrub reads in a second, at most." default:"8MiB" placeholder:"SIZE"`
	CacheInodes         int           `help:"Inodes kept in memory before clean ones are evicted." default:"1000000"`
	MaxConnections      int           `help:"HTTP connections open at once, all addresses together; beyond them only freeze, thaw and the like are answered." default:"1024"`
	AllowInsecureListen bool          `help:"Serve on other addresses than loopback although there are no tokens and no TLS."`
	AllowedHost         []string      `help:"Further Host names to answer to; repeatable." placeholder:"NAME"`
	UntilUnmounted      bool          `hidden:"" env:"-" help:"End when somebody unmounts --mount, as a FUSE daemon does."`
	ListenIfFree        bool          `hidden:"" env:"-" help:"An address that is taken is left out."`
	ReadyFD             int           `name:"ready-fd" hidden:"" env:"-" help:"A descriptor to tell on that it serves, or why not."`
	Demo                bool          `help:"A throw-away appliance on a 256 MiB tmpfs image, with a program that stores through mappings."`
	CPUProfile          string        `name:"cpu-profile" hidden:"" help:"Where to write a CPU profile of the whole run." placeholder:"FILE" type:"path"`
}

const (
	defaultImageSize = 1 << 30
	demoImageSize    = 256 << 20
)

// places is where everything of one appliance is. Immutable once made.
type places struct {
	pmem, state, ledger, socket, attach, records string
	mount                                        string // "": no mount
	create                                       int64
	temporary                                    string // removed at the end; the demo's
}

func (s *serveCmd) Run(c *console) (err error) {
	started := openStarter(s.ReadyFD)
	defer func() { started.ended(err) }()
	if err := s.checkListen(); err != nil {
		return &exitError{exitUsage, err}
	}
	if s.LeaseMax <= 0 || s.CommitInterval <= 0 || s.CacheInodes < 1000 || s.MaxConnections < 16 {
		return &exitError{exitUsage, fmt.Errorf("--lease-max and --commit-interval must be positive, --cache-inodes at least 1000, --max-connections at least 16")}
	}
	if s.ScrubInterval < 0 || s.ScrubRate <= 0 {
		return &exitError{exitUsage, fmt.Errorf("--scrub-interval must not be negative (0: no periodic scrubs), --scrub-rate must be positive")}
	}
	flags, err := mount.ParseFlags(s.MountOptions...)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	// Before anything else: a signal from here on is an orderly shutdown.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A log that nobody reads any more is no reason to die: writes to it fail. Not
	// ignored, which children would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if s.UntilUnmounted {
		awaitImage(ctx, s.Pmem)
	}
	p, err := s.places()
	if err != nil {
		return err
	}
	if p.temporary != "" {
		defer os.RemoveAll(p.temporary)
	}
	if s.CPUProfile != "" {
		end, err := profileCPU(s.CPUProfile)
		if err != nil {
			return err
		}
		defer end()
	}
	log := slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelInfo}))
	a := &appliance{cmd: s, places: p, mountFlags: flags, log: log, console: c}
	if err := a.start(ctx); err != nil {
		return errors.Join(err, a.stop())
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	a.announce()
	started.serving(append(a.listening, "unix:"+p.socket)...)
	if err := notifySystemd(os.Getenv("NOTIFY_SOCKET")); err != nil {
		log.Warn("the service manager cannot be told that we serve", "error", err)
	}
	if s.Demo && a.attach.Unavailable() == nil {
		demo, err := startDemo(ctx, a.fs, p.attach)
		if err != nil {
			return err
		}
		defer demo.end()
	}
	select {
	case <-ctx.Done():
		c.notef("permafrost: shutting down\n")
		return nil
	case <-a.unmounted:
		c.notef("permafrost: %s was unmounted, shutting down\n", p.mount)
		return nil
	case err := <-a.failed:
		return err
	}
}

// profileCPU writes a profile for `go tool pprof` until it is ended.
func profileCPU(path string) (end func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("the CPU profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("the CPU profile: %w", err)
	}
	return func() { pprof.StopCPUProfile(); f.Close() }, nil
}

// checkListen refuses what would let anyone on the network freeze the file
// system: there are no tokens and no TLS yet.
func (s *serveCmd) checkListen() error {
	for _, addr := range s.Listen {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return fmt.Errorf("--listen %q: write it like 127.0.0.1:7433 or [::1]:7433", addr)
		}
		ip := net.ParseIP(host)
		if loopback := host == "localhost" || ip != nil && ip.IsLoopback(); !loopback && !s.AllowInsecureListen {
			return fmt.Errorf("--listen %s: anybody who reaches this address could freeze the file system and read every byte of it; "+
				"listen on 127.0.0.1 and put a proxy that authenticates in front, or give --allow-insecure-listen", addr)
		}
	}
	return nil
}

// places works out and makes the directories.
func (s *serveCmd) places() (places, error) {
	p := places{pmem: s.Pmem, state: s.State, create: int64(s.Create)}
	if s.Demo {
		if s.Pmem != "" || s.Create != 0 {
			return p, &exitError{exitUsage, fmt.Errorf("--demo makes its own throw-away image: leave --pmem and --create out")}
		}
		dir, err := os.MkdirTemp("/dev/shm", "permafrost-demo-")
		if err != nil {
			return p, fmt.Errorf("the demo's image lives on tmpfs: %w", err)
		}
		p.temporary, p.pmem, p.create = dir, filepath.Join(dir, "fs.pmem"), demoImageSize
		if p.state == "" {
			p.state = filepath.Join(dir, "state")
		}
	}
	if p.state == "" {
		p.state = defaultStateDir()
	}
	if p.pmem == "" {
		p.pmem, p.create = defaultImage(), max(p.create, 0)
		if p.create == 0 {
			p.create = defaultImageSize
		}
		if err := os.MkdirAll(filepath.Dir(p.pmem), 0o700); err != nil {
			return p, fmt.Errorf("make the directory of the image: %w", err)
		}
	}
	if err := os.MkdirAll(p.state, 0o700); err != nil {
		return p, fmt.Errorf("make the state directory: %w (choose another with --state)", err)
	}
	if s.Mount != "" { // before refuseOwnMount: a dead mount of ours may lie there
		var err error
		if p.mount, err = mount.Prepare(s.Mount, p.state, p.pmem); err != nil {
			return p, err
		}
	}
	if err := refuseOwnMount(p.state); err != nil {
		return p, err
	}
	p.ledger, p.records = filepath.Join(p.state, "ledger.db"), filepath.Join(p.state, "attach")
	p.socket = s.Socket
	if p.socket == "" {
		p.socket = firstUsableSocket(p.state, s.Demo)
	}
	p.attach = s.AttachSocket
	if p.attach == "" {
		p.attach = attachBeside(p.socket)
	}
	return p, nil
}

// attachBeside is the attach socket's default place: attach.sock beside
// permafrost.sock, NAME-attach.sock beside NAME.sock.
func attachBeside(socket string) string {
	dir, name := filepath.Split(socket)
	if name == "permafrost.sock" {
		return filepath.Join(dir, "attach.sock")
	}
	return filepath.Join(dir, strings.TrimSuffix(name, ".sock")+"-attach.sock")
}

// firstUsableSocket takes /run/permafrost if its directory can be had, so that
// cron and root find it, else the state directory. A demo keeps to itself
// unless nobody serves at the usual place.
func firstUsableSocket(state string, demo bool) string {
	first := defaultSockets()[0]
	own := filepath.Join(state, "permafrost.sock")
	if err := os.MkdirAll(filepath.Dir(first), 0o755); err != nil || syscall.Access(filepath.Dir(first), 2) != nil {
		return own
	}
	if conn, err := net.DialTimeout("unix", first, time.Second); err == nil { // another appliance lives there
		conn.Close()
		return own
	}
	return first
}

// refuseOwnMount keeps the ledger off a Permafrost mount: while that is frozen
// its own history could not be written.
func refuseOwnMount(dir string) error {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil // no /proc: nothing to learn
	}
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("the state directory: %w", err)
	}
	if at, own := ownMount(mounts, dir); own {
		return fmt.Errorf("the state directory %s lies on the Permafrost mount %s: while that is frozen the ledger could not be written; "+
			"choose a directory on another file system with --state", dir, at)
	}
	return nil
}

// ownMount finds the mount that dir lies on, and whether it is one of ours.
func ownMount(mounts []*mountinfo.Info, dir string) (at string, own bool) {
	for _, m := range mounts {
		under := dir == m.Mountpoint || m.Mountpoint == "/" || strings.HasPrefix(dir, m.Mountpoint+"/")
		if under && len(m.Mountpoint) >= len(at) {
			at, own = m.Mountpoint, m.FSType == mount.FSType
		}
	}
	return at, own
}

// openRegion opens the pmem file, making it first where that was asked for.
func openRegion(p places) (r *pmem.Region, made bool, err error) {
	if _, err := os.Stat(p.pmem); os.IsNotExist(err) {
		if p.create == 0 {
			return nil, false, fmt.Errorf("there is no %s: make it with \"permafrost mkfs %s --size 1GiB\", or give --create 1GiB", p.pmem, p.pmem)
		}
		r, err := pmem.Create(p.pmem, p.create, pmem.Options{})
		return r, true, err
	}
	r, err = pmem.Open(p.pmem, pmem.Options{})
	return r, false, err
}

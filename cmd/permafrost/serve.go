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
	"strings"
	"syscall"
	"time"

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
	CommitInterval      time.Duration `help:"Longest time a finished change stays uncommitted without an fsync." default:"5s"`
	LeaseMax            time.Duration `help:"Longest a freeze may last, renewals included." default:"1h"`
	CacheInodes         int           `help:"Inodes kept in memory before clean ones are evicted." default:"1000000"`
	AllowInsecureListen bool          `help:"Serve on other addresses than loopback although there are no tokens and no TLS."`
	AllowedHost         []string      `help:"Further Host names to answer to; repeatable." placeholder:"NAME"`
	Demo                bool          `help:"A throw-away appliance on a 256 MiB tmpfs image, with a program that stores through mappings."`
}

const (
	defaultImageSize = 1 << 30
	demoImageSize    = 256 << 20
)

// places is where everything of one appliance is. Immutable once made.
type places struct {
	pmem, state, ledger, socket, attach, records string
	create                                       int64
	temporary                                    string // removed at the end; the demo's
}

func (s *serveCmd) Run(c *console) (err error) {
	if err := s.checkListen(); err != nil {
		return &exitError{exitUsage, err}
	}
	if s.LeaseMax <= 0 || s.CommitInterval <= 0 || s.CacheInodes < 1000 {
		return &exitError{exitUsage, fmt.Errorf("--lease-max and --commit-interval must be positive, --cache-inodes at least 1000")}
	}
	// Before anything else: a signal from here on is an orderly shutdown.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p, err := s.places()
	if err != nil {
		return err
	}
	if p.temporary != "" {
		defer os.RemoveAll(p.temporary)
	}
	log := slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelInfo}))
	a := &appliance{cmd: s, places: p, log: log, console: c}
	if err := a.start(ctx); err != nil {
		return errors.Join(err, a.stop())
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	a.announce()
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
	case err := <-a.failed:
		return err
	}
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
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil // no /proc: nothing to learn
	}
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("the state directory: %w", err)
	}
	if mount, own := ownMount(string(mounts), dir); own {
		return fmt.Errorf("the state directory %s lies on the Permafrost mount %s: while that is frozen the ledger could not be written; "+
			"choose a directory on another file system with --state", dir, mount)
	}
	return nil
}

// ownMount finds the mount that dir lies on in the text of a mountinfo file,
// and whether it is one of ours.
func ownMount(mountinfo, dir string) (mount string, own bool) {
	kind := ""
	for _, line := range strings.Split(mountinfo, "\n") {
		left, right, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 5 || len(g) < 1 {
			continue
		}
		at := unescapeMount(f[4])
		under := dir == at || at == "/" || strings.HasPrefix(dir, at+"/")
		if under && len(at) >= len(mount) {
			mount, kind = at, g[0]
		}
	}
	return mount, kind == "fuse.permafrost"
}

// unescapeMount undoes the octal escapes of /proc/self/mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
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

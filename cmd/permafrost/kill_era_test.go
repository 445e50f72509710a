package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// killEra is a run of cycles over one image. Owned by the loop's goroutine but
// for watch.
type killEra struct {
	number uint64
	exe    string // serves and checks
	dir    string // image, state, boards; removed at the end
	args   []string
	attach bool // the image can be mapped

	rng     *rand.Rand
	watch   *killWatch
	srv     *testServer
	clients []*killClient
	writers []*killWriterProcess
	started int             // writers so far
	more    map[string]bool // further files that were deleted: they must not come back
	freezes killFreezes
	took    time.Duration // of the last start, to aim at one
}

// newKillEra makes an image and serves it: three of four in memory, with
// programs that map it, the fourth on disk, where commits wait for the disk.
func newKillEra(exe string, seed, number uint64, scratch string) (e *killEra, err error) {
	e = &killEra{number: number, exe: exe, rng: rand.New(rand.NewPCG(seed, number)), more: map[string]bool{}}
	base := "/dev/shm"
	if onDisk(number) {
		base = scratch
	}
	if e.dir, err = os.MkdirTemp(base, "permafrost-kill-"); err != nil {
		return nil, err
	}
	commit := []string{"5s", "50ms", "5ms"}[e.rng.IntN(3)]
	e.args = []string{"--commit-interval", commit}
	e.srv = &testServer{dir: e.dir, image: filepath.Join(e.dir, "fs.pmem"), state: filepath.Join(e.dir, "state"),
		socket: filepath.Join(e.dir, "p.sock"), attach: filepath.Join(e.dir, "attach.sock")}
	if out, err := runProgram(e.exe, "mkfs", e.srv.image, "--size", "32MiB"); err != nil {
		return e, fmt.Errorf("mkfs: %w\n%s", err, out)
	}
	for n := range 4 {
		e.clients = append(e.clients, newKillClient(n, seed, number))
	}
	if err := e.start(); err != nil {
		return e, err
	}
	if err := ask("PUT", filePath(killRoot)+"/", nil, nil)(context.Background(), e.srv.client); err != nil {
		return e, err
	}
	var st wireStatus
	if _, err := e.srv.client.call(context.Background(), "GET", "/status", nil, &st); err != nil {
		return e, err
	}
	e.attach = st.Pmem.Domain == "volatile" && os.Geteuid() == 0
	return e, nil
}

// onDisk reports whether the image of an era is on disk.
func onDisk(number uint64) bool { return number%4 == 1 || os.Getenv("PERMAFROST_KILL_DISK") != "" }

// runProgram is programOf for what has no test at hand.
func runProgram(exe string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	out, err := exec.CommandContext(ctx, exe, args...).CombinedOutput()
	return string(out), err
}

func (e *killEra) serveArgs() []string {
	return append([]string{"--pmem", e.srv.image, "--state", e.srv.state, "--socket", e.srv.socket,
		"--attach-socket", e.srv.attach, "--listen", "127.0.0.1:0"}, e.args...)
}

func (e *killEra) start() error {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	e.srv.log = &logBuffer{}
	began := time.Now()
	p, err := startServerOf(e.exe, e.srv.log, e.serveArgs()...)
	if err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	e.took = time.Since(began)
	e.srv.serverProcess = p
	w := &killWatch{}
	w.end = func() {
		w.ending.Store(true)
		_ = p.cmd.Process.Kill() // it may have ended
	}
	e.watch = w
	return nil
}

// dieAtStart starts the server and kills it before or soon after it serves.
func (e *killEra) dieAtStart() error {
	cmd := exec.Command(e.exe, append([]string{"serve"}, e.serveArgs()...)...)
	cmd.Stderr, cmd.Stdout = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		return err
	}
	time.Sleep(time.Duration(e.rng.Int64N(int64(e.took) * 5 / 4)))
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	return nil
}

// load runs all clients until the server ends. The returned wait gives what a
// client found wrong.
func (e *killEra) load(ctx context.Context, clients []*killClient) (wait func() error) {
	errs := make(chan error, len(clients)+1)
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			if err := c.run(ctx, e.srv.client, e.watch); err != nil {
				errs <- fmt.Errorf("client %s %w", c.name, err)
			}
		})
	}
	return func() error {
		wg.Wait()
		close(errs)
		return <-errs
	}
}

// ways in which the server ends in the middle of something.
var killWays = []string{"load", "ack", "fsync", "freeze", "frozen", "image", "stop", "quiet"}

// cycle is: load, kill -9, check what it left, restart, look for everything.
func (e *killEra) cycle(ctx context.Context) (way string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*killPatience)
	defer cancel()
	for e.attach && len(e.writers) < 2 {
		w, err := startKillWriter(e)
		if err != nil {
			return "start", fmt.Errorf("start a writer: %w", err)
		}
		e.writers = append(e.writers, w)
	}
	way = killWays[e.rng.IntN(len(killWays))]
	if only := os.Getenv("PERMAFROST_KILL_WAY"); only != "" {
		way = only
	}
	clients := e.clients
	if way == "quiet" { // only mapped stores and their fsyncs: nobody else's commit helps them
		clients = nil
	}
	wait := e.load(ctx, clients)
	err = e.end(ctx, way)
	if werr := wait(); werr != nil {
		return way, errors.Join(werr, err)
	}
	if err != nil {
		return way, err
	}
	if len(e.writers) > 0 && e.rng.IntN(4) == 0 { // together with a program that maps the image
		e.writers[e.rng.IntN(len(e.writers))].kill()
	}
	if err := e.judgeImage(ctx); err != nil {
		return way, fmt.Errorf("the image as the kill left it: %w", err)
	}
	for e.rng.IntN(3) == 0 {
		way += "+start"
		if err := e.dieAtStart(); err != nil {
			return way, err
		}
	}
	if err := e.start(); err != nil {
		return way, err
	}
	return way, e.judgeServer(ctx)
}

// end kills the server in the way named.
func (e *killEra) end(ctx context.Context, way string) error {
	var err error
	time.Sleep(time.Duration(e.rng.IntN(150)) * time.Millisecond)
	switch way {
	case "load":
		if e.rng.IntN(2) == 0 {
			err = e.freezeAndCopy(ctx)
		}
		time.Sleep(time.Duration(e.rng.IntN(100_000)) * time.Microsecond)
	case "ack":
		e.watch.onAck.Store(true)
		select {
		case xerr := <-e.srv.exited:
			e.srv.exited <- xerr
		case <-time.After(20 * time.Second):
			err = fmt.Errorf("no change was acknowledged within 20 s")
		}
	case "fsync":
		go func() { _ = ask("POST", "/fsync", nil, nil)(ctx, e.srv.client) }() // the kill comes in its middle
		time.Sleep(time.Duration(e.rng.IntN(3000)) * time.Microsecond)
	case "freeze":
		err = e.freezes.begin(ctx, e, time.Duration(e.rng.IntN(8000))*time.Microsecond)
	case "frozen", "image":
		err = e.freezes.stand(ctx, e, way == "image", time.Duration(e.rng.IntN(20_000))*time.Microsecond)
	case "stop":
		e.watch.ending.Store(true)
		_ = e.srv.cmd.Process.Signal(syscall.SIGTERM)
		time.Sleep(time.Duration(e.rng.IntN(60)) * time.Millisecond)
	}
	e.watch.end()
	select {
	case <-e.srv.exited:
	case <-time.After(20 * time.Second):
		err = errors.Join(err, fmt.Errorf("the server did not end within 20 s of SIGKILL"))
	}
	return err
}

// close ends the era in good order: the writers unmap, the server stops, and
// everything is checked for the last time.
func (e *killEra) close(ctx context.Context) error {
	for _, w := range e.writers {
		if err := w.say("stop"); err != nil {
			return err
		}
		if err := w.expect("done", killPatience); err != nil {
			return err
		}
		w.dead = true
	}
	if err := e.judgeWriters(ctx); err != nil {
		return err
	}
	if err := e.judgeServer(ctx); err != nil {
		return err
	}
	e.srv.serverProcess.end()
	if log := e.srv.log.String(); strings.Contains(log, "ERROR") {
		return fmt.Errorf("the last stop failed somewhere:\n%s", log)
	}
	if out, err := runProgram(e.exe, "check", e.srv.image); err != nil {
		return fmt.Errorf("check after a clean stop: %w\n%s", err, out)
	}
	return nil
}

// endAll ends whatever is left of the era and returns the server's log.
func (e *killEra) endAll() string {
	for _, w := range e.writers {
		w.end()
	}
	if p := e.srv.serverProcess; p != nil && p.cmd.ProcessState == nil {
		p.end()
	}
	if e.srv.log == nil {
		return ""
	}
	return e.srv.log.String()
}

// keep saves the evidence of a failure.
func (e *killEra) keep(dir, log string, why error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return // the failure is told all the same
	}
	_ = copyFile(filepath.Join(dir, "fs.pmem"), e.srv.image)
	_ = os.WriteFile(filepath.Join(dir, "failure.txt"), []byte(why.Error()+"\n"), 0o644)
	_ = os.WriteFile(filepath.Join(dir, "server.log"), []byte(log), 0o644)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// String names the era for people.
func (e *killEra) String() string {
	where := "in memory"
	if onDisk(e.number) {
		where = "on disk"
	}
	return "era " + strconv.FormatUint(e.number, 10) + ", image " + where
}

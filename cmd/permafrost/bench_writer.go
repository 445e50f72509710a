package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/dax/client"
)

// benchWriterCmd is the real mapped process of `bench freeze` and `bench fault`.
// Commands on standard input, one answer line each:
//
//	dirty       store once into every page
//	hot         store into every page, and go on until "quiet"
//	quiet       stop storing on
//	time run    after an fsync: first stores to pages in a row, ns a page
//	time alone  the same to single pages far apart
//	time cold   the same, each after a millisecond of rest
type benchWriterCmd struct {
	Attach string // the appliance's attach socket, or
	Plain  string // a directory of some other file system, mapped by mmap alone
	Files  int    `required:""`
	Pages  int    `required:""`
	Stride int    `default:"1"`
}

func (w *benchWriterCmd) Run(c *console) error {
	nameProcess("bench-writer")
	runtime.GOMAXPROCS(4)
	debug.SetGCPercent(-1) // a collection would wait for a thread held in a fault
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var maps []mapped
	var words []*uint64
	open, err := w.opener(ctx)
	if err != nil {
		return err
	}
	for f := range w.Files {
		m, err := open(fmt.Sprintf("bench-%d", f), int64(w.Pages)*int64(w.Stride)*4096)
		if err != nil {
			return err
		}
		maps = append(maps, m)
		for p := range w.Pages {
			words = append(words, client.Word(m.Bytes(), p*w.Stride*4096))
		}
	}
	c.printf("ready\n")
	hot := hotLoop{words: words}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "dirty":
			storeAll(words)
			c.printf("ok\n")
		case "hot":
			storeAll(words)
			hot.start()
			c.printf("ok\n")
		case "quiet":
			hot.stop()
			c.printf("ok\n")
		case "time run", "time alone", "time cold":
			ns, err := timeFirstStores(ctx, maps[0], strings.TrimPrefix(in.Text(), "time "), w.Pages)
			if err != nil {
				return err
			}
			c.printf("%.1f\n", ns)
		}
	}
	return nil
}

// mapped is a shared mapping, ours or the kernel's.
type mapped interface {
	Bytes() []byte
	// Sync makes the bytes from off on durable; length 0 means to the end.
	Sync(ctx context.Context, off, length int64) error
}

// opener gives the way this writer maps files.
func (w *benchWriterCmd) opener(ctx context.Context) (func(name string, length int64) (mapped, error), error) {
	if w.Plain != "" {
		return func(name string, length int64) (mapped, error) { return plainMap(filepath.Join(w.Plain, name), length) }, nil
	}
	conn, err := client.Dial(ctx, w.Attach)
	if err != nil {
		return nil, err
	}
	return func(name string, length int64) (mapped, error) {
		m, err := conn.Map(ctx, client.MapOptions{Path: "/" + name, Length: length, Write: true, Create: true, Grow: true})
		return attached{m}, err
	}, nil
}

// attached is a mapping of the appliance's.
type attached struct{ *client.Mapping }

func (a attached) Sync(ctx context.Context, off, length int64) error {
	_, err := a.Mapping.Sync(ctx, off, length)
	return err
}

// plain is an ordinary mmap of an ordinary file.
type plain []byte

func plainMap(path string, length int64) (plain, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, length); err != nil {
		return nil, fmt.Errorf("allocate %s: %w", path, err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return mem, nil
}

func (p plain) Bytes() []byte { return p }

func (p plain) Sync(_ context.Context, off, length int64) error {
	if length == 0 {
		length = int64(len(p)) - off
	}
	return unix.Msync(p[off:off+length], unix.MS_SYNC)
}

func storeAll(words []*uint64) {
	for _, p := range words {
		atomic.AddUint64(p, 1)
	}
}

// timeFirstStores cleans the file and stores once into n of its pages: in a
// "run", or to pages far apart, "alone" or "cold". It gives ns a page.
func timeFirstStores(ctx context.Context, m mapped, how string, n int) (float64, error) {
	if err := m.Sync(ctx, 0, 0); err != nil {
		return 0, err
	}
	step := 1
	if how != "run" { // far enough apart that no fault-ahead reaches the next one
		step = 512
		n = max(len(m.Bytes())/4096/step, 1)
	}
	var rested time.Duration
	start := time.Now()
	for p := range n {
		if how == "cold" {
			began := time.Now()
			time.Sleep(time.Millisecond)
			rested += time.Since(began)
		}
		atomic.AddUint64(client.Word(m.Bytes(), p*step*4096), 1)
	}
	return float64((time.Since(start) - rested).Nanoseconds()) / float64(n), nil
}

// hotLoop stores on into all pages from one thread.
type hotLoop struct {
	words []*uint64
	halt  atomic.Bool
	done  sync.WaitGroup
}

func (h *hotLoop) start() {
	h.halt.Store(false)
	h.done.Add(1)
	go func() {
		defer h.done.Done()
		runtime.LockOSThread()
		for !h.halt.Load() {
			storeAll(h.words)
		}
	}()
}

func (h *hotLoop) stop() { h.halt.Store(true); h.done.Wait() }

// benchWriter is the bench's side of that process.
type benchWriter struct{ *writerProcess }

// startBenchWriter starts it; where is "--attach" or "--plain" with its place.
func startBenchWriter(where, place string, files, pages, stride int) (*benchWriter, error) {
	w, err := startChild("bench-writer", where, place, "--files", strconv.Itoa(files), "--pages", strconv.Itoa(pages), "--stride", strconv.Itoa(stride))
	if err != nil {
		return nil, err
	}
	if err := w.expect("ready", 5*time.Minute); err != nil {
		w.end()
		return nil, err
	}
	return &benchWriter{w}, nil
}

func (w *benchWriter) dirty(hot bool) error {
	cmd := "dirty"
	if hot {
		cmd = "hot"
	}
	return w.ask(cmd)
}

func (w *benchWriter) quiet() error { return w.ask("quiet") }

func (w *benchWriter) ask(cmd string) error {
	if err := w.say(cmd); err != nil {
		return err
	}
	return w.expect("ok", time.Minute)
}

// askNumber sends a command that answers with a number.
func (w *benchWriter) askNumber(cmd string) (float64, error) {
	if err := w.say(cmd); err != nil {
		return 0, err
	}
	if !w.lines.Scan() {
		return 0, fmt.Errorf("the writer ended at %q", cmd)
	}
	return strconv.ParseFloat(strings.TrimSpace(w.lines.Text()), 64)
}

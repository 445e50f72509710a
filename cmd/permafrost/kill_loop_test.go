package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// The kill loop: kill -9 of the server under load, again and again, and after
// each time a look for everything that was acknowledged.
//
// It shows consistency against the death of the process. What the process had
// stored stays in the page cache, so it says nothing of a power cut: that is
// the crash recorder's part.
//
//	PERMAFROST_KILL_CYCLES  how many cycles (20)
//	PERMAFROST_KILL_DIR     where progress and failed images are kept (nowhere)
//	PERMAFROST_KILL_SERVER  the binary that serves and checks (the test's own)
//	PERMAFROST_KILL_ERA     run this era only
//	PERMAFROST_KILL_WAY     kill in this way only (killWays)
//	PERMAFROST_KILL_DISK    all images on disk, in TMPDIR (one of four)
//	PERMAFROST_SEED         the choices
const (
	eraCycles = 10 // of one image
	ciCycles  = 20
)

// killProgress is kept after each era, so that a loop that was stopped goes on.
type killProgress struct {
	Seed         uint64  `json:"seed"`
	Eras         uint64  `json:"eras"` // begun
	Cycles       int     `json:"cycles"`
	Failures     int     `json:"failures"`
	Acknowledged uint64  `json:"acknowledged"`
	Checked      uint64  `json:"checked"`
	Seconds      float64 `json:"seconds"`
}

// killLoop is one run of the loop.
type killLoop struct {
	killProgress
	exe, dir, scratch string
	want              int
	stopped           context.Context // ended by ^C: what is under way is given up, and cleaned up
}

func TestKillLoop(t *testing.T) {
	l, err := newKillLoop(t)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("kill-loop: repeat with PERMAFROST_SEED=%d\n", l.Seed)
	if only := os.Getenv("PERMAFROST_KILL_ERA"); only != "" {
		number, err := strconv.ParseUint(only, 10, 64)
		if err != nil {
			t.Fatal("PERMAFROST_KILL_ERA:", err)
		}
		l.want, l.Eras, l.dir = l.Cycles+eraCycles, number, ""
	}
	var restore func()
	l.stopped, restore = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer restore()
	for l.Cycles < l.want && l.stopped.Err() == nil {
		before := l.killProgress
		err := l.era()
		if l.stopped.Err() != nil { // the servers were told as well: this era proves nothing
			l.killProgress = before
			break
		}
		if err != nil {
			l.Failures++
			t.Error(err)
			if l.Failures >= 10 {
				t.Error("ten failures are enough")
				break
			}
		}
		l.save(t)
	}
	fmt.Printf("kill-loop: cycles=%d failures=%d acknowledged=%d checked=%d seconds_per_cycle=%.2f\n", l.Cycles, l.Failures, l.Acknowledged, l.Checked,
		l.Seconds/float64(max(l.Cycles, 1)))
	if l.Failures > 0 {
		t.Errorf("%d failures in all; their images are in %q", l.Failures, l.dir)
	}
	if l.stopped.Err() != nil {
		t.Fatalf("stopped after cycle %d of %d; the same command goes on", l.Cycles, l.want)
	}
	if l.Acknowledged < uint64(l.Cycles) || l.Checked < uint64(l.Cycles) {
		t.Errorf("a loop that proves nothing: %+v", l.killProgress)
	}
}

func newKillLoop(t *testing.T) (*killLoop, error) {
	l := &killLoop{want: ciCycles, dir: os.Getenv("PERMAFROST_KILL_DIR"), exe: os.Getenv("PERMAFROST_KILL_SERVER"), scratch: t.TempDir()}
	l.Seed = rand.Uint64N(1 << 32)
	if l.exe == "" {
		l.exe, _ = os.Executable()
	}
	if n := os.Getenv("PERMAFROST_KILL_CYCLES"); n != "" {
		var err error
		if l.want, err = strconv.Atoi(n); err != nil {
			return nil, fmt.Errorf("PERMAFROST_KILL_CYCLES: %w", err)
		}
	}
	if s := os.Getenv("PERMAFROST_SEED"); s != "" {
		var err error
		if l.Seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			return nil, fmt.Errorf("PERMAFROST_SEED: %w", err)
		}
		return l, nil // from the beginning
	}
	text, err := os.ReadFile(l.file())
	if l.dir == "" || errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &l.killProgress)
	}
	if err == nil && l.Cycles > 0 {
		fmt.Printf("kill-loop: goes on after cycle %d of %d (remove %s to begin anew)\n", l.Cycles, l.want, l.file())
	}
	return l, err
}

func (l *killLoop) file() string { return filepath.Join(l.dir, "progress.json") }

func (l *killLoop) save(t *testing.T) {
	if l.dir == "" {
		return
	}
	text, err := json.MarshalIndent(l.killProgress, "", "  ")
	if err == nil {
		err = os.MkdirAll(l.dir, 0o755)
	}
	if err == nil { // never half a file, whenever the loop is stopped
		err = os.WriteFile(l.file()+".part", append(text, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(l.file()+".part", l.file())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// era runs cycles over one image until its end, or the loop's, or a failure.
func (l *killLoop) era() (err error) {
	number := l.Eras
	l.Eras++
	e, err := newKillEra(l.exe, l.Seed, number, l.scratch)
	way, n := "mkfs", 0
	defer func() {
		if e == nil {
			return
		}
		log := e.endAll()
		if err != nil {
			err = fmt.Errorf("%v, its cycle %d, killed in %q: %w\nthe server's log ends in:\n%s\nrepeat with PERMAFROST_SEED=%d PERMAFROST_KILL_ERA=%d "+
				"go test ./cmd/permafrost -run 'TestKillLoop$' -count 1 -v", e, n, way, err, log[max(0, len(log)-2000):], l.Seed, number)
			if l.dir != "" {
				e.keep(filepath.Join(l.dir, fmt.Sprintf("failed-%d-%d", l.Seed, number)), log, err)
			}
		}
		os.RemoveAll(e.dir)
	}()
	if err != nil {
		return err
	}
	for n = 1; n <= eraCycles && l.Cycles < l.want && l.stopped.Err() == nil; n++ {
		began := time.Now()
		load := e.watch
		way, err = e.cycle(l.stopped)
		l.Cycles++
		l.Seconds += time.Since(began).Seconds()
		l.Acknowledged += load.acked.Load()
		l.Checked += load.checked.Load()
		if l.Cycles%25 == 0 {
			fmt.Printf("kill-loop: cycle %d of %d: failures=%d acknowledged=%d checked=%d seconds_per_cycle=%.2f\n",
				l.Cycles, l.want, l.Failures, l.Acknowledged, l.Checked, l.Seconds/float64(l.Cycles))
		}
		if err != nil {
			return err
		}
	}
	way = "no way, at the end"
	ctx, cancel := context.WithTimeout(l.stopped, killPatience)
	defer cancel()
	err = e.close(ctx)
	l.Checked += e.watch.checked.Load()
	return err
}

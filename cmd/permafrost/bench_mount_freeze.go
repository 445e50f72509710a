package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// mountFreeze is a freeze row of `bench mount`: inodes cached, mapped files
// dirty, and perhaps a writer that stores on. The rival is ext4 by FIFREEZE.
// Immutable.
type mountFreeze struct {
	name   string
	what   string
	inodes int
	files  int // with dirty mapped pages
	pages  int // of each
	hot    bool
	goalUS float64 // of the window
}

var mountFreezes = []mountFreeze{
	{name: "freeze_hot", what: "100 files of 4 mapped pages, a writer storing on", files: 100, pages: 4, hot: true, goalUS: 4000},
	{name: "freeze_cached", what: "100,000 inodes cached, 10 files with a dirty mapped page", inodes: 100000, files: 10, pages: 1, goalUS: 1000},
}

// freezeFigure has the figures of one.
type freezeFigure struct {
	Row    string     `json:"row"`
	What   string     `json:"what"`
	Rounds int        `json:"rounds"`
	Goal   float64    `json:"window_goal_us"`
	Met    *bool      `json:"met,omitempty"` // the median window; absent if not measured
	Ours   *oursTimes `json:"permafrost,omitempty"`
	Ext4   *ext4Times `json:"ext4,omitempty"`
}

type oursTimes struct {
	WindowUS quantiles          `json:"window_us"`      // from collect to frozen: what writers feel
	TotalUS  quantiles          `json:"total_us"`       // request to frozen, with the ledger's record on disk
	CallUS   quantiles          `json:"call_us"`        // the same as the caller sees it, over loopback TCP
	ThawUS   quantiles          `json:"thaw_us"`        // as the caller sees it
	PhaseUS  map[string]float64 `json:"phases_mean_us"` //
	Modes    map[string]int     `json:"modes"`          // how many freezes stopped mapped stores how: collect is in program order
}

type ext4Times struct {
	FreezeUS quantiles `json:"freeze_us"` // FIFREEZE, whole
	ThawUS   quantiles `json:"thaw_us"`
}

func (m *mountRun) measureFreeze(ctx context.Context, f *mountFreeze) (*freezeFigure, error) {
	out := &freezeFigure{Row: f.name, What: f.what, Rounds: m.freezeRounds, Goal: f.goalUS}
	for _, bed := range m.beds {
		var err error
		switch bed.name {
		case bedOurs:
			out.Ours, err = m.freezeOurs(ctx, bed, f)
			if err == nil {
				met := out.Ours.WindowUS.P50 <= f.goalUS
				out.Met = &met
			}
		case bedExt4:
			out.Ext4, err = m.freezeExt4(ctx, bed, f)
		}
		if err != nil {
			return nil, fmt.Errorf("%s on %s: %w", f.name, bed.name, err)
		}
	}
	return out, nil
}

// freezeOurs freezes and thaws through REST.
func (m *mountRun) freezeOurs(ctx context.Context, bed *mountBed, f *mountFreeze) (*oursTimes, error) {
	api := bed.server.client
	var windows, totals, calls, thaws []time.Duration
	out := &oursTimes{PhaseUS: map[string]float64{}, Modes: map[string]int{}}
	err := m.freezeRound(ctx, bed, f, func(warm bool) error {
		var rec wireFreeze
		start := time.Now()
		if _, err := api.call(ctx, "POST", "/freeze", params("holder", "bench", "patience", "30s"), &rec); err != nil {
			return err
		}
		call := time.Since(start)
		start = time.Now()
		if _, err := api.call(ctx, "POST", "/thaw", params("hold", rec.Hold), nil); err != nil {
			return err
		}
		if warm {
			return nil
		}
		thaws, calls = append(thaws, time.Since(start)), append(calls, call)
		windows = append(windows, time.Duration(rec.WindowUS*1e3))
		totals = append(totals, time.Duration(rec.TotalUS*1e3))
		for _, p := range rec.Phases {
			out.PhaseUS[p.Name] += p.DurationUS / float64(m.freezeRounds)
		}
		out.Modes[rec.Modes["mount"]]++
		return nil
	})
	out.WindowUS, out.TotalUS, out.CallUS, out.ThawUS = quantilesOf(windows), quantilesOf(totals), quantilesOf(calls), quantilesOf(thaws)
	return out, err
}

// freezeExt4 freezes and thaws by the kernel's own calls.
func (m *mountRun) freezeExt4(ctx context.Context, bed *mountBed, f *mountFreeze) (*ext4Times, error) {
	root, err := os.Open(bed.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var freezes, thaws []time.Duration
	err = m.freezeRound(ctx, bed, f, func(warm bool) error {
		start := time.Now()
		if err := unix.IoctlSetInt(int(root.Fd()), fiFreeze, 0); err != nil {
			return fmt.Errorf("FIFREEZE: %w", err)
		}
		freeze := time.Since(start)
		start = time.Now()
		if err := unix.IoctlSetInt(int(root.Fd()), fiThaw, 0); err != nil {
			return fmt.Errorf("FITHAW: %w", err)
		}
		if !warm {
			freezes, thaws = append(freezes, freeze), append(thaws, time.Since(start))
		}
		return nil
	})
	return &ext4Times{quantilesOf(freezes), quantilesOf(thaws)}, err
}

// freezeRound makes what a row wants, and calls freeze for each of its rounds,
// and for some before that do not count. The mapped writer is a process of its
// own: a store that is held stops a Go process at its next collection.
func (m *mountRun) freezeRound(ctx context.Context, bed *mountBed, f *mountFreeze, freeze func(warm bool) error) error {
	dir := filepath.Join(bed.dir, f.name)
	scale := m.scale
	scale.Names = f.inodes
	if m.quick {
		scale.Names /= 10
	}
	if _, err := m.order(ctx, workOrder{Row: "populate", Dir: dir, Scale: scale}); err != nil {
		return err
	}
	w, err := startBenchWriter("--plain", dir, f.files, f.pages, 1)
	if err != nil {
		return err
	}
	defer w.end()
	const warm = 3
	for round := range warm + m.freezeRounds {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.dirty(f.hot); err != nil {
			return err
		}
		if err := freeze(round < warm); err != nil {
			return err
		}
		if f.hot {
			if err := w.quiet(); err != nil {
				return err
			}
		}
		progressf(m.console, "%s on %s: round %d of %d", f.name, bed.name, round+1, warm+m.freezeRounds)
	}
	progressDone(m.console)
	return nil
}

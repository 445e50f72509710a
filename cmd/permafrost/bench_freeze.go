package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
)

type benchFreezeCmd struct {
	Inodes     int           `help:"Inodes in the file system, all of them cached." default:"1000"`
	DirtyFiles int           `help:"Files with dirty pages." default:"0"`
	DirtyPages int           `help:"Dirty pages before each freeze, over all files." default:"0"`
	Stride     int           `help:"Every so many'th page of a file is dirtied; 1 is in a row." default:"1"`
	Hot        bool          `help:"The writer stores on into its pages while the freeze happens."`
	Rounds     int           `help:"Freezes measured." default:"200"`
	Idle       time.Duration `help:"Rest before each freeze." default:"0s"`
	Strategy   string        `help:"dirty: the dirty list. walk-all: visit every cached inode, the rival." enum:"dirty,walk-all" default:"dirty"`
	Dir        string        `help:"Where the image is made." default:"/dev/shm" type:"path"`
	JSON       bool          `name:"json" help:"One line of JSON."`
}

type freezeFigures struct {
	FreezeUS   quantiles `json:"freeze_us"` // request .. Complete, as the caller sees it
	WindowUS   quantiles `json:"window_us"`
	ThawUS     quantiles `json:"thaw_us"`
	Inodes     uint64    `json:"inodes"`
	Cached     uint64    `json:"cached"`
	DirtyFiles int       `json:"dirty_files"`
	DirtyPages int       `json:"dirty_pages"`
	Found      float64   `json:"found_pages_mean"` // flushed by a freeze, pre-clean included
	Stride     int       `json:"stride"`
	Hot        bool      `json:"hot"`
	IdleMS     float64   `json:"idle_ms"`
	Strategy   string    `json:"strategy"`
	Rounds     int       `json:"rounds"`
	Domain     string    `json:"domain"`
	TreeDepth  int       `json:"tree_depth"`
	Threads    int       `json:"threads"` // of the server process
}

func (b *benchFreezeCmd) Run(c *console) error {
	if b.DirtyPages > 0 && b.DirtyFiles == 0 {
		b.DirtyFiles = 1
	}
	if b.DirtyFiles > 0 && b.DirtyPages%b.DirtyFiles != 0 || b.Stride < 1 || b.Rounds < 1 {
		return &exitError{exitUsage, fmt.Errorf("--dirty-pages must be a multiple of --dirty-files; --stride and --rounds at least 1")}
	}
	image := int64(b.Inodes)*480 + int64(b.DirtyPages)*int64(b.Stride)*format.PageSize + 256<<20
	bed, err := newBed(b.Dir, image, b.Inodes+b.DirtyFiles+1000, true)
	if err != nil {
		return err
	}
	defer bed.close()
	if err := populate(c, bed.fs, b.Inodes); err != nil {
		return err
	}
	ctx := context.Background()
	var w *benchWriter
	if b.DirtyPages > 0 {
		w, err = startBenchWriter("--attach", bed.socket, b.DirtyFiles, b.DirtyPages/b.DirtyFiles, b.Stride)
		if err != nil {
			return err
		}
		defer w.end()
	}
	if _, err := bed.fs.Sync(ctx); err != nil {
		return err
	}
	runtime.GC() // what setting up left behind is not part of a freeze
	debug.SetGCPercent(400)
	fig, err := b.measure(ctx, c, bed.fs, w)
	if err != nil {
		return err
	}
	return benchOut(c, b.JSON, fig)
}

func (b *benchFreezeCmd) measure(ctx context.Context, c *console, fs *core.FS, w *benchWriter) (*freezeFigures, error) {
	freezes, windows, thaws := []time.Duration{}, []time.Duration{}, []time.Duration{}
	var found uint64
	warm := min(b.Rounds/10+1, 10)
	for round := range b.Rounds + warm {
		if w != nil {
			if err := w.dirty(b.Hot); err != nil {
				return nil, err
			}
		}
		time.Sleep(b.Idle)
		start := time.Now()
		rec, hold, err := fs.Freeze(ctx, freeze.Request{Holder: "bench", Lease: time.Minute, Patience: 30 * time.Second, WalkAll: b.Strategy == "walk-all"})
		took := time.Since(start)
		if err != nil {
			return nil, err
		}
		start = time.Now()
		if _, err := fs.Thaw(ctx, freeze.ThawRequest{Hold: hold.ID}); err != nil {
			return nil, err
		}
		thaw := time.Since(start)
		if w != nil && b.Hot {
			if err := w.quiet(); err != nil {
				return nil, err
			}
		}
		progressf(c, "round %d of %d", round+1, b.Rounds+warm)
		if round < warm {
			continue
		}
		freezes, windows, thaws = append(freezes, took), append(windows, rec.Window), append(thaws, thaw)
		found += rec.Flushed.Pages
	}
	progressDone(c)
	st := fs.Status()
	return &freezeFigures{FreezeUS: quantilesOf(freezes), WindowUS: quantilesOf(windows), ThawUS: quantilesOf(thaws),
		Inodes: st.InodesTotal, Cached: st.InodesCached, DirtyFiles: b.DirtyFiles, DirtyPages: b.DirtyPages, Found: float64(found) / float64(b.Rounds),
		Stride: b.Stride, Hot: b.Hot, IdleMS: float64(b.Idle.Microseconds()) / 1e3, Strategy: b.Strategy, Rounds: b.Rounds,
		Domain: st.Medium.Domain, TreeDepth: st.TreeDepth, Threads: runtime.GOMAXPROCS(0)}, nil
}

// populate makes n empty files in directories of 1,000; creating leaves them cached.
func populate(c *console, fs *core.FS, n int) error {
	ctx := context.Background()
	var dir core.Attr
	var err error
	for i := range n {
		if i%1000 == 0 {
			if dir, err = fs.Mkdir(ctx, format.RootIno, fmt.Sprintf("d%07d", i/1000), core.NewNode{Mode: 0o040755}); err != nil {
				return err
			}
			progressf(c, "creating inodes: %d of %d", i, n)
		}
		if _, err := fs.Create(ctx, dir.Ino, fmt.Sprintf("f%03d", i%1000), core.NewNode{Mode: 0o100644}); err != nil {
			return err
		}
	}
	progressDone(c)
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/pmem"
)

type checkCmd struct {
	Image      string `arg:"" help:"The pmem file. Nobody may be serving it." type:"path"`
	Repair     bool   `env:"-" help:"Salvage what can be read; damage is listed, never dropped in silence. A clean image is not touched."`
	Generation uint64 `help:"With --repair: work from this commit of the ring (permafrost dump IMAGE ring lists them)." placeholder:"G"`
	JSON       bool   `name:"json" help:"A machine-readable report."`
}

// Run checks or repairs. The status is 1 if the image is not clean when it ends.
func (k *checkCmd) Run(c *console) error {
	if k.Generation != 0 && !k.Repair {
		return &exitError{code: exitUsage, err: errors.New("--generation needs --repair")}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := pmem.Open(k.Image, pmem.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	progress := func(done, total uint64) {
		if total > 0 {
			progressf(c, "checking: %d of %d (%d%%)", done, total, done*100/total)
		}
	}
	var rep *core.Report
	if k.Repair {
		rep, err = core.Repair(ctx, r, core.RepairOptions{Generation: format.Generation(k.Generation), Progress: progress})
	} else {
		rep, err = core.Check(ctx, r, progress)
	}
	progressDone(c)
	if err != nil && (rep == nil || rep.Repaired == nil) {
		if ctx.Err() != nil {
			return fmt.Errorf("stopped by a signal, and the file system is as it was: %w", err)
		}
		return err
	}
	if perr := k.print(c, rep, err); perr != nil {
		return errors.Join(err, perr)
	}
	if err == nil && !rep.OK() && rep.Repaired == nil {
		return &exitError{code: exitFailed}
	}
	return err
}

// print tells the report; with an error it is that of a repair that was not
// finished, which changed the image nevertheless.
func (k *checkCmd) print(c *console, rep *core.Report, failed error) error {
	if k.JSON {
		doc := wireReportOf(k.Image, rep)
		doc.Clean = doc.Clean && failed == nil
		raw, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		return c.printJSON(raw)
	}
	printReport(c, k.Image, rep, failed == nil)
	return nil
}

func printReport(c *console, image string, rep *core.Report, done bool) {
	c.printf("%s: generation %d, %d inodes (%d directories), %d tree nodes, %d data blocks, in %s\n", image, rep.Generation, rep.Inodes,
		rep.Directories, rep.Nodes, rep.DataBlocks, rep.Duration.Round(time.Millisecond))
	for _, p := range rep.Problems {
		where := ""
		if p.Block != 0 {
			where += fmt.Sprintf(" block %d", p.Block)
		}
		if p.Ino != 0 {
			where += fmt.Sprintf(" inode %d", p.Ino)
		}
		if p.Path != "" {
			where += fmt.Sprintf(" %q", p.Path)
		}
		c.printf("  %s:%s: %s\n", p.Kind, where, p.Detail)
	}
	if more := rep.ProblemTotal - uint64(len(rep.Problems)); more > 0 {
		c.printf("  and %d more\n", more)
	}
	for _, b := range rep.Torn {
		c.printf("  note: block %d holds no whole commit: a power cut tore it, or it was damaged since; mounting falls back to a commit that is whole\n", b)
	}
	for _, b := range rep.Mended {
		c.printf("  note: one bit of the commit record in block %d is wrong; its checksum tells which, and it is read as it was\n", b)
	}
	switch r := rep.Repaired; {
	case r != nil && !done:
		c.printf("the repair from generation %d was not finished: check the image again\n", r.From)
	case r != nil:
		c.printf("repaired from generation %d: %d problems, %d records changed, %d inodes linked under /lost+found; the image is clean now\n",
			r.From, rep.ProblemTotal, r.Edits, r.Found)
	case rep.OK():
		c.printf("clean\n")
	default:
		c.printf("%d problems; permafrost check --repair %s salvages what can be read\n", rep.ProblemTotal, image)
	}
}

// wireReport is the document of --json.
type wireReport struct {
	Image      string            `json:"image"`
	Clean      bool              `json:"clean"` // now
	Generation format.Generation `json:"generation"`
	Inodes     uint64            `json:"inodes_total"`
	Dirs       uint64            `json:"directories_total"`
	Nodes      uint64            `json:"tree_nodes_total"`
	DataBlocks uint64            `json:"data_blocks_total"`
	DurationMS float64           `json:"duration_ms"`
	Torn       []format.Block    `json:"torn_slots"`   // blocks; a power cut leaves one too, so they are no problem
	Mended     []format.Block    `json:"mended_slots"` // blocks; one bit is wrong, and known: no problem either
	Problems   []wireProblem     `json:"problems"`
	Total      uint64            `json:"problems_total"`
	Repaired   *wireRepaired     `json:"repaired"` // null: nothing was changed
}

type wireProblem struct {
	Kind   string       `json:"kind"`
	Block  format.Block `json:"block,omitempty"`
	Ino    format.Ino   `json:"ino,omitempty"`
	Path   string       `json:"path,omitempty"`
	Detail string       `json:"detail"`
}

type wireRepaired struct {
	From    format.Generation `json:"from_generation"`
	Records uint64            `json:"records_read_total"`
	Edits   uint64            `json:"records_changed_total"`
	Found   uint64            `json:"lost_and_found_total"`
	Strays  int               `json:"stray_leaves_total"`
}

func wireReportOf(image string, rep *core.Report) *wireReport {
	w := &wireReport{Image: image, Clean: rep.OK() || rep.Repaired != nil, Generation: rep.Generation, Inodes: rep.Inodes, Dirs: rep.Directories,
		Nodes: rep.Nodes, DataBlocks: rep.DataBlocks, DurationMS: rep.Duration.Seconds() * 1e3,
		Torn: append([]format.Block{}, rep.Torn...), Mended: append([]format.Block{}, rep.Mended...), Problems: make([]wireProblem, len(rep.Problems)), Total: rep.ProblemTotal}
	for i, p := range rep.Problems {
		w.Problems[i] = wireProblem(p)
	}
	if r := rep.Repaired; r != nil {
		w.Repaired = (*wireRepaired)(r)
	}
	return w
}

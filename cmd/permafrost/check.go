package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"time"

	"permafrost/core"
	"permafrost/pmem"
)

type checkCmd struct {
	Image  string `arg:"" help:"The pmem file. Nobody may be serving it." type:"path"`
	Repair bool   `help:"Salvage what can be read; damage is listed, never dropped in silence."`
	JSON   bool   `name:"json" help:"A machine-readable report."`
}

func (k *checkCmd) Run(c *console) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
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
	rep, err := core.Check(ctx, r, progress)
	progressDone(c)
	if err != nil {
		return err
	}
	if k.JSON {
		raw, err := json.Marshal(rep)
		if err != nil {
			return err
		}
		if err := c.printJSON(raw); err != nil {
			return err
		}
	} else {
		printReport(c, k.Image, rep)
	}
	if !rep.OK() {
		return &exitError{code: exitFailed}
	}
	return nil
}

func printReport(c *console, image string, rep *core.Report) {
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
			where += " " + p.Path
		}
		c.printf("  %s:%s: %s\n", p.Kind, where, p.Detail)
	}
	if more := rep.ProblemTotal - uint64(len(rep.Problems)); more > 0 {
		c.printf("  and %d more\n", more)
	}
	if rep.OK() {
		c.printf("clean\n")
	} else {
		c.printf("%d problems\n", rep.ProblemTotal)
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type badblocksCmd struct{ listCmd }

func (b *badblocksCmd) Run(c *console) error {
	return list(c, &b.listCmd, "/badblocks", params(), "no bad blocks", "BLOCK\tSTATE\tINO\tPAGE\tPATH", func(w wireBadBlock) string {
		if w.Ino == 0 {
			return fmt.Sprintf("%d\t%s\t\t\t", w.Block, w.State)
		}
		return fmt.Sprintf("%d\t%s\t%d\t%d\t%s", w.Block, w.State, w.Ino, w.Page, w.Path)
	})
}

type scrubCmd struct {
	remote
	NoWait bool `env:"-" help:"Begin it, and do not wait for its end."`
	Show   bool `env:"-" help:"Begin none: tell how far it is, and what was found."`
}

// scrubPoll is how often a scrub that is waited for is asked how far it is.
const scrubPoll = 200 * time.Millisecond

// Run begins a scrub and waits for its end. The status is 1 if the metadata is
// damaged.
func (s *scrubCmd) Run(c *console) error {
	api, err := s.client()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	method := "POST"
	if s.Show {
		method = "GET"
	}
	var st wireScrub
	raw, err := api.call(ctx, method, "/scrub", nil, &st)
	if err != nil {
		return err
	}
	if !s.Show && !s.NoWait {
		if raw, err = s.follow(ctx, c, api, &st); err != nil {
			return err
		}
	}
	if s.JSON {
		err = c.printJSON(raw)
	} else {
		printScrub(c, &st)
	}
	if err == nil && len(st.Damages) > 0 {
		return &exitError{code: exitFailed}
	}
	return err
}

// follow waits until the pass that st is of has ended.
func (s *scrubCmd) follow(ctx context.Context, c *console, api *apiClient, st *wireScrub) (raw json.RawMessage, err error) {
	defer progressDone(c)
	tick := time.NewTicker(scrubPoll)
	defer tick.Stop()
	for began := st.StartedAt; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("the scrub goes on: permafrost scrub --show tells how far it is: %w", ctx.Err())
		}
		*st = wireScrub{}
		if raw, err = api.call(ctx, "GET", "/scrub", nil, st); err != nil {
			return nil, err
		}
		if st.State == "idle" || st.StartedAt != nil && began != nil && !st.StartedAt.Equal(*began) {
			return raw, nil
		}
		progressf(c, "scrub %s: %d of %d nodes (%d%%)", st.State, st.Nodes, st.NodesTotal, st.Nodes*100/max(st.NodesTotal, 1))
	}
}

func printScrub(c *console, st *wireScrub) {
	switch {
	case st.StartedAt == nil:
		c.printf("no scrub since the start of the appliance\n")
	case st.State != "idle":
		c.printf("%s since %s: %d of %d nodes\n", st.State, st.StartedAt.Local().Format(time.DateTime), st.Nodes, st.NodesTotal)
	default:
		c.printf("%d metadata nodes read, %d damaged blocks\n", st.Nodes, st.DamagedTotal)
	}
	if st.NextAt != nil {
		c.printf("next at %s\n", st.NextAt.Local().Format(time.DateTime))
	}
	for _, d := range st.Damages {
		c.printf("  block %d: %s\n", d.Block, d.Detail)
	}
	if len(st.Damages) > 0 {
		c.printf("the metadata is damaged and the file system read-only: copy what can be read, stop the appliance, permafrost check --repair\n")
	}
}

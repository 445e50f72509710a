package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// benchHTTPCmd measures what curl sees: a real server process with its ledger
// on disk and its image on tmpfs, over loopback TCP with a kept connection.
type benchHTTPCmd struct {
	Rounds int           `help:"Freezes measured." default:"200"`
	Idle   time.Duration `help:"Rest before each freeze." default:"20ms"`
	Disk   string        `help:"Directory on a disk, for the state." default:"/var/tmp" type:"path"`
	JSON   bool          `name:"json" help:"One line of JSON."`
}

type httpFigures struct {
	FreezeUS quantiles `json:"freeze_us"` // request .. answer, at the client
	ServerUS quantiles `json:"server_us"` // total_us of the answer
	WindowUS quantiles `json:"window_us"`
	ThawUS   quantiles `json:"thaw_us"`
	Rounds   int       `json:"rounds"`
	IdleMS   float64   `json:"idle_ms"`
	Ledger   string    `json:"ledger"`
	Domain   string    `json:"domain"`
}

func (b *benchHTTPCmd) Run(c *console) error {
	state, err := os.MkdirTemp(b.Disk, "permafrost-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	image, err := os.MkdirTemp("/dev/shm", "permafrost-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(image)
	srv, err := startServer("--pmem", filepath.Join(image, "fs.pmem"), "--create", "64MiB", "--state", state,
		"--socket", filepath.Join(state, "rest.sock"), "--listen", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer srv.end()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	api := srv.client
	var freezes, totals, windows, thaws []time.Duration
	for range b.Rounds {
		time.Sleep(b.Idle)
		var f wireFreeze
		start := time.Now()
		if _, err := api.call(ctx, "POST", "/freeze", nil, &f); err != nil {
			return err
		}
		freezes = append(freezes, time.Since(start))
		totals = append(totals, time.Duration(f.TotalUS*1e3))
		windows = append(windows, time.Duration(f.WindowUS*1e3))
		start = time.Now()
		if _, err := api.call(ctx, "POST", "/thaw", params("hold", f.Hold), nil); err != nil {
			return err
		}
		thaws = append(thaws, time.Since(start))
	}
	var st wireStatus
	if _, err := api.call(ctx, "GET", "/status", nil, &st); err != nil {
		return err
	}
	if st.Ledger.State != "ok" {
		return fmt.Errorf("the ledger is %s: the figures would not be honest", st.Ledger.State)
	}
	return benchOut(c, b.JSON, httpFigures{quantilesOf(freezes), quantilesOf(totals), quantilesOf(windows), quantilesOf(thaws),
		b.Rounds, float64(b.Idle.Microseconds()) / 1e3, st.Ledger.Path, st.Pmem.Domain})
}

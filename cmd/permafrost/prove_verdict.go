package main

import (
	"fmt"
	"strings"
)

// verdict is what `prove --json` prints. Durations and counts as named.
type verdict struct {
	OK           bool     `json:"ok"`
	Via          string   `json:"via"`
	Threads      int      `json:"threads"`
	Clients      int      `json:"clients"`
	StoresBefore uint64   `json:"stores_before"` // in the frozen image
	StoresDuring uint64   `json:"stores_during"` // completed while frozen: must be 0
	ProbesHeld   int      `json:"probes_held"`   // stores tried at every page of every mapping while frozen
	HashSamples  int      `json:"hash_samples"`
	HashChanges  int      `json:"hash_changes"`
	StoresLost   uint64   `json:"stores_lost"` // cells that miss a completed store after the thaw
	OrderBroken  int      `json:"order_broken"`
	NotHeld      int      `json:"threads_not_held"`
	WindowUS     float64  `json:"window_us"`
	FrozenMS     float64  `json:"frozen_ms"`
	FreezeID     uint64   `json:"freeze_id"`
	Mode         string   `json:"mode"` // how the freeze held this way in
	Failures     []string `json:"failures,omitempty"`
}

func (v *verdict) fail(format string, args ...any) {
	v.Failures = append(v.Failures, fmt.Sprintf(format, args...))
}

func printVerdict(c *console, v *verdict, o proveOptions) {
	c.printf("%d threads in %d processes stored to %d mapped pages; freeze %d, window %s, held for %s\n",
		o.writers(), o.Clients, o.Pages, v.FreezeID, micros(v.WindowUS), millis(v.FrozenMS))
	line := func(ok bool, format string, args ...any) {
		mark := "ok  "
		if !ok {
			mark = "FAIL"
		}
		c.printf("  %s  %s\n", mark, fmt.Sprintf(format, args...))
	}
	line(v.HashChanges == 0, "image unchanged while frozen: %d hashes, %d changes", v.HashSamples, v.HashChanges)
	line(v.NotHeld == 0, "every thread held: %d of %d", o.writers()-v.NotHeld, o.writers())
	if o.via == "attach" {
		line(v.ProbesHeld == o.Clients*o.Pages, "stores tried at every page of every mapping held: %d of %d", v.ProbesHeld, o.Clients*o.Pages)
	}
	line(v.StoresDuring == 0, "stores completed while frozen: %d", v.StoresDuring)
	line(v.OrderBroken == 0, "image holds a prefix of each thread's stores: %d stores, %d cells out of order", v.StoresBefore, v.OrderBroken)
	line(v.StoresLost == 0, "nothing lost after the thaw: %d", v.StoresLost)
	if v.OK {
		c.printf("proved\n")
		return
	}
	c.printf("NOT proved:\n  %s\n", strings.Join(v.Failures, "\n  "))
}

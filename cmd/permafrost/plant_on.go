//go:build plant

package main

import (
	"fmt"
	"os"

	"permafrost/dax"
	"permafrost/pmem/plant"
)

// A build with the tag plant makes the mistake that PERMAFROST_PLANT names, so
// that tests can see prove find it. Released builds have no such code.
func init() {
	faults := map[string]dax.Fault{"": dax.FaultNone, "skip-mapping": dax.FaultSkipMapping, "short-run": dax.FaultShortRun,
		"late-events": dax.FaultLateEvents, "grant-frozen": dax.FaultGrantFrozen}
	for _, f := range []plant.Fault{plant.MountOnePass, plant.MountNoCollect} {
		if os.Getenv("PERMAFROST_PLANT") == f.String() {
			plant.Set(f)
			return
		}
	}
	fault, ok := faults[os.Getenv("PERMAFROST_PLANT")]
	if !ok {
		fmt.Fprintf(os.Stderr, "permafrost: PERMAFROST_PLANT=%s is no planted fault\n", os.Getenv("PERMAFROST_PLANT"))
		os.Exit(exitUsage)
	}
	dax.Plant(fault)
}

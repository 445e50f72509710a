package crash

import (
	"strings"
	"testing"
	"time"

	"permafrost/pmem/plant"
)

// TestMutants plants each fault in turn: the search must find every one. Without
// the tag "plant" there is nothing to plant.
func TestMutants(t *testing.T) {
	if !plant.Enabled {
		t.Skip("the faults are built in with -tags plant")
	}
	if *flagReplay != "" {
		t.Skip("one workload is replayed")
	}
	seed := seedOf(t)
	for f := plant.None + 1; f < plant.Count; f++ {
		if *flagMutant != "" && *flagMutant != f.String() {
			continue
		}
		tally.mutants++
		c := Hunt(baseOf(t), f, seed, 3*time.Minute, plan(seed, false))
		if c.By == nil {
			t.Errorf("%s was not found in %d workloads, %d states", f, c.Workloads, c.States)
			continue
		}
		tally.caught++
		first, _, _ := strings.Cut(c.By.Err.Error(), "\n")
		t.Logf("%-15s by %q (%s), after %d workloads and %d states: %s", f, c.By.Workload, c.By.During, c.Workloads, c.States, first)
	}
}

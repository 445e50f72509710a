package crash

import (
	"runtime"
	"time"

	"permafrost/pmem/plant"
)

// Caught says how a planted fault was found, or that it was not.
type Caught struct {
	Fault     plant.Fault
	By        *Failure // nil: it was not found
	Workloads int      // tried until then
	States    int
	Elapsed   time.Duration
}

// Hunt makes the process commit one planted fault, in a build that has them, and
// tries workloads until one fails.
func Hunt(base []byte, f plant.Fault, seed uint64, budget time.Duration, next func(i int) (Workload, bool, bool)) Caught {
	plant.Set(f)
	defer plant.Set(plant.None)
	c := Campaign{Base: base, Seed: seed, Workers: runtime.GOMAXPROCS(0), Budget: budget, Next: next, MaxPerPoint: 400}
	r := c.Run()
	out := Caught{Fault: f, Workloads: r.Workloads, States: r.States, Elapsed: r.Elapsed}
	if len(r.Failures) > 0 {
		out.By = r.Failures[0]
	}
	return out
}

package crash

import (
	"sync"
	"sync/atomic"
	"time"
)

// Campaign is many workloads, tried on several processors.
type Campaign struct {
	Base    []byte // the image that workloads begin with; not changed
	Seed    uint64
	From    int           // the first workload
	Workers int           // goroutines; each takes a processor
	Budget  time.Duration // no workload is begun, and no point explored, after it; 0: none
	// Next gives the i-th workload; false ends the campaign. It is called by
	// several goroutines.
	Next func(i int) (w Workload, pageCache bool, more bool)
	// MaxPerPoint bounds the images of one fence; 0: all that there are. The
	// search for a planted fault does better with more workloads.
	MaxPerPoint int
	// MaxFailures ends the campaign; 0: 1.
	MaxFailures int
	// Progress is called now and then, Failed at once with each failure, made small.
	Progress func(r Result)
	Failed   func(f *Failure)
}

// Result is what a campaign has found.
type Result struct {
	Workloads int
	States    int // distinct images judged, by workload and by what was asked of them
	Failures  []*Failure
	Elapsed   time.Duration
}

// Run tries workloads until there are no more, the time is over, or enough have
// failed. Failures are made small.
func (c *Campaign) Run() *Result {
	var (
		start = time.Now()
		next  atomic.Int64
		over  atomic.Bool
		mu    sync.Mutex
		res   Result
		wg    sync.WaitGroup
	)
	next.Store(int64(c.From))
	stop := func() bool {
		return over.Load() || c.Budget > 0 && time.Since(start) > c.Budget
	}
	for range max(c.Workers, 1) {
		wg.Go(func() {
			xs := map[bool]*explorer{false: newExplorer(c.Base, false, stop), true: newExplorer(c.Base, true, stop)}
			xs[false].most, xs[true].most = c.MaxPerPoint, c.MaxPerPoint
			for !stop() {
				i := int(next.Add(1) - 1)
				w, pageCache, more := c.Next(i)
				if !more {
					return
				}
				x := xs[pageCache]
				before := x.states
				f := x.run(w, c.Seed+uint64(i))
				judged := x.states - before
				if f != nil {
					f = shrink(c.Base, f)
				}
				mu.Lock()
				res.Workloads++
				res.States += judged
				if f != nil {
					if c.Failed != nil {
						c.Failed(f)
					}
					res.Failures = append(res.Failures, f)
					over.Store(len(res.Failures) >= max(c.MaxFailures, 1))
				}
				if c.Progress != nil && res.Workloads%200 == 0 {
					r := res
					r.Elapsed = time.Since(start)
					c.Progress(r)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	res.Elapsed = time.Since(start)
	return &res
}

// shrinkTime bounds how long a failure is made smaller.
const shrinkTime = 20 * time.Second

// shrink leaves operations out as long as the workload goes on failing.
func shrink(base []byte, f *Failure) *Failure {
	end := time.Now().Add(shrinkTime)
	x := newExplorer(base, f.PageCache, func() bool { return false })
	for again := true; again; {
		again = false
		for i := range f.Workload {
			if time.Now().After(end) {
				return f
			}
			less := append(append(Workload{}, f.Workload[:i]...), f.Workload[i+1:]...)
			if g := x.run(less, f.Seed); g != nil {
				f, again = g, true
				break
			}
		}
	}
	return f
}

// Replay runs one workload again, and tells how many images it has led to.
func Replay(base []byte, w Workload, pageCache bool, seed uint64) (*Failure, int) {
	x := newExplorer(base, pageCache, func() bool { return false })
	f := x.run(w, seed)
	return f, x.states
}

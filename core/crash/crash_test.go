package crash

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

var (
	flagSeed   = flag.Uint64("crash.seed", 0, "seed of the campaign; 0: one of the clock")
	flagTime   = flag.Duration("crash.time", 10*time.Second, "how long the campaign goes on")
	flagFull   = flag.Bool("crash.full", false, "every workload of two changes, however long it takes")
	flagFrom   = flag.Int("crash.from", 0, "the first workload of the campaign, counted from 0")
	flagReplay = flag.String("crash.replay", "", "run this one workload")
	flagCache  = flag.Bool("crash.pagecache", false, "with -crash.replay: the page-cache domain")
	flagMutant = flag.String("crash.mutant", "", "plant this fault only")
	flagKeep   = flag.String("crash.keep", "", "directory to keep failing images in")
)

// tally is the closing line, printed by TestMain.
var tally struct {
	workloads, states, failures, mutants, caught int
	elapsed                                      time.Duration
}

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400)    // small images, short lives
	runtime.MemProfileRate = 0 // a twelfth of the time
	code := m.Run()
	if tally.workloads > 0 {
		per := float64(tally.states) / tally.elapsed.Seconds() / float64(runtime.GOMAXPROCS(0))
		fmt.Printf("crash: %.0f distinct states a second a processor\n", per)
		fmt.Printf("crash: workloads=%d states=%d failures=%d mutants=%d caught=%d\n",
			tally.workloads, tally.states, tally.failures, tally.mutants, tally.caught)
	}
	os.Exit(code)
}

func seedOf(t *testing.T) uint64 {
	seed := *flagSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	return seed
}

func baseOf(t *testing.T) []byte {
	t.Helper()
	base, err := Base()
	if err != nil {
		t.Fatal(err)
	}
	return base
}

// report tells a failure with the command that repeats it, and keeps its image.
func report(t *testing.T, f *Failure) {
	t.Helper()
	repeat := fmt.Sprintf("go test ./core/crash -run TestCampaign -crash.seed %d -crash.pagecache=%v -crash.replay '%s'", f.Seed, f.PageCache, f.Workload)
	kept := ""
	if *flagKeep != "" {
		name := filepath.Join(*flagKeep, fmt.Sprintf("crash-%d-%d", f.Seed, f.Fence))
		err := os.WriteFile(name+".txt", fmt.Appendf(nil, "%v\n%s\n", f, repeat), 0o644)
		if err == nil && f.Image != nil {
			err = os.WriteFile(name+".img", f.Image, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
		kept = "\nkept as " + name + ".{txt,img}; once it is mended, the workload belongs in lore.go"
	}
	t.Errorf("%v\nrepeat with: %s%s", f, repeat, kept)
}

// workers is two for each processor: a workload waits now and then for another of its goroutines.
func workers() int { return runtime.GOMAXPROCS(0) }

// TestCampaign tries the workloads of one change, then those of two and seeded
// ones of three, in turn and by the seed, as long as the time lasts.
func TestCampaign(t *testing.T) {
	seed := seedOf(t)
	if *flagReplay != "" {
		f, states := Replay(baseOf(t), ParseWorkload(*flagReplay), *flagCache, seed)
		if t.Logf("%d states", states); f != nil {
			report(t, f)
		}
		return
	}
	c := Campaign{Base: baseOf(t), Seed: seed, From: *flagFrom, Workers: workers(), Budget: *flagTime, MaxFailures: 3, Next: plan(seed, *flagFull)}
	if *flagFull {
		c.Budget = 0
	}
	c.Progress = func(r Result) {
		if r.Workloads%1000 == 0 {
			fmt.Printf("crash: %d workloads to number %d, %d states, %d failures, %.0f s\n", r.Workloads, *flagFrom+r.Workloads, r.States, len(r.Failures), r.Elapsed.Seconds())
		}
	}
	c.Failed = func(f *Failure) { report(t, f) }
	r := c.Run()
	tally.workloads += r.Workloads
	tally.states += r.States
	tally.failures += len(r.Failures)
	tally.elapsed += r.Elapsed
	if r.States < 1000 {
		t.Errorf("only %d states", r.States)
	}
}

// plan is the order of a campaign's workloads: what is lore and every single
// change first, then pairs, each seventh one of three changes; every fourth in
// the page-cache domain. A full campaign is every pair in both domains.
func plan(seed uint64, full bool) func(i int) (Workload, bool, bool) {
	first := append(Lore(), Ones()...)
	r := rand.New(rand.NewPCG(seed, 2))
	start := r.IntN(Twos)
	step := 7919 // a prime that divides no number of pairs
	return func(i int) (Workload, bool, bool) {
		if i < len(first) {
			return first[i], i%4 == 3, true
		}
		i -= len(first)
		if full {
			return Two(i / 2 % Twos), i%2 == 1, i < 2*Twos
		}
		if i%7 == 6 {
			return Random(seed+uint64(i), 3), i%4 == 3, true
		}
		return Two((start + i*step) % Twos), i%4 == 3, true
	}
}

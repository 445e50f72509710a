package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"permafrost/mount/exercise"
)

const (
	storerArg        = "exercise-storer"
	exerciseChildArg = "exercise-child"

	eraOperations = 10_000 // of one run, in a directory of its own
)

// mountFeatures is what the mount must be able to do.
var mountFeatures = exercise.Features{ZeroRange: true, Direct: true, Tmpfile: true, Exchange: true, XattrMax: 8000, MappedMtime: true, Holes: true}

func storerMain([]string) int {
	if err := exercise.ServeStorer(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "storer:", err)
		return 1
	}
	return 0
}

// TestMountExercise: random operations give what the model says, with freezes
// among them, whose copies are as the model was.
//
//	PERMAFROST_MOUNT_OPS      how many operations, in runs of 10,000
//	PERMAFROST_SEED           the seed of the first run; the next has the next
//	PERMAFROST_EXERCISE_OPS   the operations of the one run that is made
//	PERMAFROST_EXERCISE_ONLY  which of them, such as 3,5-9
func TestMountExercise(t *testing.T) {
	m := newMountFixture(t, "32MiB")
	m.copyEvery = 3
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]int{}
	cfg := exercise.Config{Dir: m.mnt, Seed: uint64(time.Now().UnixNano()), Ops: eraOperations, Features: mountFeatures, Storer: []string{exe, storerArg}}
	cfg.Freeze = func(ctx context.Context) (exercise.Frozen, error) {
		fz, err := m.freeze(ctx)
		if err != nil {
			return nil, err
		}
		modes[fz.mode]++
		return fz, nil
	}
	left := mountFull(t, "PERMAFROST_MOUNT_OPS", 20_000)
	one := exerciseFromEnvironment(t, &cfg)
	var all exercise.Report
	began := time.Now()
	for first := true; left > 0 && (first || !one); first = false {
		if !one {
			cfg.Ops = min(left, eraOperations)
		}
		rep, err := exercise.Run(context.Background(), cfg)
		all.Add(rep)
		left -= cfg.Ops
		exerciseJudge(t, cfg, modes, err)
		if all.Ops%100_000 == 0 {
			fmt.Printf("mount-exercise-progress: operations=%d per_second=%.0f freezes=%d\n", all.Ops, float64(all.Ops)/time.Since(began).Seconds(), all.Freezes)
		}
		cfg.Seed++
	}
	fmt.Printf("mount-exercise: operations=%d per_second=%.0f freezes=%d held=%d copies=%d compared_mib=%d modes=%v differences=0\n",
		all.Ops, float64(all.Ops)/time.Since(began).Seconds(), all.Freezes, all.Held, all.Copies, all.Bytes>>20, modes)
	if one {
		return
	}
	if modes["collect"] != all.Freezes {
		t.Errorf("of %d freezes, by mode: %v", all.Freezes, modes)
	}
	if all.Freezes < all.Ops/1000 || all.Held < all.Freezes/2 || all.Copies == 0 {
		t.Errorf("a run that shows nothing of freezes: %+v", all)
	}
}

// exerciseFromEnvironment says whether one run is to be repeated.
func exerciseFromEnvironment(t *testing.T, cfg *exercise.Config) (one bool) {
	t.Helper()
	var err error
	if s := os.Getenv("PERMAFROST_SEED"); s != "" {
		if cfg.Seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal("PERMAFROST_SEED:", err)
		}
	}
	if s := os.Getenv("PERMAFROST_EXERCISE_OPS"); s != "" {
		one = true
		if cfg.Ops, err = strconv.Atoi(s); err != nil {
			t.Fatal("PERMAFROST_EXERCISE_OPS:", err)
		}
	}
	if cfg.Only, err = exercise.ParseSet(os.Getenv("PERMAFROST_EXERCISE_ONLY")); err != nil {
		t.Fatal("PERMAFROST_EXERCISE_ONLY:", err)
	}
	return one
}

// exerciseJudge fails the test by a difference, shrunk, with what repeats it.
func exerciseJudge(t *testing.T, cfg exercise.Config, modes map[string]int, err error) {
	t.Helper()
	var d *exercise.Difference
	if errors.As(err, &d) {
		repeat := func(ops int, only exercise.Set) string {
			return fmt.Sprintf("PERMAFROST_SEED=%d PERMAFROST_EXERCISE_OPS=%d PERMAFROST_EXERCISE_ONLY=%s go test ./cmd/permafrost -run '%s$' -count 1 -v",
				cfg.Seed, ops, only, t.Name())
		}
		t.Logf("freezes so far, by mode: %v\n%v\nrepeat with %s", modes, d, repeat(d.Op+1, cfg.Only))
		small := exercise.Shrink(context.Background(), cfg, d, time.Minute)
		t.Fatalf("%v\nrepeat with %s", small, repeat(small.Op+1, small.Only))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// exerciseChildMain exercises a directory without freezes of its own: it is
// frozen by somebody else, in the middle of anything.
func exerciseChildMain(args []string) int {
	seed, err1 := strconv.ParseUint(args[1], 10, 64)
	ops, err2 := strconv.Atoi(args[2])
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(os.Stderr, "exercise:", err)
		return 2
	}
	rep, err := exercise.Run(context.Background(), exercise.Config{Dir: args[0], Seed: seed, Ops: ops, Features: mountFeatures})
	if err != nil {
		fmt.Fprintln(os.Stderr, "exercise:", err)
		return 1
	}
	fmt.Println(rep.Ops)
	return 0
}

// TestMountExerciseFrozen: several programs at once, frozen at any moment by
// another, mapped stores under way: each finds what its model says, and the image
// does not change while frozen.
func TestMountExerciseFrozen(t *testing.T) {
	m := newMountFixture(t, "64MiB")
	m.copyEvery = 1 << 30
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	seed, ops := seedOf(t), min(mountFull(t, "PERMAFROST_MOUNT_OPS", 4000), 50_000)
	const children = 3
	ended := make(chan error, children)
	for i := range children {
		cmd := exec.Command(exe, exerciseChildArg, m.mnt, strconv.FormatUint(seed+uint64(i), 10), strconv.Itoa(ops))
		go func() {
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%s: %w\n%s", cmd, err, out)
			}
			ended <- err
		}()
		defer func() { _ = cmd.Process.Kill() }()
	}
	ctx := context.Background()
	freezes := 0
	for running := children; running > 0; {
		select {
		case err := <-ended:
			if running--; err != nil {
				t.Error(err)
			}
		case <-time.After(time.Duration(20+freezes%7*30) * time.Millisecond):
			if err := m.standStill(ctx, freezes%3 == 0); err != nil {
				t.Fatalf("freeze %d: %v", freezes, err)
			}
			freezes++
		}
	}
	fmt.Printf("mount-frozen: children=%d operations=%d freezes=%d fell_back=%d\n", children, children*ops, freezes, m.fellBack.Load())
	if freezes < 5 {
		t.Errorf("%d freezes show nothing", freezes)
	}
}

// standStill freezes for a moment and sees that the image does not change, and, if
// asked to, that a copy of it is whole.
func (m *mountFixture) standStill(ctx context.Context, copied bool) error {
	fz, err := m.freeze(ctx)
	if err != nil {
		return err
	}
	before, err := fz.Hash()
	if err == nil && copied {
		err = fz.Copy(ctx, func(string) error { return nil })
	} else if err == nil {
		err = sleep(ctx, 20*time.Millisecond)
	}
	after, err2 := fz.Hash()
	err = errors.Join(err, err2)
	if err == nil && before != after {
		err = errors.New("the image changed while frozen")
	}
	switch {
	case fz.mode == "notify": // it is still and whole all the same, which is what this shows
		m.fellBack.Add(1)
	case fz.mode != "collect" && err == nil:
		err = fmt.Errorf("the freeze was of mode %q", fz.mode)
	}
	return errors.Join(err, fz.Thaw(ctx))
}

package exercise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const storerArg = "exercise-storer"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == storerArg {
		if err := ServeStorer(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "storer:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fromEnvironment lets a failed run be repeated:
//
//	PERMAFROST_SEED           the seed
//	PERMAFROST_EXERCISE_OPS   how many operations
//	PERMAFROST_EXERCISE_ONLY  which of them, such as 3,5-9
func fromEnvironment(t *testing.T, cfg *Config) {
	t.Helper()
	cfg.Seed = uint64(time.Now().UnixNano())
	var err error
	if s := os.Getenv("PERMAFROST_SEED"); s != "" {
		if cfg.Seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal("PERMAFROST_SEED:", err)
		}
	}
	if s := os.Getenv("PERMAFROST_EXERCISE_OPS"); s != "" {
		if cfg.Ops, err = strconv.Atoi(s); err != nil {
			t.Fatal("PERMAFROST_EXERCISE_OPS:", err)
		}
	}
	if cfg.Only, err = ParseSet(os.Getenv("PERMAFROST_EXERCISE_ONLY")); err != nil {
		t.Fatal("PERMAFROST_EXERCISE_ONLY:", err)
	}
}

func repeat(t *testing.T, cfg Config, only Set) string {
	return fmt.Sprintf("PERMAFROST_SEED=%d PERMAFROST_EXERCISE_OPS=%d PERMAFROST_EXERCISE_ONLY=%s go test ./mount/exercise -run '%s$' -count 1 -v",
		cfg.Seed, cfg.Ops, only, t.Name())
}

// exercise runs cfg and fails the test with all that repeats a difference.
func exercise(t *testing.T, cfg Config) Report {
	t.Helper()
	fromEnvironment(t, &cfg)
	t.Log("repeat with", repeat(t, cfg, cfg.Only))
	began := time.Now()
	rep, err := Run(context.Background(), cfg)
	var d *Difference
	if errors.As(err, &d) {
		t.Log(err)
		small := Shrink(context.Background(), cfg, d, time.Minute)
		t.Fatalf("%v\nrepeat with %s", small, repeat(t, cfg, small.Only))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations, %.0f a second; %d freezes, %d held, %d copies; %d MiB compared; %v", rep.Ops, float64(rep.Ops)/time.Since(began).Seconds(),
		rep.Freezes, rep.Held, rep.Copies, rep.Bytes>>20, rep.Done)
	if cfg.Only == nil && cfg.Ops >= 8_000 {
		for _, op := range operations {
			if rep.Done[op.name] == 0 {
				t.Errorf("%q was never done: the run shows nothing of it", op.name)
			}
		}
	}
	return rep
}

// tmpfs is a directory in memory that goes with the test.
func tmpfs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "permafrost-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestOnTmpfs and TestOnExt4 hold the model against file systems that are right.
func TestOnTmpfs(t *testing.T) {
	exercise(t, Config{Dir: tmpfs(t), Ops: 20_000,
		Features: Features{Tmpfile: true, Exchange: true, XattrMax: xattrsOf(t, "/dev/shm", 2000), Holes: true, SeekHoles: true}})
}

// xattrsOf is max where user. attributes may be set, else 0.
func xattrsOf(t *testing.T, dir string, max int) int {
	t.Helper()
	f, err := os.CreateTemp(dir, "permafrost-xattr-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if unix.Fsetxattr(int(f.Fd()), "user.a", []byte("x"), 0) != nil {
		return 0
	}
	return max
}

func TestOnExt4(t *testing.T) {
	d := newDisk(t)
	exercise(t, Config{Dir: d.dir, Ops: 8_000, Features: ext4Features})
}

// TestOnFrozenExt4 holds what the exerciser says of a freeze against the
// kernel's own: its FIFREEZE of a small disk, whose copy is mounted.
func TestOnFrozenExt4(t *testing.T) {
	d := newDisk(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rep := exercise(t, Config{Dir: d.dir, Ops: 1_200, Features: ext4Features, Every: 100, Freeze: d.freeze, Storer: []string{exe, storerArg}})
	if rep.Freezes < 5 || rep.Copies < 1 || rep.Held < 4 {
		t.Errorf("a run that shows nothing of freezes: %+v", rep)
	}
}

// TestFindsDamage: each way in which a file system may be wrong is found, and
// shrunk, and the run that is left fails again.
func TestFindsDamage(t *testing.T) {
	xattrMax := xattrsOf(t, "/dev/shm", 100)
	for name, spoil := range damages {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "attribute") && xattrMax == 0 {
				t.Skip("tmpfs has no user attributes here")
			}
			dir := tmpfs(t)
			cfg := Config{Dir: dir, Seed: 11, Ops: 1500, Features: Features{Tmpfile: true, Exchange: true, XattrMax: xattrMax, Holes: true, SeekHoles: true}}
			cfg.between = func(n int) {
				if n == 700 {
					spoil(t, dir)
				}
			}
			_, err := Run(context.Background(), cfg)
			var d *Difference
			if !errors.As(err, &d) || d.Op < 700 {
				t.Fatalf("not found: %v", err)
			}
			small := Shrink(context.Background(), cfg, d, 5*time.Second)
			if len(small.Only) == 0 || len(small.Only) > 200 {
				t.Fatalf("shrunk to %d operations", len(small.Only))
			}
			t.Logf("shrunk from %d to %d: %v", d.Op, len(small.Only), small.What)
			cfg.Only, cfg.Ops = small.Only, small.Only[len(small.Only)-1]+1
			if _, err := Run(context.Background(), cfg); !errors.As(err, &d) {
				t.Fatalf("the shrunk run does not fail again: %v", err)
			}
			if text := d.Error(); !strings.Contains(text, "seed 11") || !strings.Contains(text, "the last operations") {
				t.Errorf("the difference says too little: %s", text)
			}
		})
	}
}

func TestSet(t *testing.T) {
	for _, text := range []string{"", "3", "3,5-9", "0-1,7,9-12"} {
		s, err := ParseSet(text)
		if err != nil || s.String() != text {
			t.Errorf("%q is read as %v: %v", text, s, err)
		}
	}
	for _, text := range []string{"x", "3-", "9-3", "5,3", "1,,2", "-"} {
		if s, err := ParseSet(text); err == nil {
			t.Errorf("%q is read as %v", text, s)
		}
	}
	s, _ := ParseSet("3,5-9")
	for n := range 12 {
		if want := n == 3 || n >= 5 && n <= 9; s.Has(n) != want || !Set(nil).Has(n) {
			t.Errorf("Has(%d) is %t", n, s.Has(n))
		}
	}
}

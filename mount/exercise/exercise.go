package exercise

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config says what a run does and where. Immutable once given to Run.
type Config struct {
	Dir  string // an existing directory; a run works in a new one below it
	Seed uint64
	Ops  int // operations
	Only Set // the operations carried out; nil: all

	Features Features
	MaxSize  int64         // of a file, bytes; 0: 256 KiB
	Bound    time.Duration // what a call may take while frozen, and a held one after the thaw; 0: 10 s

	// Freeze brings the file system to a standstill. Nil: no freezes.
	Freeze func(ctx context.Context) (Frozen, error)
	Every  int // operations between freezes, on average; 0: 500
	// Storer is the command of a process that runs ServeStorer. Empty: nothing is
	// stored to a mapping while frozen.
	Storer []string

	between func(n int) // tests spoil the file system here
}

// Features says what the file system must be able to do. Where one is false the
// operation may be refused, with EOPNOTSUPP or EINVAL, and must then have changed nothing.
type Features struct {
	ZeroRange   bool // fallocate ZERO_RANGE
	Direct      bool // O_DIRECT
	Tmpfile     bool // O_TMPFILE
	Exchange    bool // renameat2 EXCHANGE
	XattrMax    int  // of a user. attribute's value, bytes; 0: no attributes
	MappedMtime bool // a store to a mapping stamps mtime, by the next msync or fsync
	Holes       bool // a punched range takes no blocks, and data takes some
	SeekHoles   bool // SEEK_DATA passes over a range punched through an open file
}

// Frozen is a freeze that stands.
type Frozen interface {
	// Hash is of everything that must not change while frozen.
	Hash() (string, error)
	// Copy gives judge the file system as it was frozen, found elsewhere: the
	// directory there that stands for Config.Dir. It may decline by not calling it.
	Copy(ctx context.Context, judge func(dir string) error) error
	// Thaw ends it; an error says that it was not kept.
	Thaw(ctx context.Context) error
}

// Report is what a run did.
type Report struct {
	Ops     int            // carried out
	Done    map[string]int // by kind: those that changed or compared something
	Freezes int
	Copies  int   // of freezes, judged
	Held    int   // operations that were held by a freeze and ended after it
	Bytes   int64 // compared
}

// Add sums another report into r.
func (r *Report) Add(o Report) {
	r.Ops += o.Ops
	r.Freezes += o.Freezes
	r.Copies += o.Copies
	r.Held += o.Held
	r.Bytes += o.Bytes
	if r.Done == nil {
		r.Done = map[string]int{}
	}
	for k, n := range o.Done {
		r.Done[k] += n
	}
}

// Difference is the error of a run whose file system was not as the model.
type Difference struct {
	Seed uint64
	Op   int // the operation that found it
	What error
	Last []string // what was done before, the newest last
	Only Set      // the operations that suffice for it, after Shrink; nil: all up to Op

	dir string // what the run left
}

func (d *Difference) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, operation %d: %v\nthe last operations:", d.Seed, d.Op, d.What)
	for _, l := range d.Last {
		fmt.Fprintf(&b, "\n  %s", l)
	}
	return strings.ReplaceAll(b.String(), longName, "LONG")
}

func (d *Difference) Unwrap() error { return d.What }

const lastKept = 40 // operations that a Difference tells

// run is one run under way. Owned by Run's goroutine.
type run struct {
	cfg    Config
	ctx    context.Context
	dir    string
	n      int // the operation under way
	rng    *rand.Rand
	report Report
	last   []string
	kind   string // of the operation under way

	root    *node
	nodes   int // made so far
	handles []*handle
	maps    []*mapping
	storer  *storer
}

// Run carries out cfg.Ops operations. The error is a *Difference if the file
// system was not as the model says, else what kept the run from being made.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if cfg.MaxSize == 0 {
		cfg.MaxSize = 256 << 10
	}
	if cfg.Bound == 0 {
		cfg.Bound = 10 * time.Second
	}
	if cfg.Every == 0 {
		cfg.Every = 500
	}
	dir, err := os.MkdirTemp(cfg.Dir, "exercise-")
	if err != nil {
		return Report{}, fmt.Errorf("make a directory for the run: %w", err)
	}
	r := &run{cfg: cfg, ctx: ctx, dir: dir, root: newDir(nil), report: Report{Done: map[string]int{}}}
	err = r.all()
	if err := r.end(); err != nil {
		return r.report, err
	}
	if err != nil {
		if ctx.Err() != nil {
			return r.report, ctx.Err()
		}
		return r.report, &Difference{Seed: cfg.Seed, Op: r.n, What: err, Last: slices.Clone(r.last), dir: dir}
	}
	if err := os.RemoveAll(dir); err != nil {
		return r.report, fmt.Errorf("remove what the run left: %w", err)
	}
	return r.report, nil
}

func (r *run) all() error {
	for r.n = 0; r.n < r.cfg.Ops; r.n++ {
		if !r.cfg.Only.Has(r.n) {
			continue
		}
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if err := r.one(); err != nil {
			return err
		}
	}
	r.n = r.cfg.Ops
	r.note("the look at everything at the end")
	return r.checkAll()
}

// one carries out operation r.n.
func (r *run) one() error {
	r.rng = rand.New(rand.NewPCG(r.cfg.Seed, uint64(r.n)))
	op := r.pick()
	r.kind = op.name
	if r.cfg.between != nil {
		r.cfg.between(r.n)
	}
	r.report.Ops++
	if err := op.do(r); err != nil {
		return fmt.Errorf("%s: %w", op.name, err)
	}
	return nil
}

// note writes the operation down before it is carried out.
func (r *run) note(format string, args ...any) {
	if len(r.last) == lastKept {
		r.last = r.last[:copy(r.last, r.last[1:])]
	}
	text := fmt.Sprintf("%d: ", r.n) + fmt.Sprintf(format, args...)
	r.last = append(r.last, strings.ReplaceAll(text, longName, "LONG"))
}

// done counts an operation that showed something.
func (r *run) done() { r.report.Done[r.kind]++ }

// end lets go of everything that the run holds open.
func (r *run) end() error {
	for len(r.maps) > 0 {
		if err := r.unmap(0); err != nil {
			return err
		}
	}
	var errs []error
	for _, h := range r.handles {
		errs = append(errs, h.close())
	}
	r.handles = nil
	if r.storer != nil {
		r.storer.end()
	}
	return errors.Join(errs...)
}

func (r *run) path(rel string) string { return filepath.Join(r.dir, rel) }

// chance is true once in n.
func (r *run) chance(n int) bool { return r.rng.IntN(n) == 0 }

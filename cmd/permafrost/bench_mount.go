package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// benchMountCmd measures the mount beside its rivals, one after the other in
// every round of every row, so that a machine that is busy for a while is busy
// for all of them. The appliance, fuse2fs, the program that uses the mounts and
// the one that stores through mappings are processes of their own.
type benchMountCmd struct {
	Only          []string      `help:"Measure these rows only; repeatable." placeholder:"ROW"`
	On            []string      `help:"Measure on these only: permafrost, ext4, tmpfs, fuse2fs; repeatable." placeholder:"FS"`
	Rounds        int           `help:"Times that each row is measured." default:"5"`
	FreezeRounds  int           `help:"Freezes measured." default:"50"`
	Quick         bool          `help:"Less of everything: to see that it works, not for figures."`
	Timeout       time.Duration `help:"Longest that all of it may take." default:"20m"`
	Disk          string        `help:"Directory on a disk, for the appliance's state." default:"/var/tmp" type:"path"`
	ServerProfile string        `help:"Where the appliance writes a CPU profile of its whole run." placeholder:"FILE" type:"path"`
	JSON          bool          `name:"json" help:"One line of JSON."`
}

// mountFigures is the answer.
type mountFigures struct {
	Rows        []*rowFigures     `json:"rows"`
	Freezes     []*freezeFigure   `json:"freezes"`
	Beds        map[string]string `json:"beds"`
	Missing     map[string]string `json:"missing,omitempty"` // rivals that could not be had, and why
	ReadAheadKB map[string]int    `json:"read_ahead_kb"`
	Incomplete  string            `json:"incomplete,omitempty"` // why rows are missing
	Rounds      int               `json:"rounds"`
	Scale       workScale         `json:"scale"`
	Quick       bool              `json:"quick,omitempty"`
	CPUs        int               `json:"cpus"`
	Kernel      string            `json:"kernel"`
}

// mountRun is one run of it. Owned by the goroutine of Run.
type mountRun struct {
	console      *console
	beds         []*mountBed
	worker       *writerProcess
	scale        workScale
	rounds       int
	freezeRounds int
	quick        bool
}

func (b *benchMountCmd) Run(c *console) error {
	if err := b.check(); err != nil {
		return &exitError{exitUsage, err}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, b.Timeout, fmt.Errorf("not done within %s: see --timeout", b.Timeout))
	defer cancel()
	m := &mountRun{console: c, scale: mountScale, rounds: b.Rounds, freezeRounds: b.FreezeRounds, quick: b.Quick}
	if b.Quick {
		m.scale, m.rounds, m.freezeRounds = mountScaleQuick, min(b.Rounds, 2), min(b.FreezeRounds, 5)
	}
	fig := &mountFigures{Rounds: m.rounds, Scale: m.scale, Quick: b.Quick, CPUs: runtime.NumCPU(), Kernel: kernelRelease(),
		Beds: map[string]string{}, Missing: map[string]string{}, ReadAheadKB: map[string]int{}}
	defer m.end()
	if err := m.start(ctx, b, fig); err != nil {
		return because(ctx, err)
	}
	err := m.measure(ctx, b, fig)
	if err != nil { // what was measured until then is not lost
		err = because(ctx, err)
		fig.Incomplete = err.Error()
	}
	if b.JSON {
		return errors.Join(err, benchOut(c, true, fig))
	}
	fig.print(c)
	return err
}

// because prefers why a run was ended to what that looked like.
func because(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return errors.New("interrupted")
}

func (b *benchMountCmd) check() error {
	var rows []string
	for _, r := range mountRows {
		rows = append(rows, r.name)
	}
	for _, f := range mountFreezes {
		rows = append(rows, f.name)
	}
	for _, only := range b.Only {
		if !slices.Contains(rows, only) {
			return fmt.Errorf("--only %s: the rows are %s", only, strings.Join(slices.Compact(rows), ", "))
		}
	}
	for _, on := range b.On {
		if !slices.Contains(mountBeds, on) {
			return fmt.Errorf("--on %s: there are %s", on, strings.Join(mountBeds, ", "))
		}
	}
	if b.Rounds < 1 || b.FreezeRounds < 1 || b.Timeout <= 0 {
		return errors.New("--rounds and --freeze-rounds at least 1, --timeout positive")
	}
	return nil
}

func wanted(list []string, name string) bool { return len(list) == 0 || slices.Contains(list, name) }

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// start mounts what is measured. A rival that cannot be had is left out and
// named; ours must be there.
func (m *mountRun) start(ctx context.Context, b *benchMountCmd, fig *mountFigures) (err error) {
	if m.worker, err = startChild("bench-mount-work"); err != nil {
		return err
	}
	for _, name := range mountBeds {
		if !wanted(b.On, name) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		progressf(m.console, "mounting %s", name)
		bed, err := newMountBed(name, b)
		if err != nil {
			if name == bedOurs {
				return err
			}
			fig.Missing[name] = err.Error()
			continue
		}
		m.beds = append(m.beds, bed)
		fig.Beds[name] = bed.what
		if bed.cached {
			continue
		}
		progressf(m.console, "touching every page of the image of %s", name)
		if _, err := m.order(ctx, workOrder{Row: "fill", Dir: bed.dir}); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fig.ReadAheadKB[name] = readAheadKB(bed.dir)
	}
	progressDone(m.console)
	return nil
}

// end takes everything away. What waits for a mount ends with its server.
func (m *mountRun) end() {
	if m.worker != nil {
		m.worker.stdin.Close()
		_ = m.worker.proc.Kill() // it may have ended by itself
	}
	for _, bed := range slices.Backward(m.beds) {
		bed.end()
	}
	if m.worker != nil {
		_, _ = m.worker.proc.Wait()
	}
}

func (m *mountRun) measure(ctx context.Context, b *benchMountCmd, fig *mountFigures) error {
	for i := range mountRows {
		row := &mountRows[i]
		if !wanted(b.Only, row.name) {
			continue
		}
		f, err := m.measureRow(ctx, row)
		if err != nil {
			return err
		}
		fig.Rows = append(fig.Rows, f)
	}
	for i := range mountFreezes {
		if !wanted(b.Only, mountFreezes[i].name) {
			continue
		}
		f, err := m.measureFreeze(ctx, &mountFreezes[i])
		if err != nil {
			return err
		}
		fig.Freezes = append(fig.Freezes, f)
	}
	return nil
}

// measureRow measures a row on every bed, round by round, each round beginning
// with another bed; a first round does not count.
func (m *mountRun) measureRow(ctx context.Context, row *mountRow) (*rowFigures, error) {
	f := &rowFigures{Row: row.name, Threads: row.threads, Unit: row.unit, What: row.what, Beds: map[string]*measured{}}
	for _, bed := range m.beds {
		f.Beds[bed.name] = &measured{}
	}
	for round := range m.rounds + 1 {
		for i := range m.beds {
			bed := m.beds[(i+round)%len(m.beds)]
			progressf(m.console, "%s, %d threads, on %s: round %d of %d", row.name, row.threads, bed.name, round, m.rounds)
			v, err := m.order(ctx, workOrder{Row: row.name, Dir: bed.dir, Threads: row.threads, Cached: bed.cached, Scale: m.scale})
			if err != nil {
				return nil, fmt.Errorf("%s, %d threads, on %s: %w", row.name, row.threads, bed.name, err)
			}
			if round > 0 {
				f.Beds[bed.name].add(v)
			}
		}
	}
	progressDone(m.console)
	f.judge(row)
	return f, nil
}

// orderTime bounds one measurement: far above what the slowest rival takes.
const orderTime = 3 * time.Minute

// order has the worker do one measurement. A worker that does not answer in
// time is of no further use: end ends it.
func (m *mountRun) order(ctx context.Context, o workOrder) (float64, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	if err := m.worker.say(string(text)); err != nil {
		return 0, fmt.Errorf("the worker has ended: %w", err)
	}
	answer := make(chan workDone, 1)
	go func() {
		var done workDone
		if !m.worker.lines.Scan() {
			done.Error = "the worker ended"
		} else if err := json.Unmarshal(m.worker.lines.Bytes(), &done); err != nil {
			done.Error = "an answer that is none: " + err.Error()
		}
		answer <- done
	}()
	select {
	case done := <-answer:
		if done.Error != "" {
			return 0, errors.New(done.Error)
		}
		return done.Value, nil
	case <-time.After(orderTime):
		return 0, fmt.Errorf("not done within %s", orderTime)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// print is the table for people: medians.
func (f *mountFigures) print(c *console) {
	c.printf("%-12s %2s %-8s", "row", "t", "unit")
	for _, bed := range mountBeds {
		c.printf(" %11s", bed)
	}
	c.printf(" %10s  %s\n", "goal", "")
	for _, r := range f.Rows {
		c.printf("%-12s %2d %-8s", r.Row, r.Threads, r.Unit)
		for _, bed := range mountBeds {
			if m := r.Beds[bed]; m != nil {
				c.printf(" %11s", figure(m.Median))
			} else {
				c.printf(" %11s", "-")
			}
		}
		goal, verdict := "", ""
		if r.Met != nil {
			goal, verdict = figure(r.Goal), map[bool]string{true: "met", false: "SHORT"}[*r.Met]
		}
		if r.Ahead != nil && !*r.Ahead {
			verdict = strings.TrimSpace(verdict + fmt.Sprintf(" BEHIND fuse2fs (%.2f)", r.Fuse2fs))
		}
		c.printf(" %10s  %s\n", goal, verdict)
	}
	for _, z := range f.Freezes {
		c.printf("%s: %s\n", z.Row, z.What)
		if z.Ours != nil {
			c.printf("    window %.0f us (p99 %.0f), goal %.0f; whole %.0f us at the server, %.0f at the caller; thaw %.0f us; modes %v\n",
				z.Ours.WindowUS.P50, z.Ours.WindowUS.P99, z.Goal, z.Ours.TotalUS.P50, z.Ours.CallUS.P50, z.Ours.ThawUS.P50, z.Ours.Modes)
		}
		if z.Ext4 != nil {
			c.printf("    ext4, FIFREEZE: %.0f us (p99 %.0f)\n", z.Ext4.FreezeUS.P50, z.Ext4.FreezeUS.P99)
		}
	}
	for name, why := range f.Missing {
		c.printf("%s: not measured: %s\n", name, why)
	}
}

// figure has three significant digits, and no exponent.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

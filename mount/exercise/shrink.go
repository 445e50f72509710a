package exercise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Shrink looks for fewer operations that still end in a difference, by leaving
// out ever smaller parts of the run, until none can be left out or the time is
// over. It returns the difference of the smallest run found: d itself if the run
// does not fail again.
func Shrink(ctx context.Context, cfg Config, d *Difference, limit time.Duration) *Difference {
	end := time.Now().Add(limit)
	best, set := d, Set{}
	for n := range d.Op + 1 {
		if cfg.Only.Has(n) {
			set = append(set, n)
		}
	}
	try := func(s Set) bool {
		if found := rerun(ctx, cfg, s); found != nil {
			best = found
			best.Only = s
			return true
		}
		return false
	}
	if !try(set) {
		return d
	}
	for part := len(set) / 2; part > 0; part /= 2 {
		for at := 0; at < len(set) && len(set) > 1; {
			if time.Now().After(end) || ctx.Err() != nil {
				return best
			}
			rest := append(append(Set{}, set[:at]...), set[min(at+part, len(set)):]...)
			if len(rest) > 0 && try(rest) {
				set = rest
			} else {
				at += part
			}
		}
	}
	return best
}

// rerun is the difference of a run of the set's operations, nil if there is none.
func rerun(ctx context.Context, cfg Config, s Set) *Difference {
	cfg.Only, cfg.Ops = s, s[len(s)-1]+1
	_, err := Run(ctx, cfg)
	var d *Difference
	if !errors.As(err, &d) {
		return nil
	}
	_ = os.RemoveAll(d.dir) // only the space would be missed
	d.What = fmt.Errorf("after %d operations only: %w", len(s), d.What)
	return d
}

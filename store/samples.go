package store

import (
	"context"
	"fmt"
	"math"
	"time"

	"permafrost/store/internal/ledgerdb"
)

// MaxSamples is the most points one query of samples or minutes gives.
const MaxSamples = 10_000

// stepSamples sums samples up by steps of ?1 ns from ?2 to ?3. It is written by
// hand because sqlc cannot follow the join with a subquery. The counter is the
// one of the step's last sample; gauges are means.
const stepSamples = `
SELECT g.bucket, g.dirty_inodes, g.dirty_pages, g.used_bytes, g.free_bytes,
       newest.ops_total, g.blocked, g.frozen
FROM (
    SELECT at / ?1 AS bucket, max(at) AS newest_at,
           avg(dirty_inodes) AS dirty_inodes, avg(dirty_pages) AS dirty_pages,
           avg(used_bytes) AS used_bytes, avg(free_bytes) AS free_bytes,
           max(blocked) AS blocked, max(frozen) AS frozen
    FROM samples WHERE at >= ?2 AND at < ?3
    GROUP BY bucket
) AS g JOIN samples AS newest ON newest.at = g.newest_at
ORDER BY g.bucket LIMIT ?4`

// Samples are the samples of [from, to), oldest first: each as recorded if step
// is 0, else summed up by steps, which begin at multiples of step since 1970. A
// step without samples is left out. Errors: ErrBadQuery when more than
// MaxSamples points could come, ErrUnavailable.
func (l *Ledger) Samples(ctx context.Context, from, to time.Time, step time.Duration) ([]Sample, error) {
	if step < 0 || !to.After(from) {
		return nil, fmt.Errorf("%w: samples from %s to %s by %s: the end must be after the beginning, the step not negative",
			ErrBadQuery, from.Format(time.RFC3339), to.Format(time.RFC3339), step)
	}
	if step > 0 && to.Sub(from)/step >= MaxSamples {
		return nil, fmt.Errorf("%w: samples from %s to %s by %s are more than %d points: ask for a larger step",
			ErrBadQuery, from.Format(time.RFC3339), to.Format(time.RFC3339), step, MaxSamples)
	}
	return read(ctx, l, "samples", func(c *conn) ([]Sample, error) {
		if step > 0 {
			return steppedSamples(ctx, c, nanos(from), nanos(to), int64(step))
		}
		rows, err := c.rq.ListSamples(ctx, ledgerdb.ListSamplesParams{Start: nanos(from), Finish: nanos(to), Max: MaxSamples + 1})
		if err == nil && len(rows) > MaxSamples {
			return nil, fmt.Errorf("%w: more than %d samples: ask for a step", ErrBadQuery, MaxSamples)
		}
		return each(rows, err, func(r ledgerdb.Sample) Sample {
			return Sample{At: instant(r.At), DirtyInodes: r.DirtyInodes, DirtyPages: r.DirtyPages,
				UsedBytes: r.UsedBytes, FreeBytes: r.FreeBytes, OpsTotal: r.OpsTotal,
				Blocked: r.Blocked, Frozen: r.Frozen != 0}
		})
	})
}

func steppedSamples(ctx context.Context, c *conn, from, to, step int64) ([]Sample, error) {
	rows, err := c.r.QueryContext(ctx, stepSamples, step, from, to, MaxSamples)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Sample{}
	for rows.Next() {
		var bucket, frozen int64
		var inodes, pages, used, free float64
		var s Sample
		if err := rows.Scan(&bucket, &inodes, &pages, &used, &free, &s.OpsTotal, &s.Blocked, &frozen); err != nil {
			return nil, err
		}
		s.At, s.Frozen = instant(bucket*step), frozen != 0
		s.DirtyInodes, s.DirtyPages = round(inodes), round(pages)
		s.UsedBytes, s.FreeBytes = round(used), round(free)
		out = append(out, s)
	}
	return out, rows.Err()
}

// round takes a mean to the nearest whole number; what is there at all is not
// rounded down to nothing.
func round(mean float64) int64 {
	if mean > 0 && mean < 1 {
		return 1
	}
	return int64(math.Round(mean))
}

// FsyncStats are the minutes of [from, to) in which something was synced,
// oldest first. Errors: ErrBadQuery when there are more than MaxSamples.
func (l *Ledger) FsyncStats(ctx context.Context, from, to time.Time) ([]FsyncStats, error) {
	return read(ctx, l, "fsync statistics", func(c *conn) ([]FsyncStats, error) {
		rows, err := c.rq.ListMinutes(ctx, ledgerdb.ListMinutesParams{Start: nanos(from), Finish: nanos(to), Max: MaxSamples + 1})
		if err == nil && len(rows) > MaxSamples {
			return nil, fmt.Errorf("%w: more than %d minutes: ask for a shorter time", ErrBadQuery, MaxSamples)
		}
		return each(rows, err, func(r ledgerdb.FsyncMinute) FsyncStats {
			return FsyncStats{Minute: instant(r.Minute), Count: r.Syncs, Pages: r.Pages, Bytes: r.Bytes,
				TotalUS: r.TotalUs, MaxUS: r.MaxUs}
		})
	})
}

package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"permafrost/store/internal/ledgerdb"
)

// eventFrom is the first event whose id is ?1 or above.
const eventFrom = `SELECT id, at FROM events WHERE id >= ?1 ORDER BY id LIMIT 1`

// imageReads are the image reads of freeze ?1 told in [?2, ?3] among the events
// with an id in [?4, ?5). It is written by hand because sqlc does not know
// json_extract's type.
const imageReads = `
SELECT at, data FROM events
WHERE id >= ?4 AND id < ?5 AND kind = 'image_read' AND at >= ?2 AND at <= ?3
  AND json_extract(data, '$.freeze_id') = ?1
ORDER BY id LIMIT ?6`

// eventDisorder bounds by how much an event can be older than one with a smaller
// id: events are stamped before they are queued.
const eventDisorder = 2 * time.Second

// imageRead is the data of an image_read event. Those of the first ledgers name
// the freeze alone: each is one request.
type imageRead struct {
	Reader       string
	Since, Until time.Time
	Requests     *int64
	Bytes        int64
}

// readOf is what the event told at the time given says.
func readOf(at time.Time, data []byte) (ImageRead, error) {
	var d imageRead
	if err := json.Unmarshal(data, &d); err != nil {
		return ImageRead{}, err
	}
	r := ImageRead{Reader: d.Reader, Since: d.Since, Until: d.Until, Requests: 1, Bytes: d.Bytes}
	if d.Requests != nil {
		r.Requests = *d.Requests
	}
	if r.Since.IsZero() || r.Until.Before(r.Since) {
		r.Since, r.Until = at, at
	}
	return r, nil
}

// ImageReads tells what readers read of the image of a freeze and was told in
// [from, to], in the order in which it was begun; limit bounds the rows, oldest
// told first. Events that retention deleted, or that the wall clock, set back by
// more than eventDisorder, put among the wrong neighbours, are not there.
//
// Events have no index by time. Their ids grow with it, so the ids that can be
// within the time are searched for by halves and only those events are read.
func (l *Ledger) ImageReads(ctx context.Context, freezeID int64, from, to time.Time, limit int) ([]ImageRead, error) {
	if !to.After(from) {
		return nil, fmt.Errorf("%w: image reads of freeze %d from %s to %s: the end must be after the beginning",
			ErrBadQuery, freezeID, from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	return read(ctx, l, fmt.Sprintf("image reads of freeze %d", freezeID), func(c *conn) ([]ImageRead, error) {
		first, err := eventIDAt(ctx, c, nanos(from.Add(-eventDisorder)))
		if err != nil {
			return nil, err
		}
		end, err := eventIDAt(ctx, c, nanos(to.Add(eventDisorder)))
		if err != nil {
			return nil, err
		}
		rows, err := c.r.QueryContext(ctx, imageReads, freezeID, nanos(from), nanos(to), first, end, clampLimit(limit))
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		out := []ImageRead{}
		for rows.Next() {
			var at int64
			var data []byte
			if err := rows.Scan(&at, &data); err != nil {
				return nil, err
			}
			r, err := readOf(instant(at), data)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
		slices.SortStableFunc(out, func(a, b ImageRead) int { return a.Since.Compare(b.Since) })
		return out, rows.Err()
	})
}

// eventIDAt is an id such that the event before it, if any, is older than at,
// and the one with it or next after it, if any, is not.
func eventIDAt(ctx context.Context, c *conn, at int64) (int64, error) {
	oldest, err := c.rq.OldestEvents(ctx, 1)
	if err != nil || len(oldest) == 0 {
		return 0, err
	}
	last, err := c.rq.LastEvent(ctx)
	if err != nil {
		return 0, err
	}
	low, high := oldest[0].ID, last+1
	for low < high {
		var e ledgerdb.OldestEventsRow
		mid := low + (high-low)/2
		err := c.r.QueryRowContext(ctx, eventFrom, mid).Scan(&e.ID, &e.At)
		switch {
		case errors.Is(err, sql.ErrNoRows): // deleted meanwhile
			high = mid
		case err != nil:
			return 0, err
		case e.At >= at:
			high = mid
		default:
			low = e.ID + 1
		}
	}
	return low, nil
}

package web

import (
	"fmt"
	"math"
	"time"
)

// readLanes bounds the lanes drawn for readers of the image; those beyond share one.
const readLanes = 8

// reads draws what was read of the image, on a lane for each reader, and lists
// it. at is the place of a moment on the axis, in µs.
func (v *holdView) reads(d freezeData, at func(time.Time) float64, now time.Time) {
	place := map[string]int{} // reader -> its lane
	var lanes []lane
	var bytes []int64 // of each lane
	var requests int64
	for _, r := range d.Reads {
		requests += r.Requests
		row := readRow{Reader: r.Reader, Requests: count(r.Requests), Bytes: sizeText(r.Bytes), At: momentOf(r.Since, now),
			After: microsText(at(r.Since)), Lasted: spanText(r.Until.Sub(r.Since))}
		v.Reads = append(v.Reads, row)
		i, known := place[r.Reader]
		if !known {
			if i = len(lanes); i == readLanes {
				i--
				lanes[i].Label = "read by others"
			} else {
				lanes = append(lanes, lane{Label: readLabel(r.Reader)})
				bytes = append(bytes, 0)
			}
			place[r.Reader] = i
		}
		bytes[i] += r.Bytes
		lanes[i].Rects = append(lanes[i].Rects, bar(math.Max(0, at(r.Since)), micros(r.Until.Sub(r.Since)), v.X.Max, "read", readTitle(r.Reader, row)))
	}
	for i := range lanes {
		lanes[i].Value = sizeText(bytes[i])
	}
	v.Lanes = append(v.Lanes, lanes...)
	n := d.Freeze.ImageReads - requests
	switch {
	case n <= 0:
	case len(d.Reads) >= readsLimit:
		v.Notes = append(v.Notes, plural(n, "later image read is", "later image reads are")+" not drawn.")
	case d.Freeze.EndedAt.IsZero():
		v.Notes = append(v.Notes, plural(n, "more image read is", "more image reads are")+" drawn within a minute.")
	default:
		v.Notes = append(v.Notes, plural(n, "image read is", "image reads are")+" not drawn: the ledger has no row of them.")
	}
}

func readLabel(reader string) string {
	if reader == "" {
		return "image reads"
	}
	return "read by " + reader
}

func readTitle(reader string, r readRow) string {
	if reader == "" {
		return "image read " + r.After + " after it was complete, " + r.At.Text
	}
	return fmt.Sprintf("%s read %s (requests: %s) from %s after it was complete, for %s", reader, r.Bytes, r.Requests, r.After, r.Lasted)
}

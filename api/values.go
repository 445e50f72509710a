package api

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// size is a parameter in bytes, written as 1GiB, 64MiB or a number of bytes.
type size int64

// stamp is a time as the surface shows it: RFC 3339 in UTC with all nine digits
// of the nanoseconds, so that text sorts as time does; null for the zero time.
type stamp time.Time

const stampLayout = "2006-01-02T15:04:05.000000000Z"

// MarshalJSON implements json.Marshaler.
func (t stamp) MarshalJSON() ([]byte, error) {
	if time.Time(t).IsZero() {
		return []byte("null"), nil
	}
	return []byte(`"` + time.Time(t).UTC().Format(stampLayout) + `"`), nil
}

// Schema implements huma.SchemaProvider.
func (stamp) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Nullable: true}
}

// nullable is an object that may be null; the pointer type alone cannot say so
// in the schema.
type nullable[T any] struct{ v *T }

// MarshalJSON implements json.Marshaler.
func (n nullable[T]) MarshalJSON() ([]byte, error) {
	if n.v == nil {
		return []byte("null"), nil
	}
	return json.Marshal(n.v)
}

// Schema implements huma.SchemaProvider.
func (nullable[T]) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{AnyOf: []*huma.Schema{
		r.Schema(reflect.TypeFor[T](), true, ""), {Type: "null"},
	}}
}

// microseconds is a duration in the unit of fields that end in _us.
func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// milliseconds is a duration in the unit of fields that end in _ms.
func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

var (
	errDuration = errors.New("is not a duration: write 90s, 5m, 1h30m or whole seconds")
	errSize     = errors.New("is not a size: write 1GiB, 64MiB, 4KiB or a number of bytes")
	errInteger  = errors.New("is not a whole number")
	errBool     = errors.New("is neither true nor false")
	errTime     = errors.New("is not a time: write it as 2006-01-02T15:04:05Z (RFC 3339)")
	errNegative = errors.New("must not be negative")
)

// parseDuration reads a duration as Go writes it, or whole seconds.
func parseDuration(s string) (time.Duration, error) {
	if allDigits(s) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n > math.MaxInt64/int64(time.Second) {
			return 0, errors.New("is longer than any duration this appliance can count (292 years)")
		}
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errDuration
	}
	if d < 0 {
		return 0, errNegative
	}
	return d, nil
}

// sizeUnits are the binary units; the decimal ones are refused rather than
// guessed at.
var sizeUnits = []struct {
	suffix string
	shift  uint
}{{"PiB", 50}, {"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"B", 0}, {"", 0}}

// parseSize reads a number of bytes.
func parseSize(s string) (size, error) {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok || !allDigits(digits) {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > math.MaxInt64>>u.shift {
			return 0, errors.New("is larger than any file (2^63-1 bytes)")
		}
		return size(n << u.shift), nil
	}
	if strings.HasPrefix(s, "-") {
		return 0, errNegative
	}
	return 0, errSize
}

// parseTime reads an RFC 3339 time. A plus sign that the query turned into a
// space is turned back.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, strings.Replace(s, " ", "+", 1))
	if err != nil {
		return time.Time{}, errTime
	}
	return t, nil
}

// parseBool reads true or false, or 1 or 0.
func parseBool(s string) (bool, error) {
	switch s {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, errBool
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// nearest is the known name that takes the fewest edits from name; "" if none
// is known.
func nearest(name string, known []string) string {
	best, bestCost := "", math.MaxInt
	for _, k := range known {
		if c := editDistance(name, k); c < bestCost {
			best, bestCost = k, c
		}
	}
	return best
}

// editDistance counts insertions, deletions and substitutions of bytes. Long
// names are cut: a parameter name is short, and the work must be bounded.
func editDistance(a, b string) int {
	const longest = 64
	a, b = a[:min(len(a), longest)], b[:min(len(b), longest)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

package api

import (
	"math"
	"net/http"
	"strconv"
	"strings"
)

// byteRange is one range of a Range header, in bytes.
type byteRange struct{ first, last int64 }

// withRange rewrites the Range header of a request for content of size bytes so
// that the standard library answers it as RFC 9110 (14) wants. It decides
// nothing else: conditions, If-Range among them, are still weighed before.
//
//   - On anything but GET and in a unit other than bytes it is ignored.
//   - Of content without bytes it is ignored: there is nothing to leave out.
//   - Ranges that together are more than the content are ignored: it is sent whole.
//   - Positions past the end, however large, are cut to the end.
//   - Ranges that lie outside, -0 among them, are left out.
//   - If none is left, or one is malformed, the answer is 416.
func withRange(r *http.Request, size int64) *http.Request {
	lines := r.Header.Values("Range")
	if len(lines) == 0 {
		return r
	}
	c := *r
	c.Header = r.Header.Clone()
	unit, set, _ := strings.Cut(strings.Join(lines, ","), "=")
	if r.Method != http.MethodGet || !strings.EqualFold(unit, "bytes") || size == 0 {
		c.Header.Del("Range")
		return &c
	}
	ranges, ok := parseRanges(set, size)
	var text []string
	left := size
	for _, g := range ranges {
		left -= g.last - g.first + 1
		if left < 0 {
			c.Header.Del("Range")
			return &c
		}
		text = append(text, strconv.FormatInt(g.first, 10)+"-"+strconv.FormatInt(g.last, 10))
	}
	if !ok || len(text) == 0 {
		text = []string{strconv.FormatInt(size, 10) + "-"} // outside: 416
	}
	c.Header.Set("Range", "bytes="+strings.Join(text, ","))
	return &c
}

// parseRanges parses a range set and gives those ranges that lie in content of
// size bytes, cut to it; false if it is malformed.
func parseRanges(set string, size int64) (ranges []byteRange, ok bool) {
	some := false
	for item := range strings.SplitSeq(set, ",") {
		if item = strings.Trim(item, " \t"); item == "" {
			continue // a list may have empty elements
		}
		some = true
		first, last, found := strings.Cut(item, "-")
		if !found || first == "" && last == "" {
			return nil, false
		}
		g := byteRange{0, math.MaxInt64}
		okFirst, okLast := true, true
		if first != "" {
			g.first, okFirst = position(first)
		}
		if last != "" {
			g.last, okLast = position(last)
		}
		if !okFirst || !okLast {
			return nil, false
		}
		if first == "" { // the last so many bytes
			g = byteRange{max(0, size-g.last), math.MaxInt64}
		}
		if g.last < g.first {
			return nil, false
		}
		if g.first < size {
			ranges = append(ranges, byteRange{g.first, min(g.last, size-1)})
		}
	}
	return ranges, some
}

// position parses digits; a number that is too large counts as the largest.
func position(s string) (int64, bool) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = math.MaxInt64
	}
	return n, true
}

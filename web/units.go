package web

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"permafrost/core"
	"permafrost/core/format"
)

// dash stands where there is nothing to show.
const dash = "–"

// count writes a number with thousands separators.
func count[T ~int | ~int64 | ~uint32 | ~uint64](n T) string { return humanize.Comma(int64(n)) }

// plural writes a count with its noun.
func plural[T ~int | ~int64 | ~uint32 | ~uint64](n T, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

// sizeText writes bytes in binary units.
func sizeText[T ~int64 | ~uint64](n T) string { return humanize.IBytes(uint64(n)) }

// pagesText writes pages with what they come to in bytes.
func pagesText[T ~int | ~int64 | ~uint64](n T) string {
	return plural(n, "page", "pages") + " (" + sizeText(uint64(n)*format.PageSize) + ")"
}

// microsText writes microseconds with three figures in the unit that fits.
func microsText(us float64) string {
	switch {
	case us < 0 || math.IsNaN(us):
		return dash
	case us == 0:
		return "0 µs"
	case us < 999.5:
		return threeFigures(us) + " µs"
	case us < 999.5e3:
		return threeFigures(us/1e3) + " ms"
	case us < 60e6:
		return threeFigures(us/1e6) + " s"
	}
	return spanText(time.Duration(us * 1e3))
}

func threeFigures(v float64) string {
	switch {
	case v < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// spanText writes a duration: three figures below a minute, two units above.
func spanText(d time.Duration) string {
	if d < time.Minute {
		return microsText(float64(d) / 1e3)
	}
	s := int64(d / time.Second)
	switch {
	case s < 3600 && s%60 == 0:
		return fmt.Sprintf("%d min", s/60)
	case s < 3600:
		return fmt.Sprintf("%d min %02d s", s/60, s%60)
	case s < 86400 && s%3600 == 0:
		return fmt.Sprintf("%d h", s/3600)
	case s < 86400:
		return fmt.Sprintf("%d h %02d min", s/3600, s/60%60)
	}
	return fmt.Sprintf("%d d %02d h", s/86400, s/3600%24)
}

// countdownText writes time left as m:ss or h:mm:ss, never below zero. It
// rounds up, so that 0:00 means that it is over. live.js has the same rule.
func countdownText(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	s := int64((d + time.Second - 1) / time.Second)
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// agoText writes how long before (or after) now t was. live.js has the same rule.
func agoText(t, now time.Time) string {
	d := now.Sub(t)
	text := "%s ago"
	if d < 0 {
		d, text = -d, "in %s"
	}
	s := int64(d / time.Second)
	switch {
	case s < 1:
		return "just now"
	case s < 60:
		return fmt.Sprintf(text, fmt.Sprintf("%d s", s))
	case s < 3600:
		return fmt.Sprintf(text, fmt.Sprintf("%d min", s/60))
	case s < 86400:
		return fmt.Sprintf(text, fmt.Sprintf("%d h %d min", s/3600, s/60%60))
	}
	return fmt.Sprintf(text, fmt.Sprintf("%d d", s/86400))
}

// moment is a point in time as a page shows it: absolute, and how long ago.
type moment struct {
	ISO   string // RFC 3339 with nanoseconds, UTC; "" for no time at all
	Text  string // absolute, to the second
	Rel   string // against the render's now
	Clock string // time of day alone, for the ticks of a chart that says UTC
}

func momentOf(t, now time.Time) moment {
	if t.IsZero() {
		return moment{Text: dash}
	}
	t = t.UTC()
	text := t.Format("15:04:05")
	y, m, d := t.Date()
	switch ny, nm, nd := now.UTC().Date(); {
	case y != ny:
		text = t.Format("2 Jan 2006 15:04:05")
	case m != nm || d != nd:
		text = t.Format("2 Jan 15:04:05")
	}
	return moment{ISO: t.Format(time.RFC3339Nano), Text: text + " UTC", Rel: agoText(t, now), Clock: t.Format("15:04:05")}
}

// modeText writes a mode as ls does.
func modeText(mode uint32) string {
	const types = "?pc?d?b?-?l?s???"
	b := []byte{types[mode>>12&0xf]}
	for shift := 6; shift >= 0; shift -= 3 {
		bits := mode >> shift
		for i, c := range "rwx" {
			if bits&(4>>i) == 0 {
				c = '-'
			}
			b = append(b, byte(c))
		}
	}
	special := func(i int, bit uint32, set, unset byte) {
		if mode&bit == 0 {
			return
		}
		if b[i] == 'x' {
			b[i] = set
		} else {
			b[i] = unset
		}
	}
	special(3, 0o4000, 's', 'S')
	special(6, 0o2000, 's', 'S')
	special(9, 0o1000, 't', 'T')
	return string(b)
}

// kindText names the type in a mode.
func kindText(mode uint32) string {
	switch mode >> 12 & 0xf {
	case 0x1:
		return "fifo"
	case 0x2:
		return "character device"
	case 0x4:
		return "directory"
	case 0x6:
		return "block device"
	case 0x8:
		return "file"
	case 0xa:
		return "symbolic link"
	case 0xc:
		return "socket"
	}
	return "unknown"
}

// pathText shows a path, or the inode's number when no name leads to it. Bytes
// that are not UTF-8 are shown quoted, so that two names never look alike.
func pathText(path string, ino format.Ino) string {
	if path == "" {
		return fmt.Sprintf("inode %d (no name)", ino)
	}
	if strings.ToValidUTF8(path, "") != path {
		return strconv.Quote(path)
	}
	return path
}

// pathShown and holdersShown are how much of a path, and of the names of a
// freeze's holders, a list shows, in characters.
const (
	pathShown    = 160
	holdersShown = 72
)

// listPath is pathText for a list. The inode's page has the whole.
func listPath(path string, ino format.Ino) string { return elide(pathText(path, ino), pathShown) }

// elide leaves the middle of a long text out, for the beginning of a path says
// where and its end what.
func elide(text string, most int) string {
	r := []rune(text)
	if len(r) <= most {
		return text
	}
	return string(r[:most/3]) + " … " + string(r[len(r)-(most-most/3-3):])
}

// processText names a local program.
func processText(p core.Process) string {
	if p.PID == 0 {
		return dash
	}
	comm := p.Comm
	if comm == "" {
		comm = "?"
	}
	return fmt.Sprintf("%s (pid %d, uid %d)", comm, p.PID, p.UID)
}

func runPages(runs []core.PageRun) (n uint64) {
	for _, r := range runs {
		n += r.Count
	}
	return n
}

// runText writes page runs as first–last, a few of them.
func runText(runs []core.PageRun, most int) string {
	var b strings.Builder
	for i, r := range runs {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(runs)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		if r.Count == 1 {
			fmt.Fprintf(&b, "%d", r.First)
		} else {
			fmt.Fprintf(&b, "%d–%d", r.First, uint64(r.First)+r.Count-1)
		}
	}
	return b.String()
}

// withQuery is path with the non-empty parameters of kv (name, value, ...).
func withQuery(path string, kv ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] != "" {
			q.Set(kv[i], kv[i+1])
		}
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// num writes an SVG coordinate.
func num(v float64) string {
	return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
}

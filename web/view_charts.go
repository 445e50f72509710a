package web

import (
	"fmt"
	"math"
	"strings"
	"time"

	"permafrost/core"
	"permafrost/store"
)

// Drawings are SVG whose coordinates run over a fixed box and are stretched to
// the page's width; their labels are HTML beside them, evenly spaced, so that
// they stay legible on a phone. Every drawing has a table that says the same.
const (
	boxW = 1000.0
	boxH = 100.0
)

// rect is a bar along a strip of width boxW.
type rect struct {
	X, W  float64
	Class string
	Title string
}

// lane is a labelled strip.
type lane struct {
	Label string
	Href  string
	Value string
	Rects []rect
}

// mark is one of the last freezes: its height is its window on a log scale.
type mark struct {
	Row    freezeRow
	Height float64 // 0..boxH
	Label  string  // for screen readers
}

type marksView struct {
	Marks  []mark   // oldest first
	Scale  []string // labels from the top down, a decade apart
	Rows   []freezeRow
	Held   int
	Lost   int
	Median string
}

// marksShown is how many freezes the overview draws.
const marksShown = 30

// marksOf draws freezes, given newest first.
func marksOf(freezes []store.Freeze, now time.Time) marksView {
	if len(freezes) > marksShown {
		freezes = freezes[:marksShown]
	}
	var v marksView
	low, high := math.Inf(1), math.Inf(-1)
	var windows []float64
	for _, f := range freezes {
		if w := f.WindowUS; !f.FrozenAt.IsZero() && w > 0 {
			low, high = math.Min(low, math.Log10(w)), math.Max(high, math.Log10(w))
			windows = append(windows, w)
		}
	}
	if len(windows) > 0 {
		low, high = math.Floor(low), math.Ceil(high-1e-9)
		if high <= low {
			high = low + 1
		}
		for d := high; d >= low; d-- {
			v.Scale = append(v.Scale, decadeText(d))
		}
		v.Median = microsText(median(sorted(windows)))
	}
	for i := len(freezes) - 1; i >= 0; i-- {
		v.Marks = append(v.Marks, markOf(freezes[i], now, low, high))
	}
	for _, f := range freezes {
		row := freezeRowOf(f, now)
		switch row.Outcome.Class {
		case "held":
			v.Held++
		case "lost":
			v.Lost++
		}
		v.Rows = append(v.Rows, row)
	}
	return v
}

func markOf(f store.Freeze, now time.Time, low, high float64) mark {
	m := mark{Row: freezeRowOf(f, now)}
	m.Label = fmt.Sprintf("Freeze %d, %s", f.ID, m.Row.Outcome.Word)
	if f.FrozenAt.IsZero() {
		return m
	}
	m.Label += ", window " + m.Row.Window
	m.Height = 2
	if f.WindowUS > 0 {
		m.Height = math.Max(2, boxH*(math.Log10(f.WindowUS)-low)/(high-low))
	}
	return m
}

func decadeText(d float64) string {
	us := math.Pow(10, d)
	switch {
	case us < 1:
		return fmt.Sprintf("%.0f ns", us*1e3)
	case us < 1e3:
		return fmt.Sprintf("%.0f µs", us)
	case us < 1e6:
		return fmt.Sprintf("%.0f ms", us/1e3)
	}
	return fmt.Sprintf("%.0f s", us/1e6)
}

// series is one line over time.
type series struct {
	Title string
	Now   string
	Max   string // label of the top
	Line  string // SVG path
	Area  string
	Desc  string
}

type samplesView struct {
	Series []series
	Frozen []rect   // behind the lines: when it was frozen
	Ticks  []moment // start, middle, end
	Rows   []sampleRow
}

type sampleRow struct {
	At            moment
	Inodes, Pages string
	Frozen        bool
}

// samplesOf draws dirty pages and inodes over time. The axis runs from the
// first sample to the last, so that it moves only when there is a new one.
func samplesOf(samples []store.Sample, now time.Time) samplesView {
	var v samplesView
	if len(samples) < 2 {
		return v
	}
	from, to := samples[0].At, samples[len(samples)-1].At
	whole := float64(to.Sub(from))
	if whole <= 0 {
		return v
	}
	x := func(t time.Time) float64 { return boxW * float64(t.Sub(from)) / whole }
	gap := 3 * to.Sub(from) / time.Duration(len(samples)-1)
	v.Series = []series{
		lineOf("Dirty pages", "dirty page", "dirty pages", samples, x, gap, func(s store.Sample) int64 { return s.DirtyPages }),
		lineOf("Dirty inodes", "dirty inode", "dirty inodes", samples, x, gap, func(s store.Sample) int64 { return s.DirtyInodes }),
	}
	for i, s := range samples {
		if s.Frozen && i > 0 {
			v.Frozen = append(v.Frozen, rect{X: x(samples[i-1].At), W: x(s.At) - x(samples[i-1].At), Class: "band"})
		}
	}
	v.Frozen = mergeRects(v.Frozen)
	for _, t := range []time.Time{from, from.Add(to.Sub(from) / 2), to} {
		v.Ticks = append(v.Ticks, momentOf(t, now))
	}
	for i := len(samples) - 1; i >= 0; i-- {
		s := samples[i]
		v.Rows = append(v.Rows, sampleRow{momentOf(s.At, now), count(s.DirtyInodes), count(s.DirtyPages), s.Frozen})
	}
	return v
}

// lineOf makes the path of one value; it breaks where samples are missing.
func lineOf(title, one, many string, samples []store.Sample, x func(time.Time) float64, gap time.Duration, value func(store.Sample) int64) series {
	var top int64 = 1
	for _, s := range samples {
		top = max(top, value(s))
	}
	top = int64(niceCeil(float64(top)))
	var line, area strings.Builder
	var startX float64
	for i, s := range samples {
		px, py := x(s.At), boxH-boxH*float64(value(s))/float64(top)
		broken := i == 0 || s.At.Sub(samples[i-1].At) > gap
		if broken {
			if i > 0 {
				fmt.Fprintf(&area, "L%s %sL%s %sZ", num(x(samples[i-1].At)), num(boxH), num(startX), num(boxH))
			}
			startX = px
			fmt.Fprintf(&line, "M%s %s", num(px), num(py))
			fmt.Fprintf(&area, "M%s %s", num(px), num(py))
			continue
		}
		fmt.Fprintf(&line, "L%s %s", num(px), num(py))
		fmt.Fprintf(&area, "L%s %s", num(px), num(py))
	}
	last := samples[len(samples)-1]
	fmt.Fprintf(&area, "L%s %sL%s %sZ", num(x(last.At)), num(boxH), num(startX), num(boxH))
	return series{
		Title: title, Now: count(value(last)), Max: count(top), Line: line.String(), Area: area.String(),
		Desc: fmt.Sprintf("From %s to %s UTC: at most %s, last %s.", samples[0].At.UTC().Format("15:04:05"),
			last.At.UTC().Format("15:04:05"), plural(maxOf(samples, value), one, many), plural(value(last), one, many)),
	}
}

func maxOf(samples []store.Sample, value func(store.Sample) int64) (m int64) {
	for _, s := range samples {
		m = max(m, value(s))
	}
	return m
}

// niceCeil rounds up to 1, 2 or 5 times a power of ten.
func niceCeil(v float64) float64 {
	if v <= 0 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5, 10} {
		if v <= m*p*(1+1e-9) {
			return m * p
		}
	}
	return 10 * p
}

// axis is an evenly ticked scale from 0 to Max.
type axis struct {
	Max   float64
	Ticks []string
}

// microsAxis covers max microseconds in at most five steps.
func microsAxis(max float64) axis {
	step := niceCeil(max / 5)
	n := int(math.Ceil(max/step - 1e-9))
	if n < 1 {
		n = 1
	}
	a := axis{Max: step * float64(n)}
	for i := 0; i <= n; i++ {
		a.Ticks = append(a.Ticks, tickText(step*float64(i)))
	}
	return a
}

// tickText writes a round number of microseconds without trailing zeros.
func tickText(us float64) string {
	switch {
	case us == 0:
		return "0"
	case us < 1e3:
		return num(us) + " µs"
	case us < 1e6:
		return num(us/1e3) + " ms"
	}
	return num(us/1e6) + " s"
}

var spanSteps = []time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour,
}

// spanAxis covers d (a hold's length) in at most six steps; Max is in microseconds.
func spanAxis(d time.Duration) axis {
	step := spanSteps[len(spanSteps)-1]
	for _, s := range spanSteps {
		if d <= 6*s {
			step = s
			break
		}
	}
	for d > 6*step {
		step *= 2
	}
	n := int((d + step - 1) / step)
	if n < 1 {
		n = 1
	}
	a := axis{Max: micros(step) * float64(n)}
	for i := 0; i <= n; i++ {
		a.Ticks = append(a.Ticks, spanTick(step*time.Duration(i)))
	}
	return a
}

func spanTick(d time.Duration) string {
	switch {
	case d < time.Second:
		return tickText(micros(d))
	case d < time.Minute:
		return num(d.Seconds()) + " s"
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d:%02d min", d/time.Minute, d%time.Minute/time.Second)
}

// packRuns draws ascending page runs of a file of total pages: each at least
// one unit wide, those that touch in the drawing merged into one.
func packRuns(runs []core.PageRun, total uint64, class string) []rect {
	if total == 0 {
		return nil
	}
	var out []rect
	for _, r := range runs {
		x := boxW * float64(r.First) / float64(total)
		w := boxW * float64(r.Count) / float64(total)
		if x > boxW-1 {
			x = boxW - 1
		}
		out = append(out, rect{X: x, W: math.Min(math.Max(w, 1), boxW-x), Class: class})
	}
	return mergeRects(out)
}

// mergeRects joins neighbours of one class that touch, in place.
func mergeRects(in []rect) []rect {
	var out []rect
	for _, r := range in {
		if n := len(out); n > 0 && out[n-1].Class == r.Class && r.X <= out[n-1].X+out[n-1].W+0.01 {
			out[n-1].W = math.Max(out[n-1].W, r.X+r.W-out[n-1].X)
			continue
		}
		out = append(out, r)
	}
	return out
}

package web

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/a-h/templ"

	"permafrost/core/format"
	"permafrost/core/freeze"
)

// page is one address of the dashboard, parsed. Immutable.
type page struct {
	Key   string        // path and query, canonical: one topic of the hub
	Every time.Duration // it changes with time alone while a freeze stands; else 0
	load  func(ctx context.Context, u *UI, s snapshot) (view, error)
}

// view is a page ready to be rendered.
type view struct {
	Title     string
	HideTitle bool // the page says it some other way, large
	Nav       string
	Crumb     *crumb
	Regions   []region
	Status    int // of the answer; 0: 200
}

type crumb struct{ Name, Href string }

// region is a part of a page that is rendered and sent by itself. Its body is
// <div id="r-ID">.
type region struct {
	ID, Class, Heading string
	Body               templ.Component
}

// pageError is a page that cannot be shown, and why.
type pageError struct {
	Status      int
	Title, Text string
}

func (e *pageError) Error() string { return e.Title + ": " + e.Text }

func noSuch(title, text string) error {
	return &pageError{http.StatusNotFound, title, text}
}

const listLimit = 50

// parsePage finds the page of an address. Parameters a page does not know are
// left out of its key.
func parsePage(path string, q url.Values) (page, error) {
	switch path {
	case "/ui/":
		return page{Key: path, load: loadOverview}, nil
	case "/ui/freezes":
		return freezesPage(q)
	case "/ui/inodes":
		return inodesPage(q), nil
	case "/ui/mappings":
		return page{Key: path, load: loadMappings}, nil
	}
	if rest, ok := cutPrefix(path, "/ui/freezes/"); ok {
		if id, err := strconv.ParseInt(rest, 10, 64); err == nil && id > 0 {
			return freezePage(id, q)
		}
		return page{}, noSuch("No such freeze", "Freezes are numbered: "+strconv.Quote(rest)+" is not a number.")
	}
	if rest, ok := cutPrefix(path, "/ui/inodes/"); ok {
		if ino, err := strconv.ParseUint(rest, 10, 64); err == nil && ino > 0 {
			return inodePage(format.Ino(ino)), nil
		}
		return page{}, noSuch("No such inode", "Inodes are numbered: "+strconv.Quote(rest)+" is not a number.")
	}
	return page{}, noSuch("No such page", "There is nothing at "+strconv.Quote(path)+".")
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) > len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return "", false
}

// samplesBack and samplesPoints size the chart of the overview.
const (
	samplesBack   = time.Hour
	samplesPoints = 90
)

func loadOverview(ctx context.Context, u *UI, s snapshot) (view, error) {
	hist := u.recent(ctx, s)
	recent := withPresent(hist.Freezes, s)
	frozen := s.Status.State == "frozen"
	b := bannerOf(s)
	if b.Last == nil && b.FreezeID == 0 && len(recent) > 0 { // of an earlier life of the process
		row := freezeRowOf(recent[0], s.Now)
		b.Last = &row
	}
	return view{Title: "Overview", HideTitle: true, Nav: "overview", Regions: []region{
		{ID: "alerts", Class: "alerts", Body: alertsBody(alertsOf(s, hist.Err))},
		{ID: "banner", Class: "bannerbox", Body: bannerBody(b)},
		{ID: "controls", Class: "controls", Heading: "Freeze and thaw", Body: controlsBody(controlsOf(ctx, s))},
		{ID: "cost", Class: "cost", Heading: "A freeze now would find", Body: costBody(costOf(s, recent))},
		{ID: "waiters", Class: "waiters", Heading: "Who waits now", Body: waitersBody(s.Status.Blocked, waitersOf(s), frozen)},
		{ID: "marks", Class: "marksp", Heading: fmt.Sprintf("The last %d freezes", marksShown), Body: marksBody(marksOf(recent, s.Now), s.Server)},
		{ID: "samples", Class: "samples", Heading: "Dirty over time", Body: samplesBody(samplesOf(hist.Samples, s.Now))},
		{ID: "facts", Class: "factsp", Heading: "This appliance", Body: factList(factsOf(s))},
	}}, nil
}

// controls are the verbs the overview offers.
type controls struct {
	Frozen   bool
	Holds    []holdRow
	Form     formValues
	LeaseMax time.Duration
}

// formValues refill the form after a refusal.
type formValues struct{ Lease, Name, Reason string }

func controlsOf(ctx context.Context, s snapshot) controls {
	c := controls{
		Frozen: s.Status.Level == freeze.Complete && s.Status.State == "frozen", Holds: holdRows(s),
		Form: formValues{Lease: "60s"}, LeaseMax: s.LeaseMax,
	}
	if n := noteIn(ctx); n != nil && n.Form != (formValues{}) {
		c.Form = n.Form
	}
	return c
}

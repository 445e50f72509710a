package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/a-h/templ"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/store"
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

// freezesView is the list of freezes.
type freezesView struct {
	State, Holder string
	States        []choice
	Rows          []freezeRow
	Next, First   string
}

type choice struct{ Value, Name string }

var stateChoices = []choice{
	{"", "all"}, {"thawed", "held"}, {"expired", "lost: expired"}, {"forced", "lost: forced"},
	{"interrupted", "lost: interrupted"}, {"rolled_back", "rolled back"}, {"frozen", "standing now"},
}

func freezesPage(q url.Values) (page, error) {
	state, holder, before := q.Get("state"), q.Get("holder"), q.Get("before")
	var cursor int64
	if before != "" {
		var err error
		if cursor, err = strconv.ParseInt(before, 10, 64); err != nil || cursor < 1 {
			return page{}, &pageError{http.StatusBadRequest, "No such page of the list", "before= is the number of a freeze."}
		}
	}
	known := false
	for _, c := range stateChoices {
		known = known || c.Value == state
	}
	if !known {
		return page{}, &pageError{http.StatusBadRequest, "No such outcome", strconv.Quote(state) + " is not an outcome of a freeze."}
	}
	key := withQuery("/ui/freezes", "state", state, "holder", holder, "before", before)
	return page{Key: key, load: func(ctx context.Context, u *UI, s snapshot) (view, error) {
		return loadFreezes(ctx, u, s, store.FreezeQuery{State: state, Holder: holder, Before: cursor, Limit: listLimit + 1})
	}}, nil
}

func loadFreezes(ctx context.Context, u *UI, s snapshot, q store.FreezeQuery) (view, error) {
	v := freezesView{State: q.State, Holder: q.Holder, States: stateChoices}
	rows, err := u.ledger().Freezes(ctx, q)
	if q.Before == 0 && q.State == "" && q.Holder == "" {
		rows = withPresent(rows, s)
	}
	if len(rows) > listLimit {
		rows = rows[:listLimit]
		v.Next = withQuery("/ui/freezes", "state", q.State, "holder", q.Holder, "before", fmt.Sprint(rows[listLimit-1].ID))
	}
	for _, f := range rows {
		v.Rows = append(v.Rows, freezeRowOf(f, s.Now))
	}
	if q.Before > 0 {
		v.First = withQuery("/ui/freezes", "state", q.State, "holder", q.Holder)
	}
	return view{Title: "Freezes", Nav: "freezes", Regions: []region{
		{ID: "alerts", Class: "alerts", Body: alertsBody(ledgerAlert(err))},
		{ID: "filter", Class: "filterbox", Body: freezesFilter(v)},
		{ID: "freezes", Class: "panel full", Body: freezesBody(v, s.Server)},
	}}, nil
}

// ledgerAlert says that history is missing from a page.
func ledgerAlert(err error) []alert {
	if err == nil {
		return nil
	}
	return []alert{{"warn", "The ledger cannot be read", "History is missing from this page: " + err.Error() + ".", ""}}
}

// foundLimit and waitedLimit bound what one freeze's page reads of the ledger.
const (
	foundLimit  = 25
	waitedLimit = 200
)

func freezePage(id int64, q url.Values) (page, error) {
	var after int64
	if a := q.Get("after"); a != "" {
		var err error
		if after, err = strconv.ParseInt(a, 10, 64); err != nil || after < 0 {
			return page{}, &pageError{http.StatusBadRequest, "No such page of the list", "after= is the number of a row."}
		}
	}
	key := withQuery(fmt.Sprintf("/ui/freezes/%d", id), "after", q.Get("after"))
	return page{Key: key, Every: time.Second, load: func(ctx context.Context, u *UI, s snapshot) (view, error) {
		return loadFreeze(ctx, u, s, id, after)
	}}, nil
}

func loadFreeze(ctx context.Context, u *UI, s snapshot, id, after int64) (view, error) {
	d := freezeData{After: after}
	l := u.ledger()
	f, ledgerErr := l.Freeze(ctx, id)
	if ledgerErr == nil || errors.Is(ledgerErr, store.ErrNotFound) {
		var rows []store.Freeze
		if ledgerErr == nil {
			rows = append(rows, f)
		}
		ledgerErr = nil
		f = store.Freeze{}
		for _, row := range withPresent(rows, s) {
			if row.ID == id {
				f = row
			}
		}
		if f.ID == 0 {
			return view{}, noSuch("No such freeze", fmt.Sprintf("The ledger has no freeze %d; it may be older than what the ledger keeps.", id))
		}
	} else {
		for _, row := range withPresent(nil, s) {
			if row.ID == id {
				f = row
			}
		}
		if f.ID == 0 {
			return view{}, &pageError{http.StatusServiceUnavailable, "The ledger cannot be read", ledgerErr.Error()}
		}
	}
	d.Freeze = f
	note := func(err error) {
		if ledgerErr == nil && !errors.Is(err, store.ErrNotFound) {
			ledgerErr = err
		}
	}
	var err error
	if d.Renewals, err = l.FreezeRenewals(ctx, id); err != nil {
		note(err)
	}
	if d.Waited, err = l.FreezeBlocked(ctx, id, 0, waitedLimit); err != nil {
		note(err)
	}
	if d.Found, err = l.FreezeInodes(ctx, id, after, foundLimit+1); err != nil {
		note(err)
	}
	if len(d.Found) > foundLimit {
		d.Found, d.More = d.Found[:foundLimit], true
	}
	v := freezeViewOf(d, s)
	return view{Title: fmt.Sprintf("Freeze %d", id), Nav: "freezes", Crumb: &crumb{"Freezes", "/ui/freezes"}, Regions: []region{
		{ID: "alerts", Class: "alerts", Body: alertsBody(ledgerAlert(ledgerErr))},
		{ID: "head", Class: "panel full", Body: freezeHead(v)},
		{ID: "reach", Class: "full", Heading: "Reaching it", Body: reachBody(v)},
		{ID: "hold", Class: "full", Heading: "Holding it", Body: holdBody(v)},
		{ID: "waits", Class: "full", Heading: "Who was held", Body: waitsBody(v)},
		{ID: "found", Class: "full", Heading: "Dirty inodes found", Body: foundBody(v)},
	}}, nil
}

func inodesPage(q url.Values) page {
	yes := true
	f := core.InodeFilter{PathPrefix: q.Get("path_prefix"), Cursor: q.Get("cursor"), Limit: listLimit}
	v := inodesView{Prefix: f.PathPrefix}
	var dirty, mapped string
	if q.Get("dirty") == "true" {
		f.Dirty, v.Dirty, dirty = &yes, true, "true"
	}
	if q.Get("mapped") == "true" {
		f.Mapped, v.Mapped, mapped = &yes, true, "true"
	}
	v.Filtered = v.Dirty || v.Mapped || v.Prefix != "" || f.Cursor != ""
	if f.Cursor != "" {
		v.First = withQuery("/ui/inodes", "path_prefix", f.PathPrefix, "dirty", dirty, "mapped", mapped)
	}
	key := withQuery("/ui/inodes", "path_prefix", f.PathPrefix, "dirty", dirty, "mapped", mapped, "cursor", f.Cursor)
	return page{Key: key, load: func(ctx context.Context, u *UI, s snapshot) (view, error) {
		v := v
		items, next, err := u.o.FS.Inodes(ctx, f)
		if err != nil {
			return view{}, listError(err)
		}
		for _, i := range items {
			v.Rows = append(v.Rows, inodeRowOf(i, s))
		}
		if next != "" {
			v.Next = withQuery("/ui/inodes", "path_prefix", f.PathPrefix, "dirty", dirty, "mapped", mapped, "cursor", next)
		}
		v.Total = plural(s.Status.InodesTotal, "inode", "inodes")
		v.DirtyTotal = plural(s.Status.InodesDirty, "dirty inode", "dirty inodes") + ", " +
			plural(s.Status.DirtyPages, "dirty page", "dirty pages")
		return view{Title: "Inodes", Nav: "inodes", Regions: []region{
			{ID: "filter", Class: "filterbox", Body: inodesFilter(v)},
			{ID: "inodes", Class: "panel full", Body: inodesBody(v, s.Server)},
		}}, nil
	}}
}

func listError(err error) error {
	if errors.Is(err, core.ErrInvalid) {
		return &pageError{http.StatusBadRequest, "No such page of the list", err.Error() + ". Start from the first page."}
	}
	return err
}

const historyLimit = 100

func inodePage(ino format.Ino) page {
	key := inodeHref(uint64(ino))
	return page{Key: key, load: func(ctx context.Context, u *UI, s snapshot) (view, error) {
		info, extents, maps, err := u.o.FS.InodeDetail(ctx, ino)
		if errors.Is(err, core.ErrNotFound) || errors.Is(err, core.ErrStale) {
			return view{}, noSuch("No such inode", fmt.Sprintf("Inode %d does not exist (any more): numbers are never used twice.", ino))
		}
		if err != nil {
			return view{}, err
		}
		hist, ledgerErr := u.ledger().InodeHistory(ctx, int64(ino), 0, historyLimit)
		v := inodeViewOf(info, extents, maps, hist, s)
		return view{Title: v.Row.Path, Nav: "inodes", Crumb: &crumb{"Inodes", "/ui/inodes"}, Regions: []region{
			{ID: "alerts", Class: "alerts", Body: alertsBody(ledgerAlert(ledgerErr))},
			{ID: "attributes", Class: "full", Heading: "Attributes", Body: inodeFacts(v)},
			{ID: "pages", Class: "full", Heading: "Pages", Body: inodeStrips(v)},
			{ID: "maps", Class: "full", Heading: "Mappings", Body: inodeMappings(v)},
			{ID: "history", Class: "full", Heading: "History", Body: inodeHistory(v)},
		}}, nil
	}}
}

// mappingsView is the list of mappings.
type mappingsView struct {
	Rows                           []mappingRow
	Summary, Attach, Hint, Command string
}

// mappingsListed bounds the list; what it leaves out is said.
const mappingsListed = 500

func loadMappings(ctx context.Context, u *UI, s snapshot) (view, error) {
	v := mappingsViewOf(u.o.FS.Mappings(), s)
	return view{Title: "Mappings", Nav: "mappings", Regions: []region{
		{ID: "mappings", Class: "panel full", Body: mappingsBody(v)},
	}}, nil
}

func mappingsViewOf(maps []core.MappingInfo, s snapshot) mappingsView {
	v := mappingsView{
		Hint:    "A mapping is a program's direct view of a file's own pages. This command makes some, stores through them and shows that a freeze holds them:",
		Command: "permafrost prove",
		Summary: plural(len(maps), "mapping", "mappings") + ": a freeze write-protects the writable ones",
	}
	if len(maps) > mappingsListed {
		v.Summary += fmt.Sprintf("; the first %d are listed", mappingsListed)
		maps = maps[:mappingsListed]
	}
	for _, m := range maps {
		v.Rows = append(v.Rows, mappingRowOf(m, s))
	}
	switch {
	case s.Attach == nil:
		v.Attach = "This appliance offers no attach socket."
	case s.Attach.Refused != "":
		v.Attach = "Attach is refused: " + s.Attach.Refused
		v.Hint, v.Command = "Programs cannot map this image: "+s.Attach.Refused, ""
	default:
		v.Attach = plural(s.Attach.Clients, "program is", "programs are") + " attached at " + s.Attach.Socket
	}
	return v
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

package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"permafrost/store"
)

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

// foundLimit, waitedLimit and readsLimit bound what one freeze's page reads of the ledger.
const (
	foundLimit  = 25
	waitedLimit = 200
	readsLimit  = 500
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
	l := u.ledger()
	f, ledgerErr, err := findFreeze(ctx, l, s, id)
	if err != nil {
		return view{}, err
	}
	d := freezeData{Freeze: f, After: after}
	note := func(err error) {
		if ledgerErr == nil && err != nil && !errors.Is(err, store.ErrNotFound) {
			ledgerErr = err
		}
	}
	d.Renewals, err = l.FreezeRenewals(ctx, id)
	note(err)
	if until := endOr(f.EndedAt, s.Now); !f.FrozenAt.IsZero() && until.After(f.FrozenAt) {
		d.Reads, err = l.ImageReads(ctx, id, f.FrozenAt, until, readsLimit)
		note(err)
	}
	d.Waited, err = l.FreezeBlocked(ctx, id, 0, waitedLimit)
	note(err)
	d.Found, err = l.FreezeInodes(ctx, id, after, foundLimit+1)
	note(err)
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

// findFreeze looks a freeze up in the ledger and in core, which knows the
// newest before the ledger does, or in spite of it: ledgerErr is why the page
// may lack history, err why there is no page.
func findFreeze(ctx context.Context, l Ledger, s snapshot, id int64) (f store.Freeze, ledgerErr, err error) {
	var rows []store.Freeze
	row, ledgerErr := l.Freeze(ctx, id)
	switch {
	case ledgerErr == nil:
		rows = append(rows, row)
	case errors.Is(ledgerErr, store.ErrNotFound):
		ledgerErr = nil
	}
	for _, row := range withPresent(rows, s) {
		if row.ID == id {
			return row, ledgerErr, nil
		}
	}
	if ledgerErr != nil {
		return f, ledgerErr, &pageError{http.StatusServiceUnavailable, "The ledger cannot be read", ledgerErr.Error()}
	}
	return f, nil, noSuch("No such freeze", fmt.Sprintf("The ledger has no freeze %d; it may be older than what the ledger keeps.", id))
}

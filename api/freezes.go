package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"permafrost/core/freeze"
	"permafrost/store"
)

// freezesParams are the parameters of GET /freezes.
type freezesParams struct {
	State  string     `param:"state" enum:"freezing,frozen,thawed,expired,forced,interrupted,rolled_back" doc:"Only freezes in this state."`
	Holder string     `param:"holder" doc:"Only freezes this holder had a hold on."`
	Since  *time.Time `param:"since" doc:"Only freezes requested then or later."`
	Limit  int        `param:"limit" default:"100" doc:"Freezes in one answer, at most 1000."`
	Cursor *uint64    `param:"cursor" doc:"The next_cursor of the answer before."`
}

// freezePageParams are the parameters of the lists below one freeze.
type freezePageParams struct {
	ID     uint64  `path:"id" doc:"Of the freeze." example:"12"`
	Limit  int     `param:"limit" default:"100" doc:"Items in one answer, at most 1000."`
	Cursor *uint64 `param:"cursor" doc:"The next_cursor of the answer before."`
}

// freezeID is the parameter of GET /freezes/{id}.
type freezeID struct {
	ID uint64 `path:"id" doc:"Of the freeze." example:"12"`
}

// page is one page of a list.
type page[T any] struct {
	Items      []T     `json:"items" doc:"The items."`
	NextCursor *string `json:"next_cursor" doc:"Continues the list; null at its end."`
}

// newPage makes a page of up to limit rows. One row more than that was asked
// for, and says whether there is a next page.
func newPage[R, T any](rows []R, limit int, view func(*R) T, cursor func(*R) int64) page[T] {
	more := len(rows) > limit
	rows = rows[:min(limit, len(rows))]
	p := page[T]{Items: make([]T, 0, len(rows))}
	for i := range rows {
		p.Items = append(p.Items, view(&rows[i]))
	}
	if more {
		next := strconv.FormatInt(cursor(&rows[limit-1]), 10)
		p.NextCursor = &next
	}
	return p
}

func (s *Server) freezeRoutes() {
	route(s, operation{
		method: http.MethodGet, pattern: "/freezes", id: "list-freezes", tag: tagFreeze,
		summary: "Freezes, newest first", description: "What was frozen, by whom, for how long, and how it ended.",
		answers:  []answer{{status: 200, describe: "One page.", body: page[FreezeView]{}}},
		problems: []*kind{kindLedger},
	}, s.listFreezes)
	route(s, operation{
		method: http.MethodGet, pattern: "/freezes/{id}", id: "get-freeze", tag: tagFreeze,
		summary: "One freeze", description: "With its holds and the phases on the way to complete.",
		answers:  []answer{{status: 200, describe: "The freeze.", body: FreezeView{}}},
		problems: []*kind{kindNoSuchFreeze, kindLedger},
	}, s.getFreeze)
	route(s, operation{
		method: http.MethodGet, pattern: "/freezes/{id}/inodes", id: "list-freeze-inodes", tag: tagFreeze,
		summary: "Dirty inodes a freeze found", description: "In the order they were found.",
		answers:  []answer{{status: 200, describe: "One page.", body: page[foundView]{}}},
		problems: []*kind{kindNoSuchFreeze, kindLedger},
	}, s.listFreezeInodes)
	route(s, operation{
		method: http.MethodGet, pattern: "/freezes/{id}/blocked", id: "list-freeze-blocked", tag: tagFreeze,
		summary: "Callers a freeze held", description: "In the order they were let go. Who is held now: GET /blocked.",
		answers:  []answer{{status: 200, describe: "One page.", body: page[blockedView]{}}},
		problems: []*kind{kindNoSuchFreeze, kindLedger},
	}, s.listFreezeBlocked)
}

// live are the freezes that the machine itself knows, by id: they are newer than
// their rows.
func (s *Server) live() map[uint64]*freeze.Record {
	st := s.fs().Status()
	known := map[uint64]*freeze.Record{}
	for _, r := range []*freeze.Record{st.LastFreeze, st.Freeze} {
		if r != nil {
			known[r.ID] = r
		}
	}
	return known
}

func (s *Server) listFreezes(w http.ResponseWriter, r *http.Request, p *freezesParams) error {
	limit, err := pageLimit(p.Limit)
	if err != nil {
		return err
	}
	q := store.FreezeQuery{State: p.State, Holder: p.Holder, Limit: limit + 1}
	if p.Since != nil {
		q.Since = *p.Since
	}
	if p.Cursor != nil {
		q.Before = int64(*p.Cursor)
	}
	var rows []store.Freeze
	if s.opt.Ledger != nil {
		if rows, err = s.opt.Ledger.Freezes(r.Context(), q); err != nil {
			return ledgerProblem(err)
		}
	}
	items := s.overlay(rows, q)
	v := page[*FreezeView]{Items: items[:min(limit, len(items))]}
	var last uint64
	switch {
	case len(items) > limit:
		last = items[limit-1].ID
	case len(rows) > limit: // some of them are not what was asked for any more
		last = uint64(rows[limit].ID)
	}
	if last != 0 {
		next := strconv.FormatUint(last, 10)
		v.NextCursor = &next
	}
	return writeJSON(w, r, http.StatusOK, v)
}

// overlay shows rows with what the machine knows better, newest first.
func (s *Server) overlay(rows []store.Freeze, q store.FreezeQuery) []*FreezeView {
	known := s.live()
	items := make([]*FreezeView, 0, len(rows)+len(known))
	for i := range rows {
		if _, better := known[uint64(rows[i].ID)]; !better {
			items = append(items, viewRow(&rows[i]))
		}
	}
	for _, rec := range known {
		if selects(&q, rec) {
			items = append(items, viewRecord(rec))
		}
	}
	slices.SortFunc(items, func(a, b *FreezeView) int { return int(int64(b.ID) - int64(a.ID)) })
	return items
}

// selects says whether a freeze of the machine is one that was asked for.
func selects(q *store.FreezeQuery, rec *freeze.Record) bool {
	switch {
	case q.State != "" && q.State != string(rec.State),
		!q.Since.IsZero() && rec.RequestedAt.Before(q.Since),
		q.Before != 0 && int64(rec.ID) >= q.Before:
		return false
	}
	return q.Holder == "" || slices.ContainsFunc(rec.Holds, func(h freeze.Hold) bool { return h.Holder == q.Holder })
}

// findFreeze is one freeze, of the machine or of the ledger.
func (s *Server) findFreeze(ctx context.Context, id uint64) (*FreezeView, error) {
	if rec := s.live()[id]; rec != nil {
		return viewRecord(rec), nil
	}
	if s.opt.Ledger == nil {
		return nil, noSuchFreeze(id)
	}
	row, err := s.opt.Ledger.Freeze(ctx, int64(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, noSuchFreeze(id)
	}
	if err != nil {
		return nil, ledgerProblem(err)
	}
	return viewRow(&row), nil
}

func noSuchFreeze(id uint64) error {
	return problem(kindNoSuchFreeze, "there is no freeze %d, or it is older than the ledger keeps; GET /freezes lists them", id)
}

func (s *Server) getFreeze(w http.ResponseWriter, r *http.Request, p *freezeID) error {
	v, err := s.findFreeze(r.Context(), p.ID)
	if err != nil {
		return err
	}
	return writeJSON(w, r, http.StatusOK, v)
}

// below prepares a list below one freeze.
func (s *Server) below(r *http.Request, p *freezePageParams) (l Ledger, limit int, after int64, err error) {
	if limit, err = pageLimit(p.Limit); err != nil {
		return nil, 0, 0, err
	}
	if _, err = s.findFreeze(r.Context(), p.ID); err != nil {
		return nil, 0, 0, err
	}
	if p.Cursor != nil {
		after = int64(*p.Cursor)
	}
	l, err = s.ledger()
	return l, limit, after, err
}

func (s *Server) listFreezeInodes(w http.ResponseWriter, r *http.Request, p *freezePageParams) error {
	l, limit, after, err := s.below(r, p)
	if err != nil {
		return err
	}
	rows, err := l.FreezeInodes(r.Context(), int64(p.ID), after, limit+1)
	if err != nil {
		return ledgerProblem(err)
	}
	return writeJSON(w, r, http.StatusOK, newPage(rows, limit, viewFound, func(f *store.FoundInode) int64 { return f.ID }))
}

func (s *Server) listFreezeBlocked(w http.ResponseWriter, r *http.Request, p *freezePageParams) error {
	l, limit, after, err := s.below(r, p)
	if err != nil {
		return err
	}
	rows, err := l.FreezeBlocked(r.Context(), int64(p.ID), after, limit+1)
	if err != nil {
		return ledgerProblem(err)
	}
	return writeJSON(w, r, http.StatusOK, newPage(rows, limit, viewBlockedRow, func(b *store.Blocked) int64 { return b.ID }))
}

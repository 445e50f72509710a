package api

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"

	"permafrost/core"
	"permafrost/core/freeze"
)

// listParams page a list that is kept in memory.
type listParams struct {
	Limit  int     `param:"limit" default:"100" doc:"Items in one answer, at most 1000."`
	Cursor *uint64 `param:"cursor" doc:"The next_cursor of the answer before."`
}

// mappingsParams are the parameters of GET /mappings.
type mappingsParams struct {
	WayIn  string  `param:"way_in" enum:"attach,mount" doc:"Only mappings that came in so."`
	Limit  int     `param:"limit" default:"100" doc:"Items in one answer, at most 1000."`
	Cursor *uint64 `param:"cursor" doc:"The next_cursor of the answer before."`
}

// mappingView is a program's shared mapping of part of a file, or a file that may be
// mapped through the mount.
type mappingView struct {
	ID                 uint64      `json:"id" doc:"Of the mapping."`
	WayIn              string      `json:"way_in" enum:"attach,mount" doc:"How it came in. attach: it is mapped. mount: the file is open for reading and writing, and may be mapped: the kernel does not tell whether it is, nor which pages."`
	PID                int         `json:"pid" doc:"Process."`
	Command            string      `json:"command" doc:"Its name when it connected, or opened the file."`
	UID                uint32      `json:"uid" doc:"Its user."`
	Ino                uint64      `json:"ino" doc:"Inode."`
	Path               string      `json:"path" doc:"Of the inode."`
	Href               string      `json:"href" doc:"Where its bytes are served."`
	Writable           bool        `json:"writable" doc:"The program may store to it."`
	Ranges             []pageRange `json:"ranges" doc:"Pages of the file that are mapped; empty for way_in mount."`
	WritablePagesTotal uint64      `json:"writable_pages_total" doc:"Pages a store reaches without a fault, at most; 0 for way_in mount."`
	DirtyPagesTotal    uint64      `json:"dirty_pages_total" doc:"Pages stored to and not yet flushed; 0 for way_in mount."`
	Since              stamp       `json:"since" doc:"When it was mapped, or opened."`
}

func (s *Server) mappingRoutes() {
	route(s, operation{
		method: http.MethodGet, pattern: "/mappings", id: "list-mappings", tag: tagInspect,
		summary: "Programs' mappings", description: "Who maps which part of which file, and may store to how much of it; and who has files open through the mount so that they may be mapped.",
		answers: []answer{{status: 200, describe: "One page.", body: page[mappingView]{}}},
	}, s.listMappings)
	route(s, operation{
		method: http.MethodGet, pattern: "/blocked", id: "list-blocked", tag: tagInspect,
		summary: "Who is held now", description: "Oldest first: what each wants to do, to which inode, since when.",
		answers: []answer{{status: 200, describe: "One page.", body: page[blockedView]{}}},
	}, s.listBlocked)
}

func viewMapping(m *core.MappingInfo) mappingView {
	return mappingView{ID: m.ID, WayIn: m.WayIn, PID: m.Process.PID, Command: m.Process.Comm, UID: m.Process.UID,
		Ino: uint64(m.Ino), Path: utf8Path(m.Path), Href: fileHref(m.Path), Writable: m.Writable, Ranges: viewRuns(m.Ranges),
		WritablePagesTotal: m.WritablePages, DirtyPagesTotal: m.DirtyPages, Since: stamp(m.Since)}
}

func viewRuns(runs []core.PageRun) []pageRange {
	v := make([]pageRange, 0, len(runs))
	for _, r := range runs {
		v = append(v, pageRange{First: uint64(r.First), Count: r.Count})
	}
	return v
}

func (s *Server) listMappings(w http.ResponseWriter, r *http.Request, p *mappingsParams) error {
	all := s.fs().Mappings()
	if s.opt.Mount != nil {
		all = append(all, s.opt.Mount.Mappings(0)...)
	}
	if p.WayIn != "" {
		all = slices.DeleteFunc(all, func(m core.MappingInfo) bool { return m.WayIn != p.WayIn })
	}
	slices.SortFunc(all, func(a, b core.MappingInfo) int { return cmp.Compare(a.ID, b.ID) })
	v, err := slicePage(all, &listParams{Limit: p.Limit, Cursor: p.Cursor}, func(m *core.MappingInfo) uint64 { return m.ID }, viewMapping)
	if err != nil {
		return err
	}
	return writeJSON(w, r, http.StatusOK, v)
}

func (s *Server) listBlocked(w http.ResponseWriter, r *http.Request, p *listParams) error {
	now := s.now()
	v, err := slicePage(s.fs().Blocked(), p, func(b *freeze.Blocked) uint64 { return b.ID },
		func(b *freeze.Blocked) blockedView { return viewBlocked(b, now) })
	if err != nil {
		return err
	}
	return writeJSON(w, r, http.StatusOK, v)
}

// slicePage cuts one page out of items in ascending order of id.
func slicePage[R, T any](all []R, p *listParams, id func(*R) uint64, view func(*R) T) (page[T], error) {
	limit, err := pageLimit(p.Limit)
	if err != nil {
		return page[T]{}, err
	}
	if p.Cursor != nil {
		from := slices.IndexFunc(all, func(r R) bool { return id(&r) > *p.Cursor })
		if from < 0 {
			from = len(all)
		}
		all = all[from:]
	}
	v := page[T]{Items: make([]T, 0, min(limit, len(all)))}
	for i := range all[:min(limit, len(all))] {
		v.Items = append(v.Items, view(&all[i]))
	}
	if len(all) > limit {
		next := strconv.FormatUint(id(&all[limit-1]), 10)
		v.NextCursor = &next
	}
	return v, nil
}

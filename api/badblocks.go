package api

import (
	"net/http"
	"strconv"

	"permafrost/core"
	"permafrost/core/format"
)

// badBlockView is a block that is never allocated again.
type badBlockView struct {
	Block  uint64 `json:"block" doc:"Number of the block; blocks have 4096 bytes."`
	State  string `json:"state" enum:"in_file,retired,pending" doc:"in_file: a file has it, and reads of that page fail; retired: nobody has it; pending: met, and recorded in the image after the thaw."`
	Offset uint64 `json:"offset_bytes" doc:"Where the block begins in the pmem file."`
	Ino    uint64 `json:"ino" doc:"Inode that it belongs to; 0: none."`
	Page   uint64 `json:"page" doc:"Which page of that file it is."`
	Path   string `json:"path" doc:"Of the file; empty if it has none."`
	Href   string `json:"href" doc:"Where the file's bytes are served."`
}

// damageView is a block of metadata that could not be read.
type damageView struct {
	Block  uint64 `json:"block" doc:"Number of the block."`
	Detail string `json:"detail" doc:"What is wrong with it."`
	Since  stamp  `json:"since" doc:"When it was met first."`
}

// scrubView says how far the scrub is.
type scrubView struct {
	State        string       `json:"state" enum:"idle,running,held" doc:"held: a freeze holds it, and it goes on after the thaw."`
	StartedAt    stamp        `json:"started_at" doc:"Begin of the running pass, or of the last one."`
	EndedAt      stamp        `json:"ended_at" doc:"End of the last pass that came to its end."`
	NextAt       stamp        `json:"next_at" doc:"When the next periodic pass begins; null: none does."`
	Nodes        uint64       `json:"nodes" doc:"Metadata nodes read by the running or the last pass."`
	NodesTotal   uint64       `json:"nodes_total" doc:"About how many it has to read."`
	DamagedTotal uint64       `json:"damaged_total" doc:"Damaged blocks that it met."`
	PassesTotal  uint64       `json:"passes_total" doc:"Passes that came to their end since the start."`
	RateBytes    int64        `json:"rate_bytes" doc:"What it reads in a second, at most."`
	Damages      []damageView `json:"damages" doc:"Damaged blocks of metadata met since the start, by the scrub or by anybody; at most 1000."`
}

// scrubStatusView is the part of it that GET /status shows.
type scrubStatusView struct {
	State      string `json:"state" enum:"idle,running,held" doc:"GET /scrub tells more."`
	Nodes      uint64 `json:"nodes" doc:"Metadata nodes read by the running or the last pass."`
	NodesTotal uint64 `json:"nodes_total" doc:"About how many it has to read."`
	EndedAt    stamp  `json:"ended_at" doc:"End of the last pass that came to its end."`
}

func (s *Server) damageRoutes() {
	route(s, operation{
		method: http.MethodGet, pattern: "/badblocks", id: "list-bad-blocks", tag: tagInspect,
		summary:     "Blocks that are bad",
		description: "By number. They are never allocated again. One that a file has is read with an error until the file is written anew or deleted.",
		answers:     []answer{{status: 200, describe: "One page.", body: page[badBlockView]{}}},
		problems:    []*kind{kindIOError},
	}, s.listBadBlocks)
	route(s, operation{
		method: http.MethodGet, pattern: "/scrub", id: "get-scrub", tag: tagInspect,
		summary: "How far the scrub is", description: "The scrub reads all metadata from the medium and verifies it. Damage makes the file system read-only.",
		answers: []answer{{status: 200, describe: "Progress and findings.", body: scrubView{}}},
	}, s.getScrub)
	route(s, operation{
		method: http.MethodPost, pattern: "/scrub", id: "scrub", tag: tagInspect, verb: true,
		summary: "Begin a scrub", description: "Begins a pass, unless one is running, and does not wait for its end: GET /scrub tells. While frozen it waits for the thaw.",
		answers: []answer{{status: 200, describe: "It runs.", body: scrubView{}}},
	}, func(w http.ResponseWriter, r *http.Request, _ *noParams) error {
		return s.answerScrub(w, r, s.fs().Scrub())
	})
}

func (s *Server) getScrub(w http.ResponseWriter, r *http.Request, _ *noParams) error {
	return s.answerScrub(w, r, s.fs().ScrubStatus())
}

func (s *Server) answerScrub(w http.ResponseWriter, r *http.Request, st core.ScrubStatus) error {
	list, _ := s.fs().Damages()
	v := scrubView{State: st.State, StartedAt: stamp(st.StartedAt), EndedAt: stamp(st.EndedAt), NextAt: stamp(st.NextAt), Nodes: st.Nodes,
		NodesTotal: st.Of, DamagedTotal: st.Found, PassesTotal: st.Passes, RateBytes: st.RateBytes, Damages: make([]damageView, 0, len(list))}
	for _, d := range list {
		v.Damages = append(v.Damages, damageView{Block: uint64(d.Block), Detail: d.What, Since: stamp(d.Since)})
	}
	return writeJSON(w, r, http.StatusOK, v)
}

func (s *Server) listBadBlocks(w http.ResponseWriter, r *http.Request, p *listParams) error {
	limit, err := pageLimit(p.Limit)
	if err != nil {
		return err
	}
	from := format.Block(0)
	if p.Cursor != nil {
		from = format.Block(*p.Cursor) + 1
	}
	list, err := s.fs().BadBlocks(r.Context(), from, limit+1)
	if err != nil {
		return err
	}
	v := page[badBlockView]{Items: make([]badBlockView, 0, len(list))}
	if len(list) > limit {
		list = list[:limit]
		next := strconv.FormatUint(uint64(list[limit-1].Block), 10)
		v.NextCursor = &next
	}
	for i := range list {
		v.Items = append(v.Items, viewBadBlock(&list[i]))
	}
	return writeJSON(w, r, http.StatusOK, v)
}

func viewBadBlock(b *core.BadBlock) badBlockView {
	v := badBlockView{Block: uint64(b.Block), State: "retired", Offset: uint64(b.Block) * format.BlockSize, Ino: uint64(b.Ino), Page: uint64(b.Page)}
	switch {
	case b.Pending:
		v.State = "pending"
	case b.Ino != 0:
		v.State = "in_file"
	}
	if b.Path != "" {
		v.Path, v.Href = utf8Path(b.Path), fileHref(b.Path)
	}
	return v
}

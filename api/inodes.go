package api

import (
	"errors"
	"net/http"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/store"
)

// inodesParams are the parameters of GET /inodes.
type inodesParams struct {
	Dirty      *bool  `param:"dirty" doc:"Only inodes with dirty pages, or only those without."`
	Mapped     *bool  `param:"mapped" doc:"Only inodes that programs map, or only others."`
	PathPrefix string `param:"path_prefix" doc:"Only inodes with a path that begins so." example:"/db/"`
	Limit      int    `param:"limit" default:"100" doc:"Inodes in one answer, at most 1000."`
	Cursor     string `param:"cursor" doc:"The next_cursor of the answer before."`
}

// inodeNumber is the parameter of GET /inodes/{ino}.
type inodeNumber struct {
	Ino uint64 `path:"ino" doc:"Inode number." example:"1"`
}

// inodePageParams are the parameters of GET /inodes/{ino}/history.
type inodePageParams struct {
	Ino    uint64  `path:"ino" doc:"Inode number." example:"1"`
	Limit  int     `param:"limit" default:"100" doc:"Items in one answer, at most 1000."`
	Cursor *uint64 `param:"cursor" doc:"The next_cursor of the answer before."`
}

// InodeView is an inode in a list.
type InodeView struct {
	Ino             uint64   `json:"ino" doc:"Number, never used twice."`
	Type            string   `json:"type" enum:"file,directory,symlink,fifo,char_device,block_device,socket,unknown" doc:"What it is."`
	Mode            string   `json:"mode" example:"0644" doc:"Permission bits, octal."`
	UID             uint32   `json:"uid" doc:"Owner."`
	GID             uint32   `json:"gid" doc:"Group."`
	Links           uint32   `json:"links" doc:"Names it has."`
	SizeBytes       int64    `json:"size_bytes" doc:"Size."`
	AllocatedBytes  uint64   `json:"allocated_bytes" doc:"Bytes in blocks of its own."`
	Atime           stamp    `json:"atime" doc:"Last read."`
	Mtime           stamp    `json:"mtime" doc:"Last change of content."`
	Ctime           stamp    `json:"ctime" doc:"Last change of content or attributes."`
	Btime           stamp    `json:"btime" doc:"When it was made."`
	Generation      uint64   `json:"generation" doc:"The group that last changed it."`
	Paths           []string `json:"paths" doc:"Its names, as far as they are known cheaply."`
	Hrefs           []string `json:"hrefs" doc:"Where its bytes are served, percent-encoded."`
	Dirty           bool     `json:"dirty" doc:"It has dirty pages."`
	DirtyPagesTotal uint64   `json:"dirty_pages_total" doc:"How many."`
	DirtySince      stamp    `json:"dirty_since" doc:"First store of the dirty period."`
	MappingsTotal   int      `json:"mappings_total" doc:"Shared mappings of attached programs. Those through the mount are not known."`
}

// inodeDetail is one inode.
type inodeDetail struct {
	InodeView
	DirtyRanges  []pageRange   `json:"dirty_ranges" doc:"Dirty pages, as runs; a bounded number."`
	Extents      []extentView  `json:"extents" doc:"Where its pages lie; at most 1000."`
	ExtentsTotal int           `json:"extents_total" doc:"How many extents were found."`
	Mappings     []mappingView `json:"mappings" doc:"Programs that map it, and those that have it open through the mount so that they may: see GET /mappings."`
}

// extentView maps pages of a file to blocks of the image.
type extentView struct {
	Page  uint64 `json:"page" doc:"First page, in pages of 4096 bytes."`
	Block uint64 `json:"block" doc:"First block, in blocks of 4096 bytes."`
	Count uint64 `json:"count" doc:"How many."`
}

func (s *Server) inodeRoutes() {
	route(s, operation{
		method: http.MethodGet, pattern: "/inodes", id: "list-inodes", tag: tagInspect,
		summary: "Inodes, dirty ones first", description: "What a freeze now would have to flush stands at the top.",
		answers: []answer{{status: 200, describe: "One page.", body: page[InodeView]{}}},
	}, s.listInodes)
	route(s, operation{
		method: http.MethodGet, pattern: "/inodes/{ino}", id: "get-inode", tag: tagInspect,
		summary: "One inode", description: "Attributes, paths, extents, dirty pages and mappings.",
		answers:  []answer{{status: 200, describe: "The inode.", body: inodeDetail{}}},
		problems: []*kind{kindNoSuchInode, kindIOError},
	}, s.getInode)
	route(s, operation{
		method: http.MethodGet, pattern: "/inodes/{ino}/history", id: "inode-history", tag: tagInspect,
		summary: "When an inode was found dirty", description: "By freezes and large syncs, newest first.",
		answers:  []answer{{status: 200, describe: "One page.", body: page[foundView]{}}},
		problems: []*kind{kindNoSuchInode, kindLedger},
	}, s.inodeHistory)
}

func viewInode(i *core.InodeInfo) InodeView {
	v := InodeView{
		Ino: uint64(i.Ino), Type: typeName(i.Mode), Mode: octal(i.Mode), UID: i.UID, GID: i.GID, Links: i.Nlink,
		SizeBytes: i.Size, AllocatedBytes: i.Blocks * format.BlockSize,
		Atime: stamp(i.Atime), Mtime: stamp(i.Mtime), Ctime: stamp(i.Ctime), Btime: stamp(i.Btime),
		Generation: uint64(i.Attr.Generation), Paths: []string{}, Hrefs: []string{},
		Dirty: i.Dirty, DirtyPagesTotal: i.DirtyPages, DirtySince: stamp(i.DirtySince), MappingsTotal: i.Mappings,
	}
	for _, path := range i.Paths {
		v.Paths = append(v.Paths, utf8Path(path))
		v.Hrefs = append(v.Hrefs, fileHref(path))
	}
	return v
}

func (s *Server) listInodes(w http.ResponseWriter, r *http.Request, p *inodesParams) error {
	limit, err := pageLimit(p.Limit)
	if err != nil {
		return err
	}
	items, next, err := s.fs().Inodes(r.Context(), core.InodeFilter{Dirty: p.Dirty, Mapped: p.Mapped,
		PathPrefix: p.PathPrefix, Cursor: p.Cursor, Limit: limit})
	if errors.Is(err, core.ErrInvalid) { // nothing else of the filter can be invalid
		return badCursor()
	}
	if err != nil {
		return err
	}
	v := page[InodeView]{Items: make([]InodeView, 0, len(items))}
	for i := range items {
		v.Items = append(v.Items, viewInode(&items[i]))
	}
	if next != "" {
		v.NextCursor = &next
	}
	return writeJSON(w, r, http.StatusOK, v)
}

func (s *Server) getInode(w http.ResponseWriter, r *http.Request, p *inodeNumber) error {
	ino := format.Ino(p.Ino)
	info, extents, mappings, err := s.fs().InodeDetail(r.Context(), ino)
	if err != nil {
		return inodeProblem(ino, err)
	}
	if s.opt.Mount != nil {
		mappings = append(mappings, s.opt.Mount.Mappings(ino)...)
	}
	v := inodeDetail{InodeView: viewInode(&info), DirtyRanges: viewRuns(info.DirtyRuns), Extents: []extentView{},
		ExtentsTotal: len(extents), Mappings: []mappingView{}}
	for _, e := range extents[:min(len(extents), maxLimit)] {
		v.Extents = append(v.Extents, extentView{Page: uint64(e.Page), Block: uint64(e.Block), Count: e.Count})
	}
	for i := range mappings {
		v.Mappings = append(v.Mappings, viewMapping(&mappings[i]))
	}
	return writeJSON(w, r, http.StatusOK, v)
}

func (s *Server) inodeHistory(w http.ResponseWriter, r *http.Request, p *inodePageParams) error {
	limit, err := pageLimit(p.Limit)
	if err != nil {
		return err
	}
	l, err := s.ledger()
	if err != nil {
		return err
	}
	var before int64
	if p.Cursor != nil {
		before = int64(*p.Cursor)
	}
	rows, err := l.InodeHistory(r.Context(), int64(p.Ino), before, limit+1)
	if err != nil {
		return ledgerProblem(err)
	}
	if len(rows) == 0 && before == 0 {
		// An inode that is gone may have a history; one without either never was.
		if _, err := s.fs().GetAttr(r.Context(), format.Ino(p.Ino)); err != nil {
			return inodeProblem(format.Ino(p.Ino), err)
		}
	}
	return writeJSON(w, r, http.StatusOK, newPage(rows, limit, viewFound, func(f *store.FoundInode) int64 { return f.ID }))
}

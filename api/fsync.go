package api

import (
	"net/http"

	"permafrost/core"
	"permafrost/core/format"
)

// fsyncParams are the parameters of POST /fsync.
type fsyncParams struct {
	Path   *string `param:"path" doc:"The file, from the root of the image; neither path nor ino: everything."`
	Ino    *uint64 `param:"ino" doc:"The file, by inode number."`
	Offset *size   `param:"offset" doc:"Start of the part that matters; by default 0."`
	Length *size   `param:"length" doc:"Length of that part; by default to the end."`
}

// syncView says what a sync made durable.
type syncView struct {
	Generation uint64  `json:"generation" doc:"Newest durable commit."`
	Inodes     uint64  `json:"inodes" doc:"Inodes that had dirty pages."`
	Pages      uint64  `json:"pages" doc:"Dirty pages flushed."`
	Bytes      uint64  `json:"bytes" doc:"Bytes flushed."`
	DurationUS float64 `json:"duration_us" doc:"How long it took."`
}

func (s *Server) fsyncRoute() {
	route(s, operation{
		method: http.MethodPost, pattern: "/fsync", id: "fsync", tag: tagFreeze, verb: true,
		summary:     "Make changes durable",
		description: "Runs the sync path over one file, part of it, or everything. While frozen nothing is left to do.",
		answers:     []answer{{status: 200, describe: "Durable.", body: syncView{}}},
		problems:    []*kind{kindNoSuchFile, kindNoSuchInode, kindBadPath, kindReadOnly, kindIOError},
	}, s.postFsync)
}

func (s *Server) postFsync(w http.ResponseWriter, r *http.Request, p *fsyncParams) error {
	if p.Path != nil && p.Ino != nil {
		return problem(kindBadParameter, "path and ino both name a file; give one of them").with("parameter", "ino")
	}
	whole := p.Path == nil && p.Ino == nil
	if whole && (p.Offset != nil || p.Length != nil) {
		return problem(kindBadParameter, "offset and length are parts of a file; name it with path= or ino=").with("parameter", "offset")
	}
	if p.Length != nil && *p.Length == 0 {
		return problem(kindBadParameter, "length=0 is nothing; leave it out to mean up to the end").with("parameter", "length")
	}
	var res core.SyncResult
	var err error
	if whole {
		res, err = s.fs().Sync(callerOf(r).as(r.Context(), "sync", "", true))
	} else {
		res, err = s.fsyncOne(r, p)
	}
	if err != nil {
		return err
	}
	return writeJSON(w, r, http.StatusOK, syncView{Generation: uint64(res.Generation), Inodes: res.Inodes,
		Pages: res.Pages, Bytes: res.Bytes, DurationUS: microseconds(res.Duration)})
}

func (s *Server) fsyncOne(r *http.Request, p *fsyncParams) (core.SyncResult, error) {
	var ino format.Ino
	ctx := r.Context()
	if p.Path != nil {
		fp, err := parseImagePath(*p.Path)
		if err != nil {
			return core.SyncResult{}, err
		}
		a, err := s.fs().Resolve(ctx, fp.abs())
		if err != nil {
			return core.SyncResult{}, err
		}
		ino = a.Ino
	} else {
		ino = format.Ino(*p.Ino)
		if _, err := s.fs().GetAttr(ctx, ino); err != nil {
			return core.SyncResult{}, inodeProblem(ino, err)
		}
	}
	var off, n int64
	if p.Offset != nil {
		off = int64(*p.Offset)
	}
	if p.Length != nil {
		n = int64(*p.Length)
	}
	return s.fs().Fsync(callerOf(r).as(ctx, "fsync", "", true), ino, off, n)
}

package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
)

// maxGateWait bounds ?wait=, which holds a connection.
const maxGateWait = time.Hour

// patchParams are the parameters of PATCH /files/{path}.
type patchParams struct {
	Offset   *size         `param:"offset" doc:"Write the body here, in place."`
	Truncate *size         `param:"truncate" doc:"Cut or extend the file to this size; no body."`
	Wait     time.Duration `param:"wait" default:"0s" doc:"How long to wait for a thaw before 423."`
}

// renameParams are the parameters of POST /files/{path}.
type renameParams struct {
	To      string        `param:"rename_to" doc:"The new path, from the root of the image." example:"backups/tuesday.img"`
	Replace bool          `param:"replace" default:"false" doc:"Replace what is there."`
	Wait    time.Duration `param:"wait" default:"0s" doc:"How long to wait for a thaw before 423."`
}

// deleteParams are the parameters of DELETE /files/{path}.
type deleteParams struct {
	Recursive bool          `param:"recursive" default:"false" doc:"Delete a directory with all that is in it."`
	Wait      time.Duration `param:"wait" default:"0s" doc:"How long to wait for a thaw before 423."`
}

// fileChangeRoutes registers the calls that change files.
func (s *Server) fileChangeRoutes() {
	common := []*kind{kindNoSuchFile, kindNotADirectory, kindBadPath, kindFrozen, kindRecovering, kindTooManyHeld, kindReadOnly, kindIOError, kindPrecondition, kindGaveUp}
	with := func(more ...*kind) []*kind { return append(more, common...) }
	s.putRoute(with)
	route(s, operation{
		method: http.MethodPatch, pattern: "/files/*", docPath: "/files/{path}", id: "patch-file", tag: tagFiles,
		summary: "Write in place, or truncate",
		description: "Writes the body into the file at `offset`, or cuts the file with `truncate`: one of them. If it fails in the " +
			"middle, `written_bytes` says how much was written. If-Match is held against the file before the first byte.",
		bytesBody: "The bytes to write.",
		answers:   []answer{{status: 204, describe: "Written and durable."}},
		problems:  with(kindIsADirectory, kindMapped, kindTooLarge, kindFormBody, kindMediaType, kindNoSpace, kindBodyTimeout),
	}, s.patchFile)
	route(s, operation{
		method: http.MethodPost, pattern: "/files/*", docPath: "/files/{path}", id: "rename-file", tag: tagFiles,
		summary:     "Rename",
		description: "Moves a file or directory to another path, at once. What is there already is replaced only with `replace=true`.",
		answers:     []answer{{status: 200, describe: "Renamed and durable.", body: entryView{}}},
		problems:    with(kindParentMissing, kindExists, kindNotEmpty, kindIsADirectory, kindRootDir, kindNoSpace),
	}, s.renameFile)
	route(s, operation{
		method: http.MethodDelete, pattern: "/files/*", docPath: "/files/{path}", id: "delete-file", tag: tagFiles,
		summary:     "Delete",
		description: "Deletes a name; a symbolic link and not what it points to. A directory must be empty unless `recursive=true`.",
		answers:     []answer{{status: 204, describe: "Deleted and durable."}},
		problems:    with(kindNotEmpty, kindRootDir, kindNoSpace),
	}, s.deleteFile)
}

// passage is a change's way through the gate. Its first step is refused while
// frozen, or waits as long as ?wait says; once through, later steps of the same
// change wait for a thaw that comes between, as long as the requester stays
// (R2: a freeze ends by its lease).
//
// It is the context of those steps: it behaves as first until a step succeeded
// and as rest from then on, so that an upload, which keeps one context, pauses
// at the gate in its middle.
type passage struct {
	first, rest context.Context // immutable
	cancel      context.CancelFunc
	through     atomic.Bool
}

// Deadline implements context.Context.
func (p *passage) Deadline() (time.Time, bool) { return p.now().Deadline() }

// Done implements context.Context.
func (p *passage) Done() <-chan struct{} { return p.now().Done() }

// Err implements context.Context.
func (p *passage) Err() error { return p.now().Err() }

// Value implements context.Context.
func (p *passage) Value(key any) any { return p.now().Value(key) }

func (p *passage) now() context.Context {
	if p.through.Load() {
		return p.rest
	}
	return p.first
}

// step notes how a step ended.
func (p *passage) step(err error) error {
	if err == nil {
		p.through.Store(true)
	}
	return err
}

func (s *Server) passage(r *http.Request, op string, fp imagePath, wait time.Duration) (*passage, error) {
	if wait > maxGateWait {
		return nil, problem(kindBadParameter, "wait=%v is longer than %v; wait less and try again", wait, maxGateWait).
			with("parameter", "wait").with("nearest", "wait")
	}
	if wait == 0 && s.fs().Freezer().Level() >= freeze.Write {
		return nil, freeze.ErrFrozen // before the body is read
	}
	c := callerOf(r)
	ctx, cancel := s.untilHangup(r)
	p := &passage{rest: c.as(ctx, op, fp.abs(), true), cancel: cancel}
	p.first = c.as(ctx, op, fp.abs(), false)
	if wait > 0 {
		p.first, p.cancel = context.WithTimeout(p.rest, wait)
		stop := p.cancel
		p.cancel = func() { stop(); cancel() }
	}
	return p, nil
}

// durable waits until the change is durable (R3).
func (s *Server) durable(p *passage) error {
	if _, err := s.fs().WaitDurable(p.rest); err != nil {
		return fmt.Errorf("the change was made, but it is not known to be durable: %w", err)
	}
	return nil
}

// lookup finds the inode that a path's last name is, without following it.
func (s *Server) lookup(ctx context.Context, fp imagePath) (dir core.Attr, node core.Attr, err error) {
	if fp.root() {
		return dir, node, problem(kindRootDir, "the root directory cannot be deleted, renamed or replaced")
	}
	if dir, err = s.fs().Resolve(ctx, fp.parent().abs()); err == nil && !isDir(dir.Mode) {
		err = core.ErrNotDir
	}
	if err == nil {
		node, err = s.fs().Lookup(ctx, dir.Ino, fp.name())
	}
	if err != nil {
		return dir, node, s.missing(ctx, fp, err)
	}
	if fp.dir && !isDir(node.Mode) {
		return dir, node, problem(kindNotADirectory, "%s is not a directory; leave the trailing slash out", utf8Path(fp.abs()))
	}
	return dir, node, nil
}

// target resolves the file that PATCH writes to, and holds it against If-Match.
func (s *Server) target(r *http.Request) (imagePath, core.Attr, error) {
	fp, err := requestPath(r)
	if err != nil {
		return fp, core.Attr{}, err
	}
	a, err := s.fs().Resolve(r.Context(), fp.abs())
	if err != nil {
		return fp, a, s.missing(r.Context(), fp, err)
	}
	if isDir(a.Mode) {
		return fp, a, problem(kindIsADirectory, "%s is a directory", utf8Path(fp.abs()))
	}
	return fp, a, conditionsOf(r).check(&a, fileETag(&a, s.mapped(a.Ino)))
}

func (s *Server) patchFile(w http.ResponseWriter, r *http.Request, p *patchParams) error {
	if (p.Offset == nil) == (p.Truncate == nil) {
		return problem(kindBadParameter, "give either offset=, and the bytes as the body, or truncate=, and no body").with("parameter", "offset")
	}
	if err := plainBytes(r); err != nil {
		return err
	}
	fp, a, err := s.target(r)
	if err != nil {
		return err
	}
	pass, err := s.passage(r, "write", fp, p.Wait)
	if err != nil {
		return err
	}
	defer pass.cancel()
	if err := s.fs().Acquire(a.Ino); err != nil {
		return s.missing(r.Context(), fp, err)
	}
	defer s.fs().Release(a.Ino)
	if p.Truncate != nil {
		if r.ContentLength > 0 {
			return problem(kindBadParameter, "truncate= takes no body").with("parameter", "truncate")
		}
		err = pass.step(s.fs().Truncate(pass, a.Ino, int64(*p.Truncate)))
	} else {
		err = s.writeBodyAt(pass, r, a.Ino, int64(*p.Offset))
	}
	if err == nil {
		err = s.durable(pass)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// writeBodyAt copies a body into a file, a chunk at a time: a slow sender never
// stands inside the gate.
func (s *Server) writeBodyAt(pass *passage, r *http.Request, ino format.Ino, off int64) error {
	start := off
	first, err := firstBytes(r)
	if err != nil {
		return s.problemOf(err).with("written_bytes", 0)
	}
	if len(first) > 0 {
		m, err := s.fs().WriteAt(pass, ino, first, off)
		off += int64(m)
		if pass.step(err) != nil {
			return s.problemOf(err).with("written_bytes", off-start)
		}
	}
	if len(first) < firstChunk {
		return nil // that was all of it
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	for {
		n, end, rerr := readFull(r.Body, *buf)
		if n > 0 {
			m, err := s.fs().WriteAt(pass, ino, (*buf)[:n], off)
			off += int64(m)
			if pass.step(err) != nil {
				return s.problemOf(err).with("written_bytes", off-start)
			}
		}
		if rerr != nil {
			return s.problemOf(bodyProblem(rerr)).with("written_bytes", off-start)
		}
		if end {
			return nil
		}
	}
}

func (s *Server) renameFile(w http.ResponseWriter, r *http.Request, p *renameParams) error {
	if p.To == "" {
		return problem(kindBadParameter, "give rename_to=, the new path from the root of the image; to write a file use PUT").with("parameter", "rename_to")
	}
	fp, err := requestPath(r)
	if err != nil {
		return err
	}
	to, err := parseImagePath(p.To)
	if err != nil {
		return err
	}
	if to.root() {
		return problem(kindRootDir, "the root directory cannot be replaced")
	}
	dir, node, err := s.lookup(r.Context(), fp)
	if err != nil {
		return err
	}
	if to.dir && !isDir(node.Mode) {
		return problem(kindNotADirectory, "rename_to ends in a slash and %s is not a directory", utf8Path(fp.abs()))
	}
	if err := conditionsOf(r).check(&node, fileETag(&node, s.mapped(node.Ino))); err != nil {
		return err
	}
	ndir, err := s.parentOf(r.Context(), to)
	if err != nil {
		return err
	}
	pass, err := s.passage(r, "rename", fp, p.Wait)
	if err != nil {
		return err
	}
	defer pass.cancel()
	mode := core.RenameNoReplace
	if p.Replace {
		mode = core.RenameReplace
	}
	if err := pass.step(s.fs().Rename(pass, dir.Ino, fp.name(), ndir.Ino, to.name(), mode)); err != nil {
		return err
	}
	if err := s.durable(pass); err != nil {
		return err
	}
	if a, err := s.fs().GetAttr(r.Context(), node.Ino); err == nil {
		node = a
	}
	v, err := s.viewNode(r.Context(), to, &node)
	if err != nil {
		return err
	}
	return writeJSON(w, r, http.StatusOK, v)
}

// parentOf resolves the directory that a new name goes into.
func (s *Server) parentOf(ctx context.Context, fp imagePath) (core.Attr, error) {
	a, err := s.fs().Resolve(ctx, fp.parent().abs())
	switch {
	case errors.Is(err, core.ErrNotFound):
		return a, problem(kindParentMissing, "%s does not exist; make it with PUT %s/, or send parents=true with a PUT",
			utf8Path(fp.parent().abs()), fileHref(fp.parent().abs())).because(err)
	case err == nil && !isDir(a.Mode):
		return a, problem(kindNotADirectory, "%s is not a directory", utf8Path(fp.parent().abs()))
	}
	return a, err
}

func (s *Server) deleteFile(w http.ResponseWriter, r *http.Request, p *deleteParams) error {
	fp, err := requestPath(r)
	if err != nil {
		return err
	}
	dir, node, err := s.lookup(r.Context(), fp)
	if err != nil {
		return err
	}
	if err := conditionsOf(r).check(&node, fileETag(&node, s.mapped(node.Ino))); err != nil {
		return err
	}
	pass, err := s.passage(r, "delete", fp, p.Wait)
	if err != nil {
		return err
	}
	defer pass.cancel()
	switch {
	case !isDir(node.Mode):
		err = pass.step(s.fs().Unlink(pass, dir.Ino, fp.name()))
	case p.Recursive:
		err = s.removeTree(pass, branch{dir.Ino, fp.name(), node.Ino})
	default:
		err = pass.step(s.fs().Rmdir(pass, dir.Ino, fp.name()))
	}
	if err == nil {
		err = s.durable(pass)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// branch is a directory on the way down a tree that is deleted.
type branch struct {
	parent format.Ino
	name   string
	ino    format.Ino
}

// removeTree deletes a directory with all that is in it, deepest first, without
// recursion: a tree may be deeper than a stack.
func (s *Server) removeTree(pass *passage, top branch) error {
	stack := []branch{top}
	for len(stack) > 0 {
		b := stack[len(stack)-1]
		entries, err := s.fs().ReadDir(pass.rest, b.ino, 0, 256)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			err := pass.step(s.fs().Rmdir(pass, b.parent, b.name))
			if err != nil && !errors.Is(err, core.ErrNotFound) && !errors.Is(err, core.ErrNotEmpty) {
				return err
			}
			if !errors.Is(err, core.ErrNotEmpty) { // else somebody made a name: look again
				stack = stack[:len(stack)-1]
			}
		}
		for _, e := range entries {
			if isDir(e.Type) {
				stack = append(stack, branch{b.ino, e.Name, e.Ino})
				break
			}
			if err := pass.step(s.fs().Unlink(pass, b.ino, e.Name)); err != nil && !errors.Is(err, core.ErrNotFound) {
				return err
			}
		}
		if err := pass.rest.Err(); err != nil {
			return err
		}
	}
	return nil
}

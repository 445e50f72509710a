package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"time"

	"permafrost/core"
)

// putParams are the parameters of PUT /files/{path}.
type putParams struct {
	Parents bool          `param:"parents" default:"false" doc:"Make the directories on the way that are missing."`
	Wait    time.Duration `param:"wait" default:"0s" doc:"How long to wait for a thaw before 423."`
}

func (s *Server) putRoute(with func(...*kind) []*kind) {
	route(s, operation{
		method: http.MethodPut, pattern: "/files/*", docPath: "/files/{path}", id: "put-file", tag: tagFiles,
		summary: "Write a whole file, or make a directory",
		description: "Streams the body into a new file that takes the name at once when it is complete: readers see the old content or " +
			"the new. With a trailing slash it makes a directory. An upload that is under way when a freeze begins pauses until the thaw. " +
			"If-Match and If-None-Match are held against the file that is replaced, at the moment it is replaced.",
		bytesBody: "The bytes of the file.",
		answers: []answer{
			{status: 201, describe: "Made and durable.", headers: map[string]string{"ETag": "Names the content.", "Location": "Where it is served."}},
			{status: 204, describe: "Replaced and durable; or the directory was there.", headers: map[string]string{"ETag": "Names the content."}}},
		problems: with(kindParentMissing, kindIsADirectory, kindExists, kindRootDir, kindTooLarge, kindFormBody, kindMediaType, kindNoSpace, kindBodyTimeout),
	}, s.putFile)
}

func (s *Server) putFile(w http.ResponseWriter, r *http.Request, p *putParams) error {
	fp, err := requestPath(r)
	if err != nil {
		return err
	}
	if fp.root() {
		return problem(kindRootDir, "the root directory is there; name a file in it")
	}
	if !fp.dir {
		if err := s.uploadable(r); err != nil {
			return err
		}
	}
	pass, err := s.passage(r, "create", fp, p.Wait)
	if err != nil {
		return err
	}
	defer pass.cancel()
	var dir core.Attr
	if p.Parents {
		dir, err = s.makeParents(pass, r, fp.parent())
	} else {
		dir, err = s.parentOf(r.Context(), fp)
	}
	if err != nil {
		return err
	}
	if fp.dir {
		return s.putDirectory(w, r, pass, fp, &dir)
	}
	return s.upload(w, r, pass, fp, &dir)
}

// plainBytes refuses bodies whose label says that they are not a file's bytes.
func plainBytes(r *http.Request) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && (kind == "application/x-www-form-urlencoded" || kind == "multipart/form-data") {
		return problem(kindFormBody, "the body is labelled %s, as curl -d does, which also strips newlines; use curl -T FILE URL, or label it application/octet-stream", kind)
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return problem(kindMediaType, "Content-Encoding %s would be stored as it is; send the bytes without it", shorten(enc))
	}
	if r.Header.Get("Content-Range") != "" {
		return problem(kindBadParameter, "Content-Range is not for this call; write part of a file with PATCH ?offset=").with("parameter", "Content-Range")
	}
	return nil
}

// uploadable refuses, before its first byte, an upload that cannot succeed.
func (s *Server) uploadable(r *http.Request) error {
	if err := plainBytes(r); err != nil {
		return err
	}
	space := s.fs().Status().Space
	n := r.ContentLength
	switch {
	case n > 0 && uint64(n) > space.Total:
		return problem(kindTooLarge, "the body has %d bytes and the image %d in all; make a larger image", n, space.Total).
			with("total_bytes", space.Total)
	case n > 0 && uint64(n) > space.Free:
		return problem(kindNoSpace, "the body has %d bytes and %d are free; delete something, or make a larger image", n, space.Free).
			with("free_bytes", space.Free)
	}
	return nil
}

// upload streams a body into a file in the making and puts it in place.
func (s *Server) upload(w http.ResponseWriter, r *http.Request, pass *passage, fp imagePath, dir *core.Attr) error {
	conds := conditionsOf(r)
	node := newNode(r, modeFile|0o644)
	old, err := s.fs().Lookup(r.Context(), dir.Ino, fp.name())
	switch {
	case errors.Is(err, core.ErrNotFound):
		err = conds.check(nil, "")
	case err == nil:
		if err = s.replaceable(&old, fp, conds); err == nil && old.Mode&modeFormat == modeFile {
			node.Mode, node.UID, node.GID = old.Mode, old.UID, old.GID // replacing must not open a private file
		}
	}
	if err != nil {
		return err
	}
	first, err := firstBytes(r)
	if err != nil {
		return err
	}
	up, err := s.fs().NewUpload(pass, node)
	if pass.step(err) != nil {
		return err
	}
	defer func() { _ = up.Close() }() // after Commit it has nothing left to drop
	if _, err := up.ReadFrom(io.MultiReader(bytes.NewReader(first), source{r.Body})); err != nil {
		var src *sourceError
		if errors.As(err, &src) {
			return bodyProblem(src.err)
		}
		return err
	}
	a, replaced, err := up.Commit(pass, dir.Ino, fp.name(), func(old *core.Attr) error {
		if old == nil {
			return conds.check(nil, "")
		}
		return s.replaceable(old, fp, conds)
	})
	if err != nil {
		return err
	}
	if err := s.durable(pass); err != nil {
		return err
	}
	w.Header().Set("ETag", fileETag(&a, false))
	return created(w, fp, !replaced)
}

// firstChunk is how much of a body is read before the gate, in bytes.
const firstChunk = 64 << 10

// firstBytes reads a body's beginning. A body that is read to its end before its
// request waits at the gate is worth two things: the server notices when the
// requester leaves, which it cannot while bytes are left to be read; and what
// is held is no larger than the body.
func firstBytes(r *http.Request) ([]byte, error) {
	n := int64(firstChunk)
	if r.ContentLength >= 0 {
		n = min(n, r.ContentLength+1) // one more, to see the end
	}
	buf := make([]byte, n)
	m, _, err := readFull(r.Body, buf)
	if err != nil {
		return nil, bodyProblem(err)
	}
	return buf[:m], nil
}

// replaceable says whether an upload may take the name of old. It is called
// under the directory's lock as well, so it asks nothing of the file system.
func (s *Server) replaceable(old *core.Attr, fp imagePath, conds conditions) error {
	if isDir(old.Mode) {
		return problem(kindIsADirectory, "%s is a directory; delete it first", utf8Path(fp.abs()))
	}
	return conds.check(old, fileETag(old, false))
}

// created answers 201 or 204.
func created(w http.ResponseWriter, fp imagePath, fresh bool) error {
	if !fresh {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	href := fileHref(fp.abs())
	if fp.dir {
		href += "/"
	}
	w.Header().Set("Location", href)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// putDirectory makes one directory; one that is there is as good.
func (s *Server) putDirectory(w http.ResponseWriter, r *http.Request, pass *passage, fp imagePath, dir *core.Attr) error {
	if n, _ := io.ReadFull(r.Body, make([]byte, 1)); n > 0 {
		return problem(kindBadParameter, "a path with a trailing slash makes a directory, which takes no body; leave the slash out to write a file").
			with("parameter", "path")
	}
	old, err := s.fs().Lookup(r.Context(), dir.Ino, fp.name())
	if err == nil {
		if !isDir(old.Mode) {
			return problem(kindExists, "%s exists and is a %s", utf8Path(fp.abs()), typeName(old.Mode))
		}
		if err := conditionsOf(r).check(&old, fileETag(&old, false)); err != nil {
			return err
		}
		return created(w, fp, false)
	}
	if !errors.Is(err, core.ErrNotFound) {
		return err
	}
	if err := conditionsOf(r).check(nil, ""); err != nil {
		return err
	}
	if _, err := s.fs().Mkdir(pass, dir.Ino, fp.name(), newNode(r, modeDir|0o755)); pass.step(err) != nil {
		return err
	}
	if err := s.durable(pass); err != nil {
		return err
	}
	return created(w, fp, true)
}

// makeParents makes the directories down to fp that are missing.
func (s *Server) makeParents(pass *passage, r *http.Request, fp imagePath) (core.Attr, error) {
	at, err := s.fs().Resolve(pass.rest, "/")
	for i := 0; err == nil && i < len(fp.names); i++ {
		at, err = s.stepInto(pass, r, at, imagePath{names: fp.names[:i+1]})
	}
	return at, err
}

// stepInto makes one directory unless it is there. A symbolic link on the way
// is followed.
func (s *Server) stepInto(pass *passage, r *http.Request, dir core.Attr, fp imagePath) (core.Attr, error) {
	next, err := s.resolveDir(pass.rest, fp)
	if !errors.Is(err, core.ErrNotFound) {
		return next, err
	}
	next, err = s.fs().Mkdir(pass, dir.Ino, fp.name(), newNode(r, modeDir|0o755))
	if errors.Is(err, core.ErrExists) { // somebody was quicker
		return s.resolveDir(pass.rest, fp)
	}
	return next, pass.step(err)
}

// resolveDir resolves a path that must be a directory.
func (s *Server) resolveDir(ctx context.Context, fp imagePath) (core.Attr, error) {
	a, err := s.fs().Resolve(ctx, fp.abs())
	if err == nil && !isDir(a.Mode) {
		return a, problem(kindNotADirectory, "%s is not a directory", utf8Path(fp.abs()))
	}
	return a, err
}

// newNode is a new file's owner and mode: the local caller's, else the appliance's.
func newNode(r *http.Request, mode uint32) core.NewNode {
	c := callerOf(r)
	n := core.NewNode{Mode: mode, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	if c.known {
		n.UID, n.GID = c.uid, c.gid
	}
	return n
}

// readFull fills buf from a body; end says that the body is over. A body that
// broke off is an error, which io.ReadFull would not tell from its end.
func readFull(r io.Reader, buf []byte) (n int, end bool, err error) {
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err == io.EOF {
			return n, true, nil
		}
		if err != nil {
			return n, true, err
		}
	}
	return n, false, nil
}

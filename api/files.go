package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"permafrost/core"
	"permafrost/core/format"
)

// filesParams are the parameters of GET /files/{path}; they page a listing.
type filesParams struct {
	Limit  int    `param:"limit" default:"100" doc:"Names of a directory in one answer, at most 1000."`
	Cursor string `param:"cursor" doc:"The next_cursor of the answer before."`
}

// listingView is a directory.
type listingView struct {
	Path       string      `json:"path" doc:"Of the directory."`
	Href       string      `json:"href" doc:"Where it is served."`
	Ino        uint64      `json:"ino" doc:"Its inode."`
	Items      []entryView `json:"items" doc:"Its names."`
	NextCursor *string     `json:"next_cursor" doc:"Continues the listing; null at its end."`
}

// entryView is one name of a directory.
type entryView struct {
	Name      string `json:"name" doc:"Bytes that are not UTF-8 show as U+FFFD; href has them."`
	Href      string `json:"href" doc:"Where it is served, percent-encoded."`
	Type      string `json:"type" enum:"file,directory,symlink,fifo,char_device,block_device,socket,unknown" doc:"What it is."`
	Ino       uint64 `json:"ino" doc:"Inode."`
	SizeBytes int64  `json:"size_bytes" doc:"Size."`
	Mode      string `json:"mode" example:"0644" doc:"Permission bits, octal."`
	UID       uint32 `json:"uid" doc:"Owner."`
	GID       uint32 `json:"gid" doc:"Group."`
	Links     uint32 `json:"links" doc:"Names it has."`
	Mtime     stamp  `json:"mtime" doc:"Last change of its content."`
	Target    string `json:"target,omitempty" doc:"Of a symbolic link."`
}

// fileRoutes registers the files of the image.
func (s *Server) fileRoutes() {
	route(s, operation{
		method: http.MethodGet, pattern: "/files/*", docPath: "/files/{path}", id: "get-file", tag: tagFiles,
		summary: "Read a file or list a directory",
		description: "A file comes as an attachment, whole or in ranges; a directory as a JSON listing. Symbolic links are followed. " +
			"Reads never wait for a thaw.",
		answers: []answer{
			{status: 200, describe: "The file's bytes, or the listing of a directory.", body: listingView{}, media: mediaBytes,
				headers: map[string]string{"ETag": "Names the content; weak while a program may store to it through a mapping.", "Last-Modified": "Its mtime."}},
			{status: 206, describe: "The ranges asked for.", media: mediaBytes},
			{status: 304, describe: "Not modified."}},
		problems: []*kind{kindNoSuchFile, kindNotADirectory, kindBadPath, kindRange, kindPrecondition, kindIOError},
	}, s.getFile)
	s.fileChangeRoutes()
	// /files itself is the root directory under a shorter name.
	s.router.Get("/files", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/files/", http.StatusPermanentRedirect)
	})
}

func (s *Server) getFile(w http.ResponseWriter, r *http.Request, p *filesParams) error {
	fp, err := requestPath(r)
	if err != nil {
		return err
	}
	a, err := s.fs().Resolve(r.Context(), fp.abs())
	if err != nil {
		return s.missing(r.Context(), fp, err)
	}
	if isDir(a.Mode) {
		return s.listDirectory(w, r, fp, &a, p)
	}
	if fp.dir {
		return problem(kindNoSuchFile, "%s is not a directory; leave the trailing slash out", utf8Path(fp.abs()))
	}
	if a.Mode&modeFormat != modeFile {
		return problem(kindNotSupported, "%s is a %s, which has no bytes to read", utf8Path(fp.abs()), typeName(a.Mode))
	}
	return s.serveFile(w, r, fp, &a)
}

// missing says of a path that names nothing what to do: the nearest directory
// above it that is there can be listed.
func (s *Server) missing(ctx context.Context, fp imagePath, err error) error {
	if !errors.Is(err, core.ErrNotFound) && !errors.Is(err, core.ErrNotDir) {
		return err
	}
	above := fp
	for !above.root() {
		above = above.parent()
		if a, rerr := s.fs().Resolve(ctx, above.abs()); rerr == nil && isDir(a.Mode) {
			break
		}
	}
	return problem(kindNoSuchFile, "%s: %v; GET %s lists what is there", utf8Path(fp.abs()), err, listingHref(above)).because(err)
}

// listingHref is where a directory is listed.
func listingHref(dir imagePath) string { return strings.TrimSuffix(fileHref(dir.abs()), "/") + "/" }

// serveFile answers with the bytes of a file. A handle keeps them while they are
// read, even if the name goes; the answer breaks off if the file shrinks (R5).
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request, fp imagePath, a *core.Attr) error {
	if err := s.fs().Acquire(a.Ino); err != nil {
		return s.missing(r.Context(), fp, err)
	}
	defer s.fs().Release(a.Ino)
	h := w.Header()
	h.Set("ETag", fileETag(a, s.mapped(a.Ino)))
	h.Set("Content-Type", mediaBytes)
	h.Set("Content-Disposition", disposition(fp.name()))
	body := &fileReader{ctx: r.Context(), fs: s.fs(), ino: a.Ino, size: a.Size}
	return s.serveContent(w, r, a.Mtime, a.Size, body)
}

// failingReader is content whose reads may fail; failed remembers the first
// error other than the end.
type failingReader interface {
	io.ReadSeeker
	failed() error
}

// serveContent answers with content, whole or in ranges, and breaks the
// connection if it cannot all be read. ServeContent's own refusals become
// problem documents.
func (s *Server) serveContent(w http.ResponseWriter, r *http.Request, modified time.Time, size int64, content failingReader) error {
	cw := &contentWriter{ResponseWriter: w}
	http.ServeContent(cw, withRange(r, size), "", modified, content)
	if err := content.failed(); err != nil {
		return err // begun: fail breaks the connection; not begun: a plain refusal
	}
	if cw.err != nil {
		return fmt.Errorf("%w: %w", errAborted, cw.err)
	}
	cw.begin()
	switch cw.refused {
	case http.StatusRequestedRangeNotSatisfiable:
		p := problem(kindRange, "the content has %d bytes and none in the range %s; ask for bytes=0-%d or a part of it", size, shorten(r.Header.Get("Range")), size-1)
		p.Header = http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", size)}}
		return p
	case http.StatusPreconditionFailed:
		return problem(kindPrecondition, "the content is %s now", w.Header().Get("Etag"))
	case 0:
		return nil
	}
	return problem(kindInternal, "the content could not be served (%d)", cw.refused)
}

// contentWriter keeps back the refusals of ServeContent, and the header of its
// answer until the first bytes have been read: if they cannot be, the answer is
// a problem, not a connection that breaks.
type contentWriter struct {
	http.ResponseWriter
	status  int   // of an answer that is not begun yet; 0: it is. Owned by the handler.
	refused int   // status of a refusal; 0: none. Owned by the handler.
	err     error // first failure to write. Owned by the handler.
}

func (w *contentWriter) WriteHeader(status int) {
	if status >= 400 {
		w.refused = status
		return
	}
	w.status = status
}

// begin sends the header.
func (w *contentWriter) begin() {
	if w.status != 0 {
		w.ResponseWriter.WriteHeader(w.status)
		w.status = 0
	}
}

func (w *contentWriter) Write(p []byte) (int, error) {
	if w.refused != 0 {
		return len(p), nil
	}
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	w.note(err)
	return n, err
}

// ReadFrom keeps the copying of the writer beneath (R4).
func (w *contentWriter) ReadFrom(src io.Reader) (n int64, err error) {
	if w.refused != 0 {
		return io.Copy(io.Discard, src)
	}
	if w.status != 0 {
		first := make([]byte, 64<<10)
		n, err := src.Read(first)
		if n == 0 && err != nil && err != io.EOF {
			return 0, err // the reader remembers it
		}
		w.begin()
		src = io.MultiReader(bytes.NewReader(first[:n]), src)
	}
	if rf, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(src)
	} else {
		n, err = io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
	}
	w.note(err)
	return n, err
}

func (w *contentWriter) note(err error) {
	if w.err == nil {
		w.err = err
	}
}

// Unwrap serves http.ResponseController.
func (w *contentWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// fileReader reads a file by copying. Owned by one handler.
type fileReader struct {
	ctx  context.Context
	fs   *core.FS
	ino  format.Ino
	size int64 // when the answer began
	off  int64
	err  error // first failure
}

// Read implements io.Reader.
func (f *fileReader) Read(p []byte) (int, error) {
	if f.off >= f.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), f.size-f.off)]
	n, err := f.fs.ReadAt(f.ctx, f.ino, p, f.off)
	f.off += int64(n)
	if n > 0 {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = problem(kindGaveUp, "the file shrank while it was read")
	}
	f.err = err
	return 0, err
}

// Seek implements io.Seeker.
func (f *fileReader) Seek(off int64, whence int) (int64, error) {
	return seek(&f.off, f.size, off, whence)
}

func (f *fileReader) failed() error { return f.err }

// seek is Seek over content of a known size.
func seek(pos *int64, size, off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += *pos
	case io.SeekEnd:
		off += size
	}
	if off < 0 {
		return 0, errors.New("seek before the start")
	}
	*pos = off
	return off, nil
}

// mapped says whether a program may be storing to the file.
func (s *Server) mapped(ino format.Ino) bool {
	return slices.ContainsFunc(s.fs().Mappings(), func(m core.MappingInfo) bool { return m.Ino == ino && m.Writable })
}

// disposition makes a browser save a file under its name instead of showing it.
func disposition(name string) string {
	return "attachment; filename*=UTF-8''" + strings.ReplaceAll(url.PathEscape(name), "'", "%27")
}

// listDirectory answers with one page of a directory.
func (s *Server) listDirectory(w http.ResponseWriter, r *http.Request, fp imagePath, a *core.Attr, p *filesParams) error {
	limit, err := pageLimit(p.Limit)
	if err != nil {
		return err
	}
	var cursor uint64
	if p.Cursor != "" {
		if cursor, err = strconv.ParseUint(p.Cursor, 10, 64); err != nil {
			return badCursor()
		}
	}
	entries, err := s.fs().ReadDir(r.Context(), a.Ino, cursor, limit+1)
	if err != nil {
		return err
	}
	v := listingView{Path: utf8Path(fp.abs()), Href: fileHref(fp.abs()), Ino: uint64(a.Ino), Items: []entryView{}}
	if len(entries) > limit {
		entries = entries[:limit]
		next := strconv.FormatUint(entries[limit-1].Cursor, 10)
		v.NextCursor = &next
	}
	for i := range entries {
		e, err := s.viewEntry(r.Context(), fp, &entries[i])
		if err != nil {
			return err
		}
		if e != nil {
			v.Items = append(v.Items, *e)
		}
	}
	return writeJSON(w, r, http.StatusOK, v)
}

// viewEntry shows one name; nil if it was deleted meanwhile.
func (s *Server) viewEntry(ctx context.Context, dir imagePath, e *core.DirEntry) (*entryView, error) {
	a, err := s.fs().GetAttr(ctx, e.Ino)
	if errors.Is(err, core.ErrNotFound) || errors.Is(err, core.ErrStale) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.viewNode(ctx, imagePath{names: append(slices.Clip(dir.names), e.Name)}, &a)
}

// viewNode shows a path and its inode.
func (s *Server) viewNode(ctx context.Context, fp imagePath, a *core.Attr) (*entryView, error) {
	v := &entryView{Href: fileHref(fp.abs()), Type: typeName(a.Mode), Ino: uint64(a.Ino), SizeBytes: a.Size,
		Mode: octal(a.Mode), UID: a.UID, GID: a.GID, Links: a.Nlink, Mtime: stamp(a.Mtime)}
	if !fp.root() {
		v.Name = utf8Path(fp.name())
	}
	if isDir(a.Mode) {
		v.Href = strings.TrimSuffix(v.Href, "/") + "/"
	}
	if a.Mode&modeFormat == modeLink {
		target, err := s.fs().Readlink(ctx, a.Ino)
		if err != nil && !errors.Is(err, core.ErrNotFound) && !errors.Is(err, core.ErrStale) {
			return nil, err
		}
		v.Target = utf8Path(target)
	}
	return v, nil
}

func octal(mode uint32) string {
	s := strconv.FormatUint(uint64(mode&0o7777), 8)
	return strings.Repeat("0", max(0, 4-len(s))) + s
}

// Bounds of one page of a list.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// pageLimit checks a limit.
func pageLimit(limit int) (int, error) {
	if limit < 1 || limit > maxLimit {
		return 0, problem(kindBadParameter, "limit=%d is out of range; it must lie between 1 and %d", limit, maxLimit).
			with("parameter", "limit").with("nearest", "limit")
	}
	return limit, nil
}

func badCursor() error {
	return problem(kindBadParameter, "cursor is none of ours; give the next_cursor of the answer before, or leave it out").
		with("parameter", "cursor").with("nearest", "cursor")
}

package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
)

// Media types of answers.
const (
	mediaJSON    = "application/json"
	mediaText    = "text/plain; charset=utf-8"
	mediaBytes   = "application/octet-stream"
	mediaEvents  = "text/event-stream"
	mediaProblem = "application/problem+json"
)

// operation is one call: its route and what the OpenAPI document says of it.
// Immutable once registered.
type operation struct {
	method  string
	pattern string // of the route
	docPath string // in the document, if it differs
	id      string // operationId
	tag     string
	summary string
	// description is Markdown.
	description string
	// verb: parameters may also come as a JSON or form body.
	verb bool
	// bytesBody documents a body of plain bytes.
	bytesBody string
	answers   []answer
	problems  []*kind // beside those every call may have
	// early serves even while the image is still being mounted.
	early bool
}

// answer is one success of a call.
type answer struct {
	status   int
	describe string
	body     any    // a value of the type that is answered as JSON; nil: none
	media    string // of a body that is not JSON
	headers  map[string]string
}

// handler serves one call: it answers or returns an error, never both (R1).
type handler[P any] func(w http.ResponseWriter, r *http.Request, p *P) error

// route registers a call: the route, and its part of the OpenAPI document. GET
// serves HEAD as well.
func route[P any](s *Server, op operation, h handler[P]) {
	ps := newParamSet(reflect.TypeFor[P](), op.verb)
	s.document(&op, ps)
	serve := func(w http.ResponseWriter, r *http.Request) {
		if !op.early && s.fsys.Load() == nil {
			s.fail(w, r, starting())
			return
		}
		var p P
		err := ps.decode(w, r, &p)
		if err == nil {
			err = h(w, r, &p)
		}
		if err != nil {
			s.fail(w, r, err)
		}
	}
	counted := s.metrics.count(op.id, serve)
	s.router.Method(op.method, op.pattern, counted)
	if op.method == http.MethodGet {
		s.router.Method(http.MethodHead, op.pattern, counted)
	}
}

// fail answers an error. An answer that was begun cannot be taken back: its
// connection is broken (R5).
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := s.problemOf(err)
	if begun(w) {
		if !isGone(r.Context()) {
			s.log.Warn("answer broken off", "method", r.Method, "path", r.URL.Path, "remote", callerOf(r).name(), "err", err)
		}
		panic(http.ErrAbortHandler)
	}
	if p.kind.status == http.StatusInternalServerError || p.kind == kindFreezeFailed {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "problem", p.kind.name, "err", err)
	}
	writeProblem(w, r, p)
}

// begun says whether the header of an answer has been written.
func begun(w http.ResponseWriter) bool {
	for {
		switch v := w.(type) {
		case *progressWriter:
			return v.status != 0
		case interface{ Unwrap() http.ResponseWriter }:
			w = v.Unwrap()
		default:
			return false
		}
	}
}

// writeJSON answers with a JSON document.
func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	return writeBody(w, r, status, mediaJSON, buf.Bytes())
}

// writeText answers with plain text.
func writeText(w http.ResponseWriter, r *http.Request, status int, text string) error {
	return writeBody(w, r, status, mediaText, []byte(text))
}

// writeBody answers with a short body. An error means that the answer did not
// go out whole.
func writeBody(w http.ResponseWriter, r *http.Request, status int, media string, body []byte) error {
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	_, err := w.Write(body)
	return err
}

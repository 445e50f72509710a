package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"permafrost/core"
	"permafrost/core/freeze"
	"permafrost/store"
)

// Problem is a refusal: an application/problem+json document in the making. It
// is an error, so that handlers return it.
type Problem struct {
	kind   *kind
	Detail string         // one or two sentences that end in what to do next
	Fields map[string]any // what a script needs to decide; never "id" or "hold" (R7)
	Retry  time.Duration  // Retry-After, rounded up to seconds; 0: none
	Header http.Header    // further headers; may be nil
	cause  error          // for the log; may be nil
}

// Error implements error.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.kind.title
	}
	return p.kind.title + ": " + p.Detail
}

// Unwrap gives the error behind the refusal.
func (p *Problem) Unwrap() error { return p.cause }

// problem makes a refusal of a kind.
func problem(k *kind, format string, args ...any) *Problem {
	return &Problem{kind: k, Detail: fmt.Sprintf(format, args...)}
}

// with adds a field and returns the problem.
func (p *Problem) with(name string, v any) *Problem {
	if p.Fields == nil {
		p.Fields = map[string]any{}
	}
	p.Fields[name] = v
	return p
}

// because records the error behind the problem, for the log.
func (p *Problem) because(err error) *Problem { p.cause = err; return p }

// errAborted is returned by a handler that has begun an answer it cannot
// finish: the connection is broken (R5).
var errAborted = errors.New("answer broken off")

// problemOf is the one place where an error becomes a status.
func (s *Server) problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	var refusal *freeze.Refusal
	if errors.As(err, &refusal) {
		return s.refusalProblem(err, refusal)
	}
	for _, row := range sentinels {
		if errors.Is(err, row.err) {
			p := problem(row.kind, "%s", explain(err, row.err, row.next)).because(err)
			if b, ok := core.DamagedBlock(err); ok {
				p.with("block", uint64(b))
			}
			return s.decorate(p, nil)
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return problem(kindGaveUp, "the request ended before the work did: %v", err).because(err)
	}
	return problem(kindInternal, "%v. This is a fault of the appliance: its log has the same line", err).because(err)
}

// sentinels maps the errors of the layers below to kinds; the first match wins.
// next ends the detail with what to do.
var sentinels = []struct {
	err  error
	kind *kind
	next string
}{
	{freeze.ErrAlreadyFrozen, kindAlreadyFrozen, "; wait in line (wait), share its point in time (join), or try again later"},
	{freeze.ErrTimedOut, kindFreezeTimedOut, "; nothing is held any more: try again, or give it more patience"},
	{freeze.ErrFreezeLost, kindFreezeLost, "; a copy made under it is not consistent: freeze again and copy again"},
	{freeze.ErrHoldEnded, kindFreezeEnded, "; freeze again"},
	{freeze.ErrNotTheHolder, kindNotTheHolder, "; send the token of the hold in the header Freeze-Token"},
	{freeze.ErrUnknownHold, kindUnknownHold, "; GET /status names the holds that stand"},
	{freeze.ErrWhichHold, kindWhichHold, "; name one by its id (hold) or its holder (holder)"},
	{freeze.ErrOverCap, kindOverCap, "; ask for a shorter lease"},
	{freeze.ErrKeyReused, kindKeyReused, "; send a new Idempotency-Key"},
	{freeze.ErrBadRequest, kindBadParameter, ""},
	{freeze.ErrTooManyHeld, kindTooManyHeld, "; try again after the thaw"},
	{freeze.ErrFrozen, kindFrozen, "; try again after the thaw, or let it wait for that (wait)"},
	{core.ErrRecovering, kindRecovering, "; nothing is frozen: try again in a moment, or let it wait (wait); GET /readyz names the processes"},
	{freeze.ErrClosed, kindShuttingDown, "; try again when it is back"},
	{core.ErrPrecond, kindPrecondition, "; read it again and decide anew"},
	{core.ErrNotFound, kindNoSuchFile, ""},
	{core.ErrStale, kindNoSuchFile, ""},
	{core.ErrExists, kindExists, "; delete it first, or rename over it with replace=true"},
	{core.ErrNotDir, kindNotADirectory, ""},
	{core.ErrIsDir, kindIsADirectory, ""},
	{core.ErrNotEmpty, kindNotEmpty, "; empty it first, or delete with recursive=true"},
	{core.ErrNameTooLong, kindBadPath, ""},
	{core.ErrLoop, kindBadPath, ""},
	{core.ErrInvalid, kindBadParameter, ""},
	{core.ErrNoSpace, kindNoSpace, "; delete something, or make a larger image"},
	{core.ErrTooBig, kindTooLarge, ""},
	{core.ErrTooManyLink, kindTooManyLinks, ""},
	{core.ErrMapped, kindMapped, "; end the programs that map it (GET /mappings names them)"},
	{core.ErrReadOnly, kindReadOnly, "; GET /readyz has the cause: restart the appliance after mending it"},
	{core.ErrIO, kindIOError, "; GET /badblocks and GET /scrub tell how far it goes"},
	{core.ErrNotSupp, kindNotSupported, ""},
	{core.ErrNXIO, kindBadParameter, ""},
	{store.ErrNotFound, kindNotInLedger, ""},
	{fs.ErrNotExist, kindNoSuchFile, ""},
}

// refusalProblem gives a freeze refusal its kind and its facts.
func (s *Server) refusalProblem(err error, r *freeze.Refusal) *Problem {
	k, next := kindInternal, ""
	for _, row := range sentinels {
		if errors.Is(r.Err, row.err) {
			k, next = row.kind, row.next
			break
		}
	}
	p := problem(k, "%s", r.Detail).because(err) // the title says what Err does
	if r.Detail == "" {
		p.Detail = explain(r, r.Err, next)
	}
	return s.decorate(p, r)
}

// explain is the detail of an error and what to do next. An error that says no
// more than its sentinel is left to the title, which says the same.
func explain(err, sentinel error, next string) string {
	if next != "" && err.Error() == sentinel.Error() {
		return strings.TrimPrefix(next, "; ")
	}
	return err.Error() + next
}

// decorate adds the facts of the freeze that stands (or of the refusal) to a
// problem, and Retry-After where trying again makes sense.
func (s *Server) decorate(p *Problem, r *freeze.Refusal) *Problem {
	if r == nil {
		r = &freeze.Refusal{}
	}
	if p.kind == kindFrozen {
		r = s.standing(r)
	}
	if r.FreezeID != 0 {
		p.with("freeze_id", r.FreezeID)
	}
	if len(r.Holders) > 0 {
		p.with("holders", r.Holders)
	}
	if !r.Since.IsZero() {
		p.with("since", stamp(r.Since))
	}
	if !r.ExpiresAt.IsZero() {
		p.with("expires_at", stamp(r.ExpiresAt))
	}
	if r.Hold != "" {
		p.with("hold_meant", r.Hold)
	}
	if r.Parameter != "" {
		name := r.Parameter
		if name == "idempotency key" {
			name = "Idempotency-Key" // a header here
		}
		p.with("parameter", name).with("nearest", name)
	}
	if r.HoldEnd != "" {
		p.with("hold_end", r.HoldEnd)
	}
	switch p.kind {
	case kindFreezeTimedOut:
		p.with("waiting_for", nonNil(r.WaitingFor))
		p.Retry = time.Second
	case kindAlreadyFrozen, kindFrozen:
		p.Retry = max(time.Second, r.ExpiresAt.Sub(s.now()))
	case kindTooManyHeld, kindShuttingDown, kindRecovering:
		p.Retry = time.Second
	}
	return p
}

// standing fills a refusal of a closed gate with the freeze that closes it.
func (s *Server) standing(r *freeze.Refusal) *freeze.Refusal {
	now := s.fs().Status().Freeze
	if now == nil || r.FreezeID != 0 && r.FreezeID != now.ID {
		return r
	}
	f := *r
	f.FreezeID, f.Since, f.ExpiresAt, f.Holders = now.ID, now.FrozenAt, now.ExpiresAt, nil
	for i := range now.Holds {
		if now.Holds[i].EndedAt.IsZero() {
			f.Holders = append(f.Holders, now.Holds[i].Holder)
		}
	}
	return &f
}

// writeProblem answers with a problem document.
func writeProblem(w http.ResponseWriter, r *http.Request, p *Problem) {
	doc := map[string]any{}
	maps.Copy(doc, p.Fields)
	// R7: a script that looks for the id or hold of its freeze must not find
	// those of another in a refusal.
	delete(doc, "id")
	delete(doc, "hold")
	doc["type"] = p.kind.typeURI()
	doc["title"] = p.kind.title
	doc["status"] = p.kind.status
	doc["detail"] = p.Detail
	body, err := json.Marshal(doc)
	if err != nil { // a field that JSON cannot hold: the refusal still goes out
		body, _ = json.Marshal(map[string]any{"type": p.kind.typeURI(), "title": p.kind.title,
			"status": p.kind.status, "detail": p.Detail})
	}
	body = append(body, '\n')
	h := w.Header()
	for _, name := range []string{"Etag", "Last-Modified", "Content-Disposition", "Accept-Ranges", "Content-Range"} {
		h.Del(name)
	}
	maps.Copy(h, p.Header)
	if p.Retry > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((p.Retry+time.Second-1)/time.Second), 10))
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.kind.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client is gone: nobody is left to tell
	}
}

// nonNil makes an empty list of a nil one, so that JSON shows [] and not null.
func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

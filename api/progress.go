package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// limits bound how long peers may take (R2). A peer that moves fewer bytes than
// this is cut off; time spent waiting at a gate or on the media does not count.
// Immutable.
type limits struct {
	bodyIdle  time.Duration // longest pause inside a body
	bodyGrace time.Duration // for any body, beside its rate
	writeIdle time.Duration // longest wait for a reader that takes nothing
	drain     time.Duration // for the rest of a body that nobody wants
	keepAlive time.Duration // between signs of life of a quiet event stream
}

var defaultLimits = limits{bodyIdle: 30 * time.Second, bodyGrace: 30 * time.Second, writeIdle: 60 * time.Second,
	drain: 2 * time.Second, keepAlive: 15 * time.Second}

const (
	bodyMinRate = 1 << 10 // bytes a second, over a whole body
	copyChunk   = 1 << 20 // bytes copied at a time by ReadFrom
)

// errSlowBody is a body that came too slowly.
var errSlowBody = errors.New("the request body came too slowly")

// progressBody reads a body under a deadline that each read renews. Owned by
// the request's handler.
type progressBody struct {
	io.ReadCloser
	rc    *http.ResponseController
	lim   *limits
	total int64         // bytes so far
	spent time.Duration // inside reads
	ended bool          // EOF was seen
}

// Read implements io.Reader.
func (b *progressBody) Read(p []byte) (int, error) {
	start := time.Now()
	budget := b.lim.bodyGrace + time.Duration(b.total/bodyMinRate)*time.Second - b.spent
	if budget <= 0 {
		return 0, errSlowBody
	}
	_ = b.rc.SetReadDeadline(start.Add(min(budget, b.lim.bodyIdle)))
	n, err := b.ReadCloser.Read(p)
	b.total += int64(n)
	b.spent += time.Since(start)
	// The deadline must not outlive the read: the server watches for the
	// requester's leaving with a read of its own, which it would break.
	_ = b.rc.SetReadDeadline(time.Time{})
	switch {
	case err == io.EOF:
		b.ended = true
	case err != nil && isTimeout(err):
		err = errSlowBody
	}
	return n, err
}

// finish bounds the server's own reading of what is left of the body.
func (b *progressBody) finish() {
	if !b.ended {
		_ = b.rc.SetReadDeadline(time.Now().Add(b.lim.drain))
	}
}

// bodyProblem turns an error of reading a body into a refusal.
func bodyProblem(err error) error {
	var p *Problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &tooLarge):
		return problem(kindTooLarge, "the body is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, errSlowBody):
		return problem(kindBodyTimeout, "%v; send it again", err).because(err)
	}
	return problem(kindGaveUp, "the request body broke off: %v; send it again", err).because(err)
}

// sourceError marks an error of a request body, to tell it from an error of the
// file system it is copied into. It does not unwrap: a body that broke off is
// io.ErrUnexpectedEOF, which readers of chunks take for a short last chunk.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

// source is a body whose errors are marked.
type source struct{ r io.Reader }

func (s source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}

// progressWriter writes an answer under a deadline that each write renews, and
// remembers whether an answer was begun. Owned by the request's handler.
type progressWriter struct {
	http.ResponseWriter
	rc     *http.ResponseController
	lim    *limits
	ending <-chan struct{} // closed when the server begins to end
	status int             // 0 until the header is written
	bytes  int64           // of body
}

// Unwrap serves http.ResponseController.
func (w *progressWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *progressWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.status = status
	}
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *progressWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.extend()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Flush implements http.Flusher.
func (w *progressWriter) Flush() { _ = w.FlushError() }

// FlushError serves http.ResponseController.
func (w *progressWriter) FlushError() error {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.extend()
	return w.rc.Flush()
}

// copyBuffers holds *[]byte of copyChunk bytes.
var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copyChunk); return &b }}

// ReadFrom copies src to the socket through a buffer of ours, whatever src is:
// the standard writer would take the bytes of a file by reference (R4).
func (w *progressWriter) ReadFrom(src io.Reader) (total int64, err error) {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	for {
		n, rerr := src.Read(*buf)
		if n > 0 {
			m, werr := w.Write((*buf)[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if rerr == io.EOF {
			return total, nil
		}
		if rerr != nil {
			return total, rerr
		}
	}
}

// extend gives the next write its time: little of it once the server is ending,
// which may begin at any moment, so it is looked at afterwards.
func (w *progressWriter) extend() {
	_ = w.rc.SetWriteDeadline(time.Now().Add(w.lim.writeIdle))
	select {
	case <-w.ending:
		_ = w.rc.SetWriteDeadline(time.Now().Add(w.lim.drain))
	default:
	}
}

// withProgress puts both deadlines around a handler.
func (s *Server) withProgress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		pw := &progressWriter{ResponseWriter: w, rc: rc, lim: &s.limits, ending: s.done}
		if r.Body != nil && r.Body != http.NoBody {
			body := &progressBody{ReadCloser: r.Body, rc: rc, lim: &s.limits}
			r.Body = body
			defer body.finish()
		}
		defer pw.extend() // for what the server still has in its buffer
		next.ServeHTTP(pw, r)
	})
}

// isTimeout reports a deadline that passed.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}

// isGone reports a requester that left.
func isGone(ctx context.Context) bool { return ctx.Err() != nil }

package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"permafrost/core"
	"permafrost/core/freeze"
)

// imageParams are the parameters of GET /freezes/{id}/image.
type imageParams struct {
	ID    uint64 `path:"id" doc:"Of the freeze." example:"12"`
	Renew bool   `param:"renew" default:"false" doc:"Reading renews the hold, up to the cap."`
	Hold  string `param:"hold" doc:"The hold to renew; by default the only one." example:"12.1"`
	Token string `header:"Freeze-Token" doc:"The token of that hold, if it was made with require_token."`
}

func (s *Server) imageRoute() {
	route(s, operation{
		method: http.MethodGet, pattern: "/freezes/{id}/image", id: "get-image", tag: tagFreeze,
		summary: "The frozen image",
		description: "The bytes of the image at the freeze's point in time. It can be read while the freeze stands; a thaw in the middle " +
			"breaks the connection, so that the client fails instead of taking a torn copy for a whole one.",
		answers: []answer{
			{status: 200, describe: "The image.", media: mediaBytes, headers: map[string]string{"ETag": "Strong: the freeze, its generation and the instance."}},
			{status: 206, describe: "The ranges asked for.", media: mediaBytes}},
		problems: []*kind{kindNoSuchFreeze, kindFreezeEnded, kindFreezeLost, kindNotFrozenYet, kindRange, kindPrecondition,
			kindNotTheHolder, kindUnknownHold, kindWhichHold, kindIOError},
	}, s.getImage)
}

func (s *Server) getImage(w http.ResponseWriter, r *http.Request, p *imageParams) error {
	if p.Hold != "" && !p.Renew {
		return problem(kindBadParameter, "hold= names the hold to renew; add renew=true").with("parameter", "hold")
	}
	rec, err := s.standingImage(r, p.ID)
	if err != nil {
		return err
	}
	st := s.fs().Status()
	img := &imageReader{fs: s.fs(), id: p.ID, size: st.Medium.SizeBytes}
	if p.Renew {
		img.renew = func() error { return s.fs().Freezer().RenewByReading(p.ID, p.Hold, p.Token) }
		if err := img.renew(); err != nil {
			return err
		}
	}
	if r.Method != http.MethodHead {
		if img.told, err = s.fs().Freezer().BeginImageRead(p.ID, callerOf(r).name()); err != nil {
			return s.endedImage(p.ID)
		}
	}
	h := w.Header()
	h.Set("ETag", fmt.Sprintf(`"f%d-g%d-%s"`, p.ID, rec.Generation, st.InstanceID))
	h.Set("Content-Type", mediaBytes)
	h.Set("Content-Disposition", disposition(fmt.Sprintf("permafrost-freeze-%d.img", p.ID)))
	defer s.cutAtEnd(w)()
	return s.serveContent(w, r, rec.FrozenAt, img.size, img)
}

// cutAtEnd ends an answer that waits for its reader when the server ends: the
// freeze ends with it, so nothing that could still be sent is of use, and a
// reader who takes nothing would hold up the stop.
func (s *Server) cutAtEnd(w http.ResponseWriter) (sent func()) {
	over := make(chan struct{})
	go func() {
		select {
		case <-s.done:
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.limits.drain))
		case <-over:
		}
	}()
	return func() { close(over) }
}

// standingImage is the freeze whose image is asked for, if it stands.
func (s *Server) standingImage(r *http.Request, id uint64) (*freeze.Record, error) {
	if rec := s.live()[id]; rec != nil {
		switch rec.State {
		case freeze.StateFrozen:
			return rec, nil
		case freeze.StateFreezing:
			return nil, problem(kindNotFrozenYet, "freeze %d is still being reached; wait for the answer to POST /freeze", id).with("freeze_id", id)
		}
		return nil, s.endedImage(id)
	}
	if _, err := s.findFreeze(r.Context(), id); err != nil {
		return nil, err
	}
	return nil, s.endedImage(id)
}

func (s *Server) endedImage(id uint64) *Problem {
	return problem(kindFreezeEnded, "freeze %d has ended and the image moves again; freeze anew to read it", id).with("freeze_id", id)
}

// imageReader reads the image of one freeze by copying. core checks after each
// copy that the freeze still stands, so nothing it returns is newer than the
// freeze. Owned by one handler.
type imageReader struct {
	fs    *core.FS
	id    uint64
	size  int64
	off   int64
	err   error             // first failure
	renew func() error      // nil: reading renews nothing
	told  *freeze.ImageRead // nil for HEAD, which reads nothing
}

// Read implements io.Reader.
func (f *imageReader) Read(p []byte) (int, error) {
	if f.off >= f.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), f.size-f.off)]
	if f.renew != nil {
		// A hold that cannot be renewed any more may still stand: what is read
		// is judged by the freeze, below.
		_ = f.renew()
	}
	n, err := f.fs.ReadImage(f.id, p, f.off)
	if err != nil && !(n > 0 && errors.Is(err, io.EOF)) {
		f.err = fmt.Errorf("read image of freeze %d at %d: %w", f.id, f.off, err)
		return 0, f.err
	}
	f.off += int64(n)
	if n == 0 {
		f.err = fmt.Errorf("read image of freeze %d at %d: %w", f.id, f.off, io.ErrUnexpectedEOF)
		return 0, f.err
	}
	if f.told != nil {
		f.told.Add(n)
	}
	return n, nil
}

// Seek implements io.Seeker.
func (f *imageReader) Seek(off int64, whence int) (int64, error) {
	return seek(&f.off, f.size, off, whence)
}

func (f *imageReader) failed() error { return f.err }

package web

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"permafrost/store"
)

// Options direct a UI. FS is required; the rest has defaults.
type Options struct {
	FS     FS
	Ledger Ledger               // nil: pages say that there is no history
	Attach func() *AttachStatus // nil, or returning nil: attach is not offered
	Mount  Mount                // nil: there is no FUSE mount

	Version    string
	Server     string        // host:port for the command lines shown; default localhost:7433
	LeaseMax   time.Duration // shown beside the form; default 1 h
	MaxStreams int           // event streams at one time; default 64
	Logger     *slog.Logger
	Now        func() time.Time
}

// UI serves the dashboard under /ui/. It is safe for concurrent use.
type UI struct {
	o     Options // immutable
	hub   *hub    // immutable
	notes notes
	memo  memo
}

// loadTimeout bounds what a page waits for the ledger and the listings (W4).
const loadTimeout = 3 * time.Second

// New makes the dashboard. It fails only for Options without an FS.
func New(o Options) (*UI, error) {
	if o.FS == nil {
		return nil, errors.New("web: Options.FS is missing")
	}
	if o.Server == "" {
		o.Server = "localhost:7433"
	}
	if o.LeaseMax == 0 {
		o.LeaseMax = time.Hour
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = 64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	u := &UI{o: o}
	u.hub = newHub(o.MaxStreams, u.fingerprint, u.renderTopic)
	return u, nil
}

// Close ends every event stream and refuses new ones, so that a server's
// Shutdown is not kept waiting by open tabs.
func (u *UI) Close() { u.hub.close() }

const csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP routes /ui and everything under it.
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", csp)
	h.Set("X-Content-Type-Options", "nosniff")
	// Not no-referrer: that would send "Origin: null" with our own forms.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if name, ok := cutPrefix(r.URL.Path, "/ui/assets/"); ok {
		serveAsset(w, r, name)
		return
	}
	h.Set("Cache-Control", "no-store")
	act, isVerb := actions[r.URL.Path]
	switch {
	case r.URL.Path == "/ui":
		http.Redirect(w, r, "/ui/", http.StatusPermanentRedirect)
	case isVerb && r.Method == http.MethodPost:
		u.act(w, r, act)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		u.fail(w, r, &pageError{http.StatusMethodNotAllowed, "Method not allowed", "Pages are read; the verbs are POST /ui/freeze, /ui/renew and /ui/thaw."})
	case isVerb: // a reload of a form's address
		http.Redirect(w, r, "/ui/", http.StatusSeeOther)
	case r.URL.Path == "/ui/live":
		u.serveLive(w, r)
	default:
		u.servePage(w, r)
	}
}

func (u *UI) servePage(w http.ResponseWriter, r *http.Request) {
	p, err := parsePage(r.URL.Path, r.URL.Query())
	if err != nil {
		u.fail(w, r, err)
		return
	}
	n := u.notes.get(r.URL.Query().Get("note"), u.o.Now())
	ctx, cancel := context.WithTimeout(withNote(r.Context(), n), loadTimeout)
	defer cancel()
	s := u.snap()
	v, err := p.load(ctx, u, s)
	if err != nil {
		u.fail(w, r, err)
		return
	}
	u.write(w, r, shell{Page: p, View: v, Snap: s, Banner: bannerOf(s), Note: n})
}

// fail shows an error as a page.
func (u *UI) fail(w http.ResponseWriter, r *http.Request, err error) {
	var pe *pageError
	if !errors.As(err, &pe) {
		if r.Context().Err() != nil {
			return // nobody reads the answer
		}
		u.o.Logger.Error("page failed", "path", r.URL.Path, "err", err)
		pe = &pageError{http.StatusInternalServerError, "This page cannot be shown", err.Error()}
	}
	s := u.snap()
	u.write(w, r, shell{Page: page{}, Snap: s, Banner: bannerOf(s), View: view{
		Title: pe.Title, Status: pe.Status,
		Regions: []region{{ID: "error", Class: "panel full", Body: errorBody(pe.Text)}},
	}})
}

// write renders the whole page before the first byte leaves, so that a failure
// is an error and not half a page.
func (u *UI) write(w http.ResponseWriter, r *http.Request, s shell) {
	var buf bytes.Buffer
	if err := layout(s).Render(r.Context(), &buf); err != nil {
		u.o.Logger.Error("render failed", "path", r.URL.Path, "err", err)
		http.Error(w, "this page cannot be rendered: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if s.View.Status != 0 {
		w.WriteHeader(s.View.Status)
	}
	_, _ = w.Write(buf.Bytes()) // the reader may have left
}

// history is what the overview shows of the ledger.
type history struct {
	Freezes []store.Freeze
	Samples []store.Sample
	Err     error
}

// historyFreezes is how many freezes the forecast looks back on.
const historyFreezes = 100

// memo keeps the overview's history for the hub: it is read again when a
// freeze changed, and else once in memoTTL, not at each look of the hub.
type memo struct {
	mu   sync.Mutex
	of   string    // guard mu: the freezes it belongs to
	at   time.Time // guard mu
	hist history   // guard mu
}

const memoTTL = time.Second

// recent reads the history: fresh for a request, from the memo for the hub.
func (u *UI) recent(ctx context.Context, s snapshot) history {
	if !isLive(ctx) {
		return u.readHistory(ctx, s)
	}
	of := freezeSignature(s.Status)
	u.memo.mu.Lock()
	defer u.memo.mu.Unlock()
	if u.memo.of != of || s.Now.Sub(u.memo.at) >= memoTTL || s.Now.Before(u.memo.at) {
		u.memo.hist, u.memo.of, u.memo.at = u.readHistory(ctx, s), of, s.Now
	}
	return u.memo.hist
}

func (u *UI) readHistory(ctx context.Context, s snapshot) (h history) {
	l := u.ledger()
	if h.Freezes, h.Err = l.Freezes(ctx, store.FreezeQuery{Limit: historyFreezes}); h.Err != nil {
		return h
	}
	from := s.Now.Add(-samplesBack)
	if s.Status.StartedAt.After(from) {
		from = s.Status.StartedAt
	}
	step := max(time.Second, s.Now.Sub(from)/samplesPoints).Truncate(time.Second)
	h.Samples, h.Err = l.Samples(ctx, from, s.Now, step)
	return h
}

// ledger is the ledger, or one that answers that there is none.
func (u *UI) ledger() Ledger {
	if u.o.Ledger == nil {
		return noLedger{}
	}
	return u.o.Ledger
}

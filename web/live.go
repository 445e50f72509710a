package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/a-h/templ"

	"permafrost/core"
	"permafrost/core/freeze"
)

// streamWriteTimeout cuts a tab that reads nothing.
const streamWriteTimeout = 10 * time.Second

// serveLive is one tab's event stream.
func (u *UI) serveLive(w http.ResponseWriter, r *http.Request) {
	target, err := url.Parse(r.URL.Query().Get("page"))
	if err != nil {
		u.fail(w, r, &pageError{http.StatusBadRequest, "No such page", "page= is the address of a page, such as /ui/."})
		return
	}
	p, err := parsePage(target.Path, target.Query())
	if err != nil {
		u.fail(w, r, err)
		return
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "text/event-stream")
		return
	}
	s, err := u.hub.join(p)
	if err != nil {
		w.Header().Set("Retry-After", "10")
		http.Error(w, err.Error()+": close a tab of the dashboard", http.StatusServiceUnavailable)
		return
	}
	defer u.hub.leave(s)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // for a proxy in between
	rc := http.NewResponseController(w)
	// The server's timeouts are for answers that end; each write has its own.
	_ = rc.SetReadDeadline(time.Time{})
	msg := []byte("retry: 2000\n\n")
	for {
		_ = rc.SetWriteDeadline(time.Now().Add(streamWriteTimeout))
		if _, err := w.Write(msg); err != nil {
			return
		}
		if err := rc.Flush(); err != nil {
			return
		}
		var open bool
		select {
		case <-r.Context().Done():
			return
		case msg, open = <-s.ch:
			if !open {
				return
			}
		}
	}
}

// fingerprint looks at the present for the hub.
func (u *UI) fingerprint() look {
	s := u.snap()
	return look{snap: s, sig: signature(s), standing: s.Status.Freeze != nil}
}

// signature changes whenever a page might show something else, as far as core
// and the ledger's health can tell without being walked. Counters of work are
// left out where no page shows them.
func signature(s snapshot) string {
	st := s.Status
	var oldest, newest uint64
	if n := len(s.Blocked); n > 0 {
		oldest, newest = s.Blocked[0].ID, s.Blocked[n-1].ID
	}
	attach := AttachStatus{}
	if s.Attach != nil {
		attach = *s.Attach
	}
	mount := ""
	if m := s.Mount; m != nil {
		requests := uint64(0)
		for i := range m.Ops {
			requests += m.Ops[i].Count()
		}
		mount = fmt.Sprint(m.Ended, m.Open, m.Writable, m.Held, m.Refused, requests)
	}
	return fmt.Sprint(freezeSignature(st), st.Level, st.Generation, st.InodesTotal, st.InodesCached, st.InodesDirty,
		st.DirtyPages, st.Mappings, st.Blocked, oldest, newest, st.BadBlocks, st.BadBlocksPending, st.MetadataErrors, st.Degraded,
		st.Scrub.State, st.Scrub.EndedAt.UnixNano(), st.Scrub.Nodes*100/max(st.Scrub.Of, 1), st.Space, st.EventsDropped,
		st.FaultTotal, st.FsyncTotal, s.Health, s.HealthWhy, attach, mount)
}

// freezeSignature changes with every freeze and every hold.
func freezeSignature(st core.Status) string {
	var b strings.Builder
	fmt.Fprint(&b, st.State, st.Since.UnixNano())
	for _, r := range []*freeze.Record{st.Freeze, st.LastFreeze} {
		if r == nil {
			b.WriteString("|-")
			continue
		}
		fmt.Fprint(&b, "|", r.ID, r.State, r.ExpiresAt.UnixNano(), r.ImageReads, r.BlockedTotal)
		for _, h := range r.Holds {
			fmt.Fprint(&b, ",", h.ID, h.Renewals, h.End, h.ExpiresAt.UnixNano())
		}
	}
	return b.String()
}

// renderTopic renders the regions of a page for the hub, from the hub's snapshot.
func (u *UI) renderTopic(ctx context.Context, p page, l look) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(withLive(ctx), loadTimeout)
	defer cancel()
	v, err := p.load(ctx, u, l.snap)
	if err != nil {
		var pe *pageError
		if !errors.As(err, &pe) && ctx.Err() == nil {
			u.o.Logger.Warn("live page failed", "page", p.Key, "err", err)
		}
		return nil, err
	}
	b := bannerOf(l.snap)
	out := map[string]string{}
	parts := append([]region{{ID: "strip", Body: strip(b)}, {ID: "announce", Body: announce(b)}}, v.Regions...)
	for _, r := range parts {
		html, err := renderText(ctx, r.Body)
		if err != nil {
			return nil, fmt.Errorf("rendering %s of %s: %w", r.ID, p.Key, err)
		}
		out[r.ID] = html
	}
	return out, nil
}

func renderText(ctx context.Context, c templ.Component) (string, error) {
	var buf bytes.Buffer
	if err := c.Render(ctx, &buf); err != nil {
		return "", err
	}
	return buf.String(), nil
}

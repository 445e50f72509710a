package api

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"permafrost/core"
)

func (s *Server) rootRoute() {
	route(s, operation{
		method: http.MethodGet, pattern: "/", id: "root", tag: tagAbout, early: true,
		summary: "Where to begin", description: "Five lines for people; a browser is sent to the dashboard.",
		answers: []answer{
			{status: 200, describe: "State, and how to go on.", media: mediaText},
			{status: 302, describe: "To the dashboard, for a browser."}},
	}, s.getRoot)
}

func (s *Server) getRoot(w http.ResponseWriter, r *http.Request, _ *noParams) error {
	w.Header().Set("Vary", "Accept")
	if s.opt.UI != nil && acceptsHTML(r.Header.Get("Accept")) {
		http.Redirect(w, r, "/ui/", http.StatusFound)
		return nil
	}
	base := "http://localhost:7433"
	switch {
	case !callerOf(r).local && r.Host != "":
		base = "http://" + r.Host
	case len(s.opt.Listen) > 0:
		base = s.opt.Listen[0]
	}
	state := "starting"
	if fs := s.fs(); fs != nil {
		state = s.describe(fs)
	}
	return writeText(w, r, http.StatusOK, fmt.Sprintf(`state      %s
freeze     curl -X POST '%[2]s/freeze?lease=60s'
thaw       curl -X POST '%[2]s/thaw'
documents  %[2]s/openapi.json
dashboard  %[2]s/ui/
`, state, base))
}

// describe is the state in one line.
func (s *Server) describe(fs *core.FS) string {
	st := fs.Status()
	line := st.State
	if f := st.Freeze; f != nil {
		line += fmt.Sprintf(" by freeze %d", f.ID)
		for i := range f.Holds {
			if f.Holds[i].EndedAt.IsZero() {
				line += ", held by " + strconv.Quote(f.Holds[i].Holder)
			}
		}
		if !f.ExpiresAt.IsZero() {
			line += ", until " + f.ExpiresAt.UTC().Format(time.RFC3339)
		}
	}
	if st.Degraded != nil {
		line += ", read-only: " + strings.ReplaceAll(st.Degraded.Error(), "\n", " ")
	}
	return line
}

// acceptsHTML says whether a client names text/html and does not refuse it.
func acceptsHTML(accept string) bool {
	for item := range strings.SplitSeq(accept, ",") {
		media, params, _ := strings.Cut(item, ";")
		if strings.EqualFold(strings.TrimSpace(media), "text/html") {
			return strings.ReplaceAll(params, " ", "") != "q=0"
		}
	}
	return false
}

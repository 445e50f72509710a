package api

import (
	"net/http"
	"time"
)

// readyView is the answer of GET /readyz when all is well.
type readyView struct {
	Ready bool   `json:"ready" doc:"Always true: otherwise the answer is 503."`
	State string `json:"state" enum:"unfrozen,freezing,frozen,thawing" doc:"Frozen is ready, too."`
}

func (s *Server) healthRoutes() {
	route(s, operation{
		method: http.MethodGet, pattern: "/livez", id: "livez", tag: tagAbout, early: true,
		summary: "Is the process alive?", description: "Answers whenever the process can answer at all; frozen is alive.",
		answers: []answer{{status: 200, describe: "Alive.", media: mediaText}},
	}, func(w http.ResponseWriter, r *http.Request, _ *noParams) error {
		return writeText(w, r, http.StatusOK, "alive\n")
	})
	route(s, operation{
		method: http.MethodGet, pattern: "/readyz", id: "readyz", tag: tagAbout, early: true,
		summary: "Can it serve?", description: "Frozen is ready: everything that reads works. Not ready while starting and when the file system is read-only after a failure.",
		answers:  []answer{{status: 200, describe: "Ready.", body: readyView{}}},
		problems: []*kind{kindNotReady},
	}, s.getReady)
}

func (s *Server) getReady(w http.ResponseWriter, r *http.Request, _ *noParams) error {
	var reasons []string
	state := "unfrozen"
	if fs := s.fs(); fs == nil {
		reasons = append(reasons, "starting: the image is being mounted")
	} else {
		st := fs.Status()
		state = st.State
		if st.Degraded != nil {
			reasons = append(reasons, "read-only: "+st.Degraded.Error())
		}
	}
	select {
	case <-s.done:
		reasons = append(reasons, "stopping")
	default:
	}
	if s.opt.NotReady != nil {
		reasons = append(reasons, s.opt.NotReady()...)
	}
	if len(reasons) > 0 {
		p := problem(kindNotReady, "not ready: %s", reasons[0]).with("reasons", reasons)
		p.Retry = time.Second
		return p
	}
	return writeJSON(w, r, http.StatusOK, readyView{Ready: true, State: state})
}

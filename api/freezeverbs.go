package api

import (
	"net/http"
	"time"

	"permafrost/core/freeze"
)

// freezeParams are the parameters of POST /freeze.
type freezeParams struct {
	Holder       string         `param:"holder" doc:"Who holds it; by default the peer's uid or address." example:"nightly"`
	Lease        *time.Duration `param:"lease" doc:"How long the hold stands if it is not renewed: 60s, or the appliance's cap where that is shorter." example:"10m"`
	Patience     *time.Duration `param:"patience" doc:"How long reaching the point in time may take before all is rolled back: 10s, or the cap where that is shorter." example:"10s"`
	Wait         time.Duration  `param:"wait" default:"0s" doc:"How long to wait in line while another freeze stands."`
	Reason       string         `param:"reason" doc:"Why, for those who ask later."`
	Join         bool           `param:"join" default:"false" doc:"Share the point in time of a freeze that stands, instead of being refused."`
	RequireToken bool           `param:"require_token" default:"false" doc:"Only the token of the answer may thaw or renew this hold."`
	Strategy     string         `param:"strategy" enum:"dirty,walk-all" default:"dirty" doc:"walk-all visits every cached inode: the rival that benchmarks compare with."`
	Key          string         `header:"Idempotency-Key" doc:"Makes a repeated request answer with the hold that the first one made."`
}

// thawParams are the parameters of POST /thaw.
type thawParams struct {
	Hold   string `param:"hold" doc:"The hold to end." example:"12.1"`
	Holder string `param:"holder" doc:"End this holder's newest hold." example:"nightly"`
	Force  bool   `param:"force" default:"false" doc:"End it whoever holds it. This is recorded, and its holder will be told that the freeze was lost."`
	Token  string `header:"Freeze-Token" doc:"The token of a hold that was made with require_token."`
}

// renewParams are the parameters of POST /renew.
type renewParams struct {
	Hold   string         `param:"hold" doc:"The hold to renew." example:"12.1"`
	Holder string         `param:"holder" doc:"Renew this holder's newest hold." example:"nightly"`
	Lease  *time.Duration `param:"lease" doc:"The hold then ends this long from now: 60s, or the appliance's cap where that is shorter." example:"10m"`
	Token  string         `header:"Freeze-Token" doc:"The token of a hold that was made with require_token."`
}

// freezeAnswer is a freeze with the caller's own hold on it.
type freezeAnswer struct {
	FreezeView
	Hold          string `json:"hold" example:"12.1" doc:"The caller's hold."`
	Holder        string `json:"holder" doc:"The name it is held under."`
	HoldExpiresAt stamp  `json:"hold_expires_at" doc:"When the caller's lease ends."`
	Token         string `json:"token,omitempty" doc:"Secret of the hold. Only the answer to POST /freeze has it."`
}

// thawAnswer is the truth about a hold that was kept.
type thawAnswer struct {
	FreezeID uint64  `json:"freeze_id" doc:"The freeze; 0 if nothing was frozen."`
	Hold     string  `json:"hold" doc:"The hold; empty if nothing was frozen."`
	Changed  bool    `json:"changed" doc:"This call ended it."`
	Held     bool    `json:"held" doc:"It stood without a gap from its frozen time until it was ended: a copy made under it is consistent."`
	FrozenMS float64 `json:"frozen_ms" doc:"From the frozen time until the hold ended."`
	Thawed   bool    `json:"thawed" doc:"Nobody holds the file system any more."`
}

// freezeVerbs registers freeze, thaw and renew.
func (s *Server) freezeVerbs() {
	route(s, operation{
		method: http.MethodPost, pattern: "/freeze", id: "freeze", tag: tagFreeze, verb: true,
		summary: "Freeze the file system",
		description: "Brings the image to one consistent, durable point and holds it there. Answers when the freeze is complete. " +
			"If the requester leaves before the answer, the freeze is rolled back.",
		answers: []answer{{status: 200, describe: "Frozen.", body: freezeAnswer{}}},
		problems: []*kind{kindAlreadyFrozen, kindFreezeTimedOut, kindFreezeFailed, kindOverCap, kindKeyReused, kindFreezeLost, kindTooManyHeld,
			kindShuttingDown, kindReadOnly, kindIOError},
	}, s.postFreeze)
	route(s, operation{
		method: http.MethodPost, pattern: "/thaw", id: "thaw", tag: tagFreeze, verb: true,
		summary: "End a hold",
		description: "Ends a hold; the file system thaws with the last one. 200 says that the hold stood without a gap, 410 that it did " +
			"not and that a copy made under it is not consistent. Without parameters it ends the only hold, and tells once of a freeze " +
			"that was lost while nobody asked.",
		answers:  []answer{{status: 200, describe: "The hold was kept until it was ended.", body: thawAnswer{}}},
		problems: []*kind{kindFreezeLost, kindNotTheHolder, kindUnknownHold, kindWhichHold},
	}, s.postThaw)
	route(s, operation{
		method: http.MethodPost, pattern: "/renew", id: "renew", tag: tagFreeze, verb: true,
		summary:     "Prolong a hold",
		description: "Sets the end of a hold's lease to now plus `lease`. A freeze as a whole cannot outlast the cap, counted from its frozen time.",
		answers:     []answer{{status: 200, describe: "The lease is prolonged.", body: freezeAnswer{}}},
		problems:    []*kind{kindFreezeLost, kindFreezeEnded, kindNotTheHolder, kindUnknownHold, kindWhichHold, kindOverCap},
	}, s.postRenew)
}

// defaultLease and freeze.DefaultPatience stand in for what a request leaves
// out, as far as the cap allows: a bare POST /freeze always has a meaning.
const defaultLease = time.Minute

func (s *Server) orDefault(given *time.Duration, or time.Duration) time.Duration {
	if given != nil {
		return *given
	}
	return min(or, s.opt.LeaseMax)
}

func (s *Server) postFreeze(w http.ResponseWriter, r *http.Request, p *freezeParams) error {
	lease, patience := s.orDefault(p.Lease, defaultLease), s.orDefault(p.Patience, freeze.DefaultPatience)
	if lease <= 0 {
		return problem(kindBadParameter, "lease=0 would end at once; give a lease of at least a second or so, such as lease=60s").
			with("parameter", "lease").with("nearest", "lease")
	}
	holder := p.Holder
	if holder == "" {
		holder = callerOf(r).name()
	}
	rec, hold, err := s.fs().Freeze(r.Context(), freeze.Request{Holder: holder, Reason: p.Reason, Lease: lease,
		Patience: patience, Wait: p.Wait, Join: p.Join, RequireToken: p.RequireToken, Key: p.Key, WalkAll: p.Strategy == "walk-all"})
	if err != nil {
		return s.freezeProblem(err)
	}
	// R6. A hold that a replay was given as well stands until both answers are lost.
	if isGone(r.Context()) {
		s.fs().Abandon(hold.ID)
		return r.Context().Err()
	}
	err = writeJSON(w, r, http.StatusOK, answerFreeze(&rec, &hold))
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	if err != nil {
		s.fs().Abandon(hold.ID)
	}
	return err
}

// freezeProblem gives a freeze that failed for a reason without a name of its
// own the name that scripts look for.
func (s *Server) freezeProblem(err error) error {
	p := s.problemOf(err)
	if p.kind == kindInternal {
		p = problem(kindFreezeFailed, "%v; nothing is held: mend that, or try again", err).because(err)
		p.Retry = time.Second
	}
	return p
}

func answerFreeze(rec *freeze.Record, hold *freeze.Hold) *freezeAnswer {
	return &freezeAnswer{FreezeView: *viewRecord(rec), Hold: hold.ID, Holder: hold.Holder,
		HoldExpiresAt: stamp(hold.ExpiresAt), Token: hold.Token}
}

func (s *Server) postThaw(w http.ResponseWriter, r *http.Request, p *thawParams) error {
	res, err := s.fs().Thaw(r.Context(), freeze.ThawRequest{Hold: p.Hold, Holder: p.Holder, Token: p.Token,
		Force: p.Force, By: callerOf(r).name()})
	if err != nil {
		return err
	}
	return writeJSON(w, r, http.StatusOK, thawAnswer{FreezeID: res.FreezeID, Hold: res.Hold, Changed: res.Changed,
		Held: res.Held, FrozenMS: milliseconds(res.Frozen), Thawed: res.Thawed})
}

func (s *Server) postRenew(w http.ResponseWriter, r *http.Request, p *renewParams) error {
	lease := s.orDefault(p.Lease, defaultLease)
	if lease <= 0 {
		return problem(kindBadParameter, "lease=0 would end at once; to end the hold use POST /thaw").
			with("parameter", "lease").with("nearest", "lease")
	}
	rec, hold, err := s.fs().Renew(r.Context(), freeze.RenewRequest{Hold: p.Hold, Holder: p.Holder, Token: p.Token, Lease: lease})
	if err != nil {
		return err
	}
	hold.Token = "" // only the answer to POST /freeze has it
	return writeJSON(w, r, http.StatusOK, answerFreeze(&rec, &hold))
}

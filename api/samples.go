package api

import (
	"net/http"
	"time"
)

// sampleParams are the parameters of GET /samples.
type sampleParams struct {
	From *time.Time     `param:"from" doc:"Begin; by default an hour before the end."`
	To   *time.Time     `param:"to" doc:"End; by default now."`
	Step *time.Duration `param:"step" doc:"One item per step; by default what gives about 300."`
}

// sampleView is the state of things at one moment, or over one step.
type sampleView struct {
	At               stamp `json:"at" doc:"The moment, or the begin of the step."`
	DirtyInodesTotal int64 `json:"dirty_inodes_total" doc:"Inodes with dirty pages."`
	DirtyPagesTotal  int64 `json:"dirty_pages_total" doc:"Dirty pages."`
	UsedBytes        int64 `json:"used_bytes" doc:"Of the image."`
	FreeBytes        int64 `json:"free_bytes" doc:"Of the image."`
	OperationsTotal  int64 `json:"operations_total" doc:"Since the start of the appliance; rates are differences."`
	BlockedTotal     int64 `json:"blocked_total" doc:"Most callers held at once."`
	Frozen           bool  `json:"frozen" doc:"At any moment of the step."`
}

// samplesView is a stretch of time.
type samplesView struct {
	From  stamp        `json:"from" doc:"Begin."`
	To    stamp        `json:"to" doc:"End."`
	StepS float64      `json:"step_s" doc:"Length of a step."`
	Items []sampleView `json:"items" doc:"In order of time; steps without a sample are left out."`
}

// Bounds of a query of samples.
const (
	samplePoints    = 300
	maxSamplePoints = 5000
)

func (s *Server) sampleRoute() {
	route(s, operation{
		method: http.MethodGet, pattern: "/samples", id: "samples", tag: tagInspect,
		summary: "The state over time", description: "Dirty inodes and pages, space, operations and held callers.",
		answers:  []answer{{status: 200, describe: "The samples.", body: samplesView{}}},
		problems: []*kind{kindLedger},
	}, s.getSamples)
}

func (s *Server) getSamples(w http.ResponseWriter, r *http.Request, p *sampleParams) error {
	l, err := s.ledger()
	if err != nil {
		return err
	}
	to := s.now()
	if p.To != nil {
		to = *p.To
	}
	from := to.Add(-time.Hour)
	if p.From != nil {
		from = *p.From
	}
	if !from.Before(to) {
		return problem(kindBadParameter, "from=%s is not before to=%s", from.Format(time.RFC3339), to.Format(time.RFC3339)).with("parameter", "from")
	}
	step := max(time.Second, (to.Sub(from) / samplePoints).Round(time.Second))
	if p.Step != nil {
		step = *p.Step
	}
	if step <= 0 || to.Sub(from)/step > maxSamplePoints {
		return problem(kindBadParameter, "step=%v makes more than %d items; ask for a longer step or a shorter time", step, maxSamplePoints).with("parameter", "step")
	}
	rows, err := l.Samples(r.Context(), from, to, step)
	if err != nil {
		return ledgerProblem(err)
	}
	v := samplesView{From: stamp(from), To: stamp(to), StepS: step.Seconds(), Items: make([]sampleView, 0, len(rows))}
	for _, x := range rows {
		v.Items = append(v.Items, sampleView{At: stamp(x.At), DirtyInodesTotal: x.DirtyInodes, DirtyPagesTotal: x.DirtyPages,
			UsedBytes: x.UsedBytes, FreeBytes: x.FreeBytes, OperationsTotal: x.OpsTotal, BlockedTotal: x.Blocked, Frozen: x.Frozen})
	}
	return writeJSON(w, r, http.StatusOK, v)
}

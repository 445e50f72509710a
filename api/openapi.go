package api

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Tags group the calls in the document.
const (
	tagFreeze  = "Freeze"
	tagFiles   = "Files"
	tagInspect = "Inspection"
	tagAbout   = "About"
)

// newDocument is the OpenAPI document before any call is in it.
func newDocument(version string) *huma.OpenAPI {
	if version == "" {
		version = "dev"
	}
	return &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title:   "Permafrost",
			Version: version,
			Description: "A persistent-memory file system that can be frozen: `POST /freeze` brings the image to one consistent, " +
				"durable point and holds it there, bit for bit, until `POST /thaw`.\n\n" +
				"Parameters of the verbs come in the query, as JSON or as a form, never in two of them at once. Durations are " +
				"written `90s`, `5m` or as whole seconds, sizes `1GiB`, `64MiB` or in bytes. Errors are problem documents whose " +
				"`type` is stable; `GET /problems/{name}` explains each.",
			License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			Contact: &huma.Contact{Name: "The operator of this appliance"},
		},
		Servers: []*huma.Server{{URL: "/", Description: "This appliance."}},
		Tags: []*huma.Tag{
			{Name: tagFreeze, Description: "Freezing, thawing, and what was frozen when, by whom."},
			{Name: tagFiles, Description: "The files of the image."},
			{Name: tagInspect, Description: "What is dirty, mapped, held."},
			{Name: tagAbout, Description: "Health, metrics and documents."},
		},
		Components: &huma.Components{Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)},
	}
}

// document adds a call to the document.
func (s *Server) document(op *operation, ps *paramSet) {
	path := op.docPath
	if path == "" {
		path = op.pattern
	}
	d := &huma.Operation{
		Method: op.method, Path: path, OperationID: op.id, Tags: []string{op.tag},
		Summary: op.summary, Description: op.description, Responses: map[string]*huma.Response{},
		Security: []map[string][]string{{}}, // open to whoever reaches the listener
	}
	for i := range ps.specs {
		d.Parameters = append(d.Parameters, ps.specs[i].document())
	}
	if op.pattern != path { // a wildcard route: its path parameter is not in the struct
		d.Parameters = append([]*huma.Param{filePathParam()}, d.Parameters...)
	}
	if op.verb {
		d.RequestBody = ps.documentBody()
	} else if op.bytesBody != "" {
		d.RequestBody = &huma.RequestBody{Description: op.bytesBody, Content: map[string]*huma.MediaType{
			mediaBytes: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}
	}
	for _, a := range op.answers {
		d.Responses[strconv.Itoa(a.status)] = s.documentAnswer(&a)
	}
	s.documentProblems(d, op, ps)
	s.doc.AddOperation(d)
	if op.method == http.MethodGet {
		s.documentHead(d)
	}
}

// documentHead adds HEAD beside GET where a client has a use for it.
func (s *Server) documentHead(get *huma.Operation) {
	if !strings.HasPrefix(get.Path, "/files/") && !strings.HasSuffix(get.Path, "/image") {
		return
	}
	head := *get
	head.Method, head.OperationID = http.MethodHead, get.OperationID+"-head"
	head.Summary += " (headers only)"
	head.Responses = map[string]*huma.Response{}
	for status, r := range get.Responses {
		head.Responses[status] = &huma.Response{Description: r.Description, Headers: r.Headers}
	}
	s.doc.AddOperation(&head)
}

func (s *Server) documentAnswer(a *answer) *huma.Response {
	r := &huma.Response{Description: a.describe}
	if a.body != nil || a.media != "" {
		r.Content = map[string]*huma.MediaType{}
	}
	if a.body != nil {
		r.Content[mediaJSON] = &huma.MediaType{Schema: s.doc.Components.Schemas.Schema(reflect.TypeOf(a.body), true, "")}
	}
	if a.media != "" {
		schema := &huma.Schema{Type: huma.TypeString}
		if a.media == mediaBytes {
			schema.Format = "binary"
		}
		media, _, _ := strings.Cut(a.media, ";")
		r.Content[media] = &huma.MediaType{Schema: schema}
	}
	for name, describe := range a.headers {
		if r.Headers == nil {
			r.Headers = map[string]*huma.Param{}
		}
		r.Headers[name] = &huma.Param{Description: describe, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	return r
}

// documentProblems lists the refusals of a call, one response a status.
func (s *Server) documentProblems(d *huma.Operation, op *operation, ps *paramSet) {
	// Every call refuses parameters that it does not know.
	ks := append([]*kind{kindCrossSite, kindInternal, kindBadParameter}, op.problems...)
	if !isProbe(op.pattern) {
		ks = append(ks, kindHostRefused)
	}
	if op.verb {
		ks = append(ks, kindTwoPlaces, kindBadBody, kindMediaType, kindTooLarge, kindBodyTimeout)
	}
	if !op.early {
		ks = append(ks, kindStarting)
	}
	if !urgent[op.pattern] {
		ks = append(ks, kindTooManyConns)
	}
	byStatus := map[int][]string{}
	for _, k := range ks {
		if line := "`" + k.name + "`"; !slices.Contains(byStatus[k.status], line) {
			byStatus[k.status] = append(byStatus[k.status], line)
		}
	}
	for status, names := range byStatus {
		r := &huma.Response{
			Description: http.StatusText(status) + ": " + strings.Join(names, ", ") + ".",
			Content: map[string]*huma.MediaType{mediaProblem: {
				Schema: s.doc.Components.Schemas.Schema(reflect.TypeFor[problemDocument](), true, "")}},
		}
		if status == 409 || status == 423 || status == 503 {
			r.Headers = map[string]*huma.Param{"Retry-After": {Description: "Seconds until it makes sense to try again.",
				Schema: &huma.Schema{Type: huma.TypeInteger}}}
		}
		d.Responses[strconv.Itoa(status)] = r
	}
}

// document is a parameter in the document.
func (sp *paramSpec) document() *huma.Param {
	schema := sp.schema()
	p := &huma.Param{Name: sp.name, In: sp.in, Description: sp.doc, Required: sp.in == inPath, Schema: schema}
	if sp.example != "" {
		p.Example = sp.literal(sp.example)
	}
	return p
}

// documentBody describes the parameters of a verb as a JSON or form body.
func (ps *paramSet) documentBody() *huma.RequestBody {
	object := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: false, Properties: map[string]*huma.Schema{},
		Description: "The parameters of the query, in the body instead."}
	for i := range ps.specs {
		if sp := &ps.specs[i]; sp.in == inQuery {
			schema := sp.schema()
			schema.Description = sp.doc
			object.Properties[sp.name] = schema
		}
	}
	return &huma.RequestBody{
		Description: "The parameters, instead of in the query. No body is needed.",
		Content: map[string]*huma.MediaType{
			mediaJSON:                           {Schema: object},
			"application/x-www-form-urlencoded": {Schema: object},
		},
	}
}

// schema is the parameter's kind of value.
func (sp *paramSpec) schema() *huma.Schema {
	sc := &huma.Schema{Type: huma.TypeString}
	switch sp.typ {
	case reflect.TypeFor[time.Duration]():
		sc.Pattern = `^([0-9]+|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`
		sc.Examples = []any{"90s"}
	case reflect.TypeFor[size]():
		sc.Pattern = `^[0-9]+(B|KiB|MiB|GiB|TiB|PiB)?$`
		sc.Examples = []any{"64MiB"}
	case reflect.TypeFor[time.Time]():
		sc.Format = "date-time"
	default:
		switch sp.typ.Kind() {
		case reflect.Bool:
			sc.Type = huma.TypeBoolean
		case reflect.Int, reflect.Int64:
			sc.Type, sc.Format = huma.TypeInteger, "int64"
		case reflect.Uint64:
			zero := 0.0
			sc.Type, sc.Format, sc.Minimum = huma.TypeInteger, "int64", &zero
		}
	}
	for _, e := range sp.enum {
		sc.Enum = append(sc.Enum, e)
	}
	if sp.fallback != "" {
		sc.Default = sp.literal(sp.fallback)
	}
	return sc
}

// literal is a tag's text as a value of the parameter's type in JSON.
func (sp *paramSpec) literal(text string) any {
	switch sp.typ.Kind() {
	case reflect.Bool:
		return text == "true"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		if sp.typ == reflect.TypeFor[time.Duration]() || sp.typ == reflect.TypeFor[size]() {
			return text
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return text
		}
		return n
	}
	return text
}

func filePathParam() *huma.Param {
	return &huma.Param{Name: "path", In: inPath, Required: true,
		Description: "Path from the root of the image; names are percent-encoded between plain slashes. A trailing slash means a directory.",
		Schema:      &huma.Schema{Type: huma.TypeString}, Example: "backups/monday.img"}
}

// render fixes the finished document: arrays are never null here, answers may
// gain fields, and the types of problems are enumerated.
func (s *Server) render() ([]byte, error) {
	for name, sc := range s.doc.Components.Schemas.Map() {
		loosen(sc)
		if name == "ProblemDocument" {
			for _, k := range kinds {
				sc.Properties["type"].Enum = append(sc.Properties["type"].Enum, k.typeURI())
			}
		}
	}
	return json.MarshalIndent(s.doc, "", "  ")
}

func loosen(sc *huma.Schema) {
	if sc == nil {
		return
	}
	if sc.Type == huma.TypeArray {
		sc.Nullable = false
		loosen(sc.Items)
	}
	if sc.Type == huma.TypeObject && sc.AdditionalProperties == false {
		sc.AdditionalProperties = nil
	}
	for _, p := range sc.Properties {
		loosen(p)
	}
}

// openapiRoute serves the document.
func (s *Server) openapiRoute() {
	route(s, operation{
		method: http.MethodGet, pattern: "/openapi.json", id: "openapi", tag: tagAbout, early: true,
		summary: "This document", description: "The OpenAPI 3.1 document, made from the code that serves the calls.",
		answers: []answer{{status: 200, describe: "The document.", body: map[string]any{}}},
	}, func(w http.ResponseWriter, r *http.Request, _ *noParams) error {
		return writeBody(w, r, http.StatusOK, mediaJSON, s.openapi)
	})
}

// problemDocument documents what a refusal looks like; writeProblem makes it.
type problemDocument struct {
	Type       string   `json:"type" doc:"Stable name of the problem."`
	Title      string   `json:"title" doc:"The same for every problem of this type."`
	Status     int      `json:"status" doc:"The HTTP status."`
	Detail     string   `json:"detail" doc:"What happened this time, and what to do next."`
	Parameter  string   `json:"parameter,omitempty" doc:"The parameter that is refused."`
	Nearest    string   `json:"nearest,omitempty" doc:"The known parameter most like it."`
	Allowed    []string `json:"allowed,omitempty" doc:"All parameters the call knows."`
	FreezeID   uint64   `json:"freeze_id,omitempty" doc:"The freeze that is in the way, or that was lost."`
	Holders    []string `json:"holders,omitempty" doc:"Who holds it."`
	Since      string   `json:"since,omitempty" format:"date-time" doc:"Since when it is frozen."`
	ExpiresAt  string   `json:"expires_at,omitempty" format:"date-time" doc:"When its last lease ends."`
	HoldMeant  string   `json:"hold_meant,omitempty" doc:"The hold the request was about."`
	HoldEnd    string   `json:"hold_end,omitempty" enum:"thawed,expired,forced,interrupted,rolled_back" doc:"How that hold ended."`
	WaitingFor []string `json:"waiting_for,omitempty" doc:"Whom a freeze that timed out was waiting for."`
}

package api

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
)

// linter is the linter of OpenAPI documents, at the version these documents
// were written against. It is a Node program; rules that matter most are also
// held below, so that they do without it.
var linter = []string{"npx", "--yes", "@redocly/cli@2.25.2", "lint", "--format=stylish"}

// document is the served document.
func (r *rig) document() map[string]any {
	r.t.Helper()
	return r.call("GET", "/openapi.json", nil).want(200).json()
}

// TestOpenAPILint: the served document passes the linter without errors.
func TestOpenAPILint(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the linter takes a while")
	}
	if _, err := exec.LookPath("npx"); err != nil {
		t.Skip("npx is not installed: the linter cannot be run (apt-get install npm)")
	}
	r := newRig(t, rigOptions{})
	path := filepath.Join(r.dir, "openapi.json")
	check(t, os.WriteFile(path, r.call("GET", "/openapi.json", nil).want(200).body, 0o644))
	cmd := exec.Command(linter[0], append(slices.Clone(linter[1:]), path)...)
	cmd.Env = append(os.Environ(), "REDOCLY_TELEMETRY=off", "CI=true")
	out, err := cmd.CombinedOutput()
	if err != nil && regexp.MustCompile(`npm (ERR|error)`).Match(out) {
		t.Skipf("the linter could not be fetched: %s", out)
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestOpenAPIRules: every route is in the document, every operation says what it
// needs to, every reference leads somewhere.
func TestOpenAPIRules(t *testing.T) {
	r := newRig(t, rigOptions{})
	doc := r.document()
	if v := doc["openapi"]; v != "3.1.0" {
		t.Errorf("openapi %v", v)
	}
	paths := doc["paths"].(map[string]any)
	check(t, chi.Walk(r.srv.router, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		path := strings.Replace(route, "/files/*", "/files/{path}", 1)
		if method == "HEAD" || path == "/files" {
			return nil
		}
		item, _ := paths[path].(map[string]any)
		if item[strings.ToLower(method)] == nil {
			t.Errorf("%s %s is served and not documented", method, path)
		}
		return nil
	}))
	// What a call refuses is documented, and no more: probes are served under any name.
	responses := func(path, status string) string {
		get := paths[path].(map[string]any)["get"].(map[string]any)["responses"].(map[string]any)
		answer, _ := get[status].(map[string]any)
		text, _ := answer["description"].(string)
		return text
	}
	for path, hosts := range map[string]bool{"/livez": false, "/readyz": false, "/status": true} {
		if got := strings.Contains(responses(path, "403"), "host-refused"); got != hosts {
			t.Errorf("%s: host-refused documented: %v", path, got)
		}
		if !strings.Contains(responses(path, "422"), "bad-parameter") {
			t.Errorf("%s: no bad-parameter in the document", path)
		}
		r.call("GET", path+"?unknown=1", nil).problem(422, "bad-parameter")
	}
	ids := map[string]bool{}
	for path, item := range paths {
		for method, v := range item.(map[string]any) {
			checkOperation(t, method+" "+path, v.(map[string]any), ids)
		}
	}
	schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
	text := string(r.call("GET", "/openapi.json", nil).body)
	for _, m := range regexp.MustCompile(`"\$ref": "([^"]*)"`).FindAllStringSubmatch(text, -1) {
		name, ok := strings.CutPrefix(m[1], "#/components/schemas/")
		if !ok || schemas[name] == nil {
			t.Errorf("reference %q leads nowhere", m[1])
		}
	}
}

func checkOperation(t *testing.T, name string, op map[string]any, ids map[string]bool) {
	t.Helper()
	id, _ := op["operationId"].(string)
	if id == "" || ids[id] || op["summary"] == nil || op["description"] == nil || op["tags"] == nil {
		t.Errorf("%s: operationId %q, summary, description and tags are needed", name, id)
	}
	ids[id] = true
	declared := map[string]bool{}
	params, _ := op["parameters"].([]any)
	for _, p := range params {
		p := p.(map[string]any)
		if p["description"] == nil || p["schema"] == nil {
			t.Errorf("%s: parameter %v is not described", name, p["name"])
		}
		if p["in"] == "path" {
			declared[p["name"].(string)] = true
		}
	}
	for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(name, -1) {
		if !declared[m[1]] {
			t.Errorf("%s: path parameter %s is not declared", name, m[1])
		}
	}
	ok, refused := false, false
	for status, resp := range op["responses"].(map[string]any) {
		ok = ok || status[0] == '2'
		refused = refused || status[0] == '4'
		if resp.(map[string]any)["description"] == nil {
			t.Errorf("%s: response %s is not described", name, status)
		}
	}
	if !ok || !refused {
		t.Errorf("%s: needs a success and a refusal", name)
	}
}

// TestOpenAPIEnumerations: the values a script compares with are in the
// document.
func TestOpenAPIEnumerations(t *testing.T) {
	r := newRig(t, rigOptions{})
	schemas := r.document()["components"].(map[string]any)["schemas"].(map[string]any)
	enum := func(schema, field string) []any {
		p := schemas[schema].(map[string]any)["properties"].(map[string]any)[field].(map[string]any)
		e, _ := p["enum"].([]any)
		return e
	}
	for _, c := range []struct {
		schema, field string
		values        []string
	}{
		{"FreezeView", "state", []string{"freezing", "frozen", "thawed", "expired", "forced", "interrupted", "rolled_back"}},
		{"StatusView", "state", []string{"unfrozen", "freezing", "frozen", "thawing"}},
		{"StatusView", "level", []string{"unfrozen", "write", "page_fault", "fs", "complete"}},
		{"PmemView", "domain", []string{"cpu-cache", "dax", "page-cache", "volatile"}},
		{"HoldView", "end", []string{"thawed", "expired", "forced", "interrupted", "rolled_back"}},
		{"LedgerView", "state", []string{"ok", "degraded"}},
		{"ProblemDocument", "type", []string{"/problems/already-frozen", "/problems/frozen", "/problems/no-space"}},
	} {
		have := enum(c.schema, c.field)
		for _, v := range c.values {
			if !slices.Contains(have, any(v)) {
				t.Errorf("%s.%s: enumeration %v lacks %q", c.schema, c.field, have, v)
			}
		}
	}
	if n := len(enum("ProblemDocument", "type")); n != len(kinds) {
		t.Errorf("%d problem types in the document, %d in the code", n, len(kinds))
	}
}

// TestAnswersMatchDocument: the answers of a busy appliance have exactly the
// fields that the document gives them.
func TestAnswersMatchDocument(t *testing.T) {
	r := newRig(t, rigOptions{})
	schemas := r.document()["components"].(map[string]any)["schemas"].(map[string]any)
	r.call("PUT", "/files/a", "x").want(201)
	f := r.frozen("holder=h")
	id := strings.TrimSuffix(jsonText(t, f["id"]), ".0")
	for path, schema := range map[string]string{"/status": "StatusView", "/freezes/" + id: "FreezeView", "/files/": "ListingView",
		"/inodes/1": "InodeDetail", "/readyz": "ReadyView", "/samples": "SamplesView", "/freezes": "PageFreezeView", "/inodes": "PageInodeView"} {
		matches(t, schemas, path, schema, r.call("GET", path, nil).want(200).json())
	}
	matches(t, schemas, "POST /freeze", "FreezeAnswer", f)
	matches(t, schemas, "POST /thaw", "ThawAnswer", r.thawed("holder=h"))
	matches(t, schemas, "POST /fsync", "SyncView", r.call("POST", "/fsync", nil).want(200).json())
}

// matches compares an object's fields with its schema's.
func matches(t *testing.T, schemas map[string]any, what, schema string, got map[string]any) {
	t.Helper()
	s, _ := schemas[schema].(map[string]any)
	if s == nil {
		t.Fatalf("%s: no schema %s", what, schema)
	}
	props := s["properties"].(map[string]any)
	for name, v := range got {
		p, _ := props[name].(map[string]any)
		if p == nil {
			t.Errorf("%s: field %s is not in %s", what, name, schema)
			continue
		}
		follow(t, schemas, what+"."+name, p, v)
	}
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, has := got[name.(string)]; !has {
			t.Errorf("%s: field %s of %s is missing", what, name, schema)
		}
	}
}

func follow(t *testing.T, schemas map[string]any, what string, p map[string]any, v any) {
	t.Helper()
	if oneOf, ok := p["anyOf"].([]any); ok && v != nil {
		p = oneOf[0].(map[string]any)
	}
	if ref, ok := p["$ref"].(string); ok {
		if o, ok := v.(map[string]any); ok {
			matches(t, schemas, what, strings.TrimPrefix(ref, "#/components/schemas/"), o)
		}
	}
	if items, ok := p["items"].(map[string]any); ok {
		list, isList := v.([]any)
		if !isList {
			t.Errorf("%s is %v, not a list", what, v)
		}
		for _, e := range list {
			follow(t, schemas, what+"[]", items, e)
		}
	}
	if enum, ok := p["enum"].([]any); ok && !slices.Contains(enum, v) {
		t.Errorf("%s: %v is not in the enumeration %v", what, v, enum)
	}
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	return string(must(json.Marshal(v))(t))
}

package api

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
)

// Where a parameter comes from.
const (
	inQuery  = "query" // of a verb: the query, a JSON body or a form body
	inPath   = "path"
	inHeader = "header"
)

// paramSpec is one declared parameter. Immutable.
type paramSpec struct {
	name     string
	in       string
	index    int // field of the parameter struct
	typ      reflect.Type
	optional bool // a pointer: nil means not given
	fallback string
	enum     []string
	doc      string
	example  string
}

// paramSet is the parameters of one call, read from the tags of a struct:
//
//	param:"lease"  its name, in the query (or the body of a verb)
//	path:"id"      its name, in the path
//	header:"..."   its name, as a header
//	default, enum, doc, example
//
// A field of a pointer type is nil when the parameter was not given. Immutable.
type paramSet struct {
	typ      reflect.Type
	specs    []paramSpec
	names    []string // of query parameters
	anywhere bool     // a verb: a JSON or form body does as well as the query
}

// noParams is the parameter struct of a call that takes none.
type noParams struct{}

func newParamSet(typ reflect.Type, anywhere bool) *paramSet {
	ps := &paramSet{typ: typ, anywhere: anywhere}
	for i := range typ.NumField() {
		f := typ.Field(i)
		sp := paramSpec{index: i, typ: f.Type, doc: f.Tag.Get("doc"),
			fallback: f.Tag.Get("default"), example: f.Tag.Get("example")}
		if f.Type.Kind() == reflect.Pointer {
			sp.typ, sp.optional = f.Type.Elem(), true
		}
		if e := f.Tag.Get("enum"); e != "" {
			sp.enum = strings.Split(e, ",")
		}
		for _, in := range []string{inPath, inHeader} {
			if v := f.Tag.Get(in); v != "" {
				sp.name, sp.in = v, in
			}
		}
		if v := f.Tag.Get("param"); v != "" {
			sp.name, sp.in = v, inQuery
			ps.names = append(ps.names, v)
		}
		if sp.name != "" {
			ps.specs = append(ps.specs, sp)
		}
	}
	return ps
}

// decode fills dst, a pointer to the set's struct, from a request. It reads the
// body of a verb. Every error is a *Problem.
func (ps *paramSet) decode(w http.ResponseWriter, r *http.Request, dst any) error {
	given, err := ps.collect(w, r)
	if err != nil {
		return err
	}
	v := reflect.ValueOf(dst).Elem()
	for i := range ps.specs {
		sp := &ps.specs[i]
		text, ok := "", false
		switch sp.in {
		case inPath:
			text, ok = chi.URLParam(r, sp.name), true
		case inHeader:
			if values := r.Header.Values(sp.name); len(values) > 0 {
				if len(values) > 1 {
					return ps.refuse(sp.name, "the header %s came %d times; send it once", sp.name, len(values))
				}
				text, ok = values[0], true
			}
		case inQuery:
			text, ok = given[sp.name]
		}
		if !ok {
			if text = sp.fallback; text == "" {
				continue
			}
		}
		if err := sp.set(v.Field(sp.index), text); err != nil {
			return ps.refuse(sp.name, "%s=%s %v", sp.name, shorten(text), err)
		}
	}
	return nil
}

// collect gathers the query parameters of a request, or those in the body of a
// verb, each given once and known.
func (ps *paramSet) collect(w http.ResponseWriter, r *http.Request) (map[string]string, error) {
	pairs, err := splitPairs(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	if ps.anywhere {
		fromBody, err := bodyPairs(w, r)
		if err != nil {
			return nil, err
		}
		if len(pairs) > 0 && len(fromBody) > 0 {
			return nil, problem(kindTwoPlaces, "the query has %s and the body has %s; put all parameters in one of them",
				shorten(pairs[0].name), shorten(fromBody[0].name)).with("parameter", fromBody[0].name)
		}
		pairs = append(pairs, fromBody...)
	}
	given := make(map[string]string, len(pairs))
	for _, p := range pairs {
		if !slices.Contains(ps.names, p.name) {
			return nil, ps.unknown(p.name)
		}
		if _, twice := given[p.name]; twice {
			return nil, ps.refuse(p.name, "%s is given more than once; give it once", p.name)
		}
		switch {
		case p.bare:
			return nil, ps.refuse(p.name, "%s has no value; write %s=VALUE or leave it out", p.name, p.name)
		case p.value == "":
			return nil, ps.refuse(p.name, "%s is empty; give it a value or leave it out", p.name)
		}
		given[p.name] = p.value
	}
	return given, nil
}

// unknown refuses a parameter that the call does not have and names the one
// that is most like it.
func (ps *paramSet) unknown(name string) *Problem {
	if len(ps.names) == 0 {
		return problem(kindBadParameter, "%s is not known here: this call takes no parameters", shorten(name)).
			with("parameter", name).with("allowed", []string{})
	}
	near := nearest(name, ps.names)
	return problem(kindBadParameter, "%s is not known here; the nearest known parameter is %s (known: %s)",
		shorten(name), near, strings.Join(ps.names, ", ")).
		with("parameter", name).with("nearest", near).with("allowed", ps.names)
}

func (ps *paramSet) refuse(name, format string, args ...any) *Problem {
	p := problem(kindBadParameter, format, args...).with("parameter", name)
	if near := nearest(name, ps.names); near != "" {
		p.with("nearest", near)
	}
	return p
}

// set parses text into a field.
func (sp *paramSpec) set(field reflect.Value, text string) error {
	if len(sp.enum) > 0 && !slices.Contains(sp.enum, text) {
		return fmt.Errorf("is none of %s; nearest is %s", strings.Join(sp.enum, ", "), nearest(text, sp.enum))
	}
	if sp.optional {
		field.Set(reflect.New(sp.typ))
		field = field.Elem()
	}
	switch field.Interface().(type) {
	case time.Duration:
		d, err := parseDuration(text)
		field.SetInt(int64(d))
		return err
	case size:
		n, err := parseSize(text)
		field.SetInt(int64(n))
		return err
	case time.Time:
		t, err := parseTime(text)
		field.Set(reflect.ValueOf(t))
		return err
	}
	switch field.Kind() {
	case reflect.String:
		if strings.IndexByte(text, 0) >= 0 {
			return fmt.Errorf("has a NUL byte in it")
		}
		field.SetString(text)
	case reflect.Bool:
		b, err := parseBool(text)
		field.SetBool(b)
		return err
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return errInteger
		}
		field.SetInt(n)
	case reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return errInteger
		}
		field.SetUint(n)
	default:
		return fmt.Errorf("is of a kind that cannot be read (%s)", field.Type())
	}
	return nil
}

// shorten quotes text for a message and keeps the message bounded.
func shorten(text string) string {
	const longest = 80
	if len(text) > longest {
		return strconv.Quote(text[:longest]) + "..."
	}
	return strconv.Quote(text)
}

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"permafrost/core"
)

// isRefusal holds an error of a decoder against what a caller may be told: a
// problem of the 400s that says what to do, in bounded text.
func isRefusal(t *testing.T, what string, err error) {
	t.Helper()
	var p *Problem
	if !errors.As(err, &p) || p.Detail == "" || len(p.Detail) > 2000 {
		t.Fatalf("%.200q: %.300v is not a refusal", what, err)
	}
}

// FuzzPairs: whatever comes as a query, a form or a JSON body is refused, or
// read as what it says: written again, it is read the same.
func FuzzPairs(f *testing.F) {
	for _, s := range []string{"a=1&b=2", "a", "a=%zz", "&&&", `{"a":1}`, `{"a":`, `{"a":1}x`, "=", `{"":null}`, "\xff=\x00",
		"holder=nightly&lease=10m&wait=true", `{"holder":"nightly","lease":"10m","wait":true,"n":1e400}`, `{"a":"\ud800"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		pairs, err := splitPairs(s)
		if err != nil {
			isRefusal(t, s, err)
		} else {
			var b strings.Builder
			for _, p := range pairs {
				b.WriteString(url.QueryEscape(p.name))
				if !p.bare {
					b.WriteString("=" + url.QueryEscape(p.value))
				}
				b.WriteString("&")
			}
			again, err := splitPairs(b.String())
			pairs = slices.DeleteFunc(pairs, func(p pair) bool { return p.bare && p.name == "" })
			if err != nil || !slices.Equal(again, pairs) {
				t.Fatalf("%q is %+v, written again %q and %+v, %v", s, pairs, b.String(), again, err)
			}
		}
		pairs, err = jsonPairs([]byte(s))
		if err != nil {
			isRefusal(t, s, err)
			return
		}
		if !json.Valid([]byte(s)) {
			t.Fatalf("%q is no JSON and was read as %+v", s, pairs)
		}
		parts := make([]string, len(pairs))
		for i, p := range pairs {
			name, value := must(json.Marshal(p.name))(t), []byte("null")
			if !p.bare {
				value = must(json.Marshal(p.value))(t)
			}
			parts[i] = fmt.Sprintf("%s:%s", name, value)
		}
		again, err := jsonPairs([]byte("{" + strings.Join(parts, ",") + "}"))
		if err != nil || !slices.Equal(again, pairs) {
			t.Fatalf("%q is %+v, written again %+v, %v", s, pairs, again, err)
		}
	})
}

// FuzzPath: a path that is taken has only names that can be, and written as a
// link it leads back to itself.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"a/b", "a//b", "../a", "%2e%2e", "a%2Fb", "a%00", "%ff", "a/", "", strings.Repeat("n/", 2100), strings.Repeat("n", 256)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, decode := range []func(string) (string, error){func(n string) (string, error) { return n, nil }, url.PathUnescape} {
			p, err := splitPath(s, decode)
			if err != nil {
				isRefusal(t, s, err)
				continue
			}
			total := 0
			for _, n := range p.names {
				if n == "" || n == "." || n == ".." || len(n) > maxNameBytes || strings.ContainsAny(n, "/\x00") {
					t.Fatalf("%q has the name %q", s, n)
				}
				total += len(n) + 1
			}
			if total > maxPathBytes {
				t.Fatalf("a path of %d bytes", total)
			}
			again, err := parseImagePath(p.abs())
			if err != nil || !slices.Equal(again.names, p.names) {
				t.Fatalf("%q: %q is read as %v, %v", s, p.abs(), again.names, err)
			}
			if p.root() {
				continue
			}
			r := httptest.NewRequest("GET", fileHref(p.abs()), nil)
			again, err = requestPath(r)
			if err != nil || !slices.Equal(again.names, p.names) {
				t.Fatalf("%q: the link %q is read as %q, %v", s, fileHref(p.abs()), again.names, err)
			}
		}
	})
}

// everyParams is the parameters of every call.
var everyParams = []reflect.Type{
	reflect.TypeFor[noParams](), reflect.TypeFor[eventParams](), reflect.TypeFor[patchParams](), reflect.TypeFor[renameParams](),
	reflect.TypeFor[deleteParams](), reflect.TypeFor[putParams](), reflect.TypeFor[filesParams](), reflect.TypeFor[freezesParams](),
	reflect.TypeFor[freezePageParams](), reflect.TypeFor[freezeParams](), reflect.TypeFor[thawParams](), reflect.TypeFor[renewParams](),
	reflect.TypeFor[fsyncParams](), reflect.TypeFor[imageParams](), reflect.TypeFor[inodesParams](), reflect.TypeFor[inodePageParams](),
	reflect.TypeFor[listParams](), reflect.TypeFor[sampleParams](),
} // immutable

// FuzzParams: a request with any query, body and header fills the parameters of
// a call with values in their bounds, or is refused.
func FuzzParams(f *testing.F) {
	for i := range everyParams {
		f.Add(byte(i), false, "limit=10&cursor=5", "", "", "")
		f.Add(byte(i), true, "holder=a&lease=10m&patience=5s&wait=true", "", "", "k1")
		f.Add(byte(i), true, "", "application/json", `{"holder":"a","lease":600,"join":"x"}`, "")
		f.Add(byte(i), true, "", "application/x-www-form-urlencoded", "holder=a&offset=4KiB&length=1GiB&path=%2Fx", "k2")
		f.Add(byte(i), false, "since=2024-01-02T03:04:05Z&dirty=true&mode=exchange&to=/b", "", "", "")
	}
	f.Fuzz(func(t *testing.T, which byte, anywhere bool, query, contentType, body, header string) {
		typ := everyParams[int(which)%len(everyParams)]
		r := &http.Request{Method: "POST", URL: &url.URL{Path: "/x", RawQuery: query}, Header: http.Header{}, Body: http.NoBody}
		if body != "" {
			r.Body = readCloser{strings.NewReader(body)}
		}
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		ps := newParamSet(typ, anywhere)
		for _, sp := range ps.specs {
			if sp.in == inHeader && header != "" {
				r.Header.Set(sp.name, header)
			}
		}
		dst := reflect.New(typ)
		if err := ps.decode(httptest.NewRecorder(), r, dst.Interface()); err != nil {
			isRefusal(t, query+body, err)
			return
		}
		for i := range typ.NumField() {
			v := dst.Elem().Field(i)
			if v.Kind() == reflect.Pointer && !v.IsNil() {
				v = v.Elem()
			}
			switch x := v.Interface().(type) {
			case time.Duration:
				if x < 0 {
					t.Fatalf("%s is %s", typ.Field(i).Name, x)
				}
			case size:
				if x < 0 {
					t.Fatalf("%s is %d", typ.Field(i).Name, x)
				}
			case string:
				if enum := typ.Field(i).Tag.Get("enum"); strings.Contains(x, "\x00") || enum != "" && x != "" && !slices.Contains(strings.Split(enum, ","), x) {
					t.Fatalf("%s is %q", typ.Field(i).Name, x)
				}
			}
		}
	})
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// FuzzValues: durations, sizes and times are refused or mean what they say.
func FuzzValues(f *testing.F) {
	for _, s := range []string{"90s", "5m", "1h30m", "90", "250ms", "-1s", "4KiB", "8191PiB", "9223372036854775807", "1B", "2024-01-02T03:04:05.6+07:00", "2024-01-02T03:04:05 07:00", "true", "0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseDuration(s); err == nil {
			if again, err := parseDuration(d.String()); err != nil || again != d || d < 0 {
				t.Errorf("%q is %s, which is %s, %v", s, d, again, err)
			}
		}
		if n, err := parseSize(s); err == nil {
			if again, err := parseSize(fmt.Sprintf("%dB", n)); err != nil || again != n || n < 0 {
				t.Errorf("%q is %d, which is %d, %v", s, n, again, err)
			}
		}
		if at, err := parseTime(s); err == nil {
			if again, err := parseTime(at.Format(time.RFC3339Nano)); err != nil || !again.Equal(at) {
				t.Errorf("%q is %s, which is %s, %v", s, at, again, err)
			}
		}
		if b, err := parseBool(s); err == nil && b != (s == "true" || s == "1") {
			t.Errorf("%q is %t", s, b)
		}
		known := []string{"lease", "holder"}
		if near := nearest(s, known); !slices.Contains(known, near) {
			t.Errorf("%q is nearest to %q", s, near)
		}
	})
}

// FuzzConditions: If-Match is met by the tags it lists and by no others;
// If-None-Match the other way round.
func FuzzConditions(f *testing.F) {
	for _, s := range []string{`"1-2-3-4"`, `W/"1-2-3-4"`, "*", `"a", "1-2-3-4"`, "", ",,", `"1-2-3-4`, " * "} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, list string, mapped bool) {
		a := &core.Attr{Ino: 1, Size: 2, Mtime: time.Unix(0, 3), Ctime: time.Unix(0, 4)}
		tag := fileETag(a, mapped)
		opaque := strings.TrimPrefix(tag, "W/")
		lists := func(strong bool) bool { // RFC 9110, 8.8.3.2, written down once more
			for _, item := range strings.Split(list, ",") {
				item = string(bytes.TrimSpace([]byte(item)))
				if item == "*" || item == opaque && !(strong && mapped) || item == "W/"+opaque && !strong {
					return true
				}
			}
			return false
		}
		err := conditions{match: list}.check(a, tag)
		if met := list == "" || lists(true); met != (err == nil) || err != nil && !errors.Is(err, core.ErrPrecond) {
			t.Errorf("If-Match %q of %s: %v, want met: %t", list, tag, err, met)
		}
		err = conditions{noneMatch: list}.check(a, tag)
		if met := list == "" || !lists(false); met != (err == nil) {
			t.Errorf("If-None-Match %q of %s: %v, want met: %t", list, tag, err, met)
		}
		if err := (conditions{match: list}).check(nil, ""); (list == "") != (err == nil) {
			t.Errorf("If-Match %q of nothing: %v", list, err)
		}
		if err := (conditions{noneMatch: list}).check(nil, ""); err != nil {
			t.Errorf("If-None-Match %q of nothing: %v", list, err)
		}
	})
}

package api

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

// maxParamBody bounds the body of a verb, in bytes.
const maxParamBody = 64 << 10

// pair is one parameter as it came.
type pair struct {
	name, value string
	bare        bool // came without "="
}

// splitPairs reads a query or a form. Unlike url.ParseQuery it tells a
// parameter without a value from an empty one, and drops nothing.
func splitPairs(raw string) ([]pair, error) {
	var pairs []pair
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		rawName, rawValue, hasValue := strings.Cut(part, "=")
		name, err := url.QueryUnescape(rawName)
		if err == nil {
			rawValue, err = url.QueryUnescape(rawValue)
		}
		if err != nil {
			return nil, problem(kindBadParameter, "%s is badly percent-encoded: %v; write %%25 for a percent sign",
				shorten(part), err).with("parameter", rawName)
		}
		pairs = append(pairs, pair{name: name, value: rawValue, bare: !hasValue})
	}
	return pairs, nil
}

// bodyPairs reads the parameters in the body of a verb: none, JSON or a form.
func bodyPairs(w http.ResponseWriter, r *http.Request) ([]pair, error) {
	body, err := readBounded(w, r, maxParamBody)
	if err != nil || len(body) == 0 {
		return nil, err
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, problem(kindMediaType, "Content-Encoding %s is not understood; send the body as it is", shorten(enc))
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		kind = ""
	}
	switch kind {
	case "application/json":
		return jsonPairs(body)
	case "application/x-www-form-urlencoded":
		return splitPairs(strings.TrimRight(string(body), "\r\n"))
	}
	return nil, problem(kindMediaType, "a body of type %s is not understood here; send parameters in the query, as application/json or as application/x-www-form-urlencoded",
		shorten(r.Header.Get("Content-Type")))
}

// readBounded reads a whole body of at most limit bytes. The reader beneath has
// a progress deadline.
func readBounded(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, problem(kindTooLarge, "the body is larger than the %d bytes that parameters may take", limit)
	}
	if err != nil {
		return nil, bodyProblem(err)
	}
	return body, nil
}

// jsonPairs reads a flat JSON object. Names given twice stay twice, so that they
// are refused like those of a query.
func jsonPairs(body []byte) ([]pair, error) {
	bad := func(format string, args ...any) error { return problem(kindBadBody, format, args...) }
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.UseNumber()
	open, err := dec.Token()
	if err != nil || open != json.Delim('{') {
		return nil, bad(`the body is not a JSON object; send {"holder": "nightly", "lease": "10m"}`)
	}
	var pairs []pair
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, bad("the body is not JSON: %v", err)
		}
		name, ok := key.(string)
		if !ok {
			return nil, bad("the body is not a JSON object")
		}
		value, err := dec.Token()
		if err != nil {
			return nil, bad("the body is not JSON: %v", err)
		}
		p := pair{name: name}
		switch v := value.(type) {
		case string:
			p.value = v
		case json.Number:
			p.value = v.String()
		case bool:
			p.value = "false"
			if v {
				p.value = "true"
			}
		case nil:
			p.bare = true
		default:
			return nil, bad("%s is an object or an array; parameters are strings, numbers and booleans", shorten(name))
		}
		pairs = append(pairs, p)
	}
	if _, err := dec.Token(); err != nil {
		return nil, bad("the body is not JSON: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, bad("something follows the JSON object; send one object and nothing else")
	}
	return pairs, nil
}

package api

import (
	"net/http"
	"strings"
	"testing"
)

// TestHosts: names of other machines are refused, but not on the Unix socket
// and not for probes.
func TestHosts(t *testing.T) {
	r := newRig(t, rigOptions{change: func(o *Options) { o.AllowedHosts = []string{"Frost.Example"} }})
	for _, h := range []string{"localhost", "localhost:9", "127.0.0.1:1", "[::1]", "[::1]:7433", "LOCALHOST", "frost.example:80", "frost.example."} {
		r.call("GET", "/status", nil, "Host: "+h).want(200)
	}
	for _, h := range []string{"evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7433", "192.168.0.1", "[::2]"} {
		r.call("GET", "/status", nil, "Host: "+h).problem(403, "host-refused")
		r.call("POST", "/freeze", nil, "Host: "+h).problem(403, "host-refused")
		r.call("GET", "/livez", nil, "Host: "+h).want(200)
		r.call("GET", "/readyz", nil, "Host: "+h).want(200)
		r.callBy(r.local, "GET", "http://x/status", nil, "Host: "+h).want(200)
	}
}

// TestCrossSite: what pages of other sites make a browser send is refused,
// reads with effects included; a link to the dashboard may be followed.
func TestCrossSite(t *testing.T) {
	r := newRig(t, rigOptions{change: func(o *Options) { o.UI = pageStub{} }})
	for _, h := range [][]string{
		{"Sec-Fetch-Site: cross-site"}, {"Sec-Fetch-Site: same-site"}, {"Origin: http://evil.example"},
		{"Origin: http://localhost:3000"}, {"Origin: null"},
	} {
		r.call("POST", "/freeze", nil, h...).problem(403, "cross-site")
		r.call("PUT", "/files/a", "x", h...).problem(403, "cross-site")
		r.call("POST", "/ui/freeze", nil, h...).problem(403, "cross-site")
		if strings.HasPrefix(h[0], "Sec") {
			r.call("GET", "/freezes/1/image?renew=true", nil, h...).problem(403, "cross-site")
			r.call("GET", "/status", nil, append(h, "Sec-Fetch-Mode: navigate")...).problem(403, "cross-site")
			r.call("GET", "/ui/", nil, append(h, "Sec-Fetch-Mode: navigate")...).want(200)
			r.call("GET", "/ui/", nil, append(h, "Sec-Fetch-Mode: no-cors")...).problem(403, "cross-site")
		}
	}
	r.call("POST", "/freeze", nil, "Sec-Fetch-Site: same-origin", "Origin: "+r.base).want(200)
	r.call("POST", "/thaw", nil, "Sec-Fetch-Site: none").want(200)
}

// TestNotFoundAndMethods: 404 and 405 are problems, too.
func TestNotFoundAndMethods(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.call("GET", "/nowhere", nil).problem(404, "not-found")
	r.call("GET", "/freezes/1/nothing", nil).problem(404, "not-found")
	rep := r.call("GET", "/freeze", nil)
	rep.problem(405, "method-not-allowed")
	if rep.header.Get("Allow") != "POST" {
		t.Errorf("Allow %q", rep.header.Get("Allow"))
	}
	rep = r.call("OPTIONS", "/files/a", nil)
	rep.problem(405, "method-not-allowed")
	if rep.header.Get("Allow") != "GET, HEAD, POST, PUT, PATCH, DELETE" {
		t.Errorf("Allow %q", rep.header.Get("Allow"))
	}
	r.call("DELETE", "/status", nil).problem(405, "method-not-allowed")
	r.call("BREW", "/status", nil).problem(405, "method-not-allowed")
	for _, k := range kinds {
		text := string(r.call("GET", k.typeURI(), nil).want(200).body)
		if !strings.Contains(text, k.title) || len(text) < 60 {
			t.Errorf("%s is explained as %q", k.name, text)
		}
	}
	r.call("GET", "/problems/none", nil).problem(404, "no-such-problem")
	if list := string(r.call("GET", "/problems", nil).want(200).body); strings.Count(list, "\n") != len(kinds) {
		t.Errorf("/problems has other than %d lines: %s", len(kinds), list)
	}
}

// TestRoot: five lines for curl, the dashboard for a browser.
func TestRoot(t *testing.T) {
	r := newRig(t, rigOptions{change: func(o *Options) { o.UI = pageStub{} }})
	text := string(r.call("GET", "/", nil, "Accept: */*").want(200).body)
	if strings.Count(text, "\n") != 5 || !strings.Contains(text, "/freeze") || !strings.Contains(text, r.base+"/ui/") || !strings.Contains(text, "unfrozen") {
		t.Errorf("GET / answered %q", text)
	}
	r.frozen("holder=me")
	if text := string(r.call("GET", "/", nil).want(200).body); !strings.Contains(text, `held by "me"`) {
		t.Errorf("GET / answered %q", text)
	}
	r.thawed("holder=me")
	noFollow := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	rep := r.callBy(noFollow, "GET", r.base+"/", nil, "Accept: text/html,application/xhtml+xml;q=0.9").want(302)
	if rep.header.Get("Location") != "/ui/" {
		t.Errorf("Location %q", rep.header.Get("Location"))
	}
}

// pageStub stands where the pages are mounted.
type pageStub struct{}

func (pageStub) ServeHTTP(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("page")) }

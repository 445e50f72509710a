package api

import (
	"net"
	"net/http"
	"slices"
	"strings"
)

// loopbackHosts are always served.
var loopbackHosts = []string{"localhost", "127.0.0.1", "::1"}

// hostName is the Host header without its port and brackets, in lower case.
func hostName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// isProbe says whether a path is asked for by supervisors, under any name.
func isProbe(path string) bool { return path == "/livez" || path == "/readyz" }

// withHosts refuses Host headers that name another machine: a page of that name
// would be same-origin with us (DNS rebinding), which cross-site protection
// cannot see. The Unix socket has no names, and probes use any.
func (s *Server) withHosts(next http.Handler) http.Handler {
	allowed := slices.Clone(loopbackHosts)
	for _, h := range s.opt.AllowedHosts {
		allowed = append(allowed, hostName(h))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isProbe(r.URL.Path) && !callerOf(r).local && !slices.Contains(allowed, hostName(r.Host)) {
			s.fail(w, r, problem(kindHostRefused, "the Host header %s is not one this appliance serves; use localhost, or have the operator allow it",
				shorten(r.Host)).with("host", hostName(r.Host)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// withSameSite refuses what pages of other sites make a browser send: changes by
// Origin and Sec-Fetch-Site as the standard library judges them, and reads as
// well, for some have effects (reading an image may renew its hold). A link to
// the dashboard may be followed from anywhere.
func (s *Server) withSameSite(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := protection.Check(r)
		foreign := false
		switch r.Header.Get("Sec-Fetch-Site") {
		case "cross-site", "same-site":
			foreign = true
		}
		page := r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, "/ui/")
		if foreign && page && r.Header.Get("Sec-Fetch-Mode") == "navigate" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			foreign = false
		}
		if err != nil || foreign {
			s.fail(w, r, problem(kindCrossSite, "a page of another site (%s) made this request; open the dashboard itself or use a program",
				shorten(r.Header.Get("Origin"))))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// withHeaders sets what holds for every answer but those of the pages, which
// set their own.
func withHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "same-origin")
		if !strings.HasPrefix(r.URL.Path, "/ui/") {
			h.Set("Cache-Control", "no-store")
			h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
		}
		next.ServeHTTP(w, r)
	})
}

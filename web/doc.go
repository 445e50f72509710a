// Package web is the dashboard: server-rendered pages under /ui/, one live hub
// for all tabs, and the embedded assets.
//
// A page is an ordered list of regions. The same region is rendered into the
// full page (GET) and, when it changes, sent down the tab's event stream, so
// that a page never shows by one way what it would not show by the other.
//
//	GET  /ui/...          page.load -> view model (pure) -> regions -> layout
//	GET  /ui/live?page=…  page.load -> view model (pure) -> regions that changed
//	POST /ui/freeze …     the freeze verbs as plain forms, then 303 to a page
//
// Invariants:
//
//	W1. One snapshot of core's status serves one render: no two figures of a
//	    page come from different moments of the file system.
//	W2. View models are pure functions of values (snapshot, ledger rows, now).
//	    Only page loaders and actions touch the file system or the ledger.
//	W3. The Content-Security-Policy forbids inline script and style; no page
//	    has either. What JavaScript adds is liveness, nothing else.
//	W4. Nothing here waits for a thaw or for the ledger without a bound.
//	W5. A changing page is rendered at most once per change and liveInterval,
//	    however many tabs show it; with no tab open nothing runs.
//
// Cross-site protection and the Host allow-list are the outer handler's.
//
// The _templ.go files are made by `make generate` from the module's root.
package web

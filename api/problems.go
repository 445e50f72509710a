package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"
)

// kind is one stable problem type. Names are part of the contract: added, never
// renamed. Immutable.
type kind struct {
	name    string // last part of the type URI
	title   string
	status  int
	explain string // for people: what it means and what to do
}

// typeURI is the stable "type" of the problem.
func (k *kind) typeURI() string { return "/problems/" + k.name }

// The catalogue. kinds lists them all, in order of status.
var (
	kinds []*kind

	kindHostRefused    = add(403, "host-refused", "Host not allowed", "The Host header names a machine that this appliance does not serve, which is how a hostile page reaches a local server (DNS rebinding). Use localhost, 127.0.0.1, [::1] or the Unix socket, or have the operator allow the name with --allowed-host.")
	kindCrossSite      = add(403, "cross-site", "Cross-site request refused", "A page of another site made this request in a browser. Open the dashboard itself, or use a program that is not a browser.")
	kindNotTheHolder   = add(403, "not-the-holder", "Not the holder", "The hold was made with a token and this request did not send it. Send the token of the answer to POST /freeze in the header Freeze-Token. An administrator can end it with force=true; that is recorded.")
	kindNotFound       = add(404, "not-found", "No such resource", "Nothing is served under this path. /openapi.json lists all calls.")
	kindNoSuchFile     = add(404, "no-such-file", "No such file or directory", "The path names nothing in the image. GET /files/ lists the root directory.")
	kindNoSuchInode    = add(404, "no-such-inode", "No such inode", "No inode has this number; numbers are never used twice. GET /inodes lists them.")
	kindNoSuchFreeze   = add(404, "no-such-freeze", "No such freeze", "No freeze has this id, or it is older than the ledger keeps. GET /freezes lists them.")
	kindNotInLedger    = add(404, "not-in-ledger", "Not in the ledger", "The ledger has no such row, or it is older than the ledger keeps.")
	kindUnknownHold    = add(404, "unknown-hold", "No such hold", "No hold or holder of this name is known. GET /status names the holds that stand, GET /freezes those that ended.")
	kindNoProblem      = add(404, "no-such-problem", "No such problem type", "GET /problems lists them.")
	kindMethod         = add(405, "method-not-allowed", "Method not allowed", "The resource exists, but not for this method. The Allow header names those it has.")
	kindBodyTimeout    = add(408, "body-timeout", "Request body too slow", "The body stopped coming, or came too slowly. Nothing that needs the whole body was done. Send it again.")
	kindGaveUp         = add(408, "gave-up", "The request ended first", "The requester left, or the time it gave ran out, before the work was done.")
	kindAlreadyFrozen  = add(409, "already-frozen", "Already frozen", "Somebody else holds the file system frozen: freeze_id, holders, since and expires_at say who, and Retry-After when its lease ends at the latest. Wait in line with wait=60s, share the point in time with join=true, or try again.")
	kindWhichHold      = add(409, "which-hold", "Which hold?", "Several holds stand, so a thaw or renewal must name one: hold=12.1 or holder=name.")
	kindNotFrozenYet   = add(409, "not-frozen-yet", "Not frozen yet", "The freeze has not reached its point in time: wait for the answer to POST /freeze.")
	kindExists         = add(409, "exists", "It exists already", "The name is taken. Delete it, choose another, or ask to replace it.")
	kindParentMissing  = add(409, "parent-missing", "Parent directory missing", "A directory on the way does not exist. Make it with PUT /files/dir/, or send parents=true.")
	kindNotADirectory  = add(409, "not-a-directory", "Not a directory", "A part of the path, or the thing itself, is not a directory.")
	kindIsADirectory   = add(409, "is-a-directory", "Is a directory", "The call needs a file and the path names a directory.")
	kindNotEmpty       = add(409, "not-empty", "Directory not empty", "Empty the directory first, or delete it with recursive=true.")
	kindMapped         = add(409, "mapped", "Mapped by a program", "A program maps the range. Cutting it away would tear the program's memory. GET /mappings names the programs.")
	kindTooManyLinks   = add(409, "too-many-links", "Too many links", "An inode has at most 65000 links.")
	kindRootDir        = add(409, "root-directory", "Not for the root directory", "The root directory cannot be deleted, renamed or replaced.")
	kindFreezeLost     = add(410, "freeze-lost", "The freeze was lost", "The hold did not stand without a gap from its frozen time to this call: it expired, was forced, or the appliance restarted. A copy made under it is NOT consistent: throw it away, freeze again, with a longer lease or with renewals, and copy again.")
	kindFreezeEnded    = add(410, "freeze-ended", "The freeze has ended", "The image of a freeze can be read, and a hold renewed, while it stands; this one has ended and the image moves again. Freeze again.")
	kindPrecondition   = add(412, "precondition-failed", "Precondition failed", "The file is not the one that If-Match or If-None-Match names. Read it again and decide anew.")
	kindTooLarge       = add(413, "too-large", "Too large", "The body is larger than this call takes, or larger than the image can ever hold.")
	kindMediaType      = add(415, "unsupported-media-type", "Unsupported media type", "Parameters come in the query, as application/json or as application/x-www-form-urlencoded. The bytes of a file come as they are.")
	kindFormBody       = add(415, "form-body", "A form is not a file", "The body is labelled as a form. curl -d and --data-binary label it so, and -d also strips newlines. Use curl -T FILE URL, or add -H 'Content-Type: application/octet-stream'.")
	kindRange          = add(416, "range-not-satisfiable", "Range not satisfiable", "The range lies outside the content, or is malformed, such as 5-4. Content-Range tells the length of the content.")
	kindBadParameter   = add(422, "bad-parameter", "Bad parameter", "A parameter is unknown, empty, without a value, given twice, or its value is not of its kind. The field parameter names it, nearest the known one that is most like it. Durations are 90s, 5m or whole seconds; sizes 1GiB, 64MiB or bytes; times RFC 3339.")
	kindTwoPlaces      = add(422, "two-places", "Parameters in two places", "Send all parameters in the query, or all in the body, not in both.")
	kindBadBody        = add(422, "bad-body", "Bad body", "The body is not a JSON object of strings, numbers and booleans, nor a form.")
	kindBadPath        = add(422, "bad-path", "Bad path", "A path is made of names between single slashes: at most 4096 bytes, each name 1 to 255 bytes, without NUL, and neither . nor ..")
	kindOverCap        = add(422, "over-cap", "Lease over the cap", "A freeze lasts at most as long as the operator allows, counted from frozen_at, however often it is renewed or joined. Ask for a shorter lease.")
	kindKeyReused      = add(422, "key-reused", "Idempotency-Key used before", "The same key came with other parameters. Use a new key for a new freeze.")
	kindFrozen         = add(423, "frozen", "The file system is frozen", "Everything that only reads works; this call writes. Try again after Retry-After seconds, or let it wait with wait=30s. freeze_id, holders and expires_at say who holds it and until when.")
	kindInternal       = add(500, "internal", "Internal error", "A fault of the appliance. Its log has the details.")
	kindIOError        = add(500, "io-error", "Input/output error", "The pmem file failed: a bad block, a truncated file or a failed flush. block is its number, if it is known. GET /badblocks lists bad blocks of files, GET /scrub those of metadata.")
	kindNotSupported   = add(501, "not-supported", "Not supported", "The file system does not do this.")
	kindFreezeTimedOut = add(503, "freeze-timed-out", "The freeze timed out", "The freeze did not become complete within its patience. It was rolled back entirely: nothing is held. waiting_for names whom it waited for. Try again, or give it more patience=.")
	kindFreezeFailed   = add(503, "freeze-failed", "The freeze failed", "The freeze could not be reached, for a reason other than time: the detail names it, such as a program whose mappings could not be write-protected. It was rolled back entirely: nothing is held.")
	kindReadOnly       = add(503, "read-only", "The file system is read-only", "A flush or commit failed, its metadata is damaged, or the image was opened read-only. It can be read as far as that goes, but not changed, until it is mounted anew. GET /readyz has the cause.")
	kindTooManyHeld    = add(503, "too-many-held", "Too many callers are held", "The appliance holds as many callers as it can. Try again after the thaw.")
	kindTooManyEvents  = add(503, "too-many-streams", "Too many event streams", "The appliance serves as many event streams as it can. Close some, or try again.")
	kindTooManyConns   = add(503, "too-many-connections", "Too many connections", "As many connections are open as the operator allows (--max-connections). Close some, or try again after Retry-After. Freezing, thawing, renewing, GET /status and the probes are answered all the same, best over the Unix socket.")
	kindLedger         = add(503, "ledger-unavailable", "The ledger is unavailable", "The history cannot be read now. Freezing and thawing work without it; GET /status has the ledger's state.")
	kindNotReady       = add(503, "not-ready", "Not ready", "The appliance cannot serve everything now: reasons says why. It is starting, stopping, or read-only after a failure.")
	kindStarting       = add(503, "starting", "Starting", "The image is being mounted. Try again in a moment; GET /readyz tells when it is ready.")
	kindRecovering     = add(503, "recovering", "Mappings of before a restart are not taken back yet", "Nothing is frozen. Programs that mapped files before the appliance was restarted still store to them, and until all of them are taken back or have ended nothing is written. GET /readyz names the processes. Try again in a moment, or let it wait with wait=30s.")
	kindShuttingDown   = add(503, "shutting-down", "Shutting down", "The appliance is going down. Try again when it is back.")
	kindNoSpace        = add(507, "no-space", "No space left in the image", "The image is full. Delete something, or make a larger image. Nothing of the old file was lost.")
)

func add(status int, name, title, explain string) *kind {
	k := &kind{name: name, title: title, status: status, explain: explain}
	kinds = append(kinds, k)
	return k
}

// problemRoutes serve the explanations of the problem types.
func (s *Server) problemRoutes() {
	route(s, operation{
		method: http.MethodGet, pattern: "/problems", id: "list-problems", tag: tagAbout,
		summary: "All problem types", description: "One line for each problem type: status, name, title.",
		answers: []answer{{status: 200, describe: "The list.", media: mediaText}},
	}, s.listProblems)
	route(s, operation{
		method: http.MethodGet, pattern: "/problems/{name}", id: "explain-problem", tag: tagAbout,
		summary: "What a problem type means", description: "The explanation of one problem type, for people.",
		answers:  []answer{{status: 200, describe: "The explanation.", media: mediaText}},
		problems: []*kind{kindNoProblem},
	}, s.explainProblem)
}

func (s *Server) listProblems(w http.ResponseWriter, r *http.Request, _ *noParams) error {
	var b strings.Builder
	for _, k := range kinds {
		fmt.Fprintf(&b, "%d %s  %s\n", k.status, k.typeURI(), k.title)
	}
	return writeText(w, r, http.StatusOK, b.String())
}

// problemName is the parameter of /problems/{name}.
type problemName struct {
	Name string `path:"name" doc:"Last part of the problem's type."`
}

func (s *Server) explainProblem(w http.ResponseWriter, r *http.Request, p *problemName) error {
	i := slices.IndexFunc(kinds, func(k *kind) bool { return k.name == p.Name })
	if i < 0 {
		return problem(kindNoProblem, "%q is not a problem type; GET /problems lists them", p.Name)
	}
	k := kinds[i]
	return writeText(w, r, http.StatusOK, fmt.Sprintf("%s (%d %s)\n\n%s\n", k.title, k.status, k.name, k.explain))
}

// notFound answers a path that nothing is served under.
func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, problem(kindNotFound, "nothing is served at %s; /openapi.json lists all calls", r.URL.EscapedPath()))
}

// methodNotAllowed answers a method that the path does not have, and names
// those it has.
func (s *Server) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		if s.router.Match(chi.NewRouteContext(), m, r.URL.Path) {
			allow = append(allow, m)
		}
	}
	list := strings.Join(allow, ", ")
	p := problem(kindMethod, "%s is not served at %s; use %s", r.Method, r.URL.EscapedPath(), list)
	p.Header = http.Header{"Allow": {list}}
	s.fail(w, r, p.with("allow", nonNil(allow)))
}

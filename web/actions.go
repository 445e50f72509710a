package web

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"permafrost/core/freeze"
)

// action carries out one form and says what came of it.
type action func(u *UI, r *http.Request) note

// actions are the verbs, by address.
var actions = map[string]action{
	"/ui/freeze": (*UI).freeze,
	"/ui/renew":  (*UI).renew,
	"/ui/thaw":   (*UI).thaw,
}

// formBytes bounds a form's body; its fields are short.
const formBytes = 16 << 10

// act runs a verb and sends the browser back to the overview with a note of
// what came of it, so that a reload repeats nothing.
func (u *UI) act(w http.ResponseWriter, r *http.Request, a action) {
	r.Body = http.MaxBytesReader(w, r.Body, formBytes)
	if err := r.ParseForm(); err != nil {
		u.fail(w, r, &pageError{http.StatusBadRequest, "That form cannot be read", err.Error()})
		return
	}
	n := a(u, r)
	n.At = u.o.Now()
	u.hub.notify()
	http.Redirect(w, r, withQuery("/ui/", "note", u.notes.put(n)), http.StatusSeeOther)
}

// ownHolder is the holder of freezes made here; a name may follow it.
const ownHolder = "dashboard"

func isOwnHolder(holder string) bool {
	return holder == ownHolder || strings.HasPrefix(holder, ownHolder+"/")
}

func (u *UI) freeze(r *http.Request) note {
	form := formValues{r.PostFormValue("lease"), strings.TrimSpace(r.PostFormValue("name")), r.PostFormValue("reason")}
	refuse := func(n note) note { n.Form = form; return n }
	lease, err := parseLease(form.Lease)
	if err != nil {
		return refuse(badLease(err))
	}
	req := freeze.Request{Holder: ownHolder, Reason: form.Reason, Lease: lease, Join: r.PostFormValue("join") == "true"}
	if form.Name != "" {
		req.Holder += "/" + form.Name
	}
	rec, hold, err := u.o.FS.Freeze(r.Context(), req)
	if err != nil {
		return refuse(refusalNote("freeze", err, u.o.Now()))
	}
	if r.Context().Err() != nil {
		// The browser left before it could be told: nobody would know of this hold.
		u.o.FS.Abandon(hold.ID)
		u.o.Logger.Info("freeze undone: the browser left before the answer", "hold", hold.ID)
		return note{Class: "bad", Title: "Undone", Text: "The connection was lost before the answer."}
	}
	now := u.o.Now()
	return note{Class: "good", Title: "Frozen", Text: fmt.Sprintf(
		"Freeze %d is complete: window %s, %s from the request. Hold %s ends by itself at %s.",
		rec.ID, microsText(micros(rec.Window)), microsText(micros(rec.Total)), hold.ID, momentOf(hold.ExpiresAt, now).Text)}
}

func (u *UI) renew(r *http.Request) note {
	lease, err := parseLease(r.PostFormValue("lease"))
	if err != nil {
		return badLease(err)
	}
	_, hold, err := u.o.FS.Renew(r.Context(), freeze.RenewRequest{Hold: r.PostFormValue("hold"), Lease: lease})
	if err != nil {
		return refusalNote("renew", err, u.o.Now())
	}
	return note{Class: "good", Title: "Renewed", Text: fmt.Sprintf("Hold %s of %s now ends at %s.",
		hold.ID, hold.Holder, momentOf(hold.ExpiresAt, u.o.Now()).Text)}
}

func (u *UI) thaw(r *http.Request) note {
	req := freeze.ThawRequest{Hold: r.PostFormValue("hold"), By: ownHolder + " at " + r.RemoteAddr}
	if req.Hold == "" {
		return note{Class: "bad", Title: "Which hold?", Text: "The form names no hold: use the buttons below."}
	}
	if r.PostFormValue("force") == "true" {
		if r.PostFormValue("sure") != "yes" {
			return note{Class: "bad", Title: "Not ended", Text: "Ending another's hold spoils its copy: tick the box to do it."}
		}
		req.Force = true
	}
	res, err := u.o.FS.Thaw(r.Context(), req)
	if err != nil {
		return refusalNote("thaw", err, u.o.Now())
	}
	return thawNote(req, res)
}

func thawNote(req freeze.ThawRequest, res freeze.ThawResult) note {
	n := note{Class: "good", Title: "Thawed"}
	if !res.Thawed {
		n.Title = "Hold " + res.Hold + " ended; others still hold the freeze"
	}
	stood := spanText(res.Frozen)
	switch {
	case req.Force:
		n.Class, n.Text = "warn", fmt.Sprintf("Hold %s was ended by force after %s. Its holder will be told that its copy is not consistent.", res.Hold, stood)
	case !res.Changed:
		n.Text = fmt.Sprintf("Hold %s had been thawed already.", res.Hold)
	default:
		n.Text = fmt.Sprintf("Hold %s stood without a gap for %s: a copy taken meanwhile is consistent.", res.Hold, stood)
	}
	return n
}

// parseLease reads a duration as Go writes it, or whole seconds.
func parseLease(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	d, err := time.ParseDuration(text)
	if s, serr := strconv.ParseInt(text, 10, 32); serr == nil {
		d, err = time.Duration(s)*time.Second, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration", text)
	}
	if d <= 0 {
		return 0, fmt.Errorf("%q is not longer than nothing", text)
	}
	return d, nil
}

func badLease(err error) note {
	return note{Class: "bad", Title: "That lease cannot be used", Text: err.Error() + ". Write 90s, 5m, 1h or whole seconds."}
}

// refusalTitles say in a few words why a verb was refused.
var refusalTitles = []struct {
	err   error
	title string
}{
	{freeze.ErrAlreadyFrozen, "Frozen already"},
	{freeze.ErrTimedOut, "The freeze was rolled back: it was not complete in time"},
	{freeze.ErrFreezeLost, "That freeze was lost: a copy taken meanwhile is not consistent"},
	{freeze.ErrHoldEnded, "That hold has ended"},
	{freeze.ErrNotTheHolder, "That hold is not yours to end"},
	{freeze.ErrUnknownHold, "No such hold"},
	{freeze.ErrWhichHold, "Which hold?"},
	{freeze.ErrOverCap, "That lease is too long"},
	{freeze.ErrTooManyHeld, "Too many callers are held already"},
	{freeze.ErrClosed, "The appliance is shutting down"},
	{freeze.ErrBadRequest, "That cannot be asked for"},
}

// refusalNote puts a refusal and its facts into words.
func refusalNote(verb string, err error, now time.Time) note {
	n := note{Class: "bad", Title: "The " + verb + " failed", Text: err.Error()}
	for _, t := range refusalTitles {
		if errors.Is(err, t.err) {
			n.Title = t.title
			break
		}
	}
	var ref *freeze.Refusal
	if !errors.As(err, &ref) {
		return n
	}
	var parts []string
	if ref.Detail != "" {
		parts = append(parts, strings.TrimSuffix(ref.Detail, ".")+".")
	}
	if len(ref.Holders) > 0 {
		parts = append(parts, "Held by "+strings.Join(ref.Holders, ", ")+".")
	}
	if !ref.Since.IsZero() {
		parts = append(parts, "Since "+momentOf(ref.Since, now).Text+".")
	}
	if !ref.ExpiresAt.IsZero() {
		parts = append(parts, "Its lease ends at "+momentOf(ref.ExpiresAt, now).Text+".")
	}
	if ref.HoldEnd != "" {
		parts = append(parts, "Hold "+ref.Hold+" ended: "+ref.HoldEnd+".")
	}
	if len(ref.WaitingFor) > 0 {
		parts = append(parts, "It waited for: "+strings.Join(ref.WaitingFor, "; ")+".")
	}
	if len(parts) > 0 {
		n.Text = strings.Join(parts, " ")
	}
	return n
}

// note is what a page says of the form that led to it.
type note struct {
	Class       string // good, warn, bad
	Title, Text string
	At          time.Time
	Form        formValues // to refill the form with
}

func noteRole(n note) string {
	if n.Class == "good" {
		return "status"
	}
	return "alert"
}

// notes keeps the newest notes under unguessable names for the redirect.
type notes struct {
	mu    sync.Mutex
	byID  map[string]note // guard mu
	order []string        // guard mu: oldest first
}

const (
	notesKept = 256
	noteLife  = 10 * time.Minute
)

func (ns *notes) put(n note) string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	id := hex.EncodeToString(b[:])
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.byID == nil {
		ns.byID = make(map[string]note)
	}
	ns.byID[id] = n
	ns.order = append(ns.order, id)
	for len(ns.order) > notesKept {
		delete(ns.byID, ns.order[0])
		ns.order = ns.order[1:]
	}
	return id
}

func (ns *notes) get(id string, now time.Time) *note {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n, ok := ns.byID[id]
	if !ok || now.Sub(n.At) > noteLife {
		return nil
	}
	return &n
}

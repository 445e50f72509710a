package web

import (
	"context"
	"strconv"
	"time"
)

type ctxKey int

const (
	liveKey ctxKey = iota
	noteKey
)

// withLive marks a render for the event stream: what changes with time alone
// is left out, live.js puts it in.
func withLive(ctx context.Context) context.Context { return context.WithValue(ctx, liveKey, true) }

func isLive(ctx context.Context) bool { return ctx.Value(liveKey) != nil }

func withNote(ctx context.Context, n *note) context.Context {
	return context.WithValue(ctx, noteKey, n)
}

func noteIn(ctx context.Context) *note {
	n, _ := ctx.Value(noteKey).(*note)
	return n
}

func isoTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// titleOf puts the state first, so that it shows in a narrow tab.
func titleOf(b banner, title string) string { return b.Word + " · " + title + " · Permafrost" }

func leaseWidth(ctx context.Context, l *lease) string {
	if isLive(ctx) {
		return "0"
	}
	return strconv.Itoa(l.LeftPart)
}

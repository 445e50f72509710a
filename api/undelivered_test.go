package api

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"permafrost/core/freeze"
)

// TestRequesterLeaves: a freeze whose requester went before the answer is
// rolled back (R6), while it is being reached and while it waits in line.
func TestRequesterLeaves(t *testing.T) {
	r := newRig(t, rigOptions{})
	pass, ok := r.fs.Freezer().StartWrite().Try(freeze.OpWrite, 7)
	if !ok {
		t.Fatal("the gate is closed")
	}
	ctx, leave := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	go func() {
		_, err := r.try(ctx, http.DefaultClient, "POST", r.base+"/freeze?holder=ghost&patience=30s", nil)
		gone <- err
	}()
	until(t, "freezing", func() bool { return r.fs.Freezer().Level() == freeze.Write })
	leave()
	if err := <-gone; err == nil {
		t.Fatal("the cancelled request was answered")
	}
	until(t, "rolled back", func() bool { return r.fs.Freezer().Level() == freeze.Unfrozen })
	pass.Exit()
	st := r.call("GET", "/status", nil).json()
	if last := st["last_freeze"].(map[string]any); last["state"] != "rolled_back" {
		t.Errorf("last freeze %v", last)
	}

	r.frozen("holder=a")
	ctx, leave = context.WithCancel(context.Background())
	go func() {
		_, err := r.try(ctx, http.DefaultClient, "POST", r.base+"/freeze?holder=ghost&wait=30s", nil)
		gone <- err
	}()
	time.Sleep(50 * time.Millisecond) // in line, most likely; if not, the test still holds
	leave()
	<-gone
	r.thawed("holder=a")
	time.Sleep(50 * time.Millisecond)
	if st := r.call("GET", "/status", nil).json(); st["state"] != "unfrozen" {
		t.Errorf("a requester that left the line froze it: %v", st["freeze"])
	}
}

// TestUndeliverable: a freeze whose answer cannot be delivered is taken back
// (R6): the requester is found gone after it completed, or the answer breaks.
func TestUndeliverable(t *testing.T) {
	r := newRig(t, rigOptions{})
	for name, send := range map[string]func(){
		"gone": func() {
			req := must(http.NewRequestWithContext(goneWhenFrozen{context.Background(), r}, "POST", "http://localhost/freeze?holder=h", nil))(t)
			r.srv.ServeHTTP(&brokenWriter{}, req)
		},
		"broken": func() {
			req := must(http.NewRequest("POST", "http://localhost/freeze?holder=h", nil))(t)
			w := &brokenWriter{fails: true}
			func() {
				defer func() {
					if p := recover(); p != http.ErrAbortHandler {
						t.Errorf("the connection is not broken: %v", p)
					}
				}()
				r.srv.ServeHTTP(w, req)
			}()
		},
	} {
		before := r.fs.Status().LastFreeze
		send()
		last := r.fs.Status().LastFreeze
		if r.fs.Freezer().Level() != freeze.Unfrozen || last == nil || before != nil && last.ID == before.ID || last.State != freeze.StateRolledBack {
			t.Errorf("%s: level %v, last freeze %+v", name, r.fs.Freezer().Level(), last)
		}
	}
	// The replay of an answered freeze is not taken back: somebody has it.
	f := r.call("POST", "/freeze?holder=h", nil, "Idempotency-Key: k").want(200).json()
	req := must(http.NewRequestWithContext(goneWhenFrozen{context.Background(), r}, "POST", "http://localhost/freeze?holder=h", nil))(t)
	req.Header.Set("Idempotency-Key", "k")
	r.srv.ServeHTTP(&brokenWriter{}, req)
	if th := r.thawed("hold=" + f["hold"].(string)); th["changed"] != true || th["held"] != true {
		t.Errorf("a replay that could not be delivered ended the hold: %v", th)
	}
}

// goneWhenFrozen is the context of a requester that leaves when the freeze is
// complete.
type goneWhenFrozen struct {
	context.Context
	r *rig
}

func (c goneWhenFrozen) Err() error {
	if c.r.fs.Freezer().Level() == freeze.Complete {
		return context.Canceled
	}
	return nil
}

// brokenWriter is a connection; one that fails takes headers and no bytes.
type brokenWriter struct {
	header http.Header
	fails  bool
}

func (w *brokenWriter) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}
func (w *brokenWriter) WriteHeader(int) {}
func (w *brokenWriter) Flush()          {}
func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.fails {
		return 0, fmt.Errorf("broken pipe")
	}
	return len(p), nil
}

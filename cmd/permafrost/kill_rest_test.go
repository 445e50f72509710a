package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// killRoot is the directory that all REST clients share; each has its own names
// in it.
const killRoot = "/load"

// killWatch is what the clients of one server are told and tell. The server
// that is about to be ended fails requests; no other may.
type killWatch struct {
	ending  atomic.Bool   // the server is being ended
	onAck   atomic.Bool   // the next acknowledgement ends it
	end     func()        // ends it; immutable
	acked   atomic.Uint64 // changes acknowledged
	checked atomic.Uint64 // answers held against what is known
}

// acknowledged is called at the first moment at which a change is answered.
func (w *killWatch) acknowledged() {
	w.acked.Add(1)
	if w.onAck.CompareAndSwap(true, false) {
		w.end()
	}
}

// killClient is one REST client: it asks for one change at a time and
// remembers what was answered. It is used by one goroutine at a time.
type killClient struct {
	name    string // immutable; begins all of its paths
	rng     *rand.Rand
	known   killTree // every acknowledged change
	pending *killOp  // asked for and not answered
}

func newKillClient(n int, seed, era uint64) *killClient {
	return &killClient{name: fmt.Sprintf("c%d-", n), rng: rand.New(rand.NewPCG(seed, era<<8|uint64(n))), known: killTree{}}
}

// run asks for one change after the other until the server ends. An error is
// an answer that a server in good health must not give.
func (c *killClient) run(ctx context.Context, api *apiClient, w *killWatch) error {
	for ctx.Err() == nil && !w.ending.Load() {
		if c.rng.IntN(4) == 0 {
			if err := c.look(ctx, api, w); err != nil {
				return err
			}
		}
		op := c.next()
		c.pending = op
		err := op.send(ctx, api)
		if err == nil {
			w.acknowledged()
			op.change(c.known)
			c.pending = nil
			continue
		}
		var p *problem
		switch errors.As(err, &p); {
		case p != nil && p.Status == http.StatusLocked:
			c.pending = nil // refused before anything was done
		case w.ending.Load() && (p == nil || p.Status == http.StatusServiceUnavailable):
			return nil
		default:
			return fmt.Errorf("%s: %w", op.text, err)
		}
	}
	return nil
}

// look reads one file while the server lives.
func (c *killClient) look(ctx context.Context, api *apiClient, w *killWatch) error {
	files := c.known.files()
	if len(files) == 0 {
		return nil
	}
	path := files[c.rng.IntN(len(files))]
	data, err := api.readFile(ctx, killRoot+"/"+path)
	if err != nil {
		if w.ending.Load() {
			return nil
		}
		return fmt.Errorf("read %s: %w", path, err)
	}
	if want := c.known[path]; !bytes.Equal(data, want.data) {
		return fmt.Errorf("%s reads as %d bytes where %v was written%s", path, len(data), want, firstDifference(want.data, data))
	}
	w.checked.Add(1)
	return nil
}

// bytesOf is new content, mostly small.
func (c *killClient) bytesOf(most int) []byte {
	n := 0
	switch c.rng.IntN(8) {
	case 0:
	case 1, 2, 3:
		n = c.rng.IntN(300)
	case 4, 5, 6:
		n = c.rng.IntN(40_000)
	default:
		n = c.rng.IntN(most)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(c.rng.Uint32())
	}
	return b
}

// fresh is a name of this client's, new or in use.
func (c *killClient) fresh() string { return c.name + "f" + strconv.Itoa(c.rng.IntN(12)) }

// next chooses a change that makes sense now.
func (c *killClient) next() *killOp {
	files, dirs := c.known.files(), c.known.dirs()
	one := func(of []string) string { return of[c.rng.IntN(len(of))] }
	for {
		switch k := c.rng.IntN(20); {
		case k < 6 || len(files) == 0:
			return c.put(c.fresh())
		case k < 10:
			return c.patch(one(files))
		case k < 11:
			return c.truncate(one(files))
		case k < 14:
			return c.rename(one(files), c.fresh())
		case k < 15:
			return c.remove(one(files))
		case k < 17:
			return c.putDeep(c.name + "t" + strconv.Itoa(c.rng.IntN(3)))
		case k < 18 && len(dirs) > 0:
			return c.removeDeep(one(dirs))
		case k < 19 && len(dirs) > 0:
			to := c.name + "t" + strconv.Itoa(c.rng.IntN(5))
			if _, taken := c.known[to]; !taken {
				return c.rename(one(dirs), to)
			}
		case k < 20:
			return c.fsync(one(files))
		}
	}
}

// ask is a request whose answer says only that it was done. A change waits for
// a thaw that comes in its way.
func ask(method, path string, q url.Values, body []byte) func(context.Context, *apiClient) error {
	return func(ctx context.Context, api *apiClient) error {
		var r io.Reader
		if body != nil {
			r = bytes.NewReader(body)
		}
		resp, err := api.do(ctx, method, path, q, r)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, resp.Body) // the status is the answer
		return resp.Body.Close()
	}
}

const heldFor = "60s" // the longest that a change of the loop waits for a thaw

func (c *killClient) put(path string) *killOp {
	data := c.bytesOf(400_000)
	return &killOp{text: fmt.Sprintf("PUT of %d bytes to %s", len(data), path),
		send:   ask("PUT", filePath(killRoot+"/"+path), params("wait", heldFor), data),
		change: func(t killTree) { t[path] = killNode{data: data} }}
}

func (c *killClient) patch(path string) *killOp {
	data := append(c.bytesOf(200_000), 1)
	old := c.known[path].data
	off := c.rng.IntN(len(old) + 1)
	if c.rng.IntN(8) == 0 {
		off += c.rng.IntN(9000) // leaves a hole
	}
	is := append(append([]byte{}, old...), make([]byte, max(0, off+len(data)-len(old)))...)
	copy(is[off:], data)
	return &killOp{text: fmt.Sprintf("PATCH of %d bytes at %d to %s of %d", len(data), off, path, len(old)),
		send:    ask("PATCH", filePath(killRoot+"/"+path), params("offset", strconv.Itoa(off), "wait", heldFor), data),
		change:  func(t killTree) { t[path] = killNode{data: is} },
		between: patchedPart(path, off)}
}

func (c *killClient) truncate(path string) *killOp {
	old := c.known[path].data
	is := make([]byte, c.rng.IntN(2*len(old)+100))
	copy(is, old)
	return &killOp{text: fmt.Sprintf("truncation of %s from %d to %d bytes", path, len(old), len(is)),
		send:   ask("PATCH", filePath(killRoot+"/"+path), params("truncate", strconv.Itoa(len(is)), "wait", heldFor), nil),
		change: func(t killTree) { t[path] = killNode{data: is} }}
}

func (c *killClient) rename(from, to string) *killOp {
	if from == to {
		to += "x"
	}
	return &killOp{text: "rename of " + from + " to " + to,
		send: ask("POST", filePath(killRoot+"/"+from), params("rename_to", killRoot+"/"+to, "replace", "true", "wait", heldFor), nil),
		change: func(t killTree) {
			moved := killTree{}
			for _, path := range t.under(from) {
				moved[to+path[len(from):]] = t[path]
				delete(t, path)
			}
			for path, n := range moved {
				t[path] = n
			}
		}}
}

func (c *killClient) remove(path string) *killOp {
	return &killOp{text: "DELETE of " + path, send: ask("DELETE", filePath(killRoot+"/"+path), params("wait", heldFor), nil),
		change: func(t killTree) { delete(t, path) }}
}

// putDeep makes a file three directories down, and the directories.
func (c *killClient) putDeep(top string) *killOp {
	mid := top + "/" + strconv.Itoa(c.rng.IntN(2))
	low := mid + "/" + strconv.Itoa(c.rng.IntN(2))
	path, data := low+"/f"+strconv.Itoa(c.rng.IntN(6)), c.bytesOf(60_000)
	return &killOp{text: "PUT with parents to " + path,
		send: ask("PUT", filePath(killRoot+"/"+path), params("parents", "true", "wait", heldFor), data),
		change: func(t killTree) {
			for _, dir := range []string{top, mid, low} {
				t[dir] = killNode{dir: true}
			}
			t[path] = killNode{data: data}
		},
		between: madePart([]string{top, mid, low})}
}

func (c *killClient) removeDeep(dir string) *killOp {
	return &killOp{text: "recursive DELETE of " + dir,
		send: ask("DELETE", filePath(killRoot+"/"+dir)+"/", params("recursive", "true", "wait", heldFor), nil),
		change: func(t killTree) {
			for _, path := range t.under(dir) {
				delete(t, path)
			}
		},
		between: removedPart(dir)}
}

// fsync changes nothing that can be seen: what it makes durable is so already.
func (c *killClient) fsync(path string) *killOp {
	q := params("path", killRoot+"/"+path)
	if c.rng.IntN(3) == 0 {
		q = nil
	}
	return &killOp{text: "fsync", send: ask("POST", "/fsync", q, nil), change: func(killTree) {}}
}

// patience of one request of the loop; nothing waits for ever.
const killPatience = 90 * time.Second

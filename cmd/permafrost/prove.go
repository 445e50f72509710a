package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"time"
)

type proveCmd struct {
	remote
	Via     string        `help:"Way in of the writer: attach or mount." enum:"attach,mount" default:"attach"`
	Threads int           `help:"Storing threads of each client process." default:"4"`
	Clients int           `help:"Client processes; two share every page." default:"1"`
	Pages   int           `help:"Pages stored to; by default 8, and through the mount 1,024 (4 MiB) for each file." placeholder:"N"`
	Files   int           `help:"Files that the pages lie in (mount)." default:"3"`
	Samples int           `help:"Times the image is hashed while frozen." default:"5"`
	Before  time.Duration `help:"How long the writers run before the freeze." default:"200ms"`
	Raw     string        `help:"Keep all that the verdict is made from in this directory: each thread's log of stores, how far each was, the frozen and the final file, the hashes, the freeze." placeholder:"DIR" type:"path"`
	NoForks bool          `help:"Do not fork storing children of the writer."`
}

// proveOptions is a run's set-up. Immutable.
type proveOptions struct {
	pattern
	samples int
	before  time.Duration
	forks   bool
	via     string
	attach  string // socket
	dir     string // of the mount; "" via attach
	path    string // file in the file system, the first of them
	raw     string
}

func (p *proveCmd) Run(c *console) error {
	api, err := p.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var st wireStatus
	if _, err := api.call(ctx, "GET", "/status", nil, &st); err != nil {
		return err
	}
	o, err := p.options(&st)
	if err != nil {
		return err
	}
	if o.raw != "" {
		if err := os.MkdirAll(o.raw, 0o755); err != nil {
			return err
		}
	}
	v, err := prove(ctx, api, o, st.Pmem.Path)
	if err != nil {
		return err
	}
	if p.JSON {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		c.printf("%s\n", raw)
	} else {
		printVerdict(c, v, o)
	}
	if !v.OK {
		return &exitError{code: exitFailed}
	}
	return nil
}

// options are the set-up of a run on an appliance that shows this status.
func (p *proveCmd) options(st *wireStatus) (proveOptions, error) {
	o := proveOptions{pattern: pattern{Clients: p.Clients, Threads: p.Threads, Pages: p.Pages}, via: p.Via, samples: max(p.Samples, 2), before: p.Before,
		path: fmt.Sprintf("/.prove-%d-%d", os.Getpid(), time.Now().UnixNano()), raw: p.Raw}
	switch {
	case p.Via == "mount" && st.Mount == nil:
		return o, fmt.Errorf("this appliance has no mount: start it with \"permafrost serve --mount DIR\"")
	case p.Via == "mount":
		// The kernel has forked children's stores in the same page cache.
		o.dir, o.Files = st.Mount.Dir, p.Files
		if o.Pages == 0 {
			o.Pages = 1024 * p.Files
		}
	case st.Attach == nil:
		return o, fmt.Errorf("programs cannot map files of this appliance: %s; "+
			"to prove mapped stores, serve an image on tmpfs as root or with CAP_SYS_PTRACE, or prove --via mount", st.AttachRefused)
	default:
		o.attach, o.forks = st.Attach.Socket, !p.NoForks
		if o.Pages == 0 {
			o.Pages = 8
		}
	}
	if err := o.validate(); err != nil {
		return o, &exitError{exitUsage, err}
	}
	return o, nil
}

// prove does one run: writers store, freeze, watch, thaw, verify.
func prove(ctx context.Context, api *apiClient, o proveOptions, imagePath string) (*verdict, error) {
	dir, err := os.MkdirTemp("", "permafrost-prove-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	boardPath := filepath.Join(dir, "board")
	b, err := openBoard(boardPath, o.pattern, true)
	if err != nil {
		return nil, err
	}
	defer b.close()
	defer func() { // the files made for the run, after its writers are gone
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for i := range o.files() {
			if resp, err := api.do(ctx, "DELETE", filePath(proveFile(o.path, i)), params("wait", "5s"), nil); err == nil {
				resp.Body.Close()
			}
		}
	}()
	var writers []*writerProcess
	defer func() {
		for _, w := range writers {
			w.end()
		}
	}()
	for i := range o.Clients {
		w, err := startWriter(o, i, boardPath)
		if err != nil {
			return nil, err
		}
		writers = append(writers, w)
		if err := w.expect("ready", 30*time.Second); err != nil {
			return nil, err
		}
	}
	if err := waitStoring(ctx, b, o); err != nil {
		return nil, err
	}
	v := &verdict{Via: o.via, Threads: o.Threads, Clients: o.Clients}
	if err := frozenPart(ctx, api, o, b, writers, imagePath, v); err != nil {
		return nil, err
	}
	if err := thawedPart(ctx, api, o, b, writers, v); err != nil {
		return nil, err
	}
	v.OK = len(v.Failures) == 0
	return v, writeRaw(o.raw, "verdict.json", v)
}

// waitStoring returns once every thread has stored, and o.before later.
func waitStoring(ctx context.Context, b *board, o proveOptions) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		idle := 0
		for _, d := range b.dones() {
			if d < uint64(2*o.Pages) {
				idle++
			}
		}
		if idle == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d writer threads store nothing", idle, o.writers())
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	return sleep(ctx, o.before)
}

// frozenPart freezes, tries a store at every page, hashes, compares, thaws.
func frozenPart(ctx context.Context, api *apiClient, o proveOptions, b *board, writers []*writerProcess, imagePath string, v *verdict) error {
	requested := b.dones()
	var fr wireFreeze
	if _, err := api.call(ctx, "POST", "/freeze", params("holder", "prove"+o.path[1:], "lease", "2m", "patience", "30s", "reason", "permafrost prove"), &fr); err != nil {
		var p *problem
		if errors.As(err, &p) && p.name() == "freeze-timed-out" {
			v.fail("the freeze did not complete: %v", p)
			return nil
		}
		return err
	}
	thawed := false
	defer func() {
		if !thawed { // only on an error on the way
			_, _ = api.call(context.Background(), "POST", "/thaw", params("hold", fr.Hold), nil)
		}
	}()
	v.FreezeID, v.WindowUS, v.Mode = fr.ID, fr.WindowUS, fr.Modes[o.via]
	hashes := make([]imageHash, 0, o.samples)
	image := &imageReader{path: imagePath, api: api, freeze: fr.ID}
	first, err := image.hash(ctx)
	if err != nil {
		return err
	}
	hashes = append(hashes, first)
	if o.via == "attach" {
		if err := probe(ctx, b, o, writers); err != nil {
			return err
		}
	}
	for len(hashes) < o.samples {
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
		h, err := image.hash(ctx)
		if err != nil {
			return err
		}
		hashes = append(hashes, h)
		if h.SHA256 != hashes[0].SHA256 {
			v.HashChanges++
		}
	}
	v.HashSamples = len(hashes)
	data, err := readFiles(ctx, api, o)
	if err != nil {
		return err
	}
	held, err := waitHeld(ctx, b, o, data)
	if err != nil {
		return err
	}
	v.judgeFrozen(o, held, requested, data)

	var t wireThaw
	if _, err := api.call(ctx, "POST", "/thaw", params("hold", fr.Hold), &t); err != nil {
		v.fail("the thaw did not confirm the hold: %v", err)
	} else if !t.Held {
		v.fail("the thaw says the hold was not kept")
	}
	thawed = true
	v.FrozenMS = t.FrozenMS
	if v.HashChanges > 0 {
		v.fail("the image changed while frozen: %d of %d hashes differ from the first", v.HashChanges, v.HashSamples)
	}
	if o.raw == "" {
		return nil
	}
	record, err := api.call(ctx, "GET", fmt.Sprintf("/freezes/%d", fr.ID), nil, nil)
	if err != nil {
		return fmt.Errorf("the record of the freeze: %w", err)
	}
	return errors.Join(writeRaw(o.raw, "freeze.json", json.RawMessage(record)), writeRaw(o.raw, "requested.json", requested),
		writeRaw(o.raw, "board-frozen.json", held), writeRaw(o.raw, "hashes.json", hashes),
		os.WriteFile(filepath.Join(o.raw, "frozen.bin"), data, 0o644))
}

// probe has every writer try a store at every page.
func probe(ctx context.Context, b *board, o proveOptions, writers []*writerProcess) error {
	for _, w := range writers {
		if err := w.say("probe"); err != nil {
			return err
		}
		if err := w.expect("probing", 10*time.Second); err != nil {
			return err
		}
	}
	return waitProbes(ctx, b, o)
}

// readFiles gets the files of a run over REST, their pages in order: as the image
// has them, not as the page cache does.
func readFiles(ctx context.Context, api *apiClient, o proveOptions) ([]byte, error) {
	files := make([][]byte, o.files())
	for i := range files {
		var err error
		if files[i], err = api.readFile(ctx, proveFile(o.path, i)); err != nil {
			return nil, err
		}
	}
	return o.joined(files)
}

// waitProbes returns when every probe has begun and had time to land, if it
// were let.
func waitProbes(ctx context.Context, b *board, o proveOptions) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		waiting := 0
		for cl := range o.Clients {
			for page := range o.Pages {
				if atomic.LoadUint64(b.started(b.probeRow(cl, page))) == 0 {
					waiting++
				}
			}
		}
		if waiting == 0 {
			return sleep(ctx, 30*time.Millisecond)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d probes did not begin within 10 s", waiting)
		}
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

// waitHeld gives every thread the time to get as far as it can: it may have
// been off the CPU between a store that landed and saying so. It returns the board when
// all are inside the store after the image's, or after 10 s: the verdict then
// says who is not.
//
// Through the mount threads may go on a little, into pages of the page cache
// that the image does not see, until they come to one that is held: there it
// is waited for all of them to stand still.
func waitHeld(ctx context.Context, b *board, o proveOptions, data []byte) (*boardState, error) {
	deadline := time.Now().Add(10 * time.Second)
	if o.via == "mount" {
		for last := b.state(); ; {
			if err := sleep(ctx, stillTime); err != nil {
				return nil, err
			}
			now := b.state()
			if reflect.DeepEqual(now, last) || time.Now().After(deadline) {
				return now, nil
			}
			last = now
		}
	}
	for w := 0; w < o.writers(); {
		if atomic.LoadUint64(b.started(w)) == o.newest(data, w)+1 || time.Now().After(deadline) {
			w++
			continue
		}
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return b.state(), nil
}

// stillTime is how long a thread must not have stored to count as held.
const stillTime = 100 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

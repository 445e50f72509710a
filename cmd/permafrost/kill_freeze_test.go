package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"permafrost/core"
	"permafrost/pmem"
)

// killFreezes is what the loop remembers of freezes over kills.
type killFreezes struct {
	newest uint64   // id of any so far
	lost   []string // holds that stood when their server was killed, and nobody was told
	maybe  string   // a hold's holder whose freeze was not answered
	asked  int
}

func (f *killFreezes) ask(ctx context.Context, e *killEra) (wireFreeze, error) {
	f.asked++
	var fr wireFreeze
	_, err := e.srv.client.call(ctx, "POST", "/freeze", params("holder", f.holder(), "lease", "60s", "patience", "20s"), &fr)
	if err != nil {
		return fr, err
	}
	if fr.ID <= f.newest {
		return fr, fmt.Errorf("freeze %d was given after freeze %d", fr.ID, f.newest)
	}
	f.newest = fr.ID
	return fr, nil
}

func (f *killFreezes) holder() string { return fmt.Sprintf("kill-%d", f.asked) }

// begin asks for a freeze and returns after a time in which it may be on its way.
func (f *killFreezes) begin(ctx context.Context, e *killEra, after time.Duration) error {
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kill := time.AfterFunc(after, e.watch.end)
	defer kill.Stop()
	go func() {
		fr, err := f.ask(ctx, e)
		if err == nil {
			f.lost = append(f.lost, fr.Hold)
		}
		done <- err
	}()
	err := <-done
	if err != nil && e.watch.ending.Load() {
		f.maybe = f.holder()
		return nil
	}
	return err
}

// stand freezes, holds the clients a while, reads the image if asked to, and
// returns with the freeze standing.
func (f *killFreezes) stand(ctx context.Context, e *killEra, image bool, hold time.Duration) error {
	fr, err := f.ask(ctx, e)
	if err != nil {
		return err
	}
	f.lost = append(f.lost, fr.Hold)
	if !image {
		time.Sleep(hold)
		return nil
	}
	resp, err := e.srv.client.do(ctx, "GET", fmt.Sprintf("/freezes/%d/image", fr.ID), nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.CopyN(io.Discard, resp.Body, e.rng.Int64N(24<<20))
	return err
}

// freezeAndCopy is a backup under load: it must be consistent and have every
// mapped store of before the request, in order, and its thaw must say so.
func (e *killEra) freezeAndCopy(ctx context.Context) error {
	dones := make([][]uint64, len(e.writers))
	for i, w := range e.writers {
		dones[i] = w.b.dones()
	}
	fr, err := e.freezes.ask(ctx, e)
	if err != nil {
		return err
	}
	copied := filepath.Join(e.dir, "backup.pmem")
	defer os.Remove(copied)
	if err := e.copyImage(ctx, copied, fr.ID); err != nil {
		return err
	}
	var r wireThaw
	if _, err := e.srv.client.call(ctx, "POST", "/thaw", params("hold", fr.Hold), &r); err != nil {
		return err
	}
	if !r.Held || !r.Thawed || !r.Changed {
		return fmt.Errorf("the thaw of a hold that stood says %+v", r)
	}
	if err := checkCopy(ctx, copied); err != nil {
		return fmt.Errorf("the backup of freeze %d: %w", fr.ID, err)
	}
	e.watch.checked.Add(1)
	return readImage(ctx, copied, func(read readFunc) error {
		for i, w := range e.writers {
			if w.unlinked {
				continue
			}
			data, _, err := read(w.path)
			if err != nil {
				return fmt.Errorf("the backup of freeze %d: %s: %w", fr.ID, w.path, err)
			}
			for t, done := range dones[i] {
				n := killPattern.newest(data, t)
				if wrong, first := killPattern.wrongCells(data, t, n); n < done || wrong > 0 {
					return fmt.Errorf("the backup of freeze %d: %s: thread %d had completed store %d before the request; the copy has %d, %s", fr.ID, w.path, t, done, n, first)
				}
			}
			e.watch.checked.Add(1)
		}
		return nil
	})
}

// copyImage takes turns between the pmem file and the download.
func (e *killEra) copyImage(ctx context.Context, to string, freeze uint64) error {
	if e.rng.IntN(2) == 0 {
		return copyFile(to, e.srv.image)
	}
	resp, err := e.srv.client.do(ctx, "GET", fmt.Sprintf("/freezes/%d/image", freeze), nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, resp.Body)
	return errors.Join(err, out.Close())
}

func checkCopy(ctx context.Context, path string) error {
	region, err := pmem.Open(path, pmem.Options{})
	if err != nil {
		return err
	}
	defer region.Close()
	rep, err := core.Check(ctx, region, nil)
	if err == nil && !rep.OK() {
		err = fmt.Errorf("%d problems, the first %+v", rep.ProblemTotal, rep.Problems[0])
	}
	return err
}

// judge asks the restarted server: no freeze survived, and whoever comes to thaw
// one that was lost hears so.
func (f *killFreezes) judge(ctx context.Context, api *apiClient) error {
	var st wireStatus
	if _, err := api.call(ctx, "GET", "/status", nil, &st); err != nil {
		return err
	}
	if st.State != "unfrozen" || st.Ledger.State != "ok" {
		return fmt.Errorf("after the restart it is %s and its ledger %s", st.State, st.Ledger.State)
	}
	for _, hold := range f.lost {
		_, err := api.call(ctx, "POST", "/thaw", params("hold", hold), nil)
		if p, ok := err.(*problem); !ok || p.Status != http.StatusGone {
			return fmt.Errorf("the thaw of hold %s, which was lost, answers %v", hold, err)
		}
	}
	f.lost = nil
	if f.maybe != "" { // its freeze was not answered: nothing may say that it was kept
		var r wireThaw
		_, err := api.call(ctx, "POST", "/thaw", params("holder", f.maybe), &r)
		if p, ok := err.(*problem); !ok || p.Status != http.StatusGone && p.Status != http.StatusNotFound {
			return fmt.Errorf("the thaw of a freeze that was not answered: %v %+v", err, r)
		}
		f.maybe = ""
	}
	// Freezes of the loop may have been told of above; a bare thaw tells the rest.
	for range 3 {
		var r wireThaw
		_, err := api.call(ctx, "POST", "/thaw", nil, &r)
		if err == nil && !r.Changed {
			return nil
		}
		if p, ok := err.(*problem); !ok || p.Status != http.StatusGone {
			return fmt.Errorf("a bare thaw after the restart: %v %+v", err, r)
		}
	}
	return fmt.Errorf("bare thaws go on telling of lost freezes")
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// judgeFrozen compares what the threads say with the file as it is frozen.
// requested holds the stores completed before the freeze was asked for, held the
// board while frozen.
func (v *verdict) judgeFrozen(o proveOptions, held *boardState, requested []uint64, data []byte) {
	if want := o.Pages * provePageSize; len(data) < want {
		v.fail("the frozen file has %d bytes where %d were mapped", len(data), want)
		return
	}
	for w := range o.writers() {
		inImage := o.newest(data, w)
		v.StoresBefore += inImage
		if inImage < requested[w] {
			v.fail("writer %d had completed store %d before the freeze was asked for; the image has %d", w, requested[w], inImage)
		}
		done, started := held.Writers[w].Done, held.Writers[w].Started
		if o.via == "mount" {
			// Held means: inside a store, at which it stands still. What it stored
			// before that, to the page cache, is not in the image.
			if started != done+1 || started <= inImage {
				v.NotHeld++
				v.fail("writer %d is not held: it has begun store %d and completed %d; the image has %d", w, started, done, inImage)
			}
		} else {
			if done > inImage {
				v.StoresDuring += done - inImage
			}
			// Held means: inside a store that is not in the image.
			if started != inImage+1 {
				v.NotHeld++
				v.fail("writer %d is not held: it has begun store %d and the image has %d", w, started, inImage)
			}
		}
		if n, first := o.wrongCells(data, w, inImage); n > 0 {
			v.OrderBroken += n
			v.fail("the image is not a prefix of the program order: %s", first)
		}
	}
	for cl := range o.Clients {
		if o.via == "mount" {
			break // the page cache takes a store to a page that is clean
		}
		for page := range o.Pages {
			if held.Probes[cl][page].Done == 0 {
				v.ProbesHeld++
				continue
			}
			v.StoresDuring++
			v.fail("a store of client %d to page %d completed while frozen", cl, page)
		}
	}
	if v.StoresDuring > 0 {
		v.fail("%d stores completed while frozen", v.StoresDuring)
	}
}

// thawedPart lets the writers go on and stop, and looks for lost stores.
func thawedPart(ctx context.Context, api *apiClient, o proveOptions, b *board, writers []*writerProcess, v *verdict) error {
	at := b.dones()
	deadline := time.Now().Add(20 * time.Second)
	for w := range at {
		for atomic.LoadUint64(b.done(w)) == at[w] {
			if time.Now().After(deadline) {
				v.fail("writer %d stored nothing within 20 s of the thaw", w)
				return nil
			}
			if err := sleep(ctx, 2*time.Millisecond); err != nil {
				return err
			}
		}
	}
	for _, w := range writers {
		if err := w.say("stop"); err != nil {
			return err
		}
	}
	for _, w := range writers {
		if err := w.expect("done", 60*time.Second); err != nil {
			return err
		}
	}
	data, err := readFiles(ctx, api, o)
	if err != nil {
		return err
	}
	final := b.state()
	for w := range o.writers() {
		if n, first := o.wrongCells(data, w, final.Writers[w].Done); n > 0 {
			v.StoresLost += uint64(n)
			v.fail("stores are lost after the thaw: %s", first)
		}
	}
	for cl := range o.Clients {
		for page := range o.Pages {
			if o.via == "attach" && v.FreezeID != 0 && final.Probes[cl][page].Done == 0 {
				v.fail("the store of client %d that was held at page %d never landed", cl, page)
			}
		}
	}
	if o.raw != "" {
		if err := writeRaw(o.raw, "board-final.json", final); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(o.raw, "final.bin"), data, 0o644)
	}
	return nil
}

// readFile gets a whole (small) file over REST.
func (c *apiClient) readFile(ctx context.Context, path string) ([]byte, error) {
	resp, err := c.do(ctx, "GET", filePath(path), nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// imageHash is one sample of the image.
type imageHash struct {
	At     time.Time `json:"at"`
	SHA256 string    `json:"sha256"`
	Bytes  int64     `json:"bytes"`
	From   string    `json:"from"` // file or rest
}

// imageReader hashes the image as a backup would read it: from the pmem file
// itself where it can be opened, which does not rely on the appliance's word,
// else over REST.
type imageReader struct {
	path   string
	api    *apiClient
	freeze uint64
}

func (r *imageReader) hash(ctx context.Context) (imageHash, error) {
	h := imageHash{At: time.Now().UTC(), From: "file"}
	sum := sha256.New()
	f, err := os.Open(r.path)
	if err == nil {
		defer f.Close()
		h.Bytes, err = io.Copy(sum, f)
	} else {
		h.From = "rest"
		resp, rerr := r.api.do(ctx, "GET", fmt.Sprintf("/freezes/%d/image", r.freeze), nil, nil)
		if rerr != nil {
			return h, rerr
		}
		defer resp.Body.Close()
		h.Bytes, err = io.Copy(sum, resp.Body)
	}
	h.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return h, err
}

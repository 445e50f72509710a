package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"permafrost/core"
	"permafrost/pmem"
)

// judgeImage checks a copy of what the server left, as the next one will find
// it, and looks for every mapped store in it.
func (e *killEra) judgeImage(ctx context.Context) error {
	boards, floors := make([]*boardState, len(e.writers)), make([]uint64, len(e.writers))
	more := make([]map[string]killMore, len(e.writers))
	for i, w := range e.writers {
		boards[i], floors[i] = w.b.state(), atomic.LoadUint64(w.b.mtimeFloor())
		var err error
		if more[i], err = w.more(); err != nil {
			return err
		}
	}
	image := e.srv.image
	if len(e.writers) > 0 { // who map it, and keep it from being opened
		image = filepath.Join(e.dir, "left.pmem")
		if err := copyFile(image, e.srv.image); err != nil {
			return err
		}
		defer os.Remove(image)
	}
	if out, err := runProgram(e.exe, "check", image); err != nil {
		return fmt.Errorf("check: %w\n%s", err, out)
	}
	e.watch.checked.Add(1)
	return readImage(ctx, image, func(read readFunc) error {
		for i, w := range e.writers {
			data, mtime, err := read(w.path)
			switch {
			case w.unlinked && err == nil:
				return fmt.Errorf("%s is back, although its deletion was acknowledged", w.path)
			case w.unlinked:
			case err != nil:
				return fmt.Errorf("%s, which is mapped: %w", w.path, err)
			case uint64(mtime.UnixNano()) < floors[i]:
				return fmt.Errorf("%s has an mtime %v older than what an fsync answered for", w.path, time.Duration(floors[i]-uint64(mtime.UnixNano())))
			default:
				if err := w.judge(boards[i], data); err != nil {
					return err
				}
			}
			for path, want := range more[i] {
				data, _, err := read(path)
				switch {
				case e.more[path]:
					if err == nil {
						return fmt.Errorf("%s is back, although its deletion was acknowledged", path)
					}
					continue
				case err != nil:
					return fmt.Errorf("%s, whose mapping was answered: %w", path, err)
				case want.differs(data) != "":
					return fmt.Errorf("%s %s", path, want.differs(data))
				}
				e.watch.checked.Add(1)
			}
			e.watch.checked.Add(1)
		}
		return nil
	})
}

// readFunc reads a whole file of an image, and when it was changed.
type readFunc func(path string) ([]byte, time.Time, error)

// readImage mounts an image that nobody serves, read-only, for judge.
func readImage(ctx context.Context, path string, judge func(readFunc) error) error {
	region, err := pmem.Open(path, pmem.Options{})
	if err != nil {
		return err
	}
	defer region.Close()
	fs, err := core.Mount(region, core.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	err = judge(func(path string) ([]byte, time.Time, error) {
		a, err := fs.Resolve(ctx, path)
		if err != nil {
			return nil, time.Time{}, err
		}
		data := make([]byte, a.Size)
		n, err := fs.ReadAt(ctx, a.Ino, data, 0)
		if err == io.EOF {
			err = nil
		}
		return data[:n], a.Mtime, err
	})
	return errors.Join(err, fs.Unmount(ctx))
}

// judgeServer looks through the restarted server for everything that was
// acknowledged, and that the programs go on.
func (e *killEra) judgeServer(ctx context.Context) error {
	api := e.srv.client
	if _, err := api.call(ctx, "GET", "/readyz", nil, nil); err != nil {
		return fmt.Errorf("after the restart: %w", err)
	}
	if err := e.freezes.judge(ctx, api); err != nil {
		return err
	}
	all, err := readTree(ctx, api, killRoot)
	if err != nil {
		return err
	}
	for _, c := range e.clients {
		own := killTree{}
		for path, n := range all {
			if strings.HasPrefix(path, c.name) {
				own[path] = n
				delete(all, path)
			}
		}
		if err := c.pending.settle(c.known, own); err != nil {
			return fmt.Errorf("client %s %w", c.name, err)
		}
		c.known, c.pending = own, nil
		e.watch.checked.Add(uint64(len(own)) + 1)
	}
	for path := range all {
		return fmt.Errorf("%s/%s is there, and no client made it", killRoot, path)
	}
	return e.judgeWriters(ctx)
}

func (e *killEra) judgeWriters(ctx context.Context) error {
	alive := e.writers[:0:0]
	for _, w := range e.writers {
		if !w.unlinked {
			before := w.b.state()
			data, err := e.srv.client.readFile(ctx, w.path)
			if err != nil {
				return fmt.Errorf("%s, which is mapped: %w", w.path, err)
			}
			if err := w.judge(before, data); err != nil {
				return fmt.Errorf("after the restart: %w", err)
			}
		}
		if !w.dead {
			if err := w.goesOn(ctx); err != nil {
				return err
			}
			alive = append(alive, w)
			if e.rng.IntN(8) == 0 && !w.unlinked { // it goes on with a file that nobody can find
				if err := ask("DELETE", filePath(w.path), nil, nil)(ctx, e.srv.client); err != nil {
					return err
				}
				w.unlinked = true
			}
		}
		if err := e.clearMore(ctx, w); err != nil {
			return err
		}
	}
	e.writers = alive
	return nil
}

// clearMore deletes a writer's further files, so that their blocks are used
// again; of a dead one everything.
func (e *killEra) clearMore(ctx context.Context, w *killWriterProcess) error {
	files, err := w.more()
	if err != nil {
		return err
	}
	for path := range files {
		if e.more[path] {
			continue
		}
		if err := ask("DELETE", filePath(path), nil, nil)(ctx, e.srv.client); err != nil {
			return fmt.Errorf("delete %s: %w", path, err)
		}
		e.more[path] = true
		e.watch.acked.Add(1)
	}
	if w.dead {
		w.b.close()
	}
	if w.dead && !w.unlinked {
		return ask("DELETE", filePath(w.path), nil, nil)(ctx, e.srv.client)
	}
	return nil
}

package crash

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem"
)

// mountOptions of every mount: nothing happens by itself.
var mountOptions = core.Options{CommitInterval: 24 * time.Hour, MaxInodes: 1000, EventBuffer: 16}

func domainOf(pageCache bool) pmem.Domain {
	if pageCache {
		return pmem.DomainPageCache
	}
	return pmem.DomainDAX
}

// expectation is what a crash may leave (O2, O3): the states of h from floor to
// last, with the page contents that count.
type expectation struct {
	h           *history
	floor, last int
	since       map[int]int
}

// expect is for a crash after done operations, while the next is under way if
// running.
func (h *history) expect(done int, running bool) expectation {
	e := expectation{h: h, floor: h.floor[done], last: done, since: h.since[done]}
	if running && done+1 < len(h.states) {
		e.last++
	}
	return e
}

// holds finds the state that s is, or says what is wrong with it.
func (e *expectation) holds(s *state) error {
	var firstBad error
	for j := e.last; j >= e.floor; j-- {
		if e.h.states[j].meta != s.meta {
			continue
		}
		err := e.content(e.h.states[j], s)
		if err == nil {
			return nil
		}
		if firstBad == nil {
			firstBad = fmt.Errorf("names and sizes are those after operation %d, but %w", j, err)
		}
	}
	if firstBad != nil {
		return firstBad
	}
	return fmt.Errorf("names, sizes and attributes are of no moment from operation %d to %d.\nThere are:\n%s\nNewest:\n%s\nOldest:\n%s",
		e.floor, e.last, s.meta, e.h.states[e.last].meta, e.h.states[e.floor].meta)
}

// content compares the bytes of all files with those of a state (O3).
func (e *expectation) content(want, got *state) error {
	if len(want.files) != len(got.files) {
		return fmt.Errorf("%d files have content, want %d", len(got.files), len(want.files))
	}
	for i := range want.files {
		if err := e.fileContent(&want.files[i], &got.files[i]); err != nil {
			return err
		}
	}
	return nil
}

func (e *expectation) fileContent(want, got *file) error {
	for n, pg := range got.pages {
		w, ok := want.pages[n]
		if ok && bytes.Equal(w.data, pg.data) {
			continue
		}
		var others [][]byte
		if ok {
			others = e.contents(w.life)
		}
		for i, b := range pg.data {
			if !anyHas(others, i, b) && (ok || b != 0) {
				return fmt.Errorf("byte %d of %s is %#x, which it never was since it was durable: %s",
					int64(n)*format.PageSize+int64(i), want.path, b, wanted(&w, i))
			}
		}
	}
	for n, w := range want.pages {
		if _, ok := got.pages[n]; ok {
			continue
		}
		for i, b := range w.data {
			if b != 0 && !anyHas(e.contents(w.life), i, 0) {
				return fmt.Errorf("page %d of %s is a hole: byte %d should be %#x", n, want.path, i, b)
			}
		}
	}
	return nil
}

// wanted tells what a byte should be.
func wanted(pg *page, i int) string {
	if i >= len(pg.data) {
		return "it should read as zero"
	}
	return fmt.Sprintf("it should be %#x", pg.data[i])
}

// contents are those that a page had while it kept its block, as far as they
// count.
func (e *expectation) contents(life int) [][]byte {
	var all [][]byte
	if _, durable := e.since[life]; !durable && e.h.blank[life] {
		all = append(all, make([]byte, format.PageSize))
	}
	for i := e.since[life]; i <= e.last; i++ {
		for j := range e.h.states[i].files {
			for _, pg := range e.h.states[i].files[j].pages {
				if pg.life == life {
					all = append(all, pg.data)
				}
			}
		}
	}
	return all
}

func anyHas(all [][]byte, i int, b byte) bool {
	for _, p := range all {
		if i < len(p) && p[i] == b {
			return true
		}
	}
	return false
}

// verify judges an image (O1, O2, O3, O5). It leaves its own work in it. recovered,
// if not nil, has the mounted file system make its first commits.
func (e *expectation) verify(m pmem.Medium, thorough bool, recovered func(fs *core.FS) error) error {
	if err := clean(m, "after the crash"); err != nil {
		return err
	}
	fs, err := core.Mount(m, mountOptions)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	s, err := lookAt(fs)
	if err == nil {
		err = e.holds(s)
	}
	if err == nil && recovered != nil {
		err = recovered(fs)
	}
	if err == nil {
		err = newWork(fs)
	}
	if err = errors.Join(err, fs.Unmount(ctx)); err != nil {
		return err
	}
	if err := clean(m, "after new work"); err != nil {
		return err
	}
	if !thorough {
		return nil
	}
	return again(m, s)
}

func clean(m pmem.Medium, when string) error {
	r, err := core.Check(ctx, m, nil)
	if err != nil {
		return fmt.Errorf("check %s: %w", when, err)
	}
	if !r.OK() {
		return fmt.Errorf("check %s: %d problems, the first: %v", when, r.ProblemTotal, r.Problems[0])
	}
	return nil
}

const workName = "work-after-the-crash"

var workData = bytes.Repeat([]byte("after"), 1100) // two pages

// newWork uses the recovered file system (O5).
func newWork(fs *core.FS) error {
	a, err := fs.Create(ctx, format.RootIno, workName, core.NewNode{Mode: format.TypeRegular | 0o600})
	if err != nil {
		return fmt.Errorf("new work: %w", err)
	}
	if _, err := fs.WriteAt(ctx, a.Ino, workData, 0); err != nil {
		return fmt.Errorf("new work: %w", err)
	}
	if _, err := fs.Fsync(ctx, a.Ino, 0, 0); err != nil {
		return fmt.Errorf("new work: %w", err)
	}
	_, hold, err := fs.Freeze(ctx, freeze.Request{Holder: "oracle", Lease: time.Hour, Patience: time.Minute})
	if err != nil {
		return fmt.Errorf("new work: %w", err)
	}
	if _, err := fs.Thaw(ctx, freeze.ThawRequest{Hold: hold.ID}); err != nil {
		return fmt.Errorf("new work: %w", err)
	}
	return nil
}

// again mounts once more: the old is there, and the new.
func again(m pmem.Medium, old *state) (err error) {
	fs, err := core.Mount(m, mountOptions)
	if err != nil {
		return fmt.Errorf("mount after new work: %w", err)
	}
	defer func() { err = errors.Join(err, fs.Unmount(ctx)) }()
	a, err := fs.Lookup(ctx, format.RootIno, workName)
	if err != nil {
		return fmt.Errorf("new work is gone: %w", err)
	}
	got := make([]byte, a.Size)
	if _, err := fs.ReadAt(ctx, a.Ino, got, 0); err != nil || !bytes.Equal(got, workData) {
		return fmt.Errorf("new work is not what was written: %w", err)
	}
	if err := fs.Unlink(ctx, format.RootIno, workName); err != nil {
		return fmt.Errorf("unlink the new work: %w", err)
	}
	s, err := lookAt(fs)
	if err != nil {
		return err
	}
	if s.meta != old.meta || len(s.files) != len(old.files) {
		return fmt.Errorf("new work changed the old: there was\n%s\nand is\n%s", old.meta, s.meta)
	}
	for i := range s.files {
		for n, pg := range old.files[i].pages {
			if !bytes.Equal(pg.data, s.files[i].pages[n].data) {
				return fmt.Errorf("new work changed page %d of %s", n, s.files[i].path)
			}
		}
	}
	return nil
}

package crash

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/pmem/record"
)

// history is the states a workload goes through and what must survive a crash
// after each operation. It is made by a first run without crashes and immutable
// from then on.
type history struct {
	w      Workload
	states []*state // 0: before; i: after operation i
	// floor[i]: the oldest state that a crash after operation i may leave (O2).
	floor []int
	// since[i][life]: from which state on the contents of a page's life count
	// after operation i (O3). Absent: from its first.
	since []map[int]int
	fails []string // what each operation answered, "" if it succeeded
	lives int      // so far
	// blank are the lives that began as zeros, before the operation stored into
	// them: a mapping allocates and clears what it lacks, durably, and then the
	// program stores.
	blank map[int]bool
}

// makeHistory plays a workload on the base image.
func makeHistory(base []byte, w Workload) (*history, error) {
	img := record.NewImage(int64(len(base)), domainOf(false))
	img.Load(base)
	fs, err := core.Mount(img, mountOptions)
	if err != nil {
		return nil, err
	}
	h := &history{w: w, blank: make(map[int]bool)}
	p := newPlayer(fs, img.Put)
	if err = p.prime(); err == nil {
		err = h.play(p)
	}
	return h, errors.Join(err, p.end(), fs.Unmount(ctx))
}

func (h *history) play(p *player) error {
	s, err := lookAt(p.fs)
	if err != nil {
		return err
	}
	h.add(s, 0, nil, "")
	for i, op := range h.w {
		failed := ""
		if err := p.run(op); err != nil {
			failed = err.Error()
		}
		if err := settle(p); err != nil {
			return err
		}
		before := s
		if s, err = lookAt(p.fs); err != nil {
			return fmt.Errorf("after %q: %w", op, err)
		}
		if err := h.verify(p, op, failed != "", before, s); err != nil {
			return err
		}
		floor, since := h.promise(i+1, op, failed != "", s)
		h.add(s, floor, since, failed)
	}
	return nil
}

// verify holds the files against what the operation must have made of them.
func (h *history) verify(p *player, op Op, failed bool, before, after *state) error {
	target, fill := format.Ino(0), p.fill
	if f := strings.Fields(string(op)); !failed && len(f) > 1 {
		if target = after.inoOf(f[1]); target == 0 {
			target = p.mapped[f[1]]
		}
		if f[0] == "rename" || f[0] == "move" || f[0] == "exchange" {
			target = 0 // contents go with their inodes
		}
		if f[0] == "linktmp" {
			fill = func(int64) []byte { return p.linked }
		}
	}
	return before.contents().verify(op, target, fill, after.contents())
}

// add appends a state and sees which pages kept their blocks.
func (h *history) add(s *state, floor int, since map[int]int, failed string) {
	var before *state
	op := len(h.states) // h.w[op-1] led here
	if op > 0 {
		before = h.states[op-1]
	}
	for i := range s.files {
		f := &s.files[i]
		old := before.byIno(f.ino)
		for n, pg := range f.pages {
			if o, ok := old[n]; ok && o.block == pg.block {
				pg.life = o.life
			} else {
				h.lives++
				pg.life = h.lives
				h.blank[pg.life] = op > 0 && strings.HasPrefix(string(h.w[op-1]), "store ")
			}
			f.pages[n] = pg
		}
	}
	h.states = append(h.states, s)
	h.floor = append(h.floor, floor)
	h.since = append(h.since, since)
	h.fails = append(h.fails, failed)
}

func (s *state) byIno(ino format.Ino) map[format.Page]page {
	if s == nil {
		return nil
	}
	for i := range s.files {
		if s.files[i].ino == ino {
			return s.files[i].pages
		}
	}
	return nil
}

// promise is what holds once operation i, which led to s, has answered.
func (h *history) promise(i int, op Op, failed bool, s *state) (floor int, since map[int]int) {
	floor, since = h.floor[i-1], h.since[i-1]
	f := strings.Fields(string(op))
	if failed {
		return floor, since
	}
	switch f[0] {
	case "sync", "freeze":
		return i, h.flushed(i, s, "")
	case "commit":
		return i, since
	case "fsync":
		return max(floor, h.changed(i, f[1])), h.flushed(i, s, f[1])
	}
	return floor, since
}

// flushed says that the pages of a file, or of all, are durable as they are in
// state i. The lives of s are those of the state before: nothing that syncs
// gives a page another block.
func (h *history) flushed(i int, s *state, path string) map[int]int {
	since := make(map[int]int, len(h.since[i-1]))
	for life, from := range h.since[i-1] {
		since[life] = from
	}
	before := h.states[i-1]
	for j := range before.files {
		f := &before.files[j]
		if path != "" && s.inoOf(path) != f.ino {
			continue
		}
		for _, pg := range f.pages {
			since[pg.life] = i
		}
	}
	return since
}

// inoOf finds a file by any of its names.
func (s *state) inoOf(path string) format.Ino {
	is := path
	for line := range strings.SplitSeq(s.meta, "\n") {
		if rest, ok := strings.CutPrefix(line, path+" "); ok {
			if _, first, ok := strings.Cut(rest, " is="); ok {
				is, _, _ = strings.Cut(first, " ")
			}
		}
	}
	for i := range s.files {
		if s.files[i].path == is {
			return s.files[i].ino
		}
	}
	return 0
}

// changed is the last operation before i that changed what a path names: its
// line of meta, or which blocks it has. Commits are whole, so all that came
// before is durable with it.
func (h *history) changed(i int, path string) int {
	now := h.states[i-1].sign(path)
	for j := i - 2; j >= 0; j-- {
		if h.states[j].sign(path) != now {
			return j + 1
		}
	}
	return 0
}

// sign is what a path names, but for the bytes.
func (s *state) sign(path string) string {
	for line := range strings.SplitSeq(s.meta, "\n") {
		if !strings.HasPrefix(line, path+" ") {
			continue
		}
		pages := s.byIno(s.inoOf(path))
		for _, n := range slices.Sorted(maps.Keys(pages)) {
			line += fmt.Sprintf(" %d:%d", n, pages[n].life)
		}
		return line
	}
	return ""
}

// settle waits until the background has freed what no one holds: so that two
// runs of a workload store the same.
func settle(p *player) error {
	for end := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		n := p.fs.Status().PendingOrphans
		if n <= uint64(p.orphans()) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d unlinked inodes are not freed", n)
		}
	}
}

// orphans is how many of the inodes in use have no name.
func (p *player) orphans() (n int) {
	inos := slices.Clone(p.held)
	for ino := range p.maps {
		if !slices.Contains(inos, ino) {
			inos = append(inos, ino)
		}
	}
	for _, ino := range inos {
		if a, err := p.fs.GetAttr(ctx, ino); err == nil && a.Nlink == 0 {
			n++
		}
	}
	return n
}

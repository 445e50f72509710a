package exercise

import (
	"fmt"
	"path/filepath"
	"time"
)

// heldFor is how long a change must not end while frozen for it to count as held.
const heldFor = 10 * time.Millisecond

// pendingStore is what the storer stores, or a held write writes, while frozen.
type pendingStore struct {
	off int64 // in the file
	p   []byte
}

// covers says whether a byte may already be what the storer stores. s may be nil.
func (s *pendingStore) covers(off int64, got byte) bool {
	return s != nil && off >= s.off && off < s.off+int64(len(s.p)) && s.p[off-s.off] == got
}

// freeze brings the file system to a standstill, and sees that everything can be
// read meanwhile, that what would change it is held and ends afterwards, and that
// nothing of it changes.
func (r *run) freeze() error {
	store, err := r.prepareStore()
	if err != nil {
		return err
	}
	r.note("freeze")
	fz, err := r.cfg.Freeze(r.ctx)
	if err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	r.frozeDirty(store)
	s := &standstill{run: r, fz: fz, store: store}
	err = s.look()
	if !s.thawed {
		s.thawed = true
		if thawErr := fz.Thaw(r.ctx); err == nil && thawErr != nil {
			err = fmt.Errorf("thaw: %w", thawErr)
		}
	}
	if err != nil {
		s.settle()
		return err
	}
	r.report.Freezes++
	r.done()
	return s.after()
}

// frozeDirty says that whatever mappings stored is in the frozen file system.
func (r *run) frozeDirty(store *frozenStore) {
	if store != nil {
		store.node.held = true
	}
	for _, n := range r.files() {
		if !n.stored.IsZero() {
			r.mappedSynced(n)
			n.stored, n.held = time.Time{}, true
		}
	}
}

// files are all that the model knows of, by a name, a handle or a mapping.
func (r *run) files() []*node {
	var all []*node
	seen := map[*node]bool{}
	add := func(n *node) {
		if n.kind == kindFile && !seen[n] {
			all = append(all, n)
		}
		seen[n] = true
	}
	for _, e := range r.walk() {
		add(e.node)
	}
	for _, h := range r.handles {
		add(h.node)
	}
	for _, m := range r.maps {
		add(m.node)
	}
	return all
}

// standstill is one freeze as the run sees it. Owned by the run's goroutine.
type standstill struct {
	*run
	fz     Frozen
	thawed bool
	stuck  chan error // of a call that did not answer; nil: none
	held   *held
	store  *frozenStore
}

// look is all that happens while frozen.
func (s *standstill) look() error {
	before, err := s.fz.Hash()
	if err != nil {
		return err
	}
	if err := s.inTime("a look at everything", s.checkAll); err != nil {
		return err
	}
	if s.store != nil {
		if err := s.store.send(s.run); err != nil {
			return err
		}
	}
	if s.held = s.hold(s.store); s.held != nil {
		select {
		case err := <-s.held.done:
			s.held.done <- err
			return fmt.Errorf("%s was not held by the freeze (it answered: %v)", s.held.what, err)
		case <-time.After(heldFor):
		}
	}
	if err := s.inTime("a look through what is open, with "+s.heldWhat()+" held", s.checkOpen); err != nil {
		return err
	}
	if err := s.copied(); err != nil {
		return err
	}
	after, err := s.fz.Hash()
	if err == nil && before != after {
		err = fmt.Errorf("it changed while frozen: its hash was %s and is %s", before, after)
	}
	return err
}

func (s *standstill) heldWhat() string {
	if s.held == nil {
		return "nothing"
	}
	return s.held.what
}

// copied has the frozen copy looked at. What is stored or written while frozen must
// not be in it.
func (s *standstill) copied() error {
	return s.fz.Copy(s.ctx, func(dir string) error {
		var nodes []*node
		if s.store != nil {
			nodes = append(nodes, s.store.node)
		}
		if s.held != nil && s.held.node != nil {
			nodes = append(nodes, s.held.node)
		}
		for _, n := range nodes {
			during := n.during
			n.during = nil
			defer func() { n.during = during }()
		}
		s.report.Copies++
		if err := s.checkTree(filepath.Join(dir, filepath.Base(s.dir)), false); err != nil {
			return fmt.Errorf("the frozen copy: %w", err)
		}
		return nil
	})
}

// inTime runs a look that no freeze may hold up.
func (s *standstill) inTime(what string, look func() error) error {
	done := make(chan error, 1)
	go func() { done <- look() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s while frozen: %w", what, err)
		}
		return nil
	case <-time.After(s.cfg.Bound):
		s.stuck = done
		return fmt.Errorf("%s while frozen did not end within %s", what, s.cfg.Bound)
	}
}

// settle waits, after a failure, for what still runs beside the run.
func (s *standstill) settle() {
	late := time.After(2 * time.Minute)
	for _, c := range []chan error{s.stuck, s.held.ended()} {
		if c == nil {
			continue
		}
		select {
		case <-c:
		case <-late:
			s.maps = nil // somebody may still be reading them
			return
		}
	}
}

// after sees that what was held ends, and applies it.
func (s *standstill) after() error {
	for _, n := range s.files() {
		n.held = false
	}
	if s.held != nil {
		select {
		case err := <-s.held.done:
			if err != nil {
				return fmt.Errorf("%s, which was held, answers %w", s.held.what, err)
			}
		case <-time.After(s.cfg.Bound):
			s.stuck = s.held.done
			return fmt.Errorf("%s was held, and did not end within %s of the thaw", s.held.what, s.cfg.Bound)
		}
		s.held.apply()
		s.report.Held++
	}
	if s.store != nil {
		if err := s.store.finish(s.run); err != nil {
			return err
		}
	}
	return s.checkAll()
}

package tree

import (
	"fmt"
	"sync"

	"permafrost/core/format"
	"permafrost/pmem"
)

// pages lends out a page to copy a leaf into.
var pages = sync.Pool{New: func() any { return new(format.Node) }}

// leafLocked is the leaf that k belongs to, and the smallest key that belongs
// to a later leaf (MaxKey if there is none). Needs treeMu, shared.
func (s *Store) leafLocked(k Key) (*format.Node, Key, error) {
	if s.gone {
		return nil, Key{}, ErrClosed
	}
	p, upper := s.root.Ptr, format.MaxKey
	for level := int(s.root.Level); ; level-- {
		n, err := s.view(p, level)
		if err != nil || level == 0 {
			return n, upper, err
		}
		i := n.ChildFor(k)
		if i+1 < n.Count() {
			upper = n.Key(i + 1)
		}
		p = n.Child(i)
	}
}

// Get returns a copy of k's value, appended to buf[:0].
//
// Errors: ErrNotFound, ErrClosed, *format.DamageError, *pmem.MediaError.
func (s *Store) Get(k Key, buf []byte) ([]byte, error) {
	v, err := s.get(k, buf)
	if err != nil && err != ErrNotFound {
		s.met(err)
	}
	return v, err
}

func (s *Store) get(k Key, buf []byte) (v []byte, err error) {
	prev := pmem.CatchFaults()
	defer pmem.Caught(prev, s.m, &err)
	s.treeMu.RLock()
	defer s.treeMu.RUnlock()
	if s.gone {
		return nil, ErrClosed
	}
	p := s.root.Ptr
	for level := int(s.root.Level); ; level-- {
		n, err := s.view(p, level)
		if err != nil {
			return nil, fmt.Errorf("get %v: %w", k, err)
		}
		if level > 0 {
			p = n.Child(n.ChildFor(k))
			continue
		}
		i, found := n.Find(k)
		if !found {
			return nil, ErrNotFound
		}
		return append(buf[:0], n.Value(i)...), nil
	}
}

// SeekLE returns the greatest key that is at most k, and a copy of its value,
// appended to buf[:0].
//
// Errors: as Get.
func (s *Store) SeekLE(k Key, buf []byte) (Key, []byte, error) {
	found, v, err := s.seekLE(k, buf)
	if err != nil && err != ErrNotFound {
		s.met(err)
	}
	return found, v, err
}

func (s *Store) seekLE(k Key, buf []byte) (found Key, v []byte, err error) {
	prev := pmem.CatchFaults()
	defer pmem.Caught(prev, s.m, &err)
	s.treeMu.RLock()
	defer s.treeMu.RUnlock()
	if s.gone {
		return Key{}, nil, ErrClosed
	}
	// left is the subtree just before the path, should the leaf begin above k.
	var left format.Ptr
	leftLevel := -1
	p := s.root.Ptr
	for level := int(s.root.Level); ; level-- {
		n, err := s.view(p, level)
		if err != nil {
			return Key{}, nil, fmt.Errorf("seek %v: %w", k, err)
		}
		if level > 0 {
			i := n.ChildFor(k)
			if i > 0 {
				left, leftLevel = n.Child(i-1), level-1
			}
			p = n.Child(i)
			continue
		}
		i, exact := n.Find(k)
		switch {
		case exact:
		case i > 0:
			i--
		case leftLevel < 0:
			return Key{}, nil, ErrNotFound
		default:
			if n, err = s.lastLeafLocked(left, leftLevel); err != nil {
				return Key{}, nil, fmt.Errorf("seek %v: %w", k, err)
			}
			i = n.Count() - 1
		}
		return n.Key(i), append(buf[:0], n.Value(i)...), nil
	}
}

// lastLeafLocked is the last leaf under p. It is not empty (T13).
func (s *Store) lastLeafLocked(p format.Ptr, level int) (*format.Node, error) {
	for ; ; level-- {
		n, err := s.view(p, level)
		if err != nil || level == 0 {
			return n, err
		}
		p = n.Child(n.Count() - 1)
	}
}

// Scan calls fn for the records of [from, to) in ascending order until fn
// returns false. It sees each leaf at one instant: records that change
// meanwhile appear as they were or as they are. The value is valid only during
// fn, which is called without any lock and may use the store.
//
// Errors: as Get, without ErrNotFound.
func (s *Store) Scan(from, to Key, fn func(k Key, v []byte) bool) error {
	page := pages.Get().(*format.Node)
	defer pages.Put(page)
	for from.Less(to) {
		next, err := s.copyLeaf(from, page)
		if err != nil {
			s.met(err)
			return fmt.Errorf("scan from %v: %w", from, err)
		}
		i, _ := page.Find(from)
		for ; i < page.Count(); i++ {
			k := page.Key(i)
			if !k.Less(to) || !fn(k, page.Value(i)) {
				return nil
			}
		}
		from = next
	}
	return nil
}

// copyLeaf copies the leaf that k belongs to, and returns the smallest key of
// the later leaves.
func (s *Store) copyLeaf(k Key, page *format.Node) (next Key, err error) {
	prev := pmem.CatchFaults()
	defer pmem.Caught(prev, s.m, &err)
	s.treeMu.RLock()
	defer s.treeMu.RUnlock()
	n, next, err := s.leafLocked(k)
	if err != nil {
		return Key{}, err
	}
	*page = *n
	return next, nil
}

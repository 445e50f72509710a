package exercise

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// held is a change begun while frozen. call runs beside the run and touches
// nothing of it; apply is the run's, once call has answered nil.
type held struct {
	what  string
	node  *node // of a write: reads may give its bytes already, from the page cache
	call  func() error
	apply func()
	done  chan error // buffered; call's answer
}

// ended is the channel of a held change, nil if there is none. h may be nil.
func (h *held) ended() chan error {
	if h == nil {
		return nil
	}
	return h.done
}

// hold draws a change and begins it; nil: none can be made of what there is. The
// file of the store that goes on beside it is left alone: which of the two comes
// first after the thaw is open.
func (r *run) hold(store *frozenStore) *held {
	kinds := []func(*run, func(*handle) bool) *held{
		(*run).holdWrite, (*run).holdWrite, (*run).holdTruncate, (*run).holdPunch, (*run).holdCreate,
		(*run).holdUnlink, (*run).holdRename, (*run).holdMkdir, (*run).holdChmod, (*run).holdXattr,
	}
	h := kinds[r.rng.IntN(len(kinds))](r, func(h *handle) bool {
		return buffered(h) && (store == nil || h.node != store.node)
	})
	if h == nil {
		return nil
	}
	r.note("while frozen: %s", h.what)
	h.done = make(chan error, 1)
	go func() { h.done <- h.call() }()
	return h
}

// anyHandle draws one that suits, or nil.
func (r *run) anyHandle(suits func(*handle) bool) *handle {
	var all []*handle
	for _, h := range r.handles {
		if suits(h) {
			all = append(all, h)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[r.rng.IntN(len(all))]
}

func (r *run) holdWrite(suits func(*handle) bool) *held {
	h := r.anyHandle(suits)
	if h == nil {
		return nil
	}
	off, n := r.span(int64(len(h.node.data)))
	p := r.fill(n)
	began := time.Now()
	h.node.during = &pendingStore{off, p}
	return &held{what: fmt.Sprintf("a write of %d bytes at %d to %v (size %d)", n, off, h, len(h.node.data)), node: h.node, call: func() error {
		got, err := unix.Pwrite(h.fd, p, off)
		if err == nil && got != len(p) {
			err = errShort
		}
		return err
	}, apply: func() {
		h.node.during = nil
		h.node.write(p, off)
		h.node.touched(began)
	}}
}

func (r *run) holdTruncate(suits func(*handle) bool) *held {
	h := r.anyHandle(suits)
	if h == nil {
		return nil
	}
	size, began := r.rng.Int64N(r.cfg.MaxSize), time.Now()
	return &held{what: fmt.Sprintf("a truncate of %v from %d to %d", h, len(h.node.data), size), call: func() error { return unix.Ftruncate(h.fd, size) },
		apply: func() { r.truncated(h.node, size, began) }}
}

func (r *run) holdPunch(suits func(*handle) bool) *held {
	h := r.anyHandle(suits)
	if h == nil {
		return nil
	}
	off, n := r.span(int64(len(h.node.data)))
	return &held{what: fmt.Sprintf("a punch of %d bytes at %d of %v (size %d)", n, off, h, len(h.node.data)),
		call:  func() error { return unix.Fallocate(h.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n) },
		apply: func() { h.node.zero(off, n); h.node.exact = false }}
}

// nowhere draws a name that is not taken.
func (r *run) nowhere() (entry, bool) {
	for range 20 {
		if e := r.somewhere(); e.node == nil {
			return e, true
		}
	}
	return entry{}, false
}

func (r *run) holdCreate(func(*handle) bool) *held {
	e, ok := r.nowhere()
	if !ok || r.count(kindFile) >= maxFiles {
		return nil
	}
	f, path := r.newNode(kindFile, 0o600), r.path(e.path)
	f.touched(time.Now())
	return &held{what: "the creation of " + e.path, call: func() error {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}, apply: func() { e.put(f) }}
}

func (r *run) holdUnlink(func(*handle) bool) *held {
	e, ok := r.someOf(kindFile)
	if !ok {
		return nil
	}
	path := r.path(e.path)
	return &held{what: "the unlink of " + e.path, call: func() error { return unix.Unlink(path) }, apply: e.drop}
}

func (r *run) holdRename(func(*handle) bool) *held {
	from, ok := r.someOf(kindFile)
	to, free := r.nowhere()
	if !ok || !free {
		return nil
	}
	a, b := r.path(from.path), r.path(to.path)
	return &held{what: "the rename of " + from.path, call: func() error { return unix.Rename(a, b) }, apply: func() {
		delete(from.dir.names, from.name)
		to.put(from.node)
	}}
}

func (r *run) holdMkdir(func(*handle) bool) *held {
	e, ok := r.nowhere()
	if !ok || r.count(kindDir) >= maxDirs {
		return nil
	}
	path := r.path(e.path)
	return &held{what: "mkdir " + e.path, call: func() error { return unix.Mkdir(path, 0o755) }, apply: func() {
		d := newDir(e.dir)
		d.links = 1
		e.put(d)
	}}
}

func (r *run) holdChmod(func(*handle) bool) *held {
	e, ok := r.someOf(kindFile)
	if !ok {
		return nil
	}
	path := r.path(e.path)
	return &held{what: "chmod of " + e.path, call: func() error { return unix.Chmod(path, 0o611) }, apply: func() { e.node.mode = 0o611 }}
}

func (r *run) holdXattr(func(*handle) bool) *held {
	e, ok := r.someOf(kindFile)
	if !ok || r.cfg.Features.XattrMax == 0 {
		return nil
	}
	path, value := r.path(e.path), r.fill(1+r.rng.Int64N(int64(r.cfg.Features.XattrMax)))
	return &held{what: "an attribute of " + e.path, call: func() error { return unix.Setxattr(path, xattrNames[0], value, 0) },
		apply: func() { e.node.xattrs[xattrNames[0]] = string(value) }}
}

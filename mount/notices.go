package mount

import (
	"context"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"permafrost/core"
	"permafrost/core/format"
)

// notices tells the kernel what changed by another way in, so that it drops what
// it has cached. Telling may wait in the kernel (for a directory with a held
// create, for a page under held write-back), so it is queued: a program may see what was
// there before for the moment that takes, and for as long as such a wait.
type notices struct {
	m    *Mount        // immutable
	wake chan struct{} // capacity 1

	mu      sync.Mutex
	inodes  map[format.Ino]span64 // guarded by mu: what is to be told of each
	entries map[entryName]bool    // guarded by mu
	lost    uint64                // guarded by mu: not told because too much was to be told
}

// entryName is a name in a directory.
type entryName struct {
	dir  format.Ino
	name string
}

// span64 is a range of bytes; to < 0: to the end. from == to: attributes only.
type span64 struct{ from, to int64 }

// union is the least span that holds both.
func (a span64) union(b span64) span64 {
	switch {
	case a.from == a.to:
		return b
	case b.from == b.to:
		return a
	}
	u := span64{min(a.from, b.from), max(a.to, b.to)}
	if a.to < 0 || b.to < 0 {
		u.to = -1
	}
	return u
}

const (
	// maxNotices bounds what waits to be told; it is coalesced by inode, and
	// while frozen nothing changes, so it takes a million changes in the time of one.
	maxNotices = 1 << 20
	// tellers tell at the same time: those that wait must not keep the others.
	tellers = 8
)

// InodeChanged is core.Watcher.
func (n *notices) InodeChanged(ino format.Ino, off, length int64) {
	s := span64{off, off + length}
	if length < 0 {
		s.to = -1
	}
	if length == 0 {
		s = span64{}
	}
	n.mu.Lock()
	old, there := n.inodes[ino]
	switch {
	case there:
		n.inodes[ino] = old.union(s)
	case len(n.inodes) >= maxNotices:
		n.lost++
	default:
		n.inodes[ino] = s
	}
	n.mu.Unlock()
	n.kick()
}

// EntryChanged is core.Watcher.
func (n *notices) EntryChanged(dir format.Ino, name string) {
	n.mu.Lock()
	if len(n.entries) >= maxNotices {
		n.lost++
	} else {
		n.entries[entryName{dir, name}] = true
	}
	n.mu.Unlock()
	// The listing is cached as the directory's data.
	n.InodeChanged(dir, 0, -1)
}

func (n *notices) kick() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// start begins to watch and to tell; the goroutines end with the mount.
func (n *notices) start(m *Mount) (stop func()) {
	n.m, n.wake = m, make(chan struct{}, 1)
	n.inodes, n.entries = make(map[format.Ino]span64), make(map[entryName]bool)
	for range tellers {
		go n.tell()
	}
	return m.fs.Watch(n)
}

// tell takes one thing after another and tells the kernel.
func (n *notices) tell() {
	for {
		select {
		case <-n.wake:
		case <-n.m.ended:
			return
		}
		for n.tellOne() && n.m.life.Err() == nil {
		}
	}
}

// tellOne tells one thing, if there is any. That the kernel has nothing cached of
// it (ENOENT) is the usual answer.
func (n *notices) tellOne() bool {
	n.mu.Lock()
	for e := range n.entries {
		delete(n.entries, e)
		more := len(n.entries)+len(n.inodes) > 0
		n.mu.Unlock()
		if more {
			n.kick() // for another teller, should this one wait
		}
		n.m.srv.EntryNotify(uint64(e.dir), e.name)
		return true
	}
	for ino, s := range n.inodes {
		delete(n.inodes, ino)
		more := len(n.inodes) > 0
		n.mu.Unlock()
		if more {
			n.kick()
		}
		off, length := int64(-1), int64(0) // attributes only
		if s.from != s.to {
			off, length = s.from, s.to-s.from
			if s.to < 0 {
				length = 0 // to the end
			}
		}
		n.m.srv.InodeNotify(uint64(ino), off, length)
		return true
	}
	n.mu.Unlock()
	return false
}

var _ core.Watcher = (*notices)(nil)

// fromHere marks changes that came through the mount: the kernel knows them.
func (m *Mount) fromHere(ctx context.Context) context.Context {
	return core.FromWatcher(ctx, &m.notices)
}

// dirFlags is how every directory is opened: its listing stays cached until it
// changes.
const dirFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR

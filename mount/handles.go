package mount

import (
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"permafrost/core/format"
)

// handle is one open file or directory, from OPEN to RELEASE: longer than its
// descriptors if a mapping goes on. So the writable ones are the inodes that
// may be mapped writably; mapping and unmapping are not told to us.
type handle struct {
	ino      format.Ino
	pid      uint32
	uid      uint32
	comm     string
	since    time.Time
	writable bool // for reading too: what is open for writing only cannot be mapped
	appends  bool
	dir      bool
	id       uint64
	mapping  uint64 // number among all mappings; 0 unless writable
}

// handles are the open files. All fields of a handle are immutable.
type handles struct {
	mu       sync.RWMutex
	m        map[uint64]*handle // guarded by mu
	next     uint64             // guarded by mu
	dirs     int                // guarded by mu: how many of m are
	writable int                // guarded by mu: how many of m are
	writers  map[format.Ino]int // guarded by mu: writable handles of an inode
}

// open pins an inode for a handle, so that an unlinked file stays until it is closed.
func (t *handles) open(m *Mount, in *fuse.InHeader, flags uint32, dir bool) (uint64, fuse.Status) {
	if err := m.fs.Acquire(format.Ino(in.NodeId)); err != nil {
		return 0, m.status(err)
	}
	return t.add(m, in, format.Ino(in.NodeId), flags, dir), fuse.OK
}

// add makes the handle of an inode that is pinned already.
func (t *handles) add(m *Mount, in *fuse.InHeader, ino format.Ino, flags uint32, dir bool) uint64 {
	p := m.commands.of(in.Pid, m.frozen())
	h := &handle{ino: ino, pid: p.pid, uid: in.Uid, comm: p.name, since: time.Now(), dir: dir,
		writable: !dir && flags&syscall.O_ACCMODE == syscall.O_RDWR, appends: flags&syscall.O_APPEND != 0}
	if h.writable {
		h.mapping = m.fs.NewMappingID()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	h.id = t.next
	if t.m == nil {
		t.m = make(map[uint64]*handle)
	}
	t.m[h.id] = h
	if h.dir {
		t.dirs++
	}
	if h.writable {
		t.writable++
		if t.writers == nil {
			t.writers = make(map[format.Ino]int)
		}
		t.writers[ino]++
	}
	return h.id
}

func (t *handles) close(m *Mount, id uint64) {
	t.mu.Lock()
	h := t.m[id]
	delete(t.m, id)
	if h != nil && h.dir {
		t.dirs--
	}
	if h != nil && h.writable {
		t.writable--
		if t.writers[h.ino]--; t.writers[h.ino] == 0 {
			delete(t.writers, h.ino)
		}
	}
	t.mu.Unlock()
	if h != nil {
		m.fs.Release(h.ino)
	}
}

// closeAll gives back what is left at the end of a mount.
func (t *handles) closeAll(m *Mount) {
	t.mu.Lock()
	left := t.m
	t.m, t.dirs, t.writable, t.writers = nil, 0, 0, nil
	t.mu.Unlock()
	for _, h := range left {
		m.fs.Release(h.ino)
	}
}

func (t *handles) get(id uint64) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.m[id]
}

// writes says whether somebody has an inode open for writing, and may have it mapped so.
func (t *handles) writes(ino format.Ino) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.writers[ino] > 0
}

// counts is how many files are open, and how many of them may be mapped writably.
func (t *handles) counts() (open, writable int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.m) - t.dirs, t.writable
}

// list copies the handles that want is true of.
func (t *handles) list(want func(*handle) bool) []*handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []*handle
	for _, h := range t.m {
		if want(h) {
			out = append(out, h)
		}
	}
	return out
}

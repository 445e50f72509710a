package mount

import (
	"context"
	"sync"
	"time"

	"permafrost/core"
	"permafrost/core/format"
)

// remains are the inodes whose last name was removed through the mount while the
// kernel knows them. A program that had found the name before goes on to open or look
// at what it meant, as on any file system, so they are pinned until the kernel
// forgets them, which it does at once if there is no such program.
type remains struct {
	mu        sync.Mutex
	pinned    map[format.Ino]struct{} // guarded by mu; nil once the mount has ended: nothing is kept any more
	forgotten []format.Ino            // guarded by mu: pinned still, and soon given back
}

// beforeRemoval pins what a name means if that is its last one. The function it
// returns is to be called with what came of the removal.
func (m *Mount) beforeRemoval(dir format.Ino, name string) (after func(err error)) {
	a, err := m.fs.Lookup(background, dir, name)
	if err != nil || a.Nlink != 1 && a.Mode&format.TypeMask != format.TypeDir || m.fs.Acquire(a.Ino) != nil {
		return func(error) {} // the removal finds out by itself
	}
	return func(err error) {
		if err != nil || !m.remains.keep(a.Ino) {
			m.fs.Release(a.Ino)
		}
	}
}

// keep takes over a pin; false: it does not.
func (r *remains) keep(ino format.Ino) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, twice := r.pinned[ino]; twice || r.pinned == nil {
		return false
	}
	r.pinned[ino] = struct{}{}
	return true
}

// forget gives a pin back, if there is one: with others, a moment later. To wake
// whoever frees inodes for each of them would cost more than to remove it.
func (r *remains) forget(fs *core.FS, ino format.Ino) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.pinned[ino]; !ok {
		return
	}
	delete(r.pinned, ino)
	if r.forgotten = append(r.forgotten, ino); len(r.forgotten) == 1 {
		time.AfterFunc(forgetPause, func() { r.release(fs) })
	}
}

const forgetPause = 2 * time.Millisecond

// release gives back what was forgotten.
func (r *remains) release(fs *core.FS) {
	r.mu.Lock()
	list := r.forgotten
	r.forgotten = nil
	r.mu.Unlock()
	for _, ino := range list {
		fs.Release(ino)
	}
}

// GiveBack is core.Keeper: the image is full. The kernel says what it forgets
// after the program that removed it has been told so, and perhaps after the next
// thing that this program asks for.
func (m *Mount) GiveBack(ctx context.Context) {
	pause := time.NewTicker(forgetPause)
	defer pause.Stop()
	for range giveBackPauses {
		m.remains.release(m.fs)
		if m.remains.none() {
			return
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
	}
}

// giveBackPauses bounds the wait for the kernel, which may know a removed inode
// for as long as a program keeps a reference to it, by O_PATH for one.
const giveBackPauses = 10

// none says whether nothing is kept.
func (r *remains) none() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pinned) == 0 && len(r.forgotten) == 0
}

// forgetAll gives all back at the end of a mount, where the kernel does not say it.
func (r *remains) forgetAll(fs *core.FS) {
	r.mu.Lock()
	for ino := range r.pinned {
		r.forgotten = append(r.forgotten, ino)
	}
	r.pinned = nil
	r.mu.Unlock()
	r.release(fs)
}

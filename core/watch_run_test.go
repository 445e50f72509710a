package core

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"permafrost/core/format"
)

// watchRun drives a file system with random operations and a client that
// caches.
type watchRun struct {
	*driver
	c       *cacheClient
	maps    map[format.Ino]*mapped
	granted map[PageRun]format.Ino // single pages that a mapping may store to since this step
}

func newWatchRun(t testing.TB, seed uint64, deaf deafness) *watchRun {
	w := newWorld(t, 24<<20)
	d := &driver{w: w, r: rand.New(rand.NewPCG(seed, 7)), root: &mnode{ino: root, typ: format.TypeDir, children: map[string]*mnode{}}}
	d.dirs = []*mnode{d.root}
	r := &watchRun{driver: d, c: newCacheClient(w), maps: make(map[format.Ino]*mapped)}
	r.c.deaf = deaf
	w.fs.Watch(r.c)
	t.Cleanup(func() { // before the world is closed
		for _, m := range r.maps {
			w.ok(m.m.Unmap(ctx))
		}
	})
	return r
}

// watchOps are operations by what they are called in watchNotices.
func (r *watchRun) ops() []watchOp {
	return []watchOp{
		{"create", 8, r.create}, {"mkdir", 3, r.mkdir}, {"symlink", 2, r.symlink}, {"link", 5, r.link}, {"unlink", 4, r.unlink},
		{"rmdir", 3, r.rmdirEmpty}, {"rename", 8, r.rename}, {"write", 12, r.write}, {"truncate", 5, r.truncateSome}, {"fallocate", 6, r.fallocSome},
		{"xattr", 5, r.xattr}, {"upload", 4, r.upload}, {"tmpfile", 3, r.tmpfile}, {"setattr", 4, r.setattr}, {"read", 4, r.readOld},
		{"map", 3, r.mapSome}, {"store", 20, r.storeSome}, {"fsync", 3, r.fsyncMapped}, {"sync", 3, r.syncAll}, {"freeze", 3, r.freezeAll},
		{"unmap", 2, r.unmapSome}, {"release", 2, r.release},
	}
}

type watchOp struct {
	name   string
	weight int
	run    func()
}

// step makes one operation and finds out whether the client knows of it.
func (r *watchRun) step() error {
	ops := r.ops()
	r.granted = make(map[PageRun]format.Ino)
	sum := 0
	for i, o := range ops {
		switch { // the operation in question often, but for unmap, which needs what was stored to
		case r.c.deaf.kind == "data" && (o.name == "store" || o.name == "map"), r.c.deaf.op == o.name && o.name != "unmap":
			ops[i].weight += 30
		}
		sum += ops[i].weight
	}
	n := r.r.IntN(sum)
	for _, o := range ops {
		if n -= o.weight; n < 0 {
			r.as(o.name, o.run)
			break
		}
	}
	if err := r.c.stale(r.unseen); err != nil {
		return err
	}
	r.fillAll()
	return nil
}

// as makes an operation under a name that deafness knows.
func (r *watchRun) as(name string, run func()) {
	set := func(s string) {
		r.c.mu.Lock()
		r.c.op = s
		r.c.mu.Unlock()
	}
	set(name)
	run()
	set("")
}

func (r *watchRun) fillAll() {
	names := make([]string, 0, 12)
	for i := range 12 {
		names = append(names, fmt.Sprint("n", i))
	}
	seen := make(map[format.Ino]bool)
	var walk func(n *mnode)
	walk = func(n *mnode) {
		if seen[n.ino] {
			return
		}
		seen[n.ino] = true
		r.c.fill(n.ino, names)
		for _, c := range n.children {
			walk(c)
		}
	}
	walk(r.root)
	for ino := range r.c.pages {
		if !seen[ino] {
			delete(r.c.pages, ino) // as a kernel forgets what has no name and no handle
		}
	}
}

// unseen says whether a mapping may have stored to a page since the client could
// know.
func (r *watchRun) unseen(ino format.Ino, p format.Page) bool {
	m := r.maps[ino]
	return m != nil && m.writable[p] && r.granted[PageRun{p, 1}] != ino
}

// unmapped picks a regular file without a mapping, or nil.
func (r *watchRun) unmapped() *mnode {
	if n := r.regular(); n != nil && r.maps[n.ino] == nil {
		return n
	}
	return nil
}

func (r *watchRun) truncateSome() {
	n := r.unmapped()
	if n == nil {
		return
	}
	size := r.r.IntN(len(n.data) + 10_000)
	r.note("truncate %d to %d", n.ino, size)
	r.want(r.w.fs.Truncate(ctx, n.ino, int64(size)), nil)
	n.data = grown(slices.Clone(n.data[:min(size, len(n.data))]), size)
}

func (r *watchRun) fallocSome() {
	n := r.unmapped()
	if n == nil {
		return
	}
	mode, off, length := FallocMode(r.r.IntN(5)), r.r.IntN(len(n.data)+5000), 1+r.r.IntN(20_000)
	r.note("fallocate %d mode %d: %d at %d", n.ino, mode, length, off)
	r.want(r.w.fs.Fallocate(ctx, n.ino, mode, int64(off), int64(length)), nil)
	if mode == FallocAllocate || mode == FallocZeroRange {
		n.data = grown(n.data, off+length)
	}
	if mode != FallocAllocate && mode != FallocKeepSize && off < len(n.data) {
		clear(n.data[off:min(off+length, len(n.data))])
	}
}

// mapped lists the mapped inodes in order.
func (r *watchRun) mapped() []format.Ino { return slices.Sorted(maps.Keys(r.maps)) }

// rmdirEmpty removes an empty directory, if there is one.
func (r *watchRun) rmdirEmpty() {
	for _, n := range r.dirs {
		if n == r.root || !r.alive(n) || len(n.children) > 0 {
			continue
		}
		for name, c := range n.parent.children {
			if c == n {
				r.note("rmdir %d/%s", n.parent.ino, name)
				r.want(r.w.fs.Rmdir(ctx, n.parent.ino, name), nil)
				r.drop(n.parent, name)
				return
			}
		}
	}
	r.rmdir()
}

func (r *watchRun) setattr() {
	_, _, n := r.pick()
	if n == nil {
		return
	}
	mode := uint32(r.r.IntN(0o1000))
	r.note("chmod %d", n.ino)
	_, err := r.w.fs.SetAttr(ctx, n.ino, SetAttr{Mode: &mode})
	r.want(err, nil)
}

// readOld reads what was changed, which moves the access time.
func (r *watchRun) readOld() {
	if n := r.regular(); n != nil && len(n.data) > 0 {
		old := time.Now().Add(-48 * time.Hour)
		r.as("", func() {
			_, err := r.w.fs.SetAttr(ctx, n.ino, SetAttr{Atime: &old})
			r.want(err, nil)
		})
		a, err := r.w.fs.GetAttr(ctx, n.ino)
		r.want(err, nil)
		r.c.mu.Lock()
		r.c.attrs[n.ino], r.c.op = a, "read"
		r.c.mu.Unlock()
		if v, ok := r.w.fs.View(ctx, n.ino, 0, 1); ok {
			v.Release()
			return
		}
		_, err = r.w.fs.ReadAt(ctx, n.ino, make([]byte, 1), 0)
		r.want(err, nil)
	}
}

func (r *watchRun) mapSome() {
	for _, ino := range r.mapped() {
		if r.find(r.root, ino) == nil { // nobody caches what has no name
			r.w.ok(r.maps[ino].m.Unmap(ctx))
			delete(r.maps, ino)
		}
	}
	n := r.unmapped()
	if n == nil {
		return
	}
	pages := int64(1 + r.r.IntN(20))
	r.note("map %d pages of %d", pages, n.ino)
	if pagesUp(int64(len(n.data))) < format.Page(pages) {
		n.data = grown(n.data, int(pages)*format.PageSize)
	}
	r.maps[n.ino] = r.w.mapFile(n.ino, pages)
}

// storeSome stores to a mapped page, now and then to a run of them.
func (r *watchRun) storeSome() {
	for _, ino := range r.mapped() {
		m := r.maps[ino]
		if r.r.IntN(2) == 0 {
			continue
		}
		page := format.Page(r.r.IntN(min(4, int((*m.m.ranges.Load())[0].Count)))) // often one that is dirty
		r.note("store to page %d of %d", page, ino)
		had := maps.Clone(m.writable)
		if r.r.IntN(2) == 0 {
			r.want(m.m.Mkwrite(page, 3, m.grant), nil)
		}
		r.want(m.store(page, byte(r.r.Uint32())), nil)
		for p := range m.writable {
			if !had[p] {
				r.granted[PageRun{p, 1}] = ino
			}
		}
		if n := r.find(r.root, ino); n != nil {
			n.data[int(page)*format.PageSize] = r.w.firstByte(ino, page)
		}
		return
	}
}

// firstByte reads past the access time.
func (w *world) firstByte(ino format.Ino, p format.Page) byte {
	return w.m.Bytes(blockOff(w.blockAt(ino, p)), 1)[0]
}

func (r *watchRun) find(n *mnode, ino format.Ino) *mnode {
	if n.ino == ino {
		return n
	}
	for _, c := range n.children {
		if f := r.find(c, ino); f != nil {
			return f
		}
	}
	return nil
}

func (r *watchRun) fsyncMapped() {
	for _, ino := range r.mapped() {
		r.note("fsync %d", ino)
		_, err := r.w.fs.Fsync(ctx, ino, 0, 0)
		r.want(err, nil)
	}
}

func (r *watchRun) syncAll() {
	r.note("sync")
	_, err := r.w.fs.Sync(ctx)
	r.want(err, nil)
}

func (r *watchRun) freezeAll() {
	r.note("freeze and thaw")
	r.w.freeze()
	r.w.thaw()
}

func (r *watchRun) unmapSome() {
	for _, ino := range r.mapped() {
		r.note("unmap %d", ino)
		r.w.ok(r.maps[ino].m.Unmap(ctx))
		delete(r.maps, ino)
		return
	}
}

// release frees a file that is cached still.
func (r *watchRun) release() {
	n := r.regular()
	if n == nil || n.nlink != 1 || r.maps[n.ino] != nil {
		return
	}
	r.note("unlink %d, and release it", n.ino)
	r.w.ok(r.w.fs.Acquire(n.ino))
	r.removeAll(r.root, n)
	r.c.fill(n.ino, nil)
	r.w.fs.Release(n.ino)
	eventually(r.w.t, "the inode is freed", func() bool {
		_, err := r.w.fs.GetAttr(ctx, n.ino)
		return errors.Is(err, ErrStale)
	})
	// The one who frees it tells it last.
	deadline := time.Now().Add(5 * time.Second)
	for r.c.stale(r.unseen) != nil && r.c.heard() && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
}

// removeAll removes every name of a file.
func (r *watchRun) removeAll(dir, n *mnode) {
	for name, c := range dir.children {
		switch {
		case c == n:
			r.want(r.w.fs.Unlink(ctx, dir.ino, name), nil)
			r.drop(dir, name)
		case c.typ == format.TypeDir:
			r.removeAll(c, n)
		}
	}
}

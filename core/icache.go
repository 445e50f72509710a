package core

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// icache is the cache of inodes, by number. Clean inodes that nobody pins may
// go at any time, also while frozen.
type icache struct {
	shards [cacheShards]cacheShard
	count  atomic.Int64 // inodes cached
	max    int          // immutable: per shard, before clean ones are evicted
}

const cacheShards = 256

// cacheShard is one part of the cache. Its lock ranks below inode locks and
// above the tree's: an inode is loaded with it held, so that no reader can put
// an older record over a newer one.
type cacheShard struct {
	mu sync.RWMutex
	m  map[format.Ino]*inode // guarded by mu
	_  [32]byte              // keeps neighbours off the line
}

// evictProbes is how many inodes one insertion into a full shard looks at.
const evictProbes = 8

func (c *icache) init(maxInodes int) {
	c.max = max(maxInodes/cacheShards, 16)
	for i := range c.shards {
		c.shards[i].m = make(map[format.Ino]*inode)
	}
}

func (c *icache) shard(ino format.Ino) *cacheShard { return &c.shards[ino%cacheShards] }

// get pins the inode, loading it if needed. The caller calls put.
//
// Errors: ErrStale for a number without an inode, ErrIO.
func (fs *FS) get(ino format.Ino) (*inode, error) {
	s := fs.cache.shard(ino)
	s.mu.RLock()
	in := s.m[ino]
	if in != nil {
		in.refs.Add(1)
		s.mu.RUnlock()
		if !in.is(flagUsed) {
			in.set(flagUsed)
		}
		return in, nil
	}
	s.mu.RUnlock()
	return fs.load(s, ino)
}

func (fs *FS) load(s *cacheShard, ino format.Ino) (*inode, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in := s.m[ino]; in != nil {
		in.refs.Add(1)
		return in, nil
	}
	var buf [format.InodeSize]byte
	v, err := fs.store.Get(key(ino, format.KindInode, 0), buf[:])
	if errors.Is(err, tree.ErrNotFound) {
		return nil, fmt.Errorf("inode %d: %w", ino, ErrStale)
	}
	if err != nil {
		return nil, ioError(err, "read inode %d", ino)
	}
	in := &inode{ino: ino}
	if err := in.a.Decode(v); err != nil {
		return nil, ioError(err, "read inode %d", ino)
	}
	if in.a.Nlink == 0 {
		in.set(flagOrphan)
	}
	fs.insertLocked(s, in)
	return in, nil
}

// adopt puts a new inode, pinned once, into the cache.
func (fs *FS) adopt(in *inode) {
	s := fs.cache.shard(in.ino)
	s.mu.Lock()
	fs.insertLocked(s, in)
	s.mu.Unlock()
}

// insertLocked adds a pinned inode and, in a full shard, lets a few go that
// nobody used lately.
func (fs *FS) insertLocked(s *cacheShard, in *inode) {
	in.refs.Store(1)
	if len(s.m) >= fs.cache.max {
		probes := 0
		for ino, old := range s.m { // random order: a clock without a hand
			if probes++; probes > evictProbes {
				break
			}
			if !evictable(old) {
				continue
			}
			if old.is(flagUsed) {
				old.unset(flagUsed)
				continue
			}
			delete(s.m, ino)
			fs.cache.count.Add(-1)
		}
	}
	s.m[in.ino] = in
	fs.cache.count.Add(1)
}

// evictable is asked with the shard locked for writing: nobody can pin the
// inode meanwhile, and without a pin nobody changes it.
func evictable(in *inode) bool {
	if in.refs.Load() != 0 || in.is(flagDeferred|flagOrphan) {
		return false
	}
	pg := in.pages.Load()
	return pg == nil || !pg.listed.Load()
}

// put gives a pin back. The last pin of an orphan hands it to the reaper.
func (fs *FS) put(in *inode) {
	if in.refs.Add(-1) == 0 && in.is(flagOrphan) {
		fs.reaper.add(in.ino)
	}
}

// forget drops a freed inode from the cache.
func (fs *FS) forget(in *inode) {
	s := fs.cache.shard(in.ino)
	s.mu.Lock()
	if s.m[in.ino] == in {
		delete(s.m, in.ino)
		fs.cache.count.Add(-1)
	}
	s.mu.Unlock()
}

// cached calls fn for every cached inode, pinned, with no lock held.
func (fs *FS) cached(fn func(in *inode) error) error {
	var batch []*inode
	for i := range fs.cache.shards {
		s := &fs.cache.shards[i]
		batch = batch[:0]
		s.mu.RLock()
		for _, in := range s.m {
			in.refs.Add(1)
			batch = append(batch, in)
		}
		s.mu.RUnlock()
		var err error
		for _, in := range batch {
			if err == nil {
				err = fn(in)
			}
			fs.put(in)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

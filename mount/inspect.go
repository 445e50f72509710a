package mount

import (
	"sync/atomic"
	"time"

	"permafrost/core"
	"permafrost/core/format"
)

// op is a kind of request, for the account of latencies.
type op uint8

const (
	opLookup op = iota
	opGetattr
	opSetattr
	opOpen
	opCreate
	opRead
	opWrite
	opWriteback
	opRelease
	opFsync
	opFallocate
	opLseek
	opCopy
	opOpendir
	opReaddir
	opMkdir
	opSymlink
	opReadlink
	opLink
	opUnlink
	opRmdir
	opRename
	opXattr
	opStatfs
	opCount
)

var opNames = [opCount]string{"lookup", "getattr", "setattr", "open", "create", "read", "write", "writeback", "release",
	"fsync", "fallocate", "lseek", "copy", "opendir", "readdir", "mkdir", "symlink", "readlink", "link", "unlink", "rmdir",
	"rename", "xattr", "statfs"} // immutable

// latency is the account of one kind of request, a core.Latency in the making.
// Each field is added to by itself: a reader may see a request in one and not yet
// in the other.
type latency struct {
	sum     atomic.Uint64 // ns
	buckets [core.LatencyBuckets]atomic.Uint64
}

// opStats is the account of all requests.
type opStats struct {
	begun atomic.Int64 // requests, ever
	ended atomic.Int64 // of them; the others are being answered, held ones included
	each  [opCount]latency
}

// span is one request being answered.
type span struct {
	s     *opStats
	op    op
	began time.Time
}

func (m *Mount) began(o op) span {
	m.ops.begun.Add(1)
	return span{s: &m.ops, op: o, began: time.Now()}
}

func (x span) end() {
	d := time.Since(x.began)
	l := &x.s.each[x.op]
	l.sum.Add(uint64(d))
	l.buckets[core.LatencyBucket(d)].Add(1)
	x.s.ended.Add(1)
}

// copy is the account as it is now.
func (l *latency) copy() (c core.Latency) {
	c.Sum = time.Duration(l.sum.Load())
	for i := range l.buckets {
		c.Buckets[i] = l.buckets[i].Load()
	}
	return c
}

// Status copies what is known of the mount. It takes no lock that a request
// waits under, and so never waits for a thaw. Kinds of request that there were none of are left out.
func (m *Mount) Status() core.MountStatus {
	open, writable := m.handles.counts()
	s := core.MountStatus{Dir: m.opt.Dir, Options: m.opt.Flags.String(), Since: m.since, Ended: m.life.Err() != nil,
		Open: open, Writable: writable, Held: m.held.Load() + m.collect.held.Load(), Refused: m.refused.Load()}
	ended := m.ops.ended.Load() // first: none has ended that has not begun
	s.Inside = m.ops.begun.Load() - ended
	for o := range opCount {
		if l := m.ops.each[o].copy(); l.Count() > 0 {
			s.Ops = append(s.Ops, core.MountOp{Op: opNames[o], Latency: l})
		}
	}
	return s
}

// Mappings lists the files that are open through the mount for reading and writing, and
// so may be mapped writably: the kernel does not tell which are. ino is one inode, or 0
// for all. They come in no order.
func (m *Mount) Mappings(ino format.Ino) []core.MappingInfo {
	if m.life.Err() != nil {
		return nil // what is still open leads nowhere
	}
	list := m.handles.list(func(h *handle) bool { return h.writable && (ino == 0 || h.ino == ino) })
	out := make([]core.MappingInfo, 0, len(list))
	for _, h := range list {
		info := core.MappingInfo{ID: h.mapping, Ino: h.ino, WayIn: wayIn, Writable: true, Since: h.since,
			Process: core.Process{PID: int(h.pid), UID: h.uid, Comm: h.comm}}
		if paths := m.fs.Paths(h.ino, 1); len(paths) > 0 {
			info.Path = paths[0]
		}
		out = append(out, info)
	}
	return out
}

package exercise

import (
	"path/filepath"
	"sort"
	"strings"
	"time"
)

type kind uint8

const (
	kindFile kind = iota
	kindDir
	kindSymlink
)

// node is what the model knows of an inode. Owned by the run.
type node struct {
	kind   kind
	id     int
	links  int // names; a file with none lives while it is open
	mode   uint32
	xattrs map[string]string

	target string           // symlink
	names  map[string]*node // directory
	parent *node            // directory; nil: the root

	data []byte // file: all of it, len is its size

	// mtime is what stat last said; exact: it may not have changed since. floor is
	// what it may not be below.
	mtime, floor time.Time
	exact        bool
	ctime        time.Time // what stat last said: never below
	// stored is when a mapping was first stored to since the file was last synced;
	// zero: nothing is dirty. Blocks and mtime may be told late while it is set.
	stored time.Time
	// held: a freeze found pages of it dirty through a mapping. Until the thaw
	// they are under write-back, which O_DIRECT reads wait for in the kernel, and
	// stat may tell the mtime and blocks of before it.
	held bool
	// reserved is the end of what may be allocated beyond the data, bytes.
	reserved int64
	// during is what is stored or written while frozen, not yet in data: the page
	// cache may have it.
	during *pendingStore
}

func newDir(parent *node) *node {
	return &node{kind: kindDir, mode: 0o755, names: map[string]*node{}, parent: parent}
}

// grain is by how much a time stamp may lie before the call that set it: the
// kernel stamps with the time of its last tick.
const grain = 20 * time.Millisecond

// touched says that the data changed, in a call begun at the time given.
func (f *node) touched(began time.Time) {
	f.exact = false
	if t := began.Add(-grain); t.After(f.floor) {
		f.floor = t
	}
}

// write puts bytes at an offset, with zeros between the old end and it.
func (f *node) write(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	f.grow(off + int64(len(p)))
	copy(f.data[off:], p)
}

// grow makes the file at least as long as size.
func (f *node) grow(size int64) {
	if size > int64(len(f.data)) {
		f.data = append(f.data, make([]byte, size-int64(len(f.data)))...)
	}
	f.reserved = max(f.reserved, size)
}

func (f *node) truncate(size int64) {
	if size < int64(len(f.data)) {
		clear(f.data[size:]) // append may hand the array out again
		f.data = f.data[:size]
		f.reserved = size
		return
	}
	f.grow(size)
}

// zero makes the part of a range that lies in the file zeros.
func (f *node) zero(off, n int64) {
	size := int64(len(f.data))
	if off < size {
		clear(f.data[off:min(off+n, size)])
	}
}

// bytes is the part of the file that a read of n bytes at off gives.
func (f *node) bytes(off, n int64) []byte {
	size := int64(len(f.data))
	if off >= size {
		return nil
	}
	return f.data[off:min(off+n, size)]
}

// entry is a name in the tree.
type entry struct {
	dir  *node
	name string
	path string // relative to the root of the run
	node *node  // nil: no such name
}

// walk lists the tree in one order, the root left out.
func (r *run) walk() []entry {
	var all []entry
	var in func(dir *node, path string)
	in = func(dir *node, path string) {
		names := make([]string, 0, len(dir.names))
		for name := range dir.names {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			c := dir.names[name]
			p := filepath.Join(path, name)
			all = append(all, entry{dir, name, p, c})
			if c.kind == kindDir {
				in(c, p)
			}
		}
	}
	in(r.root, "")
	return all
}

// someOf draws a name of that kind; ok is false if there is none.
func (r *run) someOf(k kind) (entry, bool) {
	var all []entry
	for _, e := range r.walk() {
		if e.node.kind == k {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		return entry{}, false
	}
	return all[r.rng.IntN(len(all))], true
}

// dirs lists all directories, with their paths.
func (r *run) dirs() []entry {
	all := []entry{{node: r.root}}
	for _, e := range r.walk() {
		if e.node.kind == kindDir {
			all = append(all, e)
		}
	}
	return all
}

// longName is the longest there may be; notes call it LONG.
var longName = strings.Repeat("abcde", 51)

// namePool is drawn from, so that names meet again. A long one and such as are
// not ASCII are among them.
var namePool = []string{"a", "b", "c", "data.bin", "ümläut-名前", "with space", "-dash", ".hidden", longName,
	"file-0", "file-1", "file-2", "file-3", "file-4", "file-5"}

// somewhere draws a place in the tree: a name that is there or one that is not.
func (r *run) somewhere() entry {
	dirs := r.dirs()
	d := dirs[r.rng.IntN(len(dirs))]
	name := namePool[r.rng.IntN(len(namePool))]
	return entry{d.node, name, filepath.Join(d.path, name), d.node.names[name]}
}

// newNode is a file or symlink with one name.
func (r *run) newNode(k kind, mode uint32) *node {
	r.nodes++
	return &node{kind: k, id: r.nodes, mode: mode, links: 1, xattrs: map[string]string{}}
}

// put gives a node a name that is not taken.
func (e entry) put(n *node) {
	e.dir.names[e.name] = n
	if n.kind == kindDir {
		n.parent = e.dir
	}
}

// drop takes a name away.
func (e entry) drop() {
	delete(e.dir.names, e.name)
	e.node.links--
}

// within says whether n is dir or lies below it.
func (n *node) within(dir *node) bool {
	for ; n != nil; n = n.parent {
		if n == dir {
			return true
		}
	}
	return false
}

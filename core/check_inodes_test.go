package core

import (
	"runtime"
	"testing"

	"permafrost/core/format"
)

// TestCheckedInodes: what check remembers is what was put, and takes no more
// memory than Check says.
func TestCheckedInodes(t *testing.T) {
	const count = 100_000
	for _, c := range []struct {
		name string
		step format.Ino // from one inode number to the next
		most uint64     // bytes an inode
	}{{"dense", 1, 40}, {"apart", 1000, 260}} {
		m := make(checkedInodes)
		before := heapBytes()
		for i := range uint32(count) {
			m.at(format.Ino(i+1) * c.step).names = i + 1
		}
		if took := (heapBytes() - before) / count; took > c.most {
			t.Errorf("%s: %d bytes an inode, want at most %d", c.name, took, c.most)
		}
		seen, sum := 0, uint64(0)
		m.each(func(ino format.Ino, n checkedInode) {
			seen, sum = seen+1, sum+uint64(n.names)
			if n.names == 0 || ino != format.Ino(n.names)*c.step {
				t.Fatalf("%s: inode %d has %d names", c.name, ino, n.names)
			}
		})
		if seen != count || sum != count*(count+1)/2 {
			t.Errorf("%s: %d inodes with %d names in all", c.name, seen, sum)
		}
		for i := uint32(0); i < count; i += 97 {
			if ino := format.Ino(i+1) * c.step; m.get(ino).names != i+1 || m.get(ino+count*1000) != (checkedInode{}) {
				t.Fatalf("%s: inode %d: %+v", c.name, ino, m.get(ino))
			}
		}
	}
}

// heapBytes is what the heap holds that is still in use.
func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

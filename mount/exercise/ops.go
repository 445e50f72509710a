package exercise

import "math/rand/v2"

// operation is one kind, with how often it is drawn.
type operation struct {
	name   string
	weight int
	do     func(*run) error
}

// operations is the table that a run draws from. Immutable after init.
var operations []operation

var totalWeight int

func init() { // not a literal: the functions draw from the table themselves
	operations = []operation{
		{"read", 14, (*run).read}, {"write", 14, (*run).write}, {"truncate", 5, (*run).truncate},
		{"allocate", 2, (*run).allocate}, {"reserve", 2, (*run).reserve}, {"punch", 4, (*run).punch}, {"zero range", 3, (*run).zeroRange},
		{"collapse", 1, (*run).collapse}, {"insert", 1, (*run).insert}, {"copy range", 4, (*run).copyRange}, {"seek", 4, (*run).seek},
		{"fsync", 3, (*run).fsync}, {"drop cache", 2, (*run).dropCache}, {"stat", 5, (*run).stat},
		{"map", 4, (*run).mapFile}, {"load", 8, (*run).load}, {"store", 8, (*run).store}, {"msync", 3, (*run).msync}, {"unmap", 2, (*run).unmapOne},
		{"private mapping", 3, (*run).private}, {"load beyond", 1, (*run).loadBeyond}, {"write from mapping", 2, (*run).writeFromMapping},
		{"read into mapping", 2, (*run).readIntoMapping}, {"forget mapped pages", 1, (*run).forgetPages},
		{"open", 8, (*run).open}, {"close", 5, (*run).closeOne}, {"create", 6, (*run).create}, {"temporary file", 1, (*run).tmpfile},
		{"unlink", 3, (*run).unlink}, {"link", 3, (*run).link}, {"symlink", 1, (*run).symlink}, {"rename", 5, (*run).rename}, {"exchange", 1, (*run).exchange},
		{"mkdir", 2, (*run).mkdir}, {"rmdir", 2, (*run).rmdir}, {"list", 2, (*run).list},
		{"chmod", 1, (*run).chmod}, {"utimes", 1, (*run).utimes}, {"set attribute", 2, (*run).setXattr}, {"remove attribute", 1, (*run).removeXattr},
		{"look at one", 1, (*run).checkOne},
	}
	for _, op := range operations {
		totalWeight += op.weight
	}
}

// everything is the look at the whole tree, once in checkEvery operations.
const checkEvery = 400

func (r *run) pick() operation {
	switch {
	case r.cfg.Freeze != nil && r.rng.IntN(r.cfg.Every) == 0:
		return operation{"freeze", 0, (*run).freeze}
	case r.rng.IntN(checkEvery) == 0:
		return operation{"look at everything", 0, func(r *run) error {
			r.note("look at everything")
			r.done()
			return r.checkAll()
		}}
	}
	w := r.rng.IntN(totalWeight)
	for _, op := range operations {
		if w -= op.weight; w < 0 {
			return op
		}
	}
	panic("the weights do not add up")
}

const pageSize = 4096

// span draws a range in or about a file of that size: the lengths and offsets
// that meet edges more often than chance would.
func (r *run) span(size int64) (off, n int64) {
	limit := r.cfg.MaxSize
	switch r.rng.IntN(5) {
	case 0:
		n = 1 + r.rng.Int64N(64)
	case 1:
		n = 1 + r.rng.Int64N(pageSize)
	case 2:
		n = pageSize * (1 + r.rng.Int64N(8))
	case 3:
		n = 1 + r.rng.Int64N(8*pageSize)
	default:
		n = 1 + r.rng.Int64N(limit/4)
	}
	switch r.rng.IntN(5) {
	case 0:
		off = r.rng.Int64N(limit)
	case 1:
		off = r.rng.Int64N(limit) &^ (pageSize - 1)
	case 2: // about the end
		off = size - r.rng.Int64N(2*pageSize) + pageSize/2
	case 3: // about the edge of a page
		off = r.rng.Int64N(limit)&^(pageSize-1) + r.rng.Int64N(16) - 8
	default:
		off = r.rng.Int64N(size + 1)
	}
	off = min(max(off, 0), limit-1)
	return off, min(n, limit-off)
}

// fill makes bytes that are never zero and that tell where they come from (E2).
func (r *run) fill(n int64) []byte {
	p := make([]byte, n)
	fillBytes(p, r.rng)
	return p
}

func fillBytes(p []byte, rng *rand.Rand) {
	seed := rng.Uint32()
	for i := range p {
		p[i] = byte(1 + (seed>>(8*(i&3))+uint32(i>>2)*7)%255)
	}
}

package core

import (
	"context"
	"fmt"
	"time"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// Report is the outcome of Check.
type Report struct {
	Generation  format.Generation
	Inodes      uint64
	Directories uint64
	Nodes       uint64
	DataBlocks  uint64
	// Torn are slots of the commit ring that hold neither a whole commit nor
	// nothing. A power cut in the middle of a commit leaves one, and so does damage
	// to a commit record: nobody can tell which. A mount falls back over it.
	Torn []format.Block
	// Mended are slots of the ring of which one bit is wrong. They are read as they
	// were; a power cut may leave one, and so may damage.
	Mended       []format.Block
	Problems     []Problem
	ProblemTotal uint64 // Problems is bounded
	Duration     time.Duration
	Repaired     *Repaired // what Repair did to the image; nil: nothing
}

// Problem names what is wrong and where.
type Problem struct {
	Kind   string // stable identifier
	Block  format.Block
	Ino    format.Ino
	Path   string
	Detail string
}

// String says it in one line.
func (p Problem) String() string {
	s := p.Kind
	if p.Ino != 0 {
		s += fmt.Sprintf(", inode %d", p.Ino)
	}
	if p.Block != 0 {
		s += fmt.Sprintf(", block %d", p.Block)
	}
	return s + ": " + p.Detail
}

// OK says that nothing is wrong.
func (r *Report) OK() bool { return r.ProblemTotal == 0 }

// maxCheckProblems is how many problems a report lists; the rest are counted.
const maxCheckProblems = 1000

func (r *Report) add(p Problem) {
	r.ProblemTotal++
	if len(r.Problems) < maxCheckProblems {
		r.Problems = append(r.Problems, p)
	}
}

// Kinds of problems.
const (
	ProblemTree    = "tree"     // a node, a checksum, an owner of blocks, a counter
	ProblemRecord  = "record"   // a record that cannot be read
	ProblemNoInode = "no-inode" // records or a name of an inode that is not there
	ProblemType    = "type"     // a name and its inode disagree on the type
	ProblemLinks   = "links"    // link count, names or back-pointers disagree
	ProblemDir     = "dir"      // a directory's size, link count or place in the tree
	ProblemExtents = "extents"  // extents overlap, or disagree with blocks or size
	ProblemXattr   = "xattr"    // an attribute's or target's records do not fit together
	ProblemOrphan  = "orphan"   // an inode without a name and the orphan records disagree
)

// Check reads everything reachable from the newest commit of an image and
// verifies it. It changes nothing. The image must not be in use, unless it is
// frozen.
//
// Memory: 28 bytes an inode, up to 230 where inode numbers are far apart, some 100
// a directory, a few bits a block, and the image's pages as far as there is room.
//
// The error says that nothing could be checked (see Mount, and ctx's); what is
// wrong with an image that can be read is in the report.
func Check(ctx context.Context, m pmem.Medium, progress func(done, total uint64)) (*Report, error) {
	return checkImage(ctx, m, ^uint64(0), progress)
}

// checkImage is Check for an image whose name hashes are masked.
func checkImage(ctx context.Context, m pmem.Medium, hashMask uint64, progress func(done, total uint64)) (*Report, error) {
	start := time.Now()
	var sb [format.BlockSize]byte
	var seed format.HashSeed
	for b := range format.Block(format.SuperblockCopies) {
		if _, err := m.ReadAt(sb[:], blockOff(b)); err != nil {
			continue // the tree's check says so
		}
		if s, err := format.DecodeSuperblock(b, &sb); err == nil {
			seed = s.HashSeed
			break
		}
	}
	c := newRecordChecker(seed, hashMask)
	tr, err := tree.Check(m, tree.CheckOptions{Extents: ownedBlocks, Progress: progress, Visit: func(k tree.Key, v []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return c.visit(k, v)
	}})
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	r := &c.r
	c.finish(tr.Counters)
	r.Generation, r.Nodes, r.DataBlocks = tr.Generation, tr.Nodes, tr.Data
	r.Torn, r.Mended = tr.Torn, tr.Mended
	for _, p := range tr.Problems {
		kind := ProblemTree
		if p.Key != (tree.Key{}) {
			kind = ProblemRecord
		}
		r.add(Problem{Kind: kind, Block: p.Block, Ino: p.Key.Ino, Detail: p.String()})
	}
	r.ProblemTotal += tr.More
	r.Duration = time.Since(start)
	return r, nil
}

// Check syncs and commits the mounted file system and then verifies it. The
// caller sees to it that nothing modifies it meanwhile; a commit in the middle
// could be taken for damage.
//
// Errors: as the package's Check; those of Sync.
func (fs *FS) Check(ctx context.Context) (*Report, error) {
	if _, err := fs.Sync(ctx); err != nil {
		return nil, err
	}
	return checkImage(ctx, fs.m, fs.hashMask, nil)
}

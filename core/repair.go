package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// RepairOptions direct Repair.
type RepairOptions struct {
	// Generation is the commit of the ring to work from. 0: the newest one whose
	// root can be read, of those that a mount would consider; if there is none,
	// the newest one in the ring, whose tree is then searched for.
	Generation format.Generation
	// Progress is told how far each pass over the tree is.
	Progress func(done, total uint64)
}

// Repaired says what Repair did. Report.Problems tells it file by file.
type Repaired struct {
	From    format.Generation // the commit worked from
	Records uint64            // that could be read of it
	Edits   uint64            // records put, replaced or dropped
	Found   uint64            // inodes linked under /lost+found
	Strays  int               // leaves that a search of the image found
}

// Kinds of problems that only Repair reports.
const (
	ProblemLost  = "lost"       // part of an inode's records or content is gone
	ProblemFound = "lost+found" // an inode without a name got one there
)

// Repair salvages a damaged image that nobody has open: it reads what can be read
// of one commit, decides what a consistent file system of it is, and commits
// that as a new tree, in blocks that the old commits do not use. A crash in
// between leaves the file system as it was: only free blocks may have been
// written. A clean image is not touched, so repairing twice is repairing once.
//
// The rules, in the order they are applied:
//
//   - P1. A record that cannot be decoded, or is not where its content belongs, is
//     dropped; a name is moved to its place instead.
//   - P2. A block has one owner. Nodes come first, then extents by inode and page;
//     what a later extent has in common with an earlier one, or outside the
//     image, is cut out of it, and reads as zeros.
//   - P3. An inode whose record is lost gets a new one if names, extents or a
//     target of it are left; its owner, mode and exact size are not known then.
//   - P4. A name whose inode is gone is dropped. A directory keeps one name.
//   - P5. Link counts, sizes of directories, block counts and back-pointers are
//     what the names and extents say.
//   - P6. An inode without a name, and a directory that the root is not above, is
//     linked in /lost+found under its number. Inodes that were unlinked but still
//     in use (consistent orphans) stay what they are: a mount frees them.
//
// Everything that is lost or changed is in the report, each with its path where
// it has one. The content of files is not checksummed: what a disk changed
// there is not seen.
//
// Memory: 40 bytes an inode, 64 a directory, and up to 3 bits a block of the image (or
// what Check takes, before and after it, if that is more); and
// a few hundred bytes for each thing found wrong. Time: six passes over the
// tree, one over the image if an inner node is lost.
//
// An error comes with a report where something was found before it; Repaired says
// whether the new tree was begun to be committed.
//
// Errors: format.ErrNotOurs, ErrNewerFormat, ErrTruncated, ErrTooSmall, ErrDamaged
// if neither superblock or no commit record can be read; ErrInvalid for a
// Generation that is not in the ring, or with an image that is clean; ErrNoSpace if
// the image has no room for the new nodes; ErrIO; ctx's.
func Repair(ctx context.Context, m pmem.Medium, o RepairOptions) (*Report, error) {
	return repairImage(ctx, m, ^uint64(0), o)
}

// repairImage is Repair for an image whose name hashes are masked.
func repairImage(ctx context.Context, m pmem.Medium, hashMask uint64, o RepairOptions) (*Report, error) {
	start := time.Now()
	before, err := checkImage(ctx, m, hashMask, o.Progress)
	switch {
	case err != nil && !errors.Is(err, format.ErrDamaged):
		return nil, fmt.Errorf("repair: %w", err)
	case err == nil && before.OK() && o.Generation != 0 && o.Generation != before.Generation:
		return nil, fmt.Errorf("repair from generation %d: %w: the newest commit, generation %d, is clean", o.Generation, ErrInvalid, before.Generation)
	case err == nil && before.OK():
		return before, nil
	}
	r := &repair{ctx: ctx, m: m, hashMask: hashMask, o: &o}
	if err := r.run(); err != nil {
		return r.report(nil, before, start), fmt.Errorf("repair: %w", err)
	}
	r.forget()
	after, err := checkImage(ctx, m, hashMask, o.Progress)
	if err == nil && !after.OK() {
		err = fmt.Errorf("%w: it is still not clean: %s", format.ErrDamaged, after.Problems[0])
	}
	if err != nil {
		return r.report(nil, before, start), fmt.Errorf("check after the repair: %w", err)
	}
	return r.report(after, before, start), nil
}

// forget gives back what the passes remembered, which the check that follows has
// no use for.
func (r *repair) forget() {
	r.sv, r.owned, r.firm, r.keep, r.shared, r.older = nil, nil, nil, nil, nil, nil
	r.inodes, r.dirs, r.orphans, r.bad, r.edits, r.fixes = nil, nil, nil, nil, nil, nil
	r.doomed, r.moved, r.added = nil, nil, nil
}

// report is what was found and done, with the figures of the check afterwards if
// there was one.
func (r *repair) report(after, before *Report, start time.Time) *Report {
	out := &Report{}
	if after != nil {
		*out = *after
	}
	for i := range r.problems {
		out.Problems = append(out.Problems, r.problems[i].Problem)
	}
	if len(out.Problems) == 0 && before != nil {
		out.Problems = before.Problems // of the tree's own bookkeeping only
	}
	if r.written {
		out.Repaired = &r.done
	}
	out.ProblemTotal = uint64(len(out.Problems))
	out.Duration = time.Since(start)
	return out
}

// repair is one Repair. It is used by one goroutine.
type repair struct {
	ctx      context.Context
	m        pmem.Medium
	hashMask uint64
	o        *RepairOptions
	sv       *tree.Salvage
	seed     format.HashSeed
	sb       format.Superblock

	owned  *tree.BlockSet // P2: blocks that have an owner in the new tree
	firm   *tree.BlockSet // blocks of extents in leaves that the tree leads to; nil without strays
	keep   *tree.BlockSet // blocks of the commit worked from
	shared *tree.BlockSet // blocks that two owners claimed; nil: none
	older  *tree.BlockSet // blocks of the other commits that a mount would consider

	inodes  []surveyInode // ascending: every inode of the new tree
	dirs    []surveyDir   // ascending: the directories among them
	orphans map[format.Ino]struct{}
	bad     badOwners           // bad blocks whose file has not been met yet
	edits   map[tree.Key][]byte // nil: the record goes
	fixes   map[format.Ino]*inodeFix
	doomed  []format.Ino // inodes whose records all go
	moved   []movedName  // P1
	added   []name       // names that were not there before
	lf      lostFound

	nextIno  format.Ino
	records  uint64 // readable ones
	visited  uint64 // nodes, in this pass
	problems []repairProblem
	done     Repaired
	written  bool  // the new tree's nodes are stored; its commit may be too
	err      error // ends a pass
}

func (r *repair) run() error {
	if err := r.open(); err != nil {
		return err
	}
	for _, pass := range []func() error{r.claimNodes, r.survey, r.tellShared, r.judgeNames, r.judgeDirs, r.judgeLinks, r.putInodes} {
		r.visited = 0
		if err := errors.Join(pass(), r.err, r.ctx.Err()); err != nil {
			return err
		}
	}
	r.findPaths()
	if err := r.write(); err != nil {
		return err
	}
	restored, err := r.sv.RestoreSuperblocks()
	if err == nil && restored {
		r.problem(ProblemTree, 0, "a superblock was damaged: both were written anew")
	}
	return err
}

// open reads the fixed places and chooses the commit.
func (r *repair) open() (err error) {
	if r.sv, err = tree.OpenSalvage(r.m); err != nil {
		return err
	}
	r.sb = r.sv.Superblock()
	r.seed = r.sb.HashSeed
	if x := r.sb.ReadOnlyOnly(); x != 0 {
		return fmt.Errorf("features %#x: %w", x, format.ErrNewerFormat)
	}
	if err := r.sv.Choose(r.o.Generation); errors.Is(err, tree.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	} else if err != nil {
		return err
	}
	r.orphans = make(map[format.Ino]struct{})
	r.bad = make(badOwners)
	r.edits = make(map[tree.Key][]byte)
	r.fixes = make(map[format.Ino]*inodeFix)
	rec := r.sv.Commit()
	r.done.From = rec.Generation
	newest := rec.Generation
	for i := range r.sv.Slots() {
		if c := r.sv.Slots()[i].Record; c != nil {
			if newest = max(newest, c.Generation); c.Counters.NextIno <= format.MaxNumber-tree.RoomToCount {
				r.nextIno = max(r.nextIno, c.Counters.NextIno)
			}
		}
	}
	if newest > format.MaxNumber-2*tree.RoomToCount {
		return fmt.Errorf("generation %d leaves no room to count on: %w", newest, format.ErrDamaged)
	}
	if back := newest - rec.Generation; back > format.MaxFallback {
		r.problem(ProblemTree, 0, "generation %d is %d commits old: blocks it used may hold newer content of other files by now", rec.Generation, back)
	}
	return nil
}

// claimNodes gives every readable node its block, and searches for what stood
// below those that cannot be read.
func (r *repair) claimNodes() error {
	r.owned, r.keep, r.older = tree.NewBlockSet(r.sb.Blocks), tree.NewBlockSet(r.sb.Blocks), tree.NewBlockSet(r.sb.Blocks)
	firm, inner := tree.NewBlockSet(r.sb.Blocks), false
	r.walk(tree.Visit{
		Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
			for ; i < j; i++ {
				ownedBlocks(n.Key(i), n.Value(i), func(b format.Block, n uint64) { firm.Add(b, n) })
			}
			return true
		},
		Lost: func(l tree.Lost) { inner = inner || l.Level > 0 && l.Whole },
	})
	if inner && r.err == nil {
		n, err := r.sv.Sweep(r.ctx, firm, r.o.Progress)
		if err != nil {
			return err
		}
		if r.done.Strays = n; n > 0 {
			r.firm = firm
		}
	}
	r.walk(tree.Visit{Node: func(p format.Ptr, _ int, _ *format.Node) bool {
		r.owned.Add(p.Block, 1)
		r.keep.Add(p.Block, 1)
		return true
	}})
	return r.keepOlder()
}

// keepOlder marks the blocks of the commits that a mount would consider, so that
// a crash in the middle of the repair makes nothing worse. Subtrees that
// belong to the chosen commit too are marked already.
func (r *repair) keepOlder() error {
	nodes := tree.NewBlockSet(r.sb.Blocks)
	nodes.AddAll(r.keep)
	for i := range r.sv.Slots() {
		l := &r.sv.Slots()[i]
		if !l.Reach || l.Record.Generation == r.done.From {
			continue
		}
		other, err := tree.OpenSalvage(r.m)
		if err == nil {
			err = other.Choose(l.Record.Generation)
		}
		if err != nil {
			return err
		}
		if l.Record.Clean {
			r.older.Add(l.Record.Snapshot, 1) // the others would be missed, but a walk does as well
		}
		other.Walk(tree.Key{}, format.MaxKey, tree.Visit{
			Node: func(p format.Ptr, _ int, _ *format.Node) bool {
				r.older.Add(p.Block, 1)
				return r.ctx.Err() == nil && nodes.Add(p.Block, 1) > 0
			},
			Leaf: func(_ format.Ptr, n *format.Node, i, j int) bool {
				for ; i < j; i++ {
					ownedBlocks(n.Key(i), n.Value(i), func(b format.Block, n uint64) { r.older.Add(b, n) })
				}
				return true
			},
		})
	}
	return nil
}

// walk visits the whole tree, tells the progress, and ends early for ctx.
func (r *repair) walk(v tree.Visit) {
	node := v.Node
	v.Node = func(p format.Ptr, level int, n *format.Node) bool {
		if r.step(); r.err != nil {
			return false
		}
		return node == nil || node(p, level, n)
	}
	r.sv.Walk(tree.Key{}, format.MaxKey, v)
}

// step counts a node.
func (r *repair) step() {
	r.visited++
	if r.visited%4096 != 0 {
		return
	}
	if err := r.ctx.Err(); err != nil && r.err == nil {
		r.err = err
	}
	if r.o.Progress != nil {
		r.o.Progress(r.visited, max(r.visited, r.sv.Commit().Counters.Nodes))
	}
}

// repairProblem is a problem whose path is not known yet.
type repairProblem struct {
	Problem
	dir  format.Ino // with text: the name in this directory; else the path of Ino
	text string
}

func (r *repair) problem(kind string, ino format.Ino, form string, args ...any) {
	r.problemAt(kind, ino, 0, form, args...)
}

func (r *repair) problemAt(kind string, ino format.Ino, b format.Block, form string, args ...any) {
	r.problems = append(r.problems, repairProblem{Problem: Problem{Kind: kind, Ino: ino, Block: b, Detail: fmt.Sprintf(form, args...)}})
}

package core

import "runtime"

// threadSlots bounds how many operations that hold a batch go on at once. A
// batch ties its goroutine to a thread of the operating system, and an operation
// with one may wait: for a seal, a lock of the tree, the media. A thaw lets
// everybody it held go at the same moment, and without a bound each of them
// would take a thread: the runtime ends the process at ten thousand.
//
// It ranks below the inode locks and above the tree: whoever has a slot has all
// inode locks it needs, nobody asks for one inside a transaction, and a commit
// needs none. So a slot is always given back.
type threadSlots chan struct{}

// minThreads is enough for every processor to have work while some operations
// wait for a commit.
const minThreads = 64

func newThreadSlots() threadSlots {
	return make(threadSlots, max(minThreads, 4*runtime.GOMAXPROCS(0)))
}

func (s threadSlots) take() { s <- struct{}{} }
func (s threadSlots) give() { <-s }

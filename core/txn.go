package core

import (
	"fmt"
	"sync"

	"permafrost/core/format"
	"permafrost/core/tree"
)

func key(ino format.Ino, kind uint8, off uint64) tree.Key {
	return tree.Key{Ino: ino, Kind: kind, Off: off}
}

// txn is one operation's part of the open group: all of it lands in one commit.
// Records are put without looking at each error; end tells. Used by one
// goroutine.
type txn struct {
	fs  *FS
	tx  *tree.Tx
	gen format.Generation
	err error // first failure
}

// begin enters the open group. records is how many tree records the operation
// may put or delete, blocks how many data blocks it may allocate. emergency
// operations make space, or must not fail: they may use the last of it.
//
// Errors: ErrNoSpace, ErrReadOnly.
func (fs *FS) begin(records, blocks int, emergency bool) (txn, error) {
	tx, err := fs.store.Begin(fs.reserve(records, blocks, emergency))
	if err != nil {
		return txn{}, fs.treeError(err)
	}
	return txn{fs: fs, tx: tx, gen: tx.Generation()}, nil
}

func (t *txn) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

func (t *txn) put(k tree.Key, v []byte) {
	if t.err != nil {
		return
	}
	if err := t.tx.Put(k, v); err != nil {
		t.fail(fmt.Errorf("put record %v: %w", k, err))
	}
}

func (t *txn) del(k tree.Key) {
	if t.err != nil {
		return
	}
	found, err := t.tx.Delete(k)
	if err == nil && !found {
		err = fmt.Errorf("%w: it is not there", format.ErrBadRecord)
	}
	if err != nil {
		t.fail(fmt.Errorf("delete record %v: %w", k, err))
	}
}

// end leaves the group. A group cannot be undone: if an operation failed after
// it changed a record, the group must never be committed (T11).
func (t *txn) end() error {
	if t.err != nil {
		t.tx.Fail(t.err)
	}
	t.tx.End()
	if t.err != nil {
		return t.fs.treeError(t.err)
	}
	return nil
}

// putInode writes the record now.
func (t *txn) putInode(in *inode) {
	var b [format.InodeSize]byte
	in.a.Encode(b[:])
	t.put(key(in.ino, format.KindInode, 0), b[:])
}

// dirtyAttrs makes sure that the record of an inode whose attributes were
// changed in this Tx is in this group's commit.
//
// The first change in a group puts the record, so that its leaf belongs to the
// open group; later ones wait on a bounded list for the seal, which replaces
// the record in that leaf by one of the same length and so needs no node (T10).
func (t *txn) dirtyAttrs(in *inode) {
	if in.a.Gen != t.gen {
		in.a.Gen = t.gen
		t.putInode(in)
		return
	}
	if in.is(flagDeferred) {
		return
	}
	if !t.fs.deferred.add(in) {
		t.putInode(in)
	}
}

// stamp sets mtime and ctime to now, and marks the attributes dirty.
func (t *txn) stamp(in *inode, now int64) {
	in.a.Mtime, in.a.Ctime = now, now
	t.dirtyAttrs(in)
}

// deferred is the list of inodes whose records the next seal writes.
type deferred struct {
	mu   sync.Mutex // a leaf: nothing is taken under it
	list []*inode   // guarded by mu
}

// maxDeferred bounds the work of a seal.
const maxDeferred = 8192

func (d *deferred) add(in *inode) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) >= maxDeferred {
		return false
	}
	in.set(flagDeferred)
	d.list = append(d.list, in)
	return true
}

// onSeal writes the deferred records. No Tx is open, so nobody changes
// attributes (C1) and nobody adds to the list.
func (fs *FS) onSeal(tx *tree.Tx) error {
	d := &fs.deferred
	d.mu.Lock()
	defer d.mu.Unlock()
	var b [format.InodeSize]byte
	for i, in := range d.list {
		// A freed inode has no record any more.
		if !in.is(flagGone) {
			in.a.Encode(b[:])
			if err := tx.Put(key(in.ino, format.KindInode, 0), b[:]); err != nil {
				return fmt.Errorf("write inode %d at the seal: %w", in.ino, err)
			}
		}
		in.unset(flagDeferred)
		d.list[i] = nil
	}
	d.list = d.list[:0]
	return nil
}

package crash

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/pmem/record"
)

// ImageBytes is the size of the images: the least there is, so that blocks are
// used again soon.
const ImageBytes = 1 << 20

// setup makes the small tree that every workload finds: two directories, files
// with and without holes, a link, a symlink, attributes.
var setup = ParseWorkload(`mkdir /A; mkdir /B; create /foo; write /foo 0 5000; setxattr /foo user.a 40; create /A/foo; write /A/foo 0 4096;
	write /A/foo 12288 3000; symlink /A/sym 60; create /A/two; write /A/two 0 100; link /A/two /two; sync`)

// Base makes the image that workloads begin with.
func Base() ([]byte, error) {
	m := record.NewImage(ImageBytes, domainOf(false))
	if err := core.Mkfs(m, core.MkfsOptions{Label: "crash"}); err != nil {
		return nil, err
	}
	fs, err := core.Mount(m, mountOptions)
	if err != nil {
		return nil, err
	}
	p := newPlayer(fs, m.Put)
	for _, op := range setup {
		if e := p.run(op); e != nil {
			err = errors.Join(err, fmt.Errorf("%q: %w", op, e))
		}
	}
	if err := errors.Join(err, fs.Unmount(ctx)); err != nil {
		return nil, fmt.Errorf("base image: %w", err)
	}
	return m.Bytes(0, ImageBytes), litter(m)
}

// litter fills every block that nothing leads to, as years of use would: a block
// that is shown without having been cleared or written then shows.
func litter(m *record.Image) error {
	set, err := Reached(m)
	if err != nil {
		return err
	}
	for b := format.Block(0); int64(b)*format.BlockSize < m.Size(); b++ {
		if !set.Has(b) {
			m.Put(int64(b)*format.BlockSize, bytes.Repeat([]byte{0xdb}, format.BlockSize))
		}
	}
	return nil
}

// changes are the operations that workloads are made of, in the manner of ACE
// (Mohan et al., OSDI 2018): every operation that core has, on few names, so that
// two of them often meet on the same file or directory.
var changes = []Op{
	"create /bar", "create /B/bar", "mkdir /C", "mkdir /A/C",
	"link /foo /bar", "link /A/foo /B/bar", "symlink /bar 20", "symlink /B/bar 3000",
	"unlink /foo", "unlink /A/foo", "unlink /two", "unlink /A/sym", "rmdir /B", "rmdir /A",
	"rename /foo /bar", "rename /foo /A/foo", "rename /A/foo /foo", "rename /A/foo /B/bar", "rename /A /B", "rename /A /C", "rename /B /A/C",
	"rename /A/two /two", "move /foo /bar", "move /foo /A/foo", "exchange /foo /A/foo", "exchange /A /B", "exchange /A/foo /two",
	"write /foo 0 100", "write /foo 60 4096", "write /foo 4096 4096", "write /A/foo 4000 5000", "write /A/foo 4096 4096", "write /foo 20000 100",
	"append /foo 200", "append /foo 5000", "append /two 3", "append /A/foo 1100",
	"store /foo 0", "store /foo 1", "store /A/foo 3", "store /two 0", "unmap /foo",
	"truncate /foo 0", "truncate /foo 100", "truncate /foo 4096", "truncate /foo 20000", "truncate /A/foo 5000", "truncate /A/foo 13000",
	"falloc /foo 0 16384", "fallockeep /foo 8192 8192", "falloc /A/foo 4096 8192",
	"punch /A/foo 0 4096", "punch /foo 100 1000", "punch /A/foo 2000 12000", "zero /A/foo 1000 13000", "zerokeep /foo 4000 9000", "zero /foo 0 4096",
	"setxattr /foo user.a 10", "setxattr /foo user.big 5000", "setxattr /A user.d 100", "rmxattr /foo user.a", "chmod /A/foo 384",
	"put /foo 3000", "put /bar 9000", "put /A/foo 100", "tmpfile /A 5000", "tmpfile /C 100", "linktmp /bar", "linktmp /A/foo", "hold /foo", "hold /A/foo",
}

// persists come between and after changes.
var persists = []Op{"commit", "fsync /foo", "sync", "fsync /A/foo", "freeze"}

// Ones is every workload of one change.
func Ones() []Workload {
	var all []Workload
	for _, a := range changes {
		for _, end := range persists {
			all = append(all, Workload{a, end})
		}
	}
	return all
}

// Twos is how many workloads of two changes there are, and Two the n-th of them:
// every ordered pair, each with nothing, a commit, or an fsync between, and a
// sync or a freeze behind.
var Twos = len(changes) * len(changes) * 3

// Two is the n-th workload of two changes, 0 <= n < Twos.
func Two(n int) Workload {
	a, b, how := changes[n/3/len(changes)], changes[n/3%len(changes)], n%3
	w := Workload{a}
	switch how {
	case 1:
		w = append(w, persists[n/3%2]) // commit or fsync /foo
	case 2:
		w = append(w, persists[1+n/3%4])
	}
	return append(w, b, []Op{"sync", "freeze", "commit"}[(n/3+how)%3])
}

// Random is a workload of n changes, by a seed.
func Random(seed uint64, n int) Workload {
	r := rand.New(rand.NewPCG(seed, 3))
	var w Workload
	for range n {
		w = append(w, changes[r.IntN(len(changes))])
		if r.IntN(3) > 0 {
			w = append(w, persists[r.IntN(len(persists))])
		}
	}
	return append(w, "sync")
}

package crash

import (
	"errors"
	"fmt"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/pmem/record"
)

// nestedStates is how many images of each fence are judged where every fence of a recovery is.
const nestedStates = 32

// recovery is one mount that is recorded.
type recovery struct {
	x     *explorer
	rec   *record.Recorder
	at    int  // the fence that crashes, from 1; 0: every one
	over  bool // the recovery is
	first error
}

// recovering has do mount the image, and undoes what it stored.
func (x *explorer) recovering(p *record.Point, s record.State, do func(r *recovery) error) error {
	p.Apply(x.img, s)
	p.Apply(x.durable, s)
	r := &recovery{x: x}
	r.rec = record.Over(x.img, x.durable, p.Hash(s), record.Options{Domain: domainOf(x.pageCache), Look: r.look})
	err := do(r)
	x.img.Back()
	x.durable.Back()
	if r.first != nil {
		return fmt.Errorf("a crash in the recovery: %w", r.first)
	}
	return err
}

// look is at each fence of the recovery.
func (r *recovery) look(p *record.Point) {
	switch {
	case r.over || r.first != nil:
	case r.at == 0:
		r.every(p)
	case r.at == p.Fence:
		r.crash(p, p.Any(r.x.rng))
	}
}

// end is when the file system has made its first commits. A recovery that had
// fewer fences than the one before crashes here.
func (r *recovery) end(fs *core.FS) error {
	pl := newPlayer(fs, r.rec.Store)
	err := errors.Join(settle(pl), pl.prime())
	r.rec.Now(func(p *record.Point) {
		r.x.fences, r.over = p.Fence, true
		if r.at > p.Fence {
			r.crash(p, p.Any(r.x.rng))
		}
	})
	return errors.Join(err, r.first)
}

// crash judges one image of a recovery.
func (r *recovery) crash(p *record.Point, s record.State) {
	x := r.x
	if !x.fresh(p, s) {
		return
	}
	x.inner.Follow(x.durable)
	p.Apply(x.inner, s)
	if err := x.want.verify(x.inner, false, nil); err != nil {
		r.first = fmt.Errorf("%s: %w", p.Describe(s, func(off int64) string { return nameOf(off, "") }), err)
	}
	x.inner.Back()
}

// every judges many images of a point of a recovery.
func (r *recovery) every(p *record.Point) {
	x := r.x
	x.inner.Follow(x.durable)
	set, err := Reached(x.inner)
	x.inner.Back()
	if err != nil {
		r.first = err
		return
	}
	n := 0
	p.States(func(off int64) bool { return set.Has(format.Block(off / format.BlockSize)) }, x.rng, func(s record.State) bool {
		n++
		r.crash(p, s)
		return r.first == nil && n < nestedStates
	})
}

// wholeRecovery mounts and unmounts the image, and judges the crashes of that at
// every fence.
func (x *explorer) wholeRecovery(p *record.Point, s record.State) error {
	return x.recovering(p, s, func(r *recovery) error {
		fs, err := core.Mount(r.rec, mountOptions)
		if err != nil {
			return err
		}
		pl := newPlayer(fs, r.rec.Store)
		return errors.Join(settle(pl), pl.prime(), fs.Unmount(ctx))
	})
}

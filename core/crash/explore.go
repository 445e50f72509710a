package crash

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
	"permafrost/pmem/record"
)

// How often the dearer parts of the oracle are done.
const (
	thoroughEach = 4   // images: the recovered file system is mounted a second time
	nestedEach   = 100 // images: the recovery is crashed at every fence, not at one (O6)
	primeEach    = 16  // workloads: the commits after the mount are explored too
)

// Failure is an image that breaks a promise, and how it came about.
type Failure struct {
	Workload  Workload
	PageCache bool
	Seed      uint64
	Fence     int    // of the run
	During    string // the operation under way
	Err       error
	Image     []byte // as the crash left it; nil if the run itself failed
}

// Error tells it in a few lines.
func (f *Failure) Error() string {
	return fmt.Sprintf("workload %q, fence %d (%s): %v", f.Workload, f.Fence, f.During, f.Err)
}

// explorer tries workloads, one at a time. It belongs to one goroutine.
type explorer struct {
	base      []byte        // immutable: the image every workload begins with
	pageCache bool          // immutable: the domain modelled
	img       *record.Image // the crash image being judged
	durable   *record.Image // what of it is durable while it recovers
	inner     *record.Image // of a crash in the recovery

	// The workload being run; Look uses them under the recorder's lock, while
	// the goroutine that plays waits for the file system.
	w      Workload
	seed   uint64
	want   expectation
	epoch  int // counts changes of what must survive
	during string
	on     bool // Look explores
	seen   map[stateKey]struct{}
	rng    *rand.Rand
	states int // distinct ones judged, all workloads
	images int // of this workload, and no crash of a recovery
	fences int // of the workload's last recovery
	fail   *Failure
	stop   func() bool // the time is over
	most   int         // images of one point that are judged at most; 0: all
}

// stateKey tells images apart, and what is asked of them.
type stateKey struct {
	hash  uint64
	epoch int
}

func newExplorer(base []byte, pageCache bool, stop func() bool) *explorer {
	d := domainOf(pageCache)
	image := func() *record.Image { return record.NewImage(int64(len(base)), d) }
	return &explorer{base: base, pageCache: pageCache, stop: stop, img: image(), durable: image(), inner: image()}
}

// run tries one workload and returns its first failure.
func (x *explorer) run(w Workload, seed uint64) *Failure {
	x.w, x.seed, x.fail, x.during, x.on = w, seed, nil, "mount", false
	x.seen, x.rng, x.epoch = make(map[stateKey]struct{}), rand.New(rand.NewPCG(seed, 1)), 0
	x.images, x.fences = int(seed%nestedEach), 0 // what is done now and then is done by the seed alone
	h, err := makeHistory(x.base, w)
	if err != nil {
		return x.failed(fmt.Errorf("without any crash: %w", err), nil)
	}
	rec, done, err := x.medium()
	if err != nil {
		return x.failed(err, nil)
	}
	defer done()
	x.want = h.expect(0, false)
	x.on = seed%primeEach == 0
	fs, err := core.Mount(rec, mountOptions)
	if err != nil {
		return x.failed(err, nil)
	}
	p := newPlayer(fs, rec.Store)
	p.still = rec.Freeze
	err = errors.Join(x.play(p, h, rec), p.end())
	x.during = "unmount"
	if err = errors.Join(err, fs.Unmount(ctx)); err == nil {
		rec.Now(x.look)
	}
	if x.fail == nil {
		if broken := rec.Broken(); len(broken) > 0 {
			err = errors.Join(err, fmt.Errorf("%d stores while frozen, the first: %s", len(broken), broken[0]))
		}
		if err != nil {
			return x.failed(err, nil)
		}
	}
	return x.fail
}

// medium is a recorded copy of the base image: on a real region in the domain
// where its own code decides which lines are flushed, else in plain memory.
func (x *explorer) medium() (rec *record.Recorder, done func(), err error) {
	o := record.Options{Domain: domainOf(x.pageCache), Look: x.look}
	if x.pageCache {
		m := record.NewImage(int64(len(x.base)), o.Domain)
		m.Load(x.base)
		return record.New(m, o), func() {}, nil
	}
	r, err := pmem.CreateMemfd("crash", int64(len(x.base)), pmem.Options{})
	if err != nil {
		return nil, nil, err
	}
	b := r.Begin()
	err = errors.Join(b.Write(0, x.base), b.Fence())
	b.End()
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return record.New(r, o), func() { _ = r.Close() }, nil
}

// play runs the operations, and says before and after each what must survive.
func (x *explorer) play(p *player, h *history, rec *record.Recorder) error {
	if err := p.prime(); err != nil {
		return err
	}
	x.on = true
	for i, op := range x.w {
		x.ask(h.expect(i, true), string(op))
		p.frozen = func() {
			x.ask(h.expect(i+1, false), "frozen")
			rec.Now(x.allDurable)
		}
		failed := ""
		if err := p.run(op); err != nil {
			failed = err.Error()
		}
		if x.fail != nil {
			return nil
		}
		if failed != h.fails[i+1] {
			return fmt.Errorf("%q answered %q, and %q when it was run before", op, failed, h.fails[i+1])
		}
		x.ask(h.expect(i+1, false), "after "+string(op))
		if err := settle(p); err != nil {
			return err
		}
	}
	return nil
}

// ask changes what must survive.
func (x *explorer) ask(e expectation, during string) {
	if e.floor != x.want.floor || len(e.since) != len(x.want.since) || during == "frozen" {
		x.epoch++
	}
	x.want, x.during = e, during
}

func (x *explorer) failed(err error, image []byte) *Failure {
	f := &Failure{Workload: x.w, PageCache: x.pageCache, Seed: x.seed, During: x.during, Err: err}
	if image != nil {
		f.Image = append([]byte(nil), image...)
	}
	if x.fail == nil {
		x.fail = f
	}
	return x.fail
}

// look judges the images that a crash at the point may leave.
func (x *explorer) look(p *record.Point) {
	if !x.on || x.fail != nil || x.stop() {
		return
	}
	for _, m := range []*record.Image{x.img, x.durable, x.inner} {
		m.Load(p.Durable)
	}
	set, err := Reached(x.img)
	if err != nil {
		x.failed(err, p.Durable).Fence = p.Fence
		return
	}
	near := func(off int64) bool { return set.Has(format.Block(off / format.BlockSize)) }
	before := x.images
	p.States(near, x.rng, func(s record.State) bool {
		if !x.fresh(p, s) {
			return true
		}
		if err := x.judge(p, s); err != nil {
			x.img.Back()
			p.Apply(x.img, s)
			x.failed(fmt.Errorf("%s: %w", p.Describe(s, nameIn(set)), err), x.img.Bytes(0, x.img.Size())).Fence = p.Fence
		}
		x.img.Back()
		return x.fail == nil && (x.images%64 != 0 || !x.stop()) && (x.most == 0 || x.images-before < x.most)
	})
}

// fresh counts an image that has not been judged yet for what is asked now.
func (x *explorer) fresh(p *record.Point, s record.State) bool {
	key := stateKey{p.Hash(s), x.epoch}
	if _, ok := x.seen[key]; ok {
		return false
	}
	x.seen[key] = struct{}{}
	x.states++
	return true
}

// allDurable is O4: nothing that a reader may come to is in flight.
func (x *explorer) allDurable(p *record.Point) {
	x.look(p)
	if x.fail != nil {
		return
	}
	x.img.Load(p.Durable)
	set, err := Reached(x.img)
	if err != nil {
		x.failed(err, p.Durable)
		return
	}
	for i := range p.Units {
		if b := format.Block(p.Units[i].Off / format.BlockSize); set.Has(b) {
			x.failed(fmt.Errorf("frozen, but byte %d of block %d is not durable", p.Units[i].Off%format.BlockSize, b), nil)
			return
		}
	}
}

// judge makes an image and asks the oracle. Its recovery is recorded, and crashes
// in turn.
func (x *explorer) judge(p *record.Point, s record.State) error {
	x.images++
	if x.images%nestedEach == 0 {
		if err := x.wholeRecovery(p, s); err != nil {
			return err
		}
	}
	return x.recovering(p, s, func(r *recovery) error {
		r.at = 1 + x.rng.IntN(max(x.fences, 1))
		return x.want.verify(r.rec, x.images%thoroughEach == 0, r.end)
	})
}

// nameIn names a unit for a failure's text.
func nameIn(set *tree.BlockSet) func(off int64) string {
	return func(off int64) string {
		if set.Has(format.Block(off / format.BlockSize)) {
			return nameOf(off, "")
		}
		return nameOf(off, "new ")
	}
}

func nameOf(off int64, is string) string {
	return fmt.Sprintf("%sblock %d+%d", is, off/format.BlockSize, off%format.BlockSize)
}

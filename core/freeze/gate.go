package freeze

import (
	"context"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sort"
	"sync/atomic"
	"time"
)

// Gate is passed by one class of callers: modifications, write faults or
// internal work. Open, it costs two uncontended atomic operations and names who
// is inside; closed, callers wait for it with no lock held, or are parked.
type Gate struct {
	name  string        // immutable
	at    Level         // immutable: closed from this level on
	box   *box          // immutable
	room  *lobby        // immutable: where callers wait
	mask  uint32        // immutable: len(slots)-1
	slots []slot        // immutable slice; each slot is owned by the caller in it
	extra atomic.Int64  // callers inside that found no free slot
	empty chan struct{} // capacity 1: wakes the closer to look again
}

// slot holds one caller inside: op<<inoBits | ino, 0 when free. Each has a
// cache line of its own, so that callers on two processors do not meet.
type slot struct {
	who atomic.Uint64
	_   [56]byte
}

const (
	inoBits  = 56
	inoMask  = 1<<inoBits - 1
	probes   = 4   // slots tried before a caller is counted without a name
	maxSlots = 256 // the closer reads them all: bounded
)

func newGate(name string, at Level, b *box, room *lobby) *Gate {
	n := 4 * runtime.GOMAXPROCS(0)
	if n > maxSlots {
		n = maxSlots
	}
	n = 1 << bits.Len(uint(n-1))
	return &Gate{name: name, at: at, box: b, room: room, mask: uint32(n - 1),
		slots: make([]slot, n), empty: make(chan struct{}, 1)}
}

// Pass is a caller's presence inside a gate. Exit it exactly once, from any
// goroutine; the zero Pass needs no Exit and tolerates one.
type Pass struct {
	g *Gate
	s *slot // nil: counted in extra
}

// Name is the gate's name: startWrite, startPageFault or startInternal.
func (g *Gate) Name() string { return g.name }

// Closed says whether new callers are held now. It may have changed by the time
// the answer is used: to be inside, enter.
func (g *Gate) Closed() bool { return g.box.level() >= g.at }

// Try enters if the gate is open and never waits, so that it may be used with
// locks held. op and ino name the caller while it is inside.
//
// Invariant F1: the caller is announced before the level is read again; the
// closer stores the level before it looks who is announced. One of the two sees
// the other.
func (g *Gate) Try(op Op, ino uint64) (Pass, bool) {
	if g.Closed() {
		return Pass{}, false
	}
	key := uint64(op)<<inoBits | ino&inoMask
	p := Pass{g: g}
	at := rand.Uint32()
	for n := uint32(0); n < probes; n++ {
		s := &g.slots[(at+n)&g.mask]
		if s.who.Load() == 0 && s.who.CompareAndSwap(0, key) {
			p.s = s
			break
		}
	}
	if p.s == nil {
		g.extra.Add(1)
	}
	if g.Closed() {
		p.Exit()
		return Pass{}, false
	}
	return p, true
}

// Exit leaves the gate and wakes its closer, if there is one.
func (p Pass) Exit() {
	if p.g == nil {
		return
	}
	if p.s != nil {
		p.s.who.Store(0)
	} else {
		p.g.extra.Add(-1)
	}
	if p.g.Closed() {
		p.g.wake()
	}
}

// wake makes the closer look again. A token too many costs one look.
func (g *Gate) wake() {
	select {
	case g.empty <- struct{}{}:
	default:
	}
}

// Enter passes the gate, waiting while it is closed; no lock may be held. op and
// ino name the caller while it is inside; who (may be nil) is asked for the rest
// only if the caller has to wait, and does not escape.
//
// Errors, as *Refusal: ErrFrozen (with the cause of ctx) when ctx was done
// before the gate opened, ErrTooManyHeld when the limit of held callers is
// reached, ErrClosed never: at shutdown the gates open.
func (g *Gate) Enter(ctx context.Context, op Op, ino uint64, who func() Waiter) (Pass, error) {
	if p, ok := g.Try(op, ino); ok {
		return p, nil
	}
	return g.enterSlow(ctx, op, ino, who)
}

// enterSlow waits and tries until it is inside or ctx is done. A freeze that
// follows a thaw at once may close the gate before we are in: then we wait
// again, behind those who came in between.
func (g *Gate) enterSlow(ctx context.Context, op Op, ino uint64, who func() Waiter) (Pass, error) {
	var w Waiter
	if who != nil {
		w = who()
	}
	w.Op, w.Ino = op.String(), ino
	for {
		if err := g.room.wait(ctx, g, w); err != nil {
			return Pass{}, err
		}
		if p, ok := g.Try(op, ino); ok {
			return p, nil
		}
	}
}

// Park puts a caller that was refused by Try aside without a goroutine: after
// the thaw resume is called once, on a worker of its client, in the order the
// client's callers were parked. If the gate has opened meanwhile resume is
// called just the same, at once. resume must try the gate again and may park
// again. client is a comparable key.
//
// unpark takes the caller out (it died, its range was unmapped) and reports
// whether it did: then resume will not be called. False: it has been or will be.
//
// Error: ErrTooManyHeld; then nothing is parked and unpark is nil.
func (g *Gate) Park(w Waiter, client any, resume func()) (unpark func() bool, err error) {
	return g.room.park(g, w, client, resume)
}

// Opened is closed once the gate is open, at once if it is. For callers that
// could not be parked: it wakes them all together and names none.
func (g *Gate) Opened() <-chan struct{} { return g.room.whenOpen(g) }

// drain waits until nobody who entered before the gate closed is inside. It is
// called with the gate closed, by one closer at a time, and ends with ctx.
func (g *Gate) drain(ctx context.Context) error {
	defer g.wake() // a token taken here may have been meant for the next closer
	for {
		if g.vacant() {
			return nil
		}
		select {
		case <-g.empty:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// vacant looks at each slot once. With the gate closed a slot seen free stays
// free of callers that matter (a latecomer announces itself, sees the level and
// leaves), so the looks need not be at one moment.
func (g *Gate) vacant() bool {
	for i := range g.slots {
		if g.slots[i].who.Load() != 0 {
			return false
		}
	}
	return g.extra.Load() == 0
}

// Inside counts and names the callers inside now, at most a few names. For
// messages: it is not a snapshot.
func (g *Gate) Inside() (n int, names []string) {
	const maxNames = 16
	seen := make(map[uint64]int)
	for i := range g.slots {
		if k := g.slots[i].who.Load(); k != 0 {
			seen[k]++
			n++
		}
	}
	for k, c := range seen {
		s := fmt.Sprintf("%s of inode %d, inside %s", Op(k>>inoBits), k&inoMask, g.name)
		if k&inoMask == 0 {
			s = fmt.Sprintf("%s, inside %s", Op(k>>inoBits), g.name)
		}
		if c > 1 {
			s += fmt.Sprintf(" (%d callers)", c)
		}
		names = append(names, s)
	}
	sort.Strings(names)
	if len(names) > maxNames {
		names = append(names[:maxNames], fmt.Sprintf("and %d others", len(names)-maxNames))
	}
	if e := int(g.extra.Load()); e > 0 {
		n += e
		names = append(names, fmt.Sprintf("%d more callers inside %s", e, g.name))
	}
	return n, names
}

// blockedAt makes a waiter's public form.
func (g *Gate) blockedAt(id uint64, w Waiter, since time.Time) Blocked {
	return Blocked{Waiter: w, ID: id, Gate: g.at, Since: since}
}

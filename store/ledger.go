package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"permafrost/migrations"
)

// slowWrite is how long a single transaction may take before Health calls the
// ledger Degraded: its disk hangs.
const slowWrite = 2 * time.Second

// Ledger is an open ledger. All methods may be called from any goroutine.
type Ledger struct {
	path       string  // immutable, absolute
	o          Options // immutable
	migrations fs.FS   // immutable
	q          *queue  // immutable
	hub        *hub    // immutable

	wake   chan struct{} // capacity 1: something came for the writer
	closed chan struct{} // closed by Close: the writer finishes
	ended  chan struct{} // closed by the writer when it is done
	// life ends the writer's opening attempts, for a Close that is out of time.
	life context.Context
	kill context.CancelFunc

	connMu sync.RWMutex
	conn   *conn // nil while the ledger is not open; guarded by connMu, set by the writer

	mu          sync.Mutex
	reason      error         // why Degraded, nil when well; guarded by mu
	since       time.Time     // of reason; guarded by mu
	writingFrom time.Time     // begin of the transaction in progress, else zero; guarded by mu
	counts      [tables]int64 // rows; guarded by mu
	interrupted []Freeze      // found open at start; guarded by mu
	rejected    uint64        // guarded by mu
	closing     bool          // Close was called; guarded by mu
	closeErr    error         // outcome of Close, set before ended closes
}

// Open opens the ledger at path, creating or migrating it, and closes what a
// crash left open (L8): see Interrupted. Errors say what to do: ErrNoDirectory,
// ErrReadOnly, ErrLocked, ErrNotLedger, ErrNewer, ErrDamaged, ErrFull.
func Open(ctx context.Context, path string, o Options) (*Ledger, error) {
	l, err := newLedger(path, o, migrations.FS)
	if err != nil {
		return nil, err
	}
	w := &writer{l: l}
	if err := w.open(ctx); err != nil {
		l.kill()
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	go w.run()
	return l, nil
}

// OpenDegraded returns a ledger that is not open, because of cause, and that
// opens itself when it can. Until then everything recorded waits in memory. It
// is for an appliance that must run although Open failed. The error is about
// the path alone.
func OpenDegraded(path string, o Options, cause error) (*Ledger, error) {
	l, err := newLedger(path, o, migrations.FS)
	if err != nil {
		return nil, err
	}
	w := &writer{l: l}
	w.degrade(cause)
	go w.run()
	return l, nil
}

func newLedger(path string, o Options, m fs.FS) (*Ledger, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("ledger path %q: %w", path, err)
	}
	o = o.withDefaults()
	h := newHub(o.Limits.Subscribers, o.Limits.SubscriberEvents)
	l := &Ledger{
		path: abs, o: o, migrations: m, hub: h, q: newQueue(o.Limits, h),
		wake: make(chan struct{}, 1), closed: make(chan struct{}), ended: make(chan struct{}),
	}
	l.life, l.kill = context.WithCancel(context.Background())
	return l, nil
}

// enqueued tells the writer that there is work.
func (l *Ledger) enqueued() {
	select {
	case l.wake <- struct{}{}:
	default: // it knows
	}
}

// Path of the database file, absolute.
func (l *Ledger) Path() string { return l.path }

// Health of the ledger and, when Degraded, why and what to do.
func (l *Ledger) Health() (Health, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reason != nil {
		return Degraded, l.reason.Error()
	}
	if !l.writingFrom.IsZero() {
		if d := l.o.Now().Sub(l.writingFrom); d > slowWrite {
			return Degraded, fmt.Sprintf("a write to %s has taken %s so far: check its disk", l.path, d.Round(time.Second))
		}
	}
	return OK, ""
}

// Interrupted are the freezes that were open when an earlier life of the
// process ended, as they stand in the ledger now.
func (l *Ledger) Interrupted() []Freeze {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Freeze(nil), l.interrupted...)
}

// Flush waits until everything recorded before the call is written, or was
// lost for want of memory. While Degraded that lasts until ctx ends.
func (l *Ledger) Flush(ctx context.Context) error {
	done := l.q.flushed()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		l.q.forgetFlush(done)
		err := ctx.Err()
		if h, reason := l.Health(); h != OK {
			err = fmt.Errorf("%w (%s)", err, reason)
		}
		return fmt.Errorf("flush the ledger: %w", err)
	}
}

// Close writes what waits, as long as ctx allows and the database takes it, and
// closes the file. Whatever could not be written is lost and named in the error.
func (l *Ledger) Close(ctx context.Context) error {
	l.mu.Lock()
	first := !l.closing
	l.closing = true
	l.mu.Unlock()
	if first {
		for _, in := range l.q.close() {
			in.done <- ErrClosed
		}
		close(l.closed)
	}
	select {
	case <-l.ended:
	case <-ctx.Done():
		l.kill()
		select {
		case <-l.ended:
		case <-time.After(time.Second):
			// The disk hangs inside the kernel; the process can go on without.
			return fmt.Errorf("close the ledger %s: its disk does not answer: %w", l.path, ctx.Err())
		}
	}
	if !first {
		return nil
	}
	return l.closeErr
}

// Stats of the ledger. Rows are counted as they are written; while the ledger
// is not open they are zero.
func (l *Ledger) Stats() Stats {
	s := Stats{Path: l.path}
	l.mu.Lock()
	c := l.counts
	s.Rejected = l.rejected
	l.mu.Unlock()
	s.Freezes, s.Renewals, s.Blocked, s.Found = c[tableFreezes], c[tableRenewals], c[tableBlocked], c[tableFound]
	s.Syncs, s.Minutes, s.Samples, s.Events = c[tableSyncs], c[tableMinutes], c[tableSamples], c[tableEvents]
	for _, name := range []string{l.path, l.path + "-wal"} {
		if st, err := os.Stat(name); err == nil {
			s.FileBytes += st.Size()
		}
	}
	l.q.fill(&s)
	l.hub.fill(&s)
	return s
}

// setConn exchanges the open file and closes the one before.
func (l *Ledger) setConn(c *conn) error {
	l.connMu.Lock()
	defer l.connMu.Unlock()
	old := l.conn
	l.conn = c
	if old != nil {
		return old.close()
	}
	return nil
}

// errNotOpen is why there is no connection.
func (l *Ledger) errNotOpen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(ErrUnavailable, l.reason)
}

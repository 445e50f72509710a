package freeze

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted is a target whose every call a test can watch and hold up.
type scripted struct {
	mu       sync.Mutex
	work     []uint64 // guarded by mu: what Dirty says, call by call; 0 when exhausted
	calls    []string // guarded by mu: preclean, sync, commit
	onSync   func(ctx context.Context, o SyncOptions) error
	onCommit func(ctx context.Context, id uint64) error
}

func (s *scripted) Dirty() (inodes, pages uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.work) == 0 {
		return 0, 0
	}
	pages = s.work[0]
	s.work = s.work[1:]
	return 0, pages
}

func (s *scripted) note(what string) {
	s.mu.Lock()
	s.calls = append(s.calls, what)
	s.mu.Unlock()
}

func (s *scripted) SyncDirty(ctx context.Context, o SyncOptions) (Flushed, error) {
	n := Flushed{Inodes: 1, Pages: 10, Bytes: 40960}
	if o.InWindow {
		n = Flushed{Inodes: 1, Pages: 2, Bytes: 8192}
		s.note("sync")
	} else {
		s.note("preclean")
	}
	if s.onSync != nil {
		return n, s.onSync(ctx, o)
	}
	return n, nil
}

func (s *scripted) FinalCommit(ctx context.Context, id uint64) (uint64, error) {
	s.note("commit")
	if s.onCommit != nil {
		if err := s.onCommit(ctx, id); err != nil {
			return 0, err
		}
	}
	return 1000 + id, nil
}

func newFreezer(t testing.TB, c Config) *Freezer {
	t.Helper()
	if c.Target == nil {
		c.Target = &scripted{}
	}
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := f.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if l := f.Level(); l != Unfrozen {
			t.Errorf("level after close: %d", l)
		}
	})
	return f
}

func ask(holder string, lease time.Duration) Request {
	return Request{Holder: holder, Lease: lease}
}

func mustFreeze(t testing.TB, f *Freezer, r Request) (Record, Hold) {
	t.Helper()
	rec, h, err := f.Freeze(context.Background(), r)
	if err != nil {
		t.Fatalf("freeze: %v", err)
	}
	return rec, h
}

func mustThaw(t testing.TB, f *Freezer, r ThawRequest) ThawResult {
	t.Helper()
	res, err := f.Thaw(r)
	if err != nil {
		t.Fatalf("thaw %+v: %v", r, err)
	}
	return res
}

// wantErr checks the sentinel and that a refusal says what to do.
func wantErr(t testing.TB, err, want error) *Refusal {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("error %v is no Refusal", err)
	}
	if r.Detail == "" {
		t.Errorf("refusal %v says nothing of what to do", err)
	}
	return r
}

func wantLevel(t testing.TB, f *Freezer, want Level) {
	t.Helper()
	if l := f.Level(); l != want {
		t.Fatalf("level %d, want %d", l, want)
	}
}

// outcome of a Freeze that runs on its own goroutine.
type outcome struct {
	rec Record
	h   Hold
	err error
}

func freezeAsync(ctx context.Context, f *Freezer, r Request) <-chan outcome {
	c := make(chan outcome, 1)
	go func() {
		rec, h, err := f.Freeze(ctx, r)
		c <- outcome{rec, h, err}
	}()
	return c
}

// stoppedClock is moved by hand; its timers never run.
type stoppedClock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

type deadTimer struct{}

func (deadTimer) Stop() bool { return true }

func (c *stoppedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *stoppedClock) advance(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
}

func (c *stoppedClock) AfterFunc(time.Duration, func()) Timer { return deadTimer{} }

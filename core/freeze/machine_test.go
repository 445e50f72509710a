package freeze

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// One machine brought to a state by a function, with what the events need.
type situation struct {
	f      *Freezer
	holds  []Hold         // standing, "a" first; the one to be, while freezing
	cancel func()         // the requester of what is being reached leaves
	result <-chan outcome // of what is being reached
	undo   func()
}

type stateRow struct {
	name  string
	level Level
	enter func(t *testing.T) *situation
}

func freezingAt(u holdUp) stateRow {
	return stateRow{"freezing/" + u.name, u.level, func(t *testing.T) *situation {
		s := &scripted{}
		f := newFreezer(t, Config{Target: s})
		stop := make(chan struct{})
		undo := u.at(f, s, stop)
		ctx, cancel := context.WithCancel(context.Background())
		done := freezeAsync(ctx, f, ask("a", time.Minute))
		synctest.Wait()
		return &situation{f, []Hold{{ID: "1.1", FreezeID: 1}}, cancel, done, func() { close(stop); undo(); cancel() }}
	}}
}

func states() []stateRow {
	rows := []stateRow{
		{"unfrozen", Unfrozen, func(t *testing.T) *situation {
			return &situation{f: newFreezer(t, Config{}), undo: func() {}}
		}},
		{"frozen", Complete, func(t *testing.T) *situation {
			f := newFreezer(t, Config{})
			_, h := mustFreeze(t, f, ask("a", time.Minute))
			return &situation{f: f, holds: []Hold{h}, undo: func() {}}
		}},
		{"frozen twice", Complete, func(t *testing.T) *situation {
			f := newFreezer(t, Config{})
			_, a := mustFreeze(t, f, ask("a", time.Minute))
			_, b := mustFreeze(t, f, Request{Holder: "b", Lease: time.Minute, Join: true})
			return &situation{f: f, holds: []Hold{a, b}, undo: func() {}}
		}},
		{"lost untold", Unfrozen, func(t *testing.T) *situation {
			f := newFreezer(t, Config{})
			_, h := mustFreeze(t, f, ask("a", time.Second))
			time.Sleep(time.Second)
			synctest.Wait()
			return &situation{f: f, holds: []Hold{h}, undo: func() {}}
		}},
		{"closed", Unfrozen, func(t *testing.T) *situation {
			f := newFreezer(t, Config{})
			f.Close(context.Background())
			return &situation{f: f, undo: func() {}}
		}},
	}
	for _, u := range holdUps {
		rows = append(rows, freezingAt(u))
	}
	return rows
}

// What an event must answer, and the level it must leave, by kind of state.
type expect struct {
	err   error
	level Level
}

const same = Level(-1)

type eventRow struct {
	name string
	do   func(s *situation) error
	want map[string]expect // by state; "freezing" stands for every one of those
}

func thawErr(s *situation, r ThawRequest) error { _, err := s.f.Thaw(r); return err }
func freezeErr(s *situation, r Request) error {
	_, _, err := s.f.Freeze(context.Background(), r)
	return err
}

func events() []eventRow {
	none := expect{nil, same}
	return []eventRow{
		{"freeze", func(s *situation) error { return freezeErr(s, ask("n", time.Minute)) }, map[string]expect{
			"unfrozen": {nil, Complete}, "frozen": {ErrAlreadyFrozen, same}, "frozen twice": {ErrAlreadyFrozen, same},
			"lost untold": {nil, Complete}, "closed": {ErrClosed, same}, "freezing": {ErrAlreadyFrozen, same}}},
		{"join", func(s *situation) error {
			return freezeErr(s, Request{Holder: "n", Lease: time.Second, Join: true, Patience: time.Millisecond})
		}, map[string]expect{
			"unfrozen": {nil, Complete}, "frozen": none, "frozen twice": none,
			"lost untold": {nil, Complete}, "closed": {ErrClosed, same}, "freezing": {ErrAlreadyFrozen, same}}},
		{"thaw bare", func(s *situation) error { return thawErr(s, ThawRequest{}) }, map[string]expect{
			"unfrozen": none, "frozen": {nil, Unfrozen}, "frozen twice": {ErrWhichHold, same},
			"lost untold": {ErrFreezeLost, same}, "closed": none, "freezing": none}},
		{"thaw hold", func(s *situation) error { return thawErr(s, ThawRequest{Hold: "1.1"}) }, map[string]expect{
			"unfrozen": {ErrUnknownHold, same}, "frozen": {nil, Unfrozen}, "frozen twice": none,
			"lost untold": {ErrFreezeLost, same}, "closed": {ErrUnknownHold, same}, "freezing": {ErrFreezeLost, Unfrozen}}},
		{"thaw holder", func(s *situation) error { return thawErr(s, ThawRequest{Holder: "a"}) }, map[string]expect{
			"unfrozen": {ErrUnknownHold, same}, "frozen": {nil, Unfrozen}, "frozen twice": none,
			"lost untold": {ErrFreezeLost, same}, "closed": {ErrUnknownHold, same}, "freezing": {ErrFreezeLost, Unfrozen}}},
		{"thaw stranger", func(s *situation) error { return thawErr(s, ThawRequest{Holder: "stranger"}) }, map[string]expect{
			"unfrozen": {ErrUnknownHold, same}, "frozen": {ErrUnknownHold, same}, "frozen twice": {ErrUnknownHold, same},
			"lost untold": {ErrUnknownHold, same}, "closed": {ErrUnknownHold, same}, "freezing": {ErrUnknownHold, same}}},
		{"thaw mismatch", func(s *situation) error { return thawErr(s, ThawRequest{Hold: "1.1", Holder: "b"}) }, map[string]expect{
			"unfrozen": {ErrUnknownHold, same}, "frozen": {ErrNotTheHolder, same}, "frozen twice": {ErrNotTheHolder, same},
			"lost untold": {ErrNotTheHolder, same}, "closed": {ErrUnknownHold, same}, "freezing": {ErrUnknownHold, same}}},
		{"thaw force", func(s *situation) error { return thawErr(s, ThawRequest{Force: true}) }, map[string]expect{
			"unfrozen": none, "frozen": {nil, Unfrozen}, "frozen twice": {nil, Unfrozen},
			"lost untold": none, "closed": none, "freezing": {nil, Unfrozen}}},
		{"renew", func(s *situation) error {
			_, _, err := s.f.Renew(RenewRequest{Hold: "1.1", Lease: time.Minute})
			return err
		}, map[string]expect{
			"unfrozen": {ErrUnknownHold, same}, "frozen": none, "frozen twice": none,
			"lost untold": {ErrFreezeLost, same}, "closed": {ErrUnknownHold, same}, "freezing": {ErrUnknownHold, same}}},
		{"lease over", func(s *situation) error {
			if s.cancel == nil { // else patience comes first: below
				time.Sleep(time.Minute)
			}
			return nil
		}, map[string]expect{
			"unfrozen": none, "frozen": {nil, Unfrozen}, "frozen twice": {nil, Unfrozen}, "lost untold": none, "closed": none, "freezing": none}},
		{"patience over", func(s *situation) error { time.Sleep(DefaultPatience); return nil }, map[string]expect{
			"unfrozen": none, "frozen": none, "frozen twice": none, "lost untold": none, "closed": none, "freezing": {nil, Unfrozen}}},
		{"requester leaves", func(s *situation) error {
			if s.cancel != nil {
				s.cancel()
			}
			return nil
		}, map[string]expect{
			"unfrozen": none, "frozen": none, "frozen twice": none, "lost untold": none, "closed": none, "freezing": {nil, Unfrozen}}},
		{"abandon", func(s *situation) error { s.f.Abandon("1.1"); return nil }, map[string]expect{
			"unfrozen": none, "frozen": {nil, Unfrozen}, "frozen twice": none, "lost untold": none, "closed": none, "freezing": none}},
		{"close", func(s *situation) error { return s.f.Close(context.Background()) }, map[string]expect{
			"unfrozen": none, "frozen": {nil, Unfrozen}, "frozen twice": {nil, Unfrozen}, "lost untold": none, "closed": none, "freezing": {nil, Unfrozen}}},
	}
}

// Every state with every event: the answer, the level after it, and afterwards
// a machine that still works and holds nobody.
func TestStatesAndEvents(t *testing.T) {
	for _, st := range states() {
		for _, ev := range events() {
			t.Run(st.name+"/"+ev.name, func(t *testing.T) {
				want, ok := ev.want[st.name]
				if !ok {
					want, ok = ev.want["freezing"]
				}
				if !ok {
					t.Fatal("no expectation")
				}
				if want.level == same {
					want.level = st.level
				}
				synctest.Test(t, func(t *testing.T) {
					s := st.enter(t)
					wantLevel(t, s.f, st.level)
					if err := ev.do(s); !errors.Is(err, want.err) || (err == nil) != (want.err == nil) {
						t.Errorf("answer %v, want %v", err, want.err)
					}
					synctest.Wait()
					if l := s.f.Level(); l != want.level {
						t.Errorf("level %d, want %d", l, want.level)
					}
					checkInvariants(t, s.f)
					s.undo()
					if s.result != nil {
						<-s.result
					}
					s.f.Thaw(ThawRequest{Force: true})
					synctest.Wait()
					checkInvariants(t, s.f)
					wantLevel(t, s.f, Unfrozen)
					if _, _, err := s.f.Freeze(context.Background(), ask("after", time.Minute)); err != nil && !errors.Is(err, ErrClosed) {
						t.Errorf("the next freeze: %v", err)
					}
				})
			})
		}
	}
}

// checkInvariants checks what must be true whenever mu is free and nobody runs.
func checkInvariants(t *testing.T, f *Freezer) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	id, l := f.box.load()
	fr := f.cur
	switch {
	case fr == nil:
		if l != Unfrozen || f.timer != nil || len(f.queue) != 0 {
			t.Errorf("nothing is current, but level %d, timer %v, %d queued", l, f.timer, len(f.queue))
		}
	case fr.rec.State == StateFrozen: // F4
		n := 0
		for _, h := range fr.holds {
			if h.stands() {
				n++
			}
		}
		if l != Complete || id != fr.id || n == 0 || n != fr.standing || f.timer == nil {
			t.Errorf("frozen, but level %d of %d, %d holds (%d), timer %v", l, id, n, fr.standing, f.timer)
		}
	case fr.rec.State != StateFreezing:
		t.Errorf("current freeze is %s", fr.rec.State)
	}
	if l == Unfrozen && f.lobby.heldNow() != 0 { // F6
		t.Error("gates open and callers held")
	}
}

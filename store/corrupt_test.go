package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestCorruptFiles damages a ledger and its log at random, as a bad disk or a
// careless hand does. Whatever comes of it comes soon: either the ledger opens and
// works, or it is refused, left as it was, and a new one begins once it is moved
// away. A freeze is never kept waiting.
func TestCorruptFiles(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PERMAFROST_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal("PERMAFROST_SEED:", err)
		}
	}
	t.Logf("repeat with PERMAFROST_SEED=%d go test ./store -run 'TestCorruptFiles$'", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	db, wal := ledgerWithLog(t)
	refused, opened := 0, 0
	for round := range 60 {
		path := filepath.Join(shm(t), "ledger.db")
		d, w := append([]byte{}, db...), append([]byte{}, wal...)
		what := damage(rng, &d, &w)
		if rng.IntN(3) == 0 {
			w = nil
		}
		for name, data := range map[string][]byte{path: d, path + "-wal": w} {
			if data == nil {
				continue
			}
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		l, err := Open(patient(t), path, quick())
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("round %d, %s: opening took %v", round, what, took)
		}
		if err == nil {
			opened++
			works(t, l, fmt.Sprintf("round %d, %s", round, what))
			continue
		}
		refused++
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotLedger) {
			t.Errorf("round %d, %s: refused with %v", round, what, err)
		}
		if now, err := os.ReadFile(path); err != nil || len(now) < len(d) {
			t.Errorf("round %d, %s: of a refused ledger of %d bytes %d are left (%v)", round, what, len(d), len(now), err)
		} else if w == nil && string(now) != string(d) {
			t.Errorf("round %d, %s: a refused ledger was changed", round, what)
		}
		l = must(OpenDegraded(path, quick(), err))(t)
		inTime(t, l, fmt.Sprintf("round %d, %s", round, what), func(err error) bool { return err != nil })
		for _, suffix := range []string{"", "-wal", "-shm"} {
			os.Rename(path+suffix, path+".away"+suffix)
		}
		waitHealth(t, l, OK)
		works(t, l, fmt.Sprintf("round %d, %s, moved away", round, what))
	}
	t.Logf("%d opened, %d refused", opened, refused)
	if opened == 0 || refused == 0 {
		t.Errorf("%d opened and %d refused: the damage is of one kind only", opened, refused)
	}
}

// ledgerWithLog is the bytes of a ledger, and of a log with rows that are only
// there.
func ledgerWithLog(t *testing.T) (db, wal []byte) {
	t.Helper()
	path := filepath.Join(shm(t), "ledger.db")
	l := mustOpen(t, path, quick())
	for id := int64(1); id <= 200; id++ {
		l.RecordFreeze(fullFreeze(id))
	}
	if err := l.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, path, quick())
	for id := int64(201); id <= 220; id++ {
		l.RecordFreeze(fullFreeze(id))
	}
	mustFlush(t, l)
	db, wal = must(os.ReadFile(path))(t), must(os.ReadFile(path+"-wal"))(t)
	if len(wal) == 0 {
		t.Fatal("nothing is in the log")
	}
	return db, wal
}

// damage does one thing to the files and says what.
func damage(rng *rand.Rand, db, wal *[]byte) string {
	target, name := db, "ledger"
	if rng.IntN(3) == 0 {
		target, name = wal, "log"
	}
	data := *target
	at := rng.IntN(len(data))
	switch rng.IntN(4) {
	case 0:
		*target = data[:at]
		return fmt.Sprintf("%s cut to %d bytes", name, at)
	case 1:
		*target = data[:0]
		return name + " emptied"
	case 2:
		n := min(len(data)-at, 1+rng.IntN(64<<10))
		for i := range n {
			data[at+i] = byte(rng.Uint32())
		}
		return fmt.Sprintf("%d random bytes at %d of the %s", n, at, name)
	default:
		data[at] ^= 1 << rng.IntN(8)
		return fmt.Sprintf("a bit flipped at %d of the %s", at, name)
	}
}

// inTime asks for an intent as a freeze does.
func inTime(t *testing.T, l *Ledger, what string, accept func(error) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	f := openFreeze(1000)
	if err := l.Intent(ctx, f); !accept(err) {
		t.Errorf("%s: intent: %v", what, err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("%s: a freeze was kept waiting for %v", what, took)
	}
}

// works goes through the life of a freeze. A ledger whose damage shows only
// now may be degraded by it; it must not hang or lose the freeze.
func works(t *testing.T, l *Ledger, what string) {
	t.Helper()
	inTime(t, l, what, func(error) bool { return true })
	done := openFreeze(1000)
	done.State = "thawed"
	l.RecordFreeze(done)
	if f, err := l.Freeze(patient(t), 1000); err != nil || f.State != "thawed" {
		if h, why := l.Health(); h == OK {
			t.Errorf("%s: freeze 1000 is %q (%v), and the ledger says that it is well %s", what, f.State, err, why)
		}
	}
	if _, err := l.Freezes(patient(t), FreezeQuery{}); err != nil && !errors.Is(err, ErrDamaged) {
		t.Errorf("%s: the list: %v", what, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		if h, _ := l.Health(); h == OK {
			t.Errorf("%s: close: %v", what, err)
		}
	}
}

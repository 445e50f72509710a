package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// waitHealth waits until the ledger is as wanted, and returns the reason given.
func waitHealth(t *testing.T, l *Ledger, want Health) string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		h, why := l.Health()
		if h == want {
			return why
		}
		if time.Now().After(end) {
			t.Fatalf("the ledger is %s (%s), not %s", h, why, want)
		}
	}
}

// smallDisk mounts a tmpfs of this size for the test.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("needs root to mount a small disk: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func remount(t *testing.T, dir string, flags uintptr) {
	t.Helper()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
		t.Fatalf("remount: %v", err)
	}
}

// lockOut holds the database's write lock as an sqlite3 shell would.
func lockOut(t *testing.T, path string) (release func()) {
	t.Helper()
	db, err := sql.Open("sqlite3", fileURI(path)+"?_txlock=immediate&_busy_timeout=2000")
	if err != nil {
		t.Fatal(err)
	}
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	done := false
	release = func() {
		if !done {
			done = true
			tx.Rollback()
			db.Close()
		}
	}
	t.Cleanup(release)
	return release
}

func TestLockedDatabaseDegradesAndRecovers(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	if err := l.Intent(ctx, openFreeze(1)); err != nil {
		t.Fatal(err)
	}
	release := lockOut(t, l.Path())
	bounded, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := l.Intent(bounded, openFreeze(2))
	wantError(t, err, ErrLocked, "close it")
	if d := time.Since(begin); d > 450*time.Millisecond {
		t.Errorf("the intent took %s to fail", d)
	}
	done := openFreeze(2)
	done.State = "thawed"
	l.RecordFreeze(done)
	l.RecordFound([]FoundInode{{FreezeID: 2, Ino: 5, FoundAt: t0}})
	why := waitHealth(t, l, Degraded)
	if !strings.Contains(why, "sqlite3 shell") {
		t.Errorf("reason does not say what to do: %s", why)
	}
	// What waits is visible, also beside rows of the database.
	list := must(l.Freezes(ctx, FreezeQuery{}))(t)
	if len(list) != 2 || list[0].State != "thawed" || list[1].ID != 1 {
		t.Errorf("while degraded: %+v", list)
	}
	if err := l.Flush(bounded); err == nil {
		t.Error("Flush succeeded although nothing could be written")
	}
	release()
	mustFlush(t, l)
	waitHealth(t, l, OK)
	if f := must(l.Freeze(ctx, 2))(t); f.State != "thawed" {
		t.Errorf("%+v", f)
	}
	if rows := must(l.FreezeInodes(ctx, 2, 0, 0))(t); len(rows) != 1 {
		t.Errorf("found rows: %+v", rows)
	}
	if err := l.Intent(ctx, openFreeze(3)); err != nil {
		t.Errorf("intent after recovery: %v", err)
	}
}

// TestIntentGivesUpInTime has a context that ends while the writer is busy.
func TestIntentGivesUpInTime(t *testing.T) {
	l := newTestLedger(t)
	release := lockOut(t, l.Path())
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := l.Intent(ctx, openFreeze(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("intent: %v", err)
	}
	if d := time.Since(begin); d > 120*time.Millisecond {
		t.Errorf("gave up after %s", d)
	}
	release()
	// It is written all the same, and the outcome comes after it.
	done := openFreeze(1)
	done.State = "rolled_back"
	l.RecordFreeze(done)
	mustFlush(t, l)
	if f := must(l.Freeze(patient(t), 1))(t); f.State != "rolled_back" {
		t.Errorf("%+v", f)
	}
}

// TestIntentGivenUpInTheLaneIsKept has the writer busy with another intent.
func TestIntentGivenUpInTheLaneIsKept(t *testing.T) {
	l := newTestLedger(t)
	release := lockOut(t, l.Path())
	busy := make(chan error, 1)
	go func() { busy <- l.Intent(context.Background(), openFreeze(1)) }()
	time.Sleep(20 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := l.Intent(ctx, openFreeze(2)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("intent: %v", err)
	}
	if f := must(l.Freeze(patient(t), 2))(t); f.State != "frozen" {
		t.Errorf("%+v", f)
	}
	<-busy
	release()
	mustFlush(t, l)
	if s := l.Stats(); s.Freezes != 2 {
		t.Errorf("%+v", s)
	}
}

func TestFullDiskDegradesAndRecovers(t *testing.T) {
	dir := smallDisk(t, "size=1500k")
	o := quick()
	o.Logger = testLogger(t)
	l := mustOpen(t, filepath.Join(dir, "ledger.db"), o)
	ctx := patient(t)
	sub := must(l.Subscribe())(t)
	defer sub.Close()
	if err := l.Intent(ctx, openFreeze(1)); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	want := 0
	for i := range 40 {
		var rows []FoundInode
		for range 50 {
			rows = append(rows, FoundInode{FreezeID: 1, Ino: 3, Path: strings.Repeat("x", 100), FoundAt: t0})
		}
		want += len(rows)
		l.RecordFound(rows)
		if err := l.RecordEvent(event(i)); err != nil {
			t.Fatal(err)
		}
	}
	why := waitHealth(t, l, Degraded)
	if !strings.Contains(why, "free some space") {
		t.Errorf("reason: %s", why)
	}
	// A freeze goes on: its intent fails at once and its end waits in memory.
	if err := l.Intent(ctx, openFreeze(2)); !errors.Is(err, ErrFull) {
		t.Errorf("intent on a full disk: %v", err)
	}
	done := openFreeze(2)
	done.State = "thawed"
	l.RecordFreeze(done)
	if s := l.Stats(); s.Waiting == 0 || s.WaitingBytes == 0 {
		t.Errorf("nothing waits: %+v", s)
	}
	live := 0
	shown := map[string]int64{}
	for len(sub.C) > 0 {
		e := <-sub.C
		if _, again := shown[string(e.Data)]; again {
			t.Errorf("L5: event %s was shown twice", e.Data)
		}
		shown[string(e.Data)] = e.ID
		if e.ID == 0 {
			live++
		}
	}
	if live == 0 || len(shown) != 40 {
		t.Errorf("L5: %d events shown, %d of them before they were written", len(shown), live)
	}
	os.Remove(filler)
	// The disk of this test stays too small for all of it: make it larger.
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=32m"); err != nil {
		t.Fatal(err)
	}
	mustFlush(t, l)
	waitHealth(t, l, OK)
	if s := l.Stats(); s.Found != int64(want) || s.Events != 40 || s.Rejected != 0 {
		t.Errorf("after recovery: %+v", s)
	}
	if f := must(l.Freeze(ctx, 2))(t); f.State != "thawed" {
		t.Errorf("%+v", f)
	}
	evs := must(l.EventsAfter(ctx, 0, 1000))(t)
	if len(evs) != 40 || evs[0].ID == 0 {
		t.Errorf("%d events", len(evs))
	}
	for _, e := range evs {
		if id := shown[string(e.Data)]; id != 0 && id != e.ID {
			t.Errorf("L5: event %s was shown as %d and written as %d", e.Data, id, e.ID)
		}
	}
	if len(sub.C) != 0 {
		t.Errorf("L5: %d events were shown again when they were written", len(sub.C))
	}
}

// TestOpenDegradedRecovers starts without a directory, freezes, and finds a
// ledger with an interrupted freeze in it later.
func TestOpenDegradedRecovers(t *testing.T) {
	base := shm(t)
	if err := os.Mkdir(filepath.Join(base, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	src := mustOpen(t, filepath.Join(base, "a", "ledger.db"), quick())
	if err := src.Intent(patient(t), openFreeze(5)); err != nil {
		t.Fatal(err)
	}
	if err := src.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(base, "b", "ledger.db")
	_, cause := Open(patient(t), path, quick())
	wantError(t, cause, ErrNoDirectory, "mkdir -p")
	l, err := OpenDegraded(path, quick(), cause)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(patient(t))
	ctx := patient(t)
	if h, why := l.Health(); h != Degraded || !strings.Contains(why, "mkdir") {
		t.Errorf("%s %s", h, why)
	}
	if err := l.Intent(ctx, openFreeze(6)); !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrNoDirectory) {
		t.Errorf("intent: %v", err)
	}
	clash := openFreeze(5)
	clash.RequestedAt = clash.RequestedAt.Add(time.Hour)
	l.RecordFreeze(clash)
	if list := must(l.Freezes(ctx, FreezeQuery{}))(t); len(list) != 2 || list[0].ID != 6 {
		t.Errorf("%+v", list)
	}
	if _, err := l.InodeHistory(ctx, 1, 0, 0); !errors.Is(err, ErrUnavailable) {
		t.Errorf("history: %v", err)
	}
	if id, err := l.MaxFreezeID(ctx); id != 6 || !errors.Is(err, ErrUnavailable) {
		t.Errorf("MaxFreezeID %d, %v", id, err)
	}
	if err := os.Rename(filepath.Join(base, "a"), filepath.Join(base, "b")); err != nil {
		t.Fatal(err)
	}
	waitHealth(t, l, OK)
	mustFlush(t, l)
	if f := must(l.Freeze(ctx, 6))(t); f.State != "frozen" {
		t.Errorf("the freeze of this life is %s", f.State)
	}
	if lost := l.Interrupted(); len(lost) != 1 || lost[0].ID != 5 {
		t.Errorf("interrupted: %+v", lost)
	}
	if f := must(l.Freeze(ctx, 5))(t); f.State != "interrupted" || !f.RequestedAt.Equal(openFreeze(5).RequestedAt) {
		t.Errorf("L4: %+v", f)
	}
}

func TestRemovedFileIsNoticed(t *testing.T) {
	l := newTestLedger(t)
	ctx := patient(t)
	if err := l.Intent(ctx, openFreeze(1)); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		os.Remove(l.Path() + suffix)
	}
	if err := l.Intent(ctx, openFreeze(2)); !errors.Is(err, ErrReplaced) {
		t.Errorf("intent into a deleted file: %v", err)
	}
	mustFlush(t, l)
	waitHealth(t, l, OK)
	if list := must(l.Freezes(ctx, FreezeQuery{}))(t); len(list) != 1 || list[0].ID != 2 {
		t.Errorf("%+v", list)
	}
	if _, err := os.Stat(l.Path()); err != nil {
		t.Error(err)
	}
}

// TestReopenKeepsOwnFreezes opens the same file again while a freeze of this
// life is in it (L8: only earlier lives are interrupted).
func TestReopenKeepsOwnFreezes(t *testing.T) {
	o := quick()
	o.RetryMin, o.RetryMax = 200*time.Millisecond, 200*time.Millisecond
	l := mustOpen(t, filepath.Join(shm(t), "ledger.db"), o)
	ctx := patient(t)
	if err := l.Intent(ctx, openFreeze(1)); err != nil {
		t.Fatal(err)
	}
	first := l.conn
	if err := os.Rename(l.Path(), l.Path()+".away"); err != nil {
		t.Fatal(err)
	}
	if err := l.Intent(ctx, openFreeze(2)); !errors.Is(err, ErrReplaced) {
		t.Fatalf("intent: %v", err)
	}
	if err := os.Rename(l.Path()+".away", l.Path()); err != nil {
		t.Fatal(err)
	}
	waitHealth(t, l, OK)
	if l.conn == first {
		t.Fatal("the file was not opened again")
	}
	for id := int64(1); id <= 2; id++ {
		if f := must(l.Freeze(ctx, id))(t); f.State != "frozen" {
			t.Errorf("freeze %d is %s", id, f.State)
		}
	}
}

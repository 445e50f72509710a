package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"permafrost/migrations"
)

func wantError(t *testing.T, err, is error, says string) {
	t.Helper()
	if !errors.Is(err, is) || !strings.Contains(err.Error(), says) {
		t.Errorf("error is %v; want %q that says %q", err, is, says)
	}
}

// TestOpenRefusals opens what is no ledger and looks that nothing was changed.
func TestOpenRefusals(t *testing.T) {
	dir := shm(t)
	write := func(name, data string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	foreign := filepath.Join(dir, "foreign.db")
	db := must(sql.Open("sqlite3", foreign))(t)
	if _, err := db.Exec("CREATE TABLE mine (a)"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(dir, "directory")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		is   error
		says string
	}{
		{filepath.Join(dir, "nowhere", "l.db"), ErrNoDirectory, "mkdir -p"},
		{filepath.Join(write("file", "x"), "l.db"), ErrNoDirectory, "not a directory"},
		{write("text", "once upon a time"), ErrNotLedger, "not an SQLite database"},
		{write("long", strings.Repeat("not a ledger ", 1000)), ErrNotLedger, "left untouched"},
		{foreign, ErrNotLedger, "another program"},
		{sub, ErrNotLedger, "regular file"},
		{filepath.Join(dir, "fifo"), ErrNotLedger, "regular file"},
	} {
		var before []byte
		if st, err := os.Stat(c.path); err == nil && st.Mode().IsRegular() {
			before, _ = os.ReadFile(c.path)
		}
		_, err := Open(patient(t), c.path, quick())
		wantError(t, err, c.is, c.says)
		if before != nil {
			if after, _ := os.ReadFile(c.path); string(before) != string(after) {
				t.Errorf("%s was changed", c.path)
			}
		}
		if _, err := os.Stat(c.path + ".lock"); err == nil {
			t.Errorf("%s got a lock file", c.path)
		}
	}
}

func TestOpenReadOnly(t *testing.T) {
	t.Run("disk", func(t *testing.T) {
		dir := smallDisk(t, "size=4m")
		path := filepath.Join(dir, "ledger.db")
		remount(t, dir, unix.MS_RDONLY)
		_, err := Open(patient(t), path, quick())
		wantError(t, err, ErrReadOnly, "--state")
		l := must(OpenDegraded(path, quick(), err))(t)
		defer l.Close(patient(t))
		l.RecordFreeze(openFreeze(1))
		remount(t, dir, 0)
		waitHealth(t, l, OK)
		if f := must(l.Freeze(patient(t), 1))(t); f.ID != 1 {
			t.Error(f)
		}
	})
	t.Run("file", func(t *testing.T) {
		path := filepath.Join(shm(t), "ledger.db")
		if err := mustOpen(t, path, quick()).Close(patient(t)); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
			t.Skipf("needs root to make a file read-only even for root: %v", err)
		}
		defer unix.Unmount(path, unix.MNT_DETACH)
		if err := unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		_, err := Open(patient(t), path, quick())
		wantError(t, err, ErrReadOnly, "writable for this user")
	})
}

func TestOpenLocked(t *testing.T) {
	path := filepath.Join(shm(t), "ledger.db")
	l := mustOpen(t, path, quick())
	_, err := Open(patient(t), path, quick())
	wantError(t, err, ErrLocked, "another permafrost")
	if err := l.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	release := lockOut(t, path)
	_, err = Open(patient(t), path, quick())
	wantError(t, err, ErrLocked, "sqlite3 shell")
	release()
	mustOpen(t, path, quick())
}

func TestOpenDamaged(t *testing.T) {
	path := filepath.Join(shm(t), "ledger.db")
	l := mustOpen(t, path, quick())
	for id := int64(1); id <= 200; id++ {
		l.RecordFreeze(fullFreeze(id))
	}
	if err := l.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	f := must(os.OpenFile(path, os.O_RDWR, 0))(t)
	st := must(f.Stat())(t)
	junk := []byte(strings.Repeat("\xde\xad", 1024))
	for off := int64(4096 * 2); off < st.Size(); off += 4096 {
		if _, err := f.WriteAt(junk, off); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	_, err := Open(patient(t), path, quick())
	wantError(t, err, ErrDamaged, "-wal and -shm")
	// The operator does as told, while an appliance waits.
	d := must(OpenDegraded(path, quick(), err))(t)
	defer d.Close(patient(t))
	d.RecordFreeze(openFreeze(1))
	if err := os.Rename(path, path+".broken"); err != nil {
		t.Fatal(err)
	}
	waitHealth(t, d, OK)
	if list := must(d.Freezes(patient(t), FreezeQuery{}))(t); len(list) != 1 {
		t.Errorf("%+v", list)
	}
}

// TestQuietDamageIsFound spoils one page that opening does not read otherwise.
func TestQuietDamageIsFound(t *testing.T) {
	path := filepath.Join(shm(t), "ledger.db")
	l := mustOpen(t, path, quick())
	for id := int64(1); id <= 20; id++ {
		l.RecordFreeze(fullFreeze(id))
	}
	mustFlush(t, l)
	var page int64
	if err := l.conn.r.QueryRow("SELECT rootpage FROM sqlite_schema WHERE name = 'phases'").Scan(&page); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	f := must(os.OpenFile(path, os.O_RDWR, 0))(t)
	if _, err := f.WriteAt(make([]byte, 512), (page-1)*4096); err != nil {
		t.Fatal(err)
	}
	f.Close()
	_, err := Open(patient(t), path, quick())
	wantError(t, err, ErrDamaged, "-wal and -shm")
}

// TestOddNames opens files whose names mean something in a URI.
func TestOddNames(t *testing.T) {
	for _, name := range []string{"a?mode=memory", "b#c", "d%41", "e f", "g&h=i", "ü"} {
		path := filepath.Join(shm(t), name)
		l := mustOpen(t, path, quick())
		if err := l.Intent(patient(t), openFreeze(1)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		if err := l.Close(patient(t)); err != nil {
			t.Error(err)
		}
	}
}

// upTo is the released migrations up to a number, and more of the test's own.
func upTo(t *testing.T, n int, more ...string) fstest.MapFS {
	t.Helper()
	m := fstest.MapFS{}
	for i, name := range migrationNames(t) {
		if i < n {
			m[name] = &fstest.MapFile{Data: must(migrations.FS.ReadFile(name))(t)}
		}
	}
	for i, text := range more {
		m["0009"+string(rune('0'+i))+"_test.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + text)}
	}
	return m
}

func migrationNames(t *testing.T) (names []string) {
	t.Helper()
	for _, e := range must(migrations.FS.ReadDir("."))(t) {
		names = append(names, e.Name())
	}
	return names
}

func openWith(t *testing.T, path string, m fstest.MapFS) (*Ledger, error) {
	t.Helper()
	l := must(newLedger(path, quick(), m))(t)
	w := &writer{l: l}
	if err := w.open(patient(t)); err != nil {
		l.kill()
		return nil, err
	}
	go w.run()
	t.Cleanup(func() { l.Close(context.Background()) })
	return l, nil
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(shm(t), "ledger.db")
	l, err := openWith(t, path, upTo(t, 99, "CREATE TABLE future (a INTEGER) STRICT;"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close(patient(t))
	before := must(os.ReadFile(path))(t)
	_, err = Open(patient(t), path, quick())
	wantError(t, err, ErrNewer, "start the newer version")
	if after := must(os.ReadFile(path))(t); string(before) != string(after) {
		t.Error("the newer ledger was changed")
	}
	if _, err = openWith(t, path, upTo(t, 99, "CREATE TABLE future (a INTEGER) STRICT;")); err != nil {
		t.Errorf("the newer version no longer opens it: %v", err)
	}
}

// TestFailedMigrationChangesNothing breaks off in the middle of a file.
func TestFailedMigrationChangesNothing(t *testing.T) {
	path := filepath.Join(shm(t), "ledger.db")
	l := mustOpen(t, path, quick())
	l.RecordFreeze(openFreeze(1))
	if err := l.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	_, err := openWith(t, path, upTo(t, 99, "DROP TABLE phases;\nCREATE TABLE freezes (a);"))
	if err == nil || !strings.Contains(err.Error(), "migrate") {
		t.Fatalf("bad migration: %v", err)
	}
	l = mustOpen(t, path, quick())
	if lost := l.Interrupted(); len(lost) != 1 {
		t.Errorf("%+v", lost)
	}
}

// TestGoldenLedgers opens ledgers as older versions wrote them.
func TestGoldenLedgers(t *testing.T) {
	golden := must(filepath.Glob("testdata/ledger-v*.db"))(t)
	if len(golden) == 0 {
		t.Fatal("no golden ledgers")
	}
	for _, name := range golden {
		t.Run(filepath.Base(name), func(t *testing.T) {
			path := filepath.Join(shm(t), "ledger.db")
			if err := os.WriteFile(path, must(os.ReadFile(name))(t), 0o600); err != nil {
				t.Fatal(err)
			}
			l := mustOpen(t, path, quick())
			f := must(l.Freeze(patient(t), 1))(t)
			if f.State != "thawed" || len(f.Holds) != 1 || f.Holds[0].Holder != "nightly" ||
				len(f.Phases) != 2 || f.PatienceUS != 0 || f.Holds[0].LeaseUS != 0 || f.Modes["attach"] != "collect" || f.RequestedAt.UnixNano() != 1772600767891011121 {
				t.Errorf("%+v", f)
			}
			if lost := l.Interrupted(); len(lost) != 1 || lost[0].ID != 2 {
				t.Errorf("interrupted: %+v", lost)
			}
			if rows := must(l.FreezeBlocked(patient(t), 1, 0, 0))(t); len(rows) != 1 || rows[0].Comm != "cp" {
				t.Errorf("%+v", rows)
			}
			if rows := must(l.FreezeRenewals(patient(t), 1))(t); len(rows) != 1 {
				t.Errorf("%+v", rows)
			}
			// And it is a whole ledger of today.
			l.RecordSync(Sync{At: t0, Kind: "sync"}, []FoundInode{{Ino: 1, FoundAt: t0}})
			mustFlush(t, l)
			if s := l.Stats(); s.Found != 1 || s.Rejected != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

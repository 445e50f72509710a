package main

import (
	"database/sql"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sqliteLoadArg = "sqlite-load"

// sqliteModes are how the load opens its data base. In neither does SQLite wait
// for a disk at every commit: that everything completed before a freeze is in it
// must not hang on fsync.
var sqliteModes = map[string]string{
	"wal":  "?_journal_mode=WAL&_synchronous=NORMAL",
	"mmap": "?_journal_mode=PERSIST&_synchronous=OFF",
}

// sqliteOpen opens a data base for one connection.
func sqliteOpen(path, mode string) (*sql.DB, error) {
	db, err := sql.Open("sqlite3", "file:"+path+sqliteModes[mode])
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if mode == "mmap" {
		_, err = db.Exec("PRAGMA mmap_size=67108864")
	} else {
		_, err = db.Exec("PRAGMA wal_autocheckpoint=50")
	}
	return db, err
}

const (
	sqliteRows = 400
	sqlitePad  = 1500
)

// sqliteLoadMain commits numbered transactions for ever: path, mode, board. A row of
// churn holds the newest number that is its own modulo the rows, so that every
// page of the data base is known from the newest number alone.
func sqliteLoadMain(args []string) int {
	if err := sqliteLoad(args[0], args[1], args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "sqlite-load:", err)
		return 1
	}
	return 0
}

func sqliteLoad(path, mode, boardPath string) error {
	db, err := sqliteOpen(path, mode)
	if err != nil {
		return err
	}
	board, err := os.OpenFile(boardPath, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := db.Exec("CREATE TABLE last(n INTEGER); INSERT INTO last VALUES(0); CREATE TABLE churn(k INTEGER PRIMARY KEY, n INTEGER, pad TEXT); CREATE INDEX churn_n ON churn(n)"); err != nil {
		return err
	}
	for n := uint64(1); ; n++ {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		if _, err = tx.Exec("INSERT OR REPLACE INTO churn VALUES(?, ?, ?)", n%sqliteRows, n, sqlitePadOf(n)); err == nil {
			_, err = tx.Exec("UPDATE last SET n = ?", n)
		}
		if err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		if _, err := board.WriteAt(binary.LittleEndian.AppendUint64(nil, n), 0); err != nil {
			return err
		}
	}
}

func sqlitePadOf(n uint64) string {
	return strings.Repeat(fmt.Sprintf("%d,", n), int(sqlitePad/8+n%64))
}

// sqliteProgram is SQLite under that load.
type sqliteProgram struct {
	*loadProcess
	mode string
}

func (p *sqliteProgram) start(t testing.TB, dir string) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p.loadProcess = startLoad(t, exe, sqliteLoadArg, filepath.Join(dir, "db"), p.mode, ackBoard)
}

func (p *sqliteProgram) judge(dir string, acked []uint64) error {
	db, err := sqliteOpen(filepath.Join(dir, "db"), p.mode)
	if err != nil {
		return err
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		return fmt.Errorf("integrity_check says %q (%w)", verdict, err)
	}
	var last uint64
	if err := db.QueryRow("SELECT n FROM last").Scan(&last); err != nil {
		return err
	}
	if last < acked[0] {
		return fmt.Errorf("transaction %d was acknowledged before the freeze; the copy has %d", acked[0], last)
	}
	rows, err := db.Query("SELECT k, n, pad FROM churn ORDER BY k")
	if err != nil {
		return err
	}
	defer rows.Close()
	found := uint64(0)
	for ; rows.Next(); found++ {
		var k, n uint64
		var pad string
		if err := rows.Scan(&k, &n, &pad); err != nil {
			return err
		}
		if want := last - (last-k)%sqliteRows; n != want || pad != sqlitePadOf(n) {
			return fmt.Errorf("row %d is of transaction %d where the newest is %d, and its %d bytes are right: %t", k, n, want, len(pad), pad == sqlitePadOf(n))
		}
	}
	if want := min(last, sqliteRows); found != want {
		return fmt.Errorf("%d rows, %d are due", found, want)
	}
	return rows.Err()
}

// TestMountSQLite: every frozen copy of a data base under load passes SQLite's
// check and has every transaction that was acknowledged before the freeze.
func TestMountSQLite(t *testing.T) {
	for mode := range sqliteModes {
		t.Run(mode, func(t *testing.T) { freezeProgram(t, "32MiB", &sqliteProgram{mode: mode}) })
	}
}

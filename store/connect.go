package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	_ "github.com/mattn/go-sqlite3" // the driver
	"github.com/pressly/goose/v3"

	"permafrost/store/internal/ledgerdb"
)

// applicationID marks a ledger in the header of its file: "PFRZ".
const applicationID = 0x5046525a

// busyMS is how long SQLite waits for a lock that another process holds before
// the ledger is called Degraded, in milliseconds. An intent waits at most two
// of these (L2), which stays below the 500 ms that a freeze gives it.
const busyMS = 150

// readers is the size of the read-only pool.
const readers = 4

// conn is the ledger's open file. All fields are immutable; connMu keeps it
// from being closed under a reader.
type conn struct {
	w     *sql.DB // one connection, the writer's (L1)
	r     *sql.DB // read-only
	wq    *ledgerdb.Queries
	rq    *ledgerdb.Queries
	ident fs.FileInfo // the file as it was opened, to notice a replacement
}

// connect opens, verifies and migrates the file at path. It is called with the
// lock file held. It changes nothing in a file that is not ours. old is the
// connection still in use, or nil.
func connect(ctx context.Context, path string, migrationFS fs.FS, old *conn) (_ *conn, err error) {
	// Closing any descriptor of a file drops all POSIX locks of the process on
	// it, SQLite's too: a file that is in use is not opened to look at it.
	if old == nil || !old.is(path) {
		fresh, err := probe(path)
		if err != nil {
			return nil, err
		}
		if fresh {
			if err := mark(ctx, path); err != nil {
				return nil, explain(path, err)
			}
		}
	}
	c := new(conn)
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.w, err = openPool(path, true); err != nil {
		return nil, explain(path, err)
	}
	if err := writable(ctx, c.w); err != nil {
		return nil, explain(path, err)
	}
	if err := verify(ctx, c.w, path); err != nil {
		return nil, err
	}
	if err := migrate(ctx, c.w, path, migrationFS); err != nil {
		return nil, err
	}
	if c.r, err = openPool(path, false); err != nil {
		return nil, explain(path, err)
	}
	if err := c.r.PingContext(ctx); err != nil {
		return nil, explain(path, err)
	}
	if c.ident, err = os.Stat(path); err != nil {
		return nil, explain(path, err)
	}
	c.wq, c.rq = ledgerdb.New(c.w), ledgerdb.New(c.r)
	return c, nil
}

func (c *conn) close() error {
	var errs []error
	for _, db := range []*sql.DB{c.r, c.w} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// is tells whether path still names the file of this connection.
func (c *conn) is(path string) bool {
	st, err := os.Stat(path)
	return err == nil && os.SameFile(st, c.ident)
}

// writable takes the write lock and gives it back. SQLite opens a file that
// cannot be written without a word, and says so only now.
func writable(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	return tx.Rollback()
}

// dsn carries every pragma, so that each connection of a pool gets them.
func dsn(path string, write bool) string {
	v := url.Values{
		"_busy_timeout":    {strconv.Itoa(busyMS)},
		"_foreign_keys":    {"1"},
		"_stmt_cache_size": {"64"},
	}
	if write {
		v.Set("_journal_mode", "WAL")
		v.Set("_synchronous", "FULL")
		v.Set("_txlock", "immediate")
		v.Set("mode", "rw")
	} else {
		v.Set("_query_only", "1")
		v.Set("mode", "ro")
	}
	return fileURI(path) + "?" + v.Encode()
}

// fileURI escapes what SQLite would take for the end of the name.
func fileURI(path string) string {
	u := url.URL{Path: path}
	return "file:" + u.EscapedPath()
}

func openPool(path string, write bool) (*sql.DB, error) {
	db, err := sql.Open("sqlite3", dsn(path, write))
	if err != nil {
		return nil, err
	}
	n := 1
	if !write {
		n = readers
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// probe looks at the directory and at the file's header with plain reads. It
// returns true for a file that is missing or empty. Errors: ErrNoDirectory,
// ErrReadOnly, ErrNotLedger, ErrDamaged.
func probe(path string) (fresh bool, err error) {
	dir := filepath.Dir(path)
	switch st, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("%w: %s: create it (mkdir -p %s) or start with another --state", ErrNoDirectory, dir, dir)
	case err != nil:
		return false, explain(path, err)
	case !st.IsDir():
		return false, fmt.Errorf("%w: %s is not a directory: start with another --state", ErrNoDirectory, dir)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		if st, serr := os.Stat(path); serr == nil && !st.Mode().IsRegular() {
			return false, notLedger(path, "it is not a regular file")
		}
		return false, explain(path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return false, explain(path, err)
	}
	if !st.Mode().IsRegular() {
		return false, notLedger(path, "it is not a regular file")
	}
	if st.Size() == 0 {
		// SQLite would take it for a new database and delete the log beside it.
		if wal, err := os.Stat(path + "-wal"); err == nil && wal.Size() > 0 {
			return false, damaged(path, "it is empty, and its write-ahead log is not")
		}
		return true, nil
	}
	var header [100]byte
	if _, err := io.ReadFull(f, header[:]); err != nil || string(header[:16]) != "SQLite format 3\x00" {
		return false, notLedger(path, "it is not an SQLite database")
	}
	// The mark is set before the journal becomes a write-ahead log, so it is
	// always in the file's own first page.
	if id := binary.BigEndian.Uint32(header[68:]); id != applicationID {
		return false, notLedger(path, "it is an SQLite database of another program")
	}
	return false, nil
}

// mark creates the file and writes the application id, durably, with the
// ordinary rollback journal.
func mark(ctx context.Context, path string) (err error) {
	db, err := sql.Open("sqlite3", fileURI(path)+"?mode=rwc&_synchronous=FULL&_busy_timeout="+strconv.Itoa(busyMS))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, "PRAGMA application_id = "+strconv.Itoa(applicationID))
	return err
}

// verify runs SQLite's quick check. Errors: ErrDamaged, ErrLocked, ErrReadOnly.
func verify(ctx context.Context, db *sql.DB, path string) error {
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return explain(path, err)
	}
	if verdict != "ok" {
		return damaged(path, verdict)
	}
	return nil
}

// migrate brings the schema up. A ledger that knows more than we do is refused
// before anything is changed.
func migrate(ctx context.Context, db *sql.DB, path string, from fs.FS) error {
	p, err := goose.NewProvider(goose.DialectSQLite3, db, from)
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return explain(path, fmt.Errorf("read the schema version of %s: %w", path, err))
	}
	if have > want {
		return fmt.Errorf("%w: %s has schema %d, this version knows %d: start the newer version, or use another --state",
			ErrNewer, path, have, want)
	}
	if have == want {
		return nil
	}
	if _, err := p.Up(ctx); err != nil {
		return explain(path, fmt.Errorf("migrate %s from schema %d to %d: %w", path, have, want, err))
	}
	return nil
}

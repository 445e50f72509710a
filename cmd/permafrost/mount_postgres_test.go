package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// postgres is one server of PostgreSQL over a data directory, run as the user of
// Debian's package: it refuses to be root.
type postgres struct {
	bin      string
	uid, gid uint32
	sock     string // directory of its Unix socket
	cmd      *exec.Cmd
	log      *os.File
	ended    chan error
}

// findPostgres skips the test where it is not installed.
func findPostgres(t testing.TB) postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	u, err := user.Lookup("postgres")
	if len(found) == 0 || err != nil {
		t.Skip("PostgreSQL is not installed")
	}
	if os.Getuid() != 0 {
		t.Skip("running PostgreSQL as its own user takes root")
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return postgres{bin: filepath.Dir(found[len(found)-1]), uid: uint32(uid), gid: uint32(gid)}
}

func (p *postgres) command(name string, args ...string) *exec.Cmd {
	cmd := asUser(p.uid, p.gid, filepath.Join(p.bin, name), args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "PGHOST=" + p.sock, "PGUSER=postgres", "PGDATABASE=postgres", "PGOPTIONS=", "HOME=/"}
	return cmd
}

func (p *postgres) run(name string, args ...string) (string, error) {
	out, err := p.command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return strings.TrimSpace(string(out)), err
}

func (p *postgres) ask(sql string) (string, error) {
	return p.run("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql)
}

// up starts the server and waits until it takes connections, after recovery.
func (p *postgres) up(data string) error {
	var err error
	if p.sock, err = os.MkdirTemp("", "permafrost-pg-"); err != nil {
		return err
	}
	if err := os.Chown(p.sock, int(p.uid), int(p.gid)); err != nil {
		return err
	}
	if p.log, err = os.Create(filepath.Join(p.sock, "log")); err != nil {
		return err
	}
	p.cmd = p.command("postgres", "-D", data, "-k", p.sock, "-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_wal_size=8MB",
		"-c", "min_wal_size=2MB", "-c", "checkpoint_timeout=30s", "-c", "max_connections=20", "-c", "log_checkpoints=off")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.ended = make(chan error, 1)
	go func() { p.ended <- p.cmd.Wait() }()
	for end := time.Now().Add(time.Minute); ; {
		if _, err := p.ask("SELECT 1"); err == nil {
			return nil
		}
		select {
		case err := <-p.ended:
			p.ended <- err
			return fmt.Errorf("PostgreSQL ended at its start: %w\n%s", err, p.said())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("PostgreSQL did not come up within a minute\n%s", p.said())
		}
	}
}

func (p *postgres) said() string {
	text, _ := os.ReadFile(p.log.Name())
	return string(text[max(0, len(text)-3000):])
}

// down ends the server and what it runs.
func (p *postgres) down() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGQUIT) // its immediate shutdown
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	p.log.Close()
	os.RemoveAll(p.sock)
}

// postgresProgram is PostgreSQL under pgbench, beside clients that commit
// numbered transactions and are told of each.
type postgresProgram struct {
	postgres
	bench   *exec.Cmd
	clients [postgresClients]numberedClient
	wg      sync.WaitGroup
}

const postgresClients = 2

// numberedClient is a psql that is told one transaction at a time.
type numberedClient struct {
	cmd    *exec.Cmd
	newest atomic.Uint64
	failed atomic.Pointer[error]
}

func (p *postgresProgram) start(t testing.TB, dir string) {
	if err := os.Chown(dir, int(p.uid), int(p.gid)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	steps := []func() error{
		func() error {
			_, err := p.run("initdb", "-D", dir, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--wal-segsize=1", "--data-checksums", "--no-sync")
			return err
		},
		func() error { return p.up(dir) },
		func() error { _, err := p.run("pgbench", "-i", "-q", "-s", "1"); return err },
		func() error {
			_, err := p.ask("CREATE TABLE numbered(client int, n bigint, pad text, PRIMARY KEY(client, n))")
			return err
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	p.bench = p.command("pgbench", "-n", "-c", "4", "-T", "36000", "-R", "400")
	if err := p.bench.Start(); err != nil {
		t.Fatal(err)
	}
	p.wg.Add(1)
	go func() { defer p.wg.Done(); _ = p.bench.Wait() }() // it is killed at the end
	for i := range p.clients {
		p.startClient(t, i)
	}
}

func (p *postgresProgram) startClient(t testing.TB, i int) {
	c := &p.clients[i]
	c.cmd = p.command("psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1")
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		fail := func(err error) { c.failed.CompareAndSwap(nil, &err) }
		lines := bufio.NewScanner(out)
		for n := uint64(1); ; n++ {
			if _, err := fmt.Fprintf(in, "INSERT INTO numbered VALUES(%d, %d, repeat('%d.', 8)) RETURNING n;\n", i, n, n); err != nil {
				fail(err)
				break
			}
			for lines.Scan() && lines.Text() != strconv.FormatUint(n, 10) { // command tags
			}
			if lines.Text() != strconv.FormatUint(n, 10) {
				fail(fmt.Errorf("psql ended in transaction %d", n))
				break
			}
			// The row comes with the answer to the statement, the tag after its commit.
			if !lines.Scan() || lines.Text() != "INSERT 0 1" {
				fail(fmt.Errorf("psql says %q after transaction %d", lines.Text(), n))
				break
			}
			c.newest.Store(n)
			time.Sleep(4 * time.Millisecond) // the processor is pgbench's, and the image is bounded
		}
		_ = c.cmd.Wait()
	}()
}

func (p *postgresProgram) acked() ([]uint64, error) {
	var all []uint64
	for i := range p.clients {
		if err := p.clients[i].failed.Load(); err != nil {
			return nil, fmt.Errorf("client %d: %w\n%s", i, *err, p.said())
		}
		all = append(all, p.clients[i].newest.Load())
	}
	return all, nil
}

func (p *postgresProgram) stop() {
	for _, cmd := range []*exec.Cmd{p.bench, p.clients[0].cmd, p.clients[1].cmd} {
		if cmd != nil && cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
	}
	p.down()
	p.wg.Wait()
}

// judge recovers the copy and looks for everything in it.
func (p *postgresProgram) judge(dir string, acked []uint64) error {
	// The server that it names still runs, over the original.
	if err := os.Remove(filepath.Join(dir, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	second := postgres{bin: p.bin, uid: p.uid, gid: p.gid}
	defer second.down()
	if err := second.up(dir); err != nil {
		return err
	}
	for i, n := range acked {
		got, err := second.ask(fmt.Sprintf("SELECT count(*) = max(n) AND max(n) >= %d AND bool_and(pad = repeat(n || '.', 8)) FROM numbered WHERE client = %d", n, i))
		if err != nil {
			return err
		}
		if got != "t" && n > 0 {
			max, _ := second.ask(fmt.Sprintf("SELECT count(*), max(n) FROM numbered WHERE client = %d", i))
			return fmt.Errorf("client %d was told of transaction %d before the freeze; the copy has (count|newest) %s", i, n, max)
		}
	}
	// Each transaction of pgbench adds one number to an account, a teller, a branch and the history.
	got, err := second.ask("SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers) AND " +
		"(SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches) AND " +
		"(SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")
	if err == nil && got != "t" {
		err = fmt.Errorf("the sums of pgbench's tables differ: half a transaction is there")
	}
	if err != nil {
		return err
	}
	_, err = second.run("pg_amcheck", "--install-missing", "--heapallindexed", "-d", "postgres")
	return err
}

// TestMountPostgres: every frozen copy of a data base under pgbench recovers,
// passes pg_amcheck, and has every transaction acknowledged before the freeze.
func TestMountPostgres(t *testing.T) {
	pg := findPostgres(t)
	size := "192MiB"
	if os.Getenv("PERMAFROST_MOUNT_FREEZES") != "" { // the tables grow
		size = "384MiB"
	}
	freezeProgram(t, size, &postgresProgram{postgres: pg})
}

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A realProgram is a data base that works on the mount: it writes numbered
// transactions, and says outside the mount up to which they are acknowledged.
type realProgram interface {
	// start begins the load in an empty directory of the mount.
	start(t testing.TB, dir string)
	// acked is the newest transaction acknowledged to each of its clients.
	acked() ([]uint64, error)
	// judge opens the copy of the directory as the program would after a crash,
	// has the program check it, and looks for every acknowledged transaction.
	judge(dir string, acked []uint64) error
	// stop ends the load, whatever state it is in.
	stop()
}

// freezeProgram freezes the program's load at random moments, copies the image
// while frozen, and judges every copy, mounted by a second server.
func freezeProgram(t *testing.T, size string, p realProgram) {
	m := newMountFixture(t, size, "--commit-interval", "200ms")
	rng := rand.New(rand.NewPCG(seedOf(t), 0))
	freezes := mountFull(t, "PERMAFROST_MOUNT_FREEZES", 3)
	p.start(t, m.sub(t, "data"))
	defer p.stop()
	ctx := context.Background()
	var last, first uint64
	began := time.Now()
	for n := range freezes {
		if err := waitForWork(ctx, p, last); err != nil {
			t.Fatalf("before freeze %d: %v", n, err)
		}
		_ = sleep(ctx, time.Duration(rng.IntN(300))*time.Millisecond)
		acked, err := p.acked()
		if err != nil {
			t.Fatal(err)
		}
		if last = total(acked); n == 0 {
			first = last
		}
		fz, err := m.freeze(ctx)
		if err != nil {
			t.Fatalf("freeze %d: %v", n, err)
		}
		copied := filepath.Join(m.dir, "frozen.pmem")
		copyErr := copyFile(copied, m.image)
		if err := fz.Thaw(ctx); err != nil || copyErr != nil {
			t.Fatalf("freeze %d: copy: %v, thaw: %v", n, copyErr, err)
		}
		if fz.mode != "collect" {
			t.Errorf("freeze %d was of mode %q", n, fz.mode)
		}
		if err := checkCopy(ctx, copied); err != nil {
			t.Fatalf("the copy of freeze %d: %v", n, err)
		}
		err = m.serveCopy(copied, func(dir string) error {
			dir = filepath.Join(dir, "data")
			if err := p.judge(dir, acked); err != nil || n < freezes-1 {
				return err
			}
			// The judge itself: a transaction that was never made must be missed.
			if err := p.judge(dir, later(acked)); err == nil || !strings.Contains(err.Error(), "before the freeze") {
				return fmt.Errorf("the judge does not miss transactions that are not there: %v", err)
			}
			return nil
		})
		if err != nil {
			kept := filepath.Join(os.TempDir(), fmt.Sprintf("permafrost-%d.pmem", time.Now().UnixNano()))
			t.Fatalf("the copy of freeze %d (kept in %s: %v): %v", n, kept, copyFile(kept, copied), err)
		}
		if err := os.Remove(copied); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Printf("mount-program: %s freezes=%d acknowledged=%d seconds=%.0f\n", t.Name(), freezes, last, time.Since(began).Seconds())
	if last <= first && freezes > 1 {
		t.Errorf("the load stood still: %d transactions before the first freeze, %d before the last", first, last)
	}
}

func total(acked []uint64) (n uint64) {
	for _, a := range acked {
		n += a
	}
	return n
}

// later is what would be acknowledged after very many more transactions.
func later(acked []uint64) []uint64 {
	out := slices.Clone(acked)
	for i := range out {
		out[i] += 1 << 40
	}
	return out
}

// waitForWork returns when more has been acknowledged than before.
func waitForWork(ctx context.Context, p realProgram, before uint64) error {
	for end := time.Now().Add(60 * time.Second); ; {
		acked, err := p.acked()
		if err != nil || total(acked) > before {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("nothing was acknowledged for a minute after transaction %d", before)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// loadProcess is a load that runs as a process of its own and keeps the number
// of the newest acknowledged transaction in a file outside the mount.
type loadProcess struct {
	board string
	cmd   *exec.Cmd
	out   *os.File
	ended chan error
}

// startLoad runs a command; ackBoard in its arguments is replaced by the board's path.
func startLoad(t testing.TB, name string, args ...string) *loadProcess {
	t.Helper()
	l := &loadProcess{board: filepath.Join(t.TempDir(), "acked"), ended: make(chan error, 1)}
	if err := os.WriteFile(l.board, make([]byte, 8), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.out, err = os.Create(l.board + ".log"); err != nil {
		t.Fatal(err)
	}
	for i, a := range args {
		if a == ackBoard {
			args[i] = l.board
		}
	}
	l.cmd = exec.Command(name, args...)
	l.cmd.Stdout, l.cmd.Stderr = l.out, l.out
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { l.ended <- l.cmd.Wait() }()
	return l
}

const ackBoard = "ACKED"

func (l *loadProcess) acked() ([]uint64, error) {
	select {
	case err := <-l.ended:
		l.ended <- err
		text, _ := os.ReadFile(l.out.Name())
		return nil, fmt.Errorf("the load has ended: %w\n%s", err, text)
	default:
	}
	b, err := os.ReadFile(l.board)
	if err != nil || len(b) < 8 {
		return nil, fmt.Errorf("the board has %d bytes: %w", len(b), err)
	}
	return []uint64{binary.LittleEndian.Uint64(b)}, nil
}

func (l *loadProcess) stop() {
	_ = l.cmd.Process.Signal(unix.SIGKILL) // it may have ended
	l.ended <- <-l.ended
	l.out.Close()
}

// asUser is a command of another user's.
func asUser(uid, gid uint32, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	cmd.Dir = "/"
	return cmd
}

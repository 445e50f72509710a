package exercise

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ServeStorer is the storer's own process: it maps a page of a file and stores
// to it as it is told, a line each, and answers with a line when it is done. It
// returns when its input ends.
//
//	map PATH OFFSET   PATH quoted as in Go; "mapped"
//	store AT HEX      AT within the page; "stored"
//	unmap             "unmapped"
func ServeStorer(in io.Reader, out io.Writer) error {
	debug.SetGCPercent(-1) // a collection would wait for a held thread
	var mem []byte
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		at := strings.LastIndexByte(rest, ' ')
		var err error
		switch verb {
		case "map":
			mem, err = mapPage(rest[:at], rest[at+1:])
			verb = "mapped"
		case "store":
			err = storeHex(mem, rest[:at], rest[at+1:])
			verb = "stored"
		case "unmap":
			err = unix.Munmap(mem)
			verb = "unmapped"
		default:
			err = fmt.Errorf("no such order: %q", verb)
		}
		if err != nil {
			verb = "failed: " + err.Error()
		}
		if _, err := fmt.Fprintln(out, verb); err != nil {
			return err
		}
	}
	return lines.Err()
}

func mapPage(quoted, offset string) ([]byte, error) {
	path, err := strconv.Unquote(quoted)
	if err != nil {
		return nil, err
	}
	off, err := strconv.ParseInt(offset, 10, 64)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.Mmap(int(f.Fd()), off, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func storeHex(mem []byte, at, text string) error {
	n, err := strconv.Atoi(at)
	if err != nil {
		return err
	}
	p, err := hex.DecodeString(text)
	if err != nil {
		return err
	}
	return guard(func() { copy(mem[n:], p) })
}

// storer is the run's end of that process. Owned by the run's goroutine.
type storer struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan string
}

func startStorer(command []string) (*storer, error) {
	s := &storer{cmd: exec.Command(command[0], command[1:]...), answers: make(chan string, 4)}
	s.cmd.Stderr = os.Stderr
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the storer: %w", err)
	}
	go func() {
		defer close(s.answers)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.answers <- lines.Text()
		}
	}()
	return s, nil
}

func (s *storer) tell(format string, args ...any) error {
	if _, err := fmt.Fprintf(s.in, format+"\n", args...); err != nil {
		return fmt.Errorf("the storer is gone: %w", err)
	}
	return nil
}

// expect waits for one answer.
func (s *storer) expect(want string, within time.Duration) error {
	select {
	case got, ok := <-s.answers:
		if !ok || got != want {
			return fmt.Errorf("the storer says %q where %q is due", got, want)
		}
		return nil
	case <-time.After(within):
		return fmt.Errorf("the storer did not say %q within %s", want, within)
	}
}

// end makes sure that the process is gone. One that is held in a store goes
// when it is let go.
func (s *storer) end() {
	s.in.Close()
	_ = s.cmd.Process.Kill() // it may have ended by itself
	_ = s.cmd.Wait()
}

// frozenStore is a store that the storer makes while frozen.
type frozenStore struct {
	node *node
	page int64 // where the storer's page lies in the file
	size int64 // bytes of the page that lie in the file
}

// prepareStore has the storer map a page of a file, and perhaps dirty it before
// the freeze. Nil: there is no storer or no file.
func (r *run) prepareStore() (*frozenStore, error) {
	e, ok := r.someOf(kindFile)
	if !ok || len(e.node.data) == 0 || len(r.cfg.Storer) == 0 {
		return nil, nil
	}
	if r.storer == nil {
		s, err := startStorer(r.cfg.Storer)
		if err != nil {
			return nil, err
		}
		r.storer = s
	}
	s := &frozenStore{node: e.node, page: r.rng.Int64N(int64(len(e.node.data))) &^ (pageSize - 1)}
	s.size = min(pageSize, int64(len(e.node.data))-s.page)
	r.note("the storer maps the page at %d of %q (f%d, size %d)", s.page, e.path, e.node.id, len(e.node.data))
	if err := r.storer.tell("map %q %d", r.path(e.path), s.page); err != nil {
		return nil, err
	}
	if err := r.storer.expect("mapped", r.cfg.Bound); err != nil {
		return nil, err
	}
	if !r.chance(4) {
		p := s.tell(r)
		if p == nil {
			return nil, fmt.Errorf("the storer is gone")
		}
		if err := r.storer.expect("stored", r.cfg.Bound); err != nil {
			return nil, err
		}
		s.node.write(p.p, p.off)
	}
	return s, nil
}

// tell has the storer store; nil: it is gone.
func (s *frozenStore) tell(r *run) *pendingStore {
	at := r.rng.Int64N(s.size)
	p := r.fill(min(1+r.rng.Int64N(64), s.size-at))
	r.note("the storer stores %d bytes at %d of f%d", len(p), s.page+at, s.node.id)
	r.storing(s.node)
	if err := r.storer.tell("store %d %s", at, hex.EncodeToString(p)); err != nil {
		return nil
	}
	return &pendingStore{s.page + at, p}
}

// send begins the store. It may end at once, in the page cache of a page that
// was clean, or be held until the thaw.
func (s *frozenStore) send(r *run) error {
	if s.node.during = s.tell(r); s.node.during == nil {
		return fmt.Errorf("the storer is gone")
	}
	return nil
}

// finish sees the store end after the thaw.
func (s *frozenStore) finish(r *run) error {
	if err := r.storer.expect("stored", r.cfg.Bound); err != nil {
		return fmt.Errorf("a store held by the freeze: %w", err)
	}
	s.node.write(s.node.during.p, s.node.during.off)
	s.node.during = nil
	if err := r.storer.tell("unmap"); err != nil {
		return err
	}
	return r.storer.expect("unmapped", r.cfg.Bound)
}

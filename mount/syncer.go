package mount

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Syncer is a child process that asks the kernel about the mount, and to write it
// back. It cannot be done in this process: such calls wait in the kernel for replies
// that only we can give, and a thread that waits there cannot be stopped, nor can its
// process end. It is resident because starting one takes milliseconds.
type Syncer struct {
	In  io.WriteCloser // to its standard input; closing it ends the child
	Out io.ReadCloser  // its standard output
	End func()         // waits for its end, and kills it when it takes long
}

// What the child is asked.
const (
	askSync  byte = iota + 1 // to have the file system written back
	askOpen                  // to open these inodes for askCount, as far as it can
	askCount                 // how many pages of each of these inodes are under write-back
	askClose                 // to close what it opened
)

// message is a question or an answer: a header, and numbers. An answer repeats Number
// and What of its question.
type message struct {
	Number uint16
	What   byte
	Errno  byte // of an answer
	Count  uint32
}

// maxNumbers bounds the numbers of a message.
const maxNumbers = 1 << 16

func (m message) write(w io.Writer, numbers []uint64) error {
	m.Count = uint32(len(numbers))
	b := make([]byte, 0, 8+8*len(numbers))
	b = binary.LittleEndian.AppendUint16(b, m.Number)
	b = append(b, m.What, m.Errno)
	b = binary.LittleEndian.AppendUint32(b, m.Count)
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	_, err := w.Write(b)
	return err
}

func readMessage(r io.Reader) (m message, numbers []uint64, err error) {
	if err := binary.Read(r, binary.LittleEndian, &m); err != nil {
		return m, nil, err
	}
	if m.Count > maxNumbers {
		return m, nil, fmt.Errorf("a message of %d numbers", m.Count)
	}
	numbers = make([]uint64, m.Count)
	return m, numbers, binary.Read(r, binary.LittleEndian, numbers)
}

// RunSyncer is the child: it answers questions about the file system of dir until its
// input ends.
//
// It has nothing of the mount open in between, but for askOpen, so that umount(8) works.
func RunSyncer(dir string, in, out *os.File) error {
	var first unix.Stat_t
	if err := unix.Stat(dir, &first); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if err := (message{}).write(out, nil); err != nil {
		return err
	}
	c := counter{dir: dir, dev: first.Dev}
	for {
		q, inodes, err := readMessage(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var counts []uint64
		switch q.What {
		case askSync:
			err = writeBack(dir, first.Dev)
		case askOpen:
			err = c.open(inodes)
		case askCount:
			counts, err = c.count(inodes)
		case askClose:
			c.close()
		default:
			err = unix.EINVAL
		}
		a := message{Number: q.Number, What: q.What}
		if err != nil {
			a.Errno = byte(unix.EIO)
			var no syscall.Errno
			if errors.As(err, &no) {
				a.Errno = byte(no)
			}
		}
		if err := a.write(out, counts); err != nil {
			return err
		}
	}
}

// openMount opens the mount at dir; ENOTCONN: another file system is there by now.
func openMount(dir string, dev uint64) (int, error) {
	d, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var is unix.Stat_t
	if err = unix.Fstat(d, &is); err == nil && is.Dev != dev {
		err = unix.ENOTCONN
	}
	if err != nil {
		unix.Close(d)
		return -1, err
	}
	return d, nil
}

// writeBack calls syncfs on the mount at dir.
//
// The statfs behind the syncfs stands in the queue of requests behind what the
// write-back queued: once it is answered, all that was read.
func writeBack(dir string, dev uint64) error {
	d, err := openMount(dir, dev)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	if err := unix.Syncfs(d); err != nil {
		return err
	}
	var st unix.Statfs_t
	return unix.Fstatfs(d, &st)
}

// syncer steers the child.
type syncer struct {
	child   Syncer
	answers chan answer // closed when the child has ended

	turn chan struct{} // capacity 1: one question at a time
	last uint16        // guarded by turn: of the last question; answers to older ones are late
}

type answer struct {
	message
	numbers []uint64
}

func newSyncer(child Syncer) *syncer {
	s := &syncer{child: child, answers: make(chan answer, 4), turn: make(chan struct{}, 1)}
	go func() {
		defer close(s.answers)
		for {
			m, numbers, err := readMessage(child.Out)
			if err != nil {
				return
			}
			s.answers <- answer{m, numbers}
		}
	}()
	return s
}

var errSyncerGone = errors.New("the child that has the mount written back is gone")

// sync has the mount written back.
func (s *syncer) sync(ctx context.Context) error {
	_, err := s.ask(ctx, askSync, nil)
	return err
}

// ask asks the child. When ctx ends it comes back all the same, and the child goes on
// by itself.
func (s *syncer) ask(ctx context.Context, what byte, inodes []uint64) ([]uint64, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("an earlier question about the mount is not answered: %w", context.Cause(ctx))
	}
	s.last++
	if s.last == 0 {
		s.last = 1
	}
	if err := (message{Number: s.last, What: what}).write(s.child.In, inodes); err != nil {
		return nil, fmt.Errorf("%w: %w", errSyncerGone, err)
	}
	return s.await(ctx)
}

// ready waits for the child to have opened the mount.
func (s *syncer) ready(ctx context.Context) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	_, err := s.await(ctx)
	return err
}

func (s *syncer) await(ctx context.Context) ([]uint64, error) {
	for {
		select {
		case a, ok := <-s.answers:
			switch {
			case !ok:
				return nil, errSyncerGone
			case a.Number != s.last: // of a question that was given up
			case a.Errno != 0:
				return nil, fmt.Errorf("what the kernel was asked about the mount: %w", syscall.Errno(a.Errno))
			default:
				return a.numbers, nil
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("the kernel is not done with the mount: %w", context.Cause(ctx))
		}
	}
}

func (s *syncer) close() {
	s.child.In.Close()
	s.child.End()
	s.child.Out.Close()
	for range s.answers { // until the reader has seen the end
	}
}

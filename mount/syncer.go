package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Syncer is a child process that calls syncfs on the mount. It cannot be done in
// this process: the call waits in the kernel for replies that only we can give,
// and a thread that waits there cannot be stopped, nor can its process end. It
// is resident because starting one takes milliseconds.
type Syncer struct {
	In  io.WriteCloser // to its standard input; closing it ends the child
	Out io.ReadCloser  // its standard output
	End func()         // waits for its end, and kills it when it takes long
}

// RunSyncer is the child: it reads a byte, has the file system of dir written
// back, and answers the byte and an errno. It ends with its input.
//
// It has nothing of the mount open in between, so that umount(8) works.
func RunSyncer(dir string, in, out *os.File) error {
	var first unix.Stat_t
	if err := unix.Stat(dir, &first); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if _, err := out.Write([]byte{0, 0}); err != nil {
		return err
	}
	var b [2]byte
	for {
		n, err := unix.Read(int(in.Fd()), b[:1])
		if err == unix.EINTR {
			continue
		}
		if n != 1 {
			return err
		}
		b[1] = 0
		var no syscall.Errno
		if errors.As(writeBack(dir, first.Dev), &no) {
			b[1] = byte(no)
		}
		if _, err := unix.Write(int(out.Fd()), b[:]); err != nil {
			return err
		}
	}
}

// writeBack calls syncfs on the mount at dir; ENOTCONN: another file system is
// there by now.
//
// The statfs behind the syncfs stands in the queue of requests behind what the
// write-back queued: once it is answered, all that was read.
func writeBack(dir string, dev uint64) error {
	d, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	var is unix.Stat_t
	if err := unix.Fstat(d, &is); err != nil {
		return err
	}
	if is.Dev != dev {
		return unix.ENOTCONN
	}
	if err := unix.Syncfs(d); err != nil {
		return err
	}
	var st unix.Statfs_t
	return unix.Fstatfs(d, &st)
}

// syncer steers the child.
type syncer struct {
	child   Syncer
	answers chan [2]byte // closed when the child has ended

	turn chan struct{} // capacity 1: one question at a time
	last byte          // guarded by turn: of the last question; answers to older ones are late
}

func newSyncer(child Syncer) *syncer {
	s := &syncer{child: child, answers: make(chan [2]byte, 4), turn: make(chan struct{}, 1)}
	go func() {
		defer close(s.answers)
		for {
			var a [2]byte
			if _, err := io.ReadFull(child.Out, a[:]); err != nil {
				return
			}
			s.answers <- a
		}
	}()
	return s
}

var errSyncerGone = errors.New("the child that has the mount written back is gone")

// sync has the mount written back. When ctx ends it comes back all the same, and
// the child goes on by itself.
func (s *syncer) sync(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return fmt.Errorf("an earlier syncfs of the mount is not done: %w", context.Cause(ctx))
	}
	s.last++
	if s.last == 0 {
		s.last = 1
	}
	if _, err := s.child.In.Write([]byte{s.last}); err != nil {
		return fmt.Errorf("%w: %w", errSyncerGone, err)
	}
	return s.await(ctx)
}

// ready waits for the child to have opened the mount.
func (s *syncer) ready(ctx context.Context) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.await(ctx)
}

func (s *syncer) await(ctx context.Context) error {
	for {
		select {
		case a, ok := <-s.answers:
			switch {
			case !ok:
				return errSyncerGone
			case a[0] != s.last: // of a question that was given up
			case a[1] != 0:
				return fmt.Errorf("syncfs of the mount: %w", syscall.Errno(a[1]))
			default:
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("syncfs of the mount is not done: %w", context.Cause(ctx))
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

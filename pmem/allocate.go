package pmem

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// statBlockBytes is the unit of st_blocks.
	statBlockBytes = 512
	// One fallocate is at most, and after interruptions at least, this long.
	allocateMaxStep = 256 << 20
	allocateMinStep = 1 << 20
)

// allocate gives the file blocks for [from, to) and at least the length to, so
// that a full disk shows here and not as SIGBUS under a store. What the file
// holds is kept; new bytes are zero.
func allocate(f *os.File, from, to int64) error {
	if err := checkFree(f, to); err != nil {
		return err
	}
	step := int64(allocateMaxStep)
	for from < to {
		err := unix.Fallocate(int(f.Fd()), 0, from, min(step, to-from))
		switch {
		case err == nil:
			from += min(step, to-from)
		case errors.Is(err, unix.EINTR):
			// tmpfs undoes an interrupted step: go on with shorter ones, so that
			// a profiler's signals cannot hold it for ever.
			step = max(step/2, allocateMinStep)
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return spaceError(f, to, fillHoles(f, from, to))
		default:
			return spaceError(f, to, err)
		}
	}
	return nil
}

// checkFree refuses what cannot fit before it fills the file system. What it
// lets pass may still not fit: allocation itself has the last word.
func checkFree(f *os.File, size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	// A tmpfs without limit, as a memfd is in, has no blocks at all.
	missing := size - st.Blocks*statBlockBytes
	if fs.Blocks == 0 || missing <= 0 || uint64(missing)/uint64(fs.Bsize) <= fs.Bfree {
		return nil
	}
	return spaceError(f, size, unix.ENOSPC)
}

// spaceError says what to do where the file system is full.
func spaceError(f *os.File, to int64, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %d bytes (%w): raise the limit on file sizes (ulimit -f), or choose a smaller size or another file system", ErrNoSpace, to, err)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %d bytes (%w): free space on the file system of %s or choose a smaller size", ErrNoSpace, to, err, f.Name())
	}
	return fmt.Errorf("allocate %d bytes: %w", to, err)
}

// fillHoles writes zeros where [from, to) has no data, for file systems that
// cannot allocate otherwise.
func fillHoles(f *os.File, from, to int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	for off := from; off < to; {
		hole, end := off, to
		if off < st.Size() {
			if hole, end, err = nextHole(f, off, to); err != nil {
				return err
			}
		}
		if err := writeZeros(f, hole, end); err != nil {
			return err
		}
		off = end
	}
	return nil
}

// nextHole is the first hole at or after off, cut at limit. A file system that
// knows no holes reports one at the end of the file.
func nextHole(f *os.File, off, limit int64) (hole, end int64, err error) {
	hole, err = f.Seek(off, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("find holes: %w", err)
	}
	if hole >= limit {
		return limit, limit, nil
	}
	end, err = f.Seek(hole, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // no data after it
		return hole, limit, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find data: %w", err)
	}
	return hole, min(end, limit), nil
}

// writeZeros writes zeros to [from, to).
func writeZeros(f *os.File, from, to int64) error {
	const bufferBytes = 1 << 20
	w := io.NewOffsetWriter(f, from)
	zeros := make([]byte, min(bufferBytes, to-from))
	for left := to - from; left > 0; {
		n, err := w.Write(zeros[:min(left, bufferBytes)])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// fillOpened allocates what a sparse file lacks, as a copied image may. A file
// whose blocks are all there costs one stat.
func fillOpened(f *os.File) (size int64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat: %w", err)
	}
	if st.Size == 0 {
		return 0, fmt.Errorf("%w: make a file system in it first", ErrTooSmall)
	}
	if st.Blocks*statBlockBytes >= st.Size {
		return st.Size, nil
	}
	return st.Size, allocate(f, 0, st.Size)
}

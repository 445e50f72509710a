package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What `bench mount` does with names. All threads share one directory, which
// is made anew for each measurement; each has its own files in it.

// nameDir makes a directory and, if asked for, empty files in it, and gives a
// descriptor and the clean-up.
func nameDir(o *workOrder, files int) (fd int, done func(), err error) {
	path := filepath.Join(o.Dir, "names")
	if err := os.Mkdir(path, 0o755); err != nil {
		return 0, nil, err
	}
	if fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		os.Remove(path)
		return 0, nil, err
	}
	done = func() {
		unix.Close(fd)
		_ = os.RemoveAll(path) // what is left is seen by the next Mkdir
	}
	if err = makeFiles(fd, 0, files); err != nil {
		done()
		return 0, nil, err
	}
	return fd, done, nil
}

func fileName(i int) string { return fmt.Sprintf("file-%06d", i) }

func makeFiles(dir, from, to int) error {
	for i := from; i < to; i++ {
		fd, err := unix.Openat(dir, fileName(i), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		unix.Close(fd)
	}
	return nil
}

// onNames gives every thread its share of the files of one directory; made
// says whether they are there beforehand.
func onNames(o *workOrder, made bool, work func(dir, from, to int) error) (float64, error) {
	n := o.Scale.Names / o.Threads
	files := 0
	if made {
		files = n * o.Threads
	}
	dir, done, err := nameDir(o, files)
	if err != nil {
		return 0, err
	}
	defer done()
	took, err := each(o.Threads, func(t int) error { return work(dir, t*n, (t+1)*n) })
	return rate(n*o.Threads, took, err)
}

func workCreate(o *workOrder) (float64, error) { return onNames(o, false, makeFiles) }

func workUnlink(o *workOrder) (float64, error) {
	return onNames(o, true, func(dir, from, to int) error {
		for i := from; i < to; i++ {
			if err := unix.Unlinkat(dir, fileName(i), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

func workRename(o *workOrder) (float64, error) {
	return onNames(o, true, func(dir, from, to int) error {
		for i := from; i < to; i++ {
			if err := unix.Renameat(dir, fileName(i), dir, fmt.Sprintf("renamed-%06d", i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// workStat looks at a few files over and over: the kernel has them all.
func workStat(o *workOrder) (float64, error) {
	const files = 1000
	dir, done, err := nameDir(o, files)
	if err != nil {
		return 0, err
	}
	defer done()
	names := make([]string, files)
	for i := range names {
		names[i] = fileName(i)
	}
	look := func(n int) error {
		var st unix.Stat_t
		for i := range n {
			if err := unix.Fstatat(dir, names[i%files], &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		}
		return nil
	}
	if err := look(files); err != nil {
		return 0, err
	}
	n := o.Scale.Stats / o.Threads
	took, err := each(o.Threads, func(int) error { return look(n) })
	return rate(n*o.Threads, took, err)
}

// workReaddir lists one directory several times, opening it each time.
func workReaddir(o *workOrder) (float64, error) {
	const passes = 5
	_, done, err := nameDir(o, o.Scale.Entries)
	if err != nil {
		return 0, err
	}
	defer done()
	path := filepath.Join(o.Dir, "names")
	took, err := each(1, func(int) error {
		for range passes {
			n, err := countEntries(path)
			if err != nil {
				return err
			}
			if n != o.Scale.Entries+2 {
				return fmt.Errorf("a directory of %d files lists %d entries, the two that every directory has among them", o.Scale.Entries, n)
			}
		}
		return nil
	})
	return rate(passes*o.Scale.Entries, took, err)
}

// countEntries reads a directory in calls of 32 KiB, as the C library does.
func countEntries(path string) (n int, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 32<<10)
	for {
		got, err := unix.ReadDirent(fd, buf)
		if err != nil || got == 0 {
			return n, err
		}
		for at := 0; at < got; n++ { // struct linux_dirent64: d_reclen at offset 16
			length := int(binary.NativeEndian.Uint16(buf[at+16:]))
			if length == 0 {
				return n, errors.New("getdents64: an entry of no length")
			}
			at += length
		}
	}
}

// workPopulate makes a directory of empty files, 1,000 to each directory in it,
// which leaves them cached. They stay.
func workPopulate(o *workOrder) (float64, error) {
	if err := os.Mkdir(o.Dir, 0o755); err != nil {
		return 0, err
	}
	for i := 0; i < o.Scale.Names; i += 1000 {
		path := filepath.Join(o.Dir, fmt.Sprintf("d%06d", i/1000))
		if err := os.Mkdir(path, 0o755); err != nil {
			return 0, err
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		err = makeFiles(fd, 0, min(1000, o.Scale.Names-i))
		unix.Close(fd)
		if err != nil {
			return 0, err
		}
	}
	return float64(o.Scale.Names), syncDir(o.Dir)
}

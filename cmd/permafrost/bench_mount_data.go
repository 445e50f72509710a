package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// What `bench mount` does with the bytes of files; units are those of
// mountRows.

const randomMiB = 64 // file of the random reads and writes

// workWrite writes a new file in 1 MiB writes, the fsync at its end within the
// time or not.
func workWrite(o *workOrder, durable bool) (float64, error) {
	path := filepath.Join(o.Dir, "write")
	if err := awaitFree(o.Dir, uint64(o.Scale.MiB)<<20); err != nil {
		return 0, err
	}
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	rate, err := writeAll(o, f, durable)
	return rate, errors.Join(err, removeClosed(f))
}

// workOverwrite is workWrite over a file that has its blocks, with the fsync.
func workOverwrite(o *workOrder) (float64, error) {
	f, err := fixture(o, "read", o.Scale.MiB, os.O_WRONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return writeAll(o, f, true)
}

func writeAll(o *workOrder, f *os.File, durable bool) (float64, error) {
	buf := make([]byte, 1<<20)
	noise(buf)
	start := time.Now()
	for range o.Scale.MiB {
		if _, err := f.Write(buf); err != nil {
			return 0, err
		}
	}
	took := time.Since(start)
	err := f.Sync() // in any case: what is left dirty would be the next row's
	if durable {
		took = time.Since(start)
	}
	return gbps(o.Scale.MiB<<20, took, err)
}

// workRead reads a file in 1 MiB reads, from its file system or from the page
// cache.
func workRead(o *workOrder, cold bool) (float64, error) {
	f, err := fixture(o, "read", o.Scale.MiB, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	all := func() error {
		for i := range o.Scale.MiB {
			if n, err := f.ReadAt(buf, int64(i)<<20); n != len(buf) {
				return fmt.Errorf("%d bytes read: %w", n, err)
			}
		}
		return nil
	}
	if cold {
		err = dropCached(o, f)
	} else {
		err = all()
	}
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = all()
	return gbps(o.Scale.MiB<<20, time.Since(start), err)
}

// workMappedRead copies a file out of a mapping whose pages are not cached, a
// MiB at a time.
func workMappedRead(o *workOrder) (float64, error) {
	f, err := fixture(o, "read", o.Scale.MiB, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := dropCached(o, f); err != nil {
		return 0, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, o.Scale.MiB<<20, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(mem)
	buf := make([]byte, 1<<20)
	start := time.Now()
	for i := range o.Scale.MiB {
		copy(buf, mem[i<<20:])
	}
	return gbps(o.Scale.MiB<<20, time.Since(start), nil)
}

// workRandomRead reads 4 KiB at random places: with O_DIRECT, so that each
// read is a request to the file system, or each page once through a page
// cache that has none of them.
func workRandomRead(o *workOrder, direct bool) (float64, error) {
	flags := os.O_RDONLY
	if direct {
		flags |= unix.O_DIRECT
	}
	f, err := fixture(o, "random", randomMiB, flags)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if !direct {
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
			return 0, err
		}
		if err := dropCached(o, f); err != nil {
			return 0, err
		}
	}
	pages := rand.Perm(randomMiB << 8)
	n := min(o.Scale.Ops, len(pages)) / o.Threads
	took, err := each(o.Threads, func(t int) error {
		buf, err := aligned(4096)
		if err != nil {
			return err
		}
		defer unix.Munmap(buf)
		for _, p := range pages[t*n : (t+1)*n] {
			if got, err := unix.Pread(int(f.Fd()), buf, int64(p)<<12); got != len(buf) {
				return fmt.Errorf("read of page %d: %d bytes: %w", p, got, err)
			}
		}
		return nil
	})
	return rate(n*o.Threads, took, err)
}

// perThread opens a file of the given size for every thread.
func perThread(o *workOrder, name string, mib int) ([]*os.File, func(), error) {
	files := make([]*os.File, o.Threads)
	closeAll := func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}
	for t := range files {
		var err error
		if files[t], err = fixture(o, fmt.Sprintf("%s-%d", name, t), mib, os.O_RDWR); err != nil {
			closeAll()
			return nil, nil, err
		}
	}
	return files, closeAll, nil
}

// workRandomWrite overwrites 4 KiB at random places, without an fsync.
func workRandomWrite(o *workOrder) (float64, error) {
	files, closeAll, err := perThread(o, "random-write", randomMiB/4)
	if err != nil {
		return 0, err
	}
	defer closeAll()
	n := o.Scale.Ops / o.Threads
	took, err := each(o.Threads, func(t int) error { return overwrite(files[t], n, false) })
	for _, f := range files {
		if err == nil {
			err = f.Sync()
		}
	}
	return rate(n*o.Threads, took, err)
}

// workFsync overwrites 4 KiB and makes it durable, over and over.
func workFsync(o *workOrder) (float64, error) {
	files, closeAll, err := perThread(o, "fsync", 1)
	if err != nil {
		return 0, err
	}
	defer closeAll()
	n := o.Scale.Syncs / o.Threads
	took, err := each(o.Threads, func(t int) error { return overwrite(files[t], n, true) })
	return rate(n*o.Threads, took, err)
}

func overwrite(f *os.File, n int, durable bool) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	noise(buf)
	fd, pages := int(f.Fd()), st.Size()>>12
	for range n {
		if _, err := unix.Pwrite(fd, buf, rand.Int64N(pages)<<12); err != nil {
			return err
		}
		if durable {
			if err := unix.Fsync(fd); err != nil {
				return err
			}
		}
	}
	return nil
}

// mappedPages maps a clean file whose pages are cached and mapped for reading.
func mappedPages(o *workOrder) ([]byte, error) {
	f, err := fixture(o, "mapped", o.Scale.Pages>>8, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, o.Scale.Pages<<12, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	sum := byte(0)
	for p := range o.Scale.Pages {
		sum += mem[p<<12]
	}
	runtime.KeepAlive(sum)
	return mem, unix.Msync(mem, unix.MS_SYNC)
}

// storeOnce stores a word into every page of a mapping, and gives us a page.
func storeOnce(mem []byte) float64 {
	start := time.Now()
	for at := 0; at < len(mem); at += 4096 {
		binary.NativeEndian.PutUint64(mem[at:], uint64(start.UnixNano()))
	}
	return float64(time.Since(start).Microseconds()) / float64(len(mem)>>12)
}

// workMappedStore times the first stores to clean pages, in a row.
func workMappedStore(o *workOrder) (float64, error) {
	mem, err := mappedPages(o)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(mem)
	took := storeOnce(mem)
	return took, unix.Msync(mem, unix.MS_SYNC)
}

// workMappedSync times the msync of pages that were all stored to.
func workMappedSync(o *workOrder) (float64, error) {
	mem, err := mappedPages(o)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(mem)
	storeOnce(mem)
	start := time.Now()
	err = unix.Msync(mem, unix.MS_SYNC)
	return float64(time.Since(start).Microseconds()) / float64(o.Scale.Pages), err
}

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// benchMountWorkCmd is the program that uses the mounts of `bench mount`: one
// process for all of them, so that each is treated alike, and never the bench
// itself, which must be able to end a mount that hangs. It reads one workOrder
// a line and answers each with one workDone.
type benchMountWorkCmd struct{}

// workOrder is one measurement. Immutable.
type workOrder struct {
	Row     string    `json:"row"`
	Dir     string    `json:"dir"`     // on the file system measured
	Threads int       `json:"threads"` // that share the work
	Cached  bool      `json:"cached"`  // its pages cannot be dropped: tmpfs, where they are the file
	Scale   workScale `json:"scale"`
}

// workScale is how much each measurement does. Immutable.
type workScale struct {
	MiB     int `json:"mib"`     // of the sequential copies
	Ops     int `json:"ops"`     // random reads and writes
	Syncs   int `json:"syncs"`   // writes that are each made durable
	Names   int `json:"names"`   // files made, renamed, removed: few, since fuse2fs looks through all names of a directory
	Entries int `json:"entries"` // files of the directory that is listed
	Stats   int `json:"stats"`
	Pages   int `json:"pages"` // of the mapping that is stored to
}

type workDone struct {
	Value float64 `json:"value"` // in the unit of the row
	Error string  `json:"error,omitempty"`
}

func (w *benchMountWorkCmd) Run(c *console) error {
	nameProcess("bench-work")
	// A goroutine that comes back from a system call must find a processor.
	runtime.GOMAXPROCS(8)
	debug.SetGCPercent(-1) // a collection would wait for a thread in a fault
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o workOrder
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return fmt.Errorf("an order that is none: %w", err)
		}
		var done workDone
		var err error
		if work := mountWork[o.Row]; work == nil {
			err = fmt.Errorf("no work %q", o.Row)
		} else {
			done.Value, err = work(&o)
		}
		if err != nil {
			done.Error = err.Error()
		}
		text, err := json.Marshal(done)
		if err != nil {
			return err
		}
		c.printf("%s\n", text)
		runtime.GC() // between measurements
	}
	return nil
}

// mountWork has what each row of the table measures; each makes what it needs
// before it takes the time, and removes what the next must not find.
var mountWork = map[string]func(*workOrder) (float64, error){
	"fill":        workFill,
	"populate":    workPopulate,
	"write":       func(o *workOrder) (float64, error) { return workWrite(o, false) },
	"write_fsync": func(o *workOrder) (float64, error) { return workWrite(o, true) },
	"overwrite":   workOverwrite,
	"read_cold":   func(o *workOrder) (float64, error) { return workRead(o, true) },
	"read_warm":   func(o *workOrder) (float64, error) { return workRead(o, false) },
	"mmap_read":   workMappedRead,
	"rand_read":   func(o *workOrder) (float64, error) { return workRandomRead(o, true) },
	"rand_cached": func(o *workOrder) (float64, error) { return workRandomRead(o, false) },
	"rand_write":  workRandomWrite,
	"fsync":       workFsync,
	"mmap_store":  workMappedStore,
	"mmap_msync":  workMappedSync,
	"create":      workCreate,
	"unlink":      workUnlink,
	"rename":      workRename,
	"stat":        workStat,
	"readdir":     workReaddir,
}

// each runs work on as many threads as asked for, numbered from 0, and gives
// the time from the first start to the last end.
func each(threads int, work func(t int) error) (time.Duration, error) {
	errs := make([]error, threads)
	var ready, wg sync.WaitGroup
	begin := make(chan struct{})
	ready.Add(threads)
	for t := range threads {
		wg.Go(func() {
			runtime.LockOSThread()
			ready.Done()
			<-begin
			errs[t] = work(t)
		})
	}
	ready.Wait()
	start := time.Now()
	close(begin)
	wg.Wait()
	return time.Since(start), errors.Join(errs...)
}

// rate is n things in a time, a second; or gives the error.
func rate(n int, took time.Duration, err error) (float64, error) {
	return float64(n) / took.Seconds(), err
}

func gbps(bytes int, took time.Duration, err error) (float64, error) {
	return float64(bytes) / 1e9 / took.Seconds(), err
}

// aligned is a buffer that O_DIRECT takes.
func aligned(bytes int) ([]byte, error) {
	return unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
}

// noise fills a buffer with bytes that no file system can leave out.
func noise(buf []byte) {
	x := uint64(0x9e3779b97f4a7c15)
	for i := range buf {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		buf[i] = byte(x)
	}
}

// fixture is a file of the given size that stays from round to round.
func fixture(o *workOrder, name string, mib int, flags int) (*os.File, error) {
	path := filepath.Join(o.Dir, fmt.Sprintf("%s-%d", name, mib))
	if st, err := os.Stat(path); err != nil || st.Size() != int64(mib)<<20 {
		if err := awaitFree(o.Dir, uint64(mib)<<20); err != nil {
			return nil, err
		}
		f, err := os.Create(path)
		if err != nil {
			return nil, err
		}
		buf := make([]byte, 1<<20)
		noise(buf)
		for range mib {
			if _, err := f.Write(buf); err != nil {
				f.Close()
				return nil, err
			}
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, flags, 0)
}

// dropCached makes the next read of a file go to its file system, and makes
// sure of it: POSIX_FADV_DONTNEED is advice.
func dropCached(o *workOrder, f *os.File) error {
	if o.Cached {
		return nil
	}
	if err := f.Sync(); err != nil { // dirty pages are not dropped
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	var left unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &left, 0)
	if err == unix.ENOSYS { // before Linux 6.5
		return nil
	}
	if err == nil && left.Cache > 0 {
		err = fmt.Errorf("%d pages of %s are cached still", left.Cache, f.Name())
	}
	return err
}

// workFill makes every block of the image be touched once: the first touch of
// a page of tmpfs costs more than any file system. It gives the MiB that fit.
func workFill(o *workOrder) (float64, error) {
	path := filepath.Join(o.Dir, "fill")
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 1<<20)
	noise(buf)
	n := 0
	for n < 1<<16 {
		if _, err = f.Write(buf); err != nil {
			break
		}
		n++
	}
	if !errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("fill: after %d MiB: %w", n, err)
	} else {
		err = nil
	}
	_ = f.Sync() // the disk is full: what matters is what was touched
	if err = errors.Join(err, removeClosed(f), syncDir(o.Dir)); err != nil {
		return 0, err
	}
	return float64(n), nil
}

// removeClosed closes a file and removes it. The kernel tells a FUSE file system of the
// close afterwards, in the queue before the next request; libfuse keeps a file that is
// removed before that, hidden, and fuse2fs then now and then for good.
func removeClosed(f *os.File) error {
	err := f.Close()
	var st unix.Statfs_t
	return errors.Join(err, unix.Statfs(filepath.Dir(f.Name()), &st), os.Remove(f.Name()))
}

// awaitFree waits until so much is free: fuse2fs frees what was removed after the
// program that removed it has been told so, and refuses writes until then.
func awaitFree(dir string, bytes uint64) error {
	var st unix.Statfs_t
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := unix.Statfs(dir, &st); err != nil {
			return err
		}
		if free := st.Bavail * uint64(st.Bsize); free >= bytes {
			return nil
		} else if time.Now().After(end) {
			return fmt.Errorf("%d MiB are free at %s, where %d are needed", free>>20, dir, bytes>>20)
		}
	}
}

// syncDir makes durable all of the file system that dir is on.
func syncDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

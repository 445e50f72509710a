package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"permafrost/core"
	"permafrost/core/format"
)

type benchCoreCmd struct {
	Files   int    `help:"Files created, looked at and removed." default:"300000"`
	Fsyncs  int    `help:"4 KiB overwrites, each with its fsync." default:"200000"`
	Threads int    `help:"Threads that overwrite and fsync." default:"4"`
	MiB     int    `name:"mib" help:"Size of the sequential copies." default:"512"`
	Dir     string `help:"Where the image is made: /dev/shm measures the volatile domain, a disk the page-cache one." default:"/dev/shm" type:"path"`
	JSON    bool   `name:"json" help:"One line of JSON."`
}

type coreFigures struct {
	CreatePerS      float64 `json:"create_per_s"`
	StatPerS        float64 `json:"stat_per_s"`
	UnlinkPerS      float64 `json:"unlink_per_s"`
	OverwriteFsync  float64 `json:"overwrite_fsync_per_s"`
	HostFsync       float64 `json:"host_overwrite_fsync_per_s"` // the rival: the same by pwrite and fsync on a plain file in --dir
	WriteGBps       float64 `json:"write_gb_per_s"`             // first write: allocation included
	RewriteGBps     float64 `json:"rewrite_gb_per_s"`
	ReadGBps        float64 `json:"read_gb_per_s"`
	CopyGBps        float64 `json:"memory_copy_gb_per_s"` // plain copy() of the same buffers: the rival
	BytesPerCached  float64 `json:"bytes_per_cached_inode"`
	Files           int     `json:"files"`
	Threads         int     `json:"threads"`
	Domain          string  `json:"domain"`
	TreeDepth       int     `json:"tree_depth"`
	CommitsPerFsync float64 `json:"commits_per_fsync"`
}

func (b *benchCoreCmd) Run(c *console) error {
	bed, err := newBed(b.Dir, int64(b.Files)*600+int64(b.MiB)<<20*2+512<<20, b.Files*2, false)
	if err != nil {
		return err
	}
	defer bed.close()
	f := &coreFigures{Files: b.Files, Threads: b.Threads, Domain: bed.region.Domain().String()}
	for _, part := range []func(*core.FS, *coreFigures) error{b.names, b.fsyncs, b.copies} {
		if err := part(bed.fs, f); err != nil {
			return err
		}
	}
	if f.HostFsync, err = b.hostFsyncs(bed.dir); err != nil {
		return err
	}
	f.TreeDepth = bed.fs.Status().TreeDepth
	return benchOut(c, b.JSON, f)
}

func perSecond(n int, start time.Time) float64 { return float64(n) / time.Since(start).Seconds() }

// heap is the live heap, after a collection.
func heap() uint64 {
	var ms runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}

// names creates, stats by path and unlinks, one thread, directories of 1,000.
func (b *benchCoreCmd) names(fs *core.FS, f *coreFigures) error {
	ctx := context.Background()
	dirs := make([]format.Ino, (b.Files+999)/1000)
	for i := range dirs {
		a, err := fs.Mkdir(ctx, format.RootIno, fmt.Sprintf("d%05d", i), core.NewNode{Mode: 0o040755})
		if err != nil {
			return err
		}
		dirs[i] = a.Ino
	}
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("f%03d", i)
	}
	before := heap()
	start := time.Now()
	for i := range b.Files {
		if _, err := fs.Create(ctx, dirs[i/1000], names[i%1000], core.NewNode{Mode: 0o100644}); err != nil {
			return err
		}
	}
	f.CreatePerS = perSecond(b.Files, start)
	if _, err := fs.Sync(ctx); err != nil {
		return err
	}
	f.BytesPerCached = float64(heap()-before) / float64(b.Files)
	start = time.Now()
	for i := range b.Files {
		a, err := fs.Lookup(ctx, dirs[i/1000], names[i%1000])
		if err != nil {
			return err
		}
		if a.Mode != 0o100644 {
			return fmt.Errorf("inode %d has mode %o", a.Ino, a.Mode)
		}
	}
	f.StatPerS = perSecond(b.Files, start)
	start = time.Now()
	for i := range b.Files / 2 { // the other half stays, so that the tree keeps its depth
		if err := fs.Unlink(ctx, dirs[i/1000], names[i%1000]); err != nil {
			return err
		}
	}
	f.UnlinkPerS = perSecond(b.Files/2, start)
	return nil
}

// fsyncs overwrites 4 KiB of one file a thread and fsyncs it, over and over.
func (b *benchCoreCmd) fsyncs(fs *core.FS, f *coreFigures) error {
	ctx := context.Background()
	const fileBytes = 1 << 20
	inos := make([]format.Ino, b.Threads)
	for t := range inos {
		a, err := fs.Create(ctx, format.RootIno, fmt.Sprintf("fsync-%d", t), core.NewNode{Mode: 0o100644})
		if err != nil {
			return err
		}
		if _, err := fs.WriteAt(ctx, a.Ino, make([]byte, fileBytes), 0); err != nil {
			return err
		}
		inos[t] = a.Ino
	}
	if _, err := fs.Sync(ctx); err != nil {
		return err
	}
	generation := fs.Status().Generation
	each := b.Fsyncs / b.Threads
	errs := make([]error, b.Threads)
	var wg sync.WaitGroup
	start := time.Now()
	for t := range b.Threads {
		wg.Add(1)
		go func() {
			defer wg.Done()
			buf := make([]byte, 4096)
			for i := range each {
				buf[0] = byte(i)
				off := int64(i*7919%(fileBytes/4096)) * 4096
				if _, err := fs.WriteAt(ctx, inos[t], buf, off); err != nil {
					errs[t] = err
					return
				}
				if _, err := fs.Fsync(ctx, inos[t], off, 4096); err != nil {
					errs[t] = err
					return
				}
			}
		}()
	}
	wg.Wait()
	f.OverwriteFsync = perSecond(each*b.Threads, start)
	f.CommitsPerFsync = float64(fs.Status().Generation-generation) / float64(each*b.Threads)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// copies writes, overwrites and reads one large file in 1 MiB calls, beside
// plain copies of the same amount between two buffers of the same size.
func (b *benchCoreCmd) copies(fs *core.FS, f *coreFigures) error {
	ctx := context.Background()
	a, err := fs.Create(ctx, format.RootIno, "sequential", core.NewNode{Mode: 0o100644})
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	gbps := func(pass func(off int64) error) (float64, error) {
		start := time.Now()
		for i := range b.MiB {
			if err := pass(int64(i) << 20); err != nil {
				return 0, err
			}
		}
		return float64(b.MiB) * (1 << 20) / 1e9 / time.Since(start).Seconds(), nil
	}
	write := func(off int64) error { _, err := fs.WriteAt(ctx, a.Ino, buf, off); return err }
	read := func(off int64) error { _, err := fs.ReadAt(ctx, a.Ino, buf, off); return err }
	if f.WriteGBps, err = gbps(write); err != nil {
		return err
	}
	if f.RewriteGBps, err = gbps(write); err != nil {
		return err
	}
	if f.ReadGBps, err = gbps(read); err != nil {
		return err
	}
	rival := make([]byte, b.MiB<<20)
	clear(rival) // fault it in
	f.CopyGBps, err = gbps(func(off int64) error { copy(rival[off:], buf); return nil })
	return err
}

// hostFsyncs is fsyncs on the file system that the image lies on: a plain file
// a thread, overwritten in place. (fsync on tmpfs does nothing.)
func (b *benchCoreCmd) hostFsyncs(dir string) (float64, error) {
	const fileBytes = 1 << 20
	files := make([]*os.File, b.Threads)
	for t := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("fsync-%d", t)))
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if _, err := f.Write(make([]byte, fileBytes)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		files[t] = f
	}
	each := b.Fsyncs / b.Threads
	errs := make([]error, b.Threads)
	var wg sync.WaitGroup
	start := time.Now()
	for t, f := range files {
		wg.Go(func() {
			buf := make([]byte, 4096)
			for i := 0; i < each && errs[t] == nil; i++ {
				buf[0] = byte(i)
				if _, errs[t] = f.WriteAt(buf, int64(i*7919%(fileBytes/4096))*4096); errs[t] == nil {
					errs[t] = f.Sync()
				}
			}
		})
	}
	wg.Wait()
	return perSecond(each*b.Threads, start), errors.Join(errs...)
}

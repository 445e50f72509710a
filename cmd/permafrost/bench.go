package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"permafrost/core"
	"permafrost/dax"
	"permafrost/pmem"
)

// benchCmd measures; it never judges. Each figure of docs/PERFORMANCE.md names
// the line that made it.
type benchCmd struct {
	Freeze benchFreezeCmd `cmd:"" help:"Freeze and thaw, with dirty pages made by a real mapped process."`
	Fault  benchFaultCmd  `cmd:"" help:"First stores to clean pages, alone and in a run."`
	Core   benchCoreCmd   `cmd:"" help:"Files: create, stat, unlink, overwrite and fsync, sequential copies, memory."`
	HTTP   benchHTTPCmd   `cmd:"" name:"http" help:"POST /freeze and /thaw over HTTP, with the ledger on disk."`
	Mount  benchMountCmd  `cmd:"" help:"Files through the mount, beside ext4, tmpfs and fuse2fs."`
	Kernel benchKernelCmd `cmd:"" help:"The rival: FIFREEZE of ext4, xfs or btrfs on a loop device over tmpfs."`
}

// quantiles of a set of times, in microseconds.
type quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

func quantilesOf(d []time.Duration) quantiles {
	if len(d) == 0 {
		return quantiles{}
	}
	s := slices.Clone(d)
	slices.Sort(s)
	at := func(q float64) float64 {
		return float64(s[min(int(q*float64(len(s))), len(s)-1)].Nanoseconds()) / 1e3
	}
	return quantiles{at(0.50), at(0.99)}
}

// benchOut prints a result as JSON, or as indented JSON for people.
func benchOut(c *console, asJSON bool, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if asJSON {
		c.printf("%s\n", text)
		return nil
	}
	return c.printJSON(text)
}

// bed is a throw-away appliance in this process: an image in memory, its file
// system and, if asked for, its attach server.
type bed struct {
	dir    string
	region *pmem.Region
	fs     *core.FS
	attach *dax.Server
	socket string
}

// newBed makes an image of the given size in dir ("" for /dev/shm).
func newBed(dir string, bytes int64, maxInodes int, attach bool) (b *bed, err error) {
	if dir == "" {
		dir = "/dev/shm"
	}
	b = &bed{}
	if b.dir, err = os.MkdirTemp(dir, "permafrost-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	path := filepath.Join(b.dir, "fs.pmem")
	if b.region, err = pmem.Create(path, bytes, pmem.Options{}); err != nil {
		return nil, err
	}
	if err = core.Mkfs(b.region, core.MkfsOptions{Label: "bench"}); err != nil {
		return nil, err
	}
	if b.fs, err = core.Mount(b.region, core.Options{Path: path, MaxInodes: maxInodes}); err != nil {
		return nil, err
	}
	if attach {
		b.socket = filepath.Join(b.dir, "attach.sock")
		b.attach, err = dax.New(dax.Options{FS: b.fs, Image: b.region.DuplicateForClients, Socket: b.socket, RecordDir: filepath.Join(b.dir, "attach")})
		if err != nil {
			return nil, err
		}
		if err = b.attach.Start(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bed) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if b.attach != nil {
		_ = b.attach.Close(ctx)
	}
	if b.fs != nil {
		_ = b.fs.Unmount(ctx)
	}
	if b.region != nil {
		_ = b.region.Close()
	}
	_ = os.RemoveAll(b.dir)
}

// progressf shows how long work goes on, where somebody watches.
func progressf(c *console, format string, args ...any) {
	if isTerminal(c.err) {
		c.notef("\r\x1b[K"+format, args...)
	}
}

func progressDone(c *console) {
	if isTerminal(c.err) {
		fmt.Fprint(c.err, "\r\x1b[K")
	}
}

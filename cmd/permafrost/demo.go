package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/dax/client"
)

// startDemo starts the demo's program: a separate process that stores through
// mappings, so that a freeze has something to hold.
func startDemo(ctx context.Context, fs *core.FS, attach string) (*writerProcess, error) {
	if _, err := fs.Mkdir(ctx, format.RootIno, "demo", core.NewNode{Mode: 0o040755}); err != nil {
		return nil, err
	}
	w, err := startChild("demo-writer", "--attach", attach)
	if err != nil {
		return nil, err
	}
	if err := w.expect("ready", 30*time.Second); err != nil {
		w.end()
		return nil, err
	}
	return w, nil
}

// demoWriterCmd stores into three mapped files at the pace of a small
// database: a log that is appended to, a table whose pages change here and
// there, and a heartbeat. It ends with its standard input.
type demoWriterCmd struct {
	Attach string `required:""`
}

func (d *demoWriterCmd) Run(c *console) error {
	nameProcess("demo-writer")
	runtime.GOMAXPROCS(8)  // a thread held in a store keeps its processor
	debug.SetGCPercent(-1) // a collection would wait for a held thread
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := client.Dial(ctx, d.Attach)
	if err != nil {
		return err
	}
	type job struct {
		path  string
		pages int
		every time.Duration
		store func(mem []byte, n uint64)
	}
	jobs := []job{
		{"/demo/journal.log", 1024, 2 * time.Millisecond, appendRecord},
		{"/demo/accounts.table", 2048, 5 * time.Millisecond, updateRow},
		{"/demo/heartbeat", 1, 100 * time.Millisecond, beat},
	}
	for _, j := range jobs {
		m, err := conn.Map(ctx, client.MapOptions{Path: j.path, Length: int64(j.pages) * 4096, Write: true, Create: true, Grow: true})
		if err != nil {
			return fmt.Errorf("map %s: %w", j.path, err)
		}
		go func() {
			runtime.LockOSThread()
			for n := uint64(0); ; n++ {
				j.store(m.Bytes(), n)
				time.Sleep(j.every)
			}
		}()
	}
	c.printf("ready\n")
	_, err = os.Stdin.Read(make([]byte, 1)) // until the appliance ends
	_ = err                                 // EOF is how it says so
	return nil
}

// appendRecord writes a 64-byte record behind the last one, round and round.
func appendRecord(mem []byte, n uint64) {
	off := int(n*64) % len(mem)
	binary.LittleEndian.PutUint64(mem[off+8:], uint64(time.Now().UnixNano()))
	atomic.StoreUint64(client.Word(mem, off), n+1)
}

// updateRow changes one row of a random page; most updates hit few pages.
func updateRow(mem []byte, n uint64) {
	pages := len(mem) / 4096
	page := rand.IntN(pages)
	if n%4 != 0 {
		page %= max(pages/64, 1)
	}
	atomic.AddUint64(client.Word(mem, page*4096+rand.IntN(64)*64), 1)
}

func beat(mem []byte, n uint64) { atomic.StoreUint64(client.Word(mem, 0), n+1) }

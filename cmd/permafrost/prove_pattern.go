package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"permafrost/dax/client"
)

// The pattern that prove's writers store, and what follows from it.
//
// Writer w of W stores the counters 1, 2, 3, ... one after another, each as one
// aligned 8-byte store. Counter c goes to page c mod P, into the writer's own
// 64-byte slot there. Each page thus holds, per writer, the newest counter that
// belongs to it, and the image shows a prefix of the writer's program order
// exactly if every cell holds the largest counter not above the writer's newest
// one that belongs to its page. A later store without an earlier one shows as a
// cell that is too old.
//
// Two more slots a client follow the writers': one for the stores that forked
// children make, one for the probes: stores to every page of every mapping that
// are tried only while frozen, and must not complete.
const (
	proveSlot     = 64 // bytes: a line, so that writers do not share one
	provePageSize = 4096
	proveSlots    = provePageSize / proveSlot
)

// pattern is the geometry of one run. Immutable.
type pattern struct {
	Clients int `json:"clients"`
	Threads int `json:"threads"` // of each client
	Pages   int `json:"pages"`
	Files   int `json:"files,omitempty"` // that the pages lie in, in turn; 0: 1
}

// files is how many files the pages lie in: page p in file p mod files.
func (p pattern) files() int { return max(p.Files, 1) }

// fileSize is the size of each file.
func (p pattern) fileSize() int64 { return int64(p.Pages/p.files()) * provePageSize }

// joined puts the files' pages in order.
func (p pattern) joined(files [][]byte) ([]byte, error) {
	if p.files() == 1 {
		return files[0], nil
	}
	data := make([]byte, p.Pages*provePageSize)
	for page := range p.Pages {
		from := files[page%p.files()]
		at := page / p.files() * provePageSize
		if len(from) < at+provePageSize {
			return nil, fmt.Errorf("file %d has %d bytes where %d were mapped", page%p.files(), len(from), p.fileSize())
		}
		copy(data[page*provePageSize:], from[at:at+provePageSize])
	}
	return data, nil
}

// writers is how many threads store counters, over all clients.
func (p pattern) writers() int { return p.Clients * p.Threads }

func (p pattern) validate() error {
	if p.Clients < 1 || p.Threads < 1 || p.Pages < 1 {
		return fmt.Errorf("at least one client, one thread and one page are needed")
	}
	if n := p.writers() + 2*p.Clients; n > proveSlots {
		return fmt.Errorf("%d clients of %d threads need %d slots a page; there are %d: use fewer", p.Clients, p.Threads, n, proveSlots)
	}
	if p.Pages > 4096 {
		return fmt.Errorf("%d pages are too many: 4096 at most", p.Pages)
	}
	if p.Files < 0 || p.Pages%p.files() != 0 {
		return fmt.Errorf("%d pages do not divide into %d files: choose a multiple", p.Pages, p.Files)
	}
	return nil
}

func (p pattern) forkSlot(client int) int  { return p.writers() + client }
func (p pattern) probeSlot(client int) int { return p.writers() + p.Clients + client }

// cell is the byte offset of a slot in a page of the file.
func (p pattern) cell(page, slot int) int { return page*provePageSize + slot*proveSlot }

// expected is the counter that page holds once a writer has stored 1..newest.
func (p pattern) expected(newest uint64, page int) uint64 {
	n := uint64(p.Pages)
	back := (newest%n + n - uint64(page)) % n
	if back >= newest { // no counter of this page yet
		return 0
	}
	return newest - back
}

// newest is the largest counter that data shows for a writer.
func (p pattern) newest(data []byte, writer int) uint64 {
	var m uint64
	for page := range p.Pages {
		m = max(m, binary.LittleEndian.Uint64(data[p.cell(page, writer):]))
	}
	return m
}

// wrongCells counts the cells of a writer that do not show exactly the stores
// 1..newest.
func (p pattern) wrongCells(data []byte, writer int, newest uint64) (wrong int, first string) {
	for page := range p.Pages {
		got, want := binary.LittleEndian.Uint64(data[p.cell(page, writer):]), p.expected(newest, page)
		if got != want {
			if wrong == 0 {
				first = fmt.Sprintf("writer %d, page %d: holds %d where %d stores leave %d", writer, page, got, newest, want)
			}
			wrong++
		}
	}
	return wrong, first
}

// board is the memory that a run's processes share beside the image: how far
// every thread is. It is an ordinary file, so it is never held by a freeze.
type board struct {
	mem []byte
	p   pattern
}

// Row layout of the board, a line each: started counter, done counter.
// Rows: writers, then Pages probes for each client, then one fork row for each.
func (p pattern) boardRows() int { return p.writers() + p.Clients*p.Pages + p.Clients }

func openBoard(path string, p pattern, create bool) (*board, error) {
	mode := os.O_RDWR
	if create {
		mode |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(path, mode, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n := p.boardRows() * proveSlot
	if create {
		if err := f.Truncate(int64(n)); err != nil {
			return nil, err
		}
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return &board{mem, p}, nil
}

func (b *board) close() { _ = unix.Munmap(b.mem) }

func (b *board) started(row int) *uint64 { return client.Word(b.mem, row*proveSlot) }
func (b *board) done(row int) *uint64    { return client.Word(b.mem, row*proveSlot+8) }

func (b *board) probeRow(client, page int) int { return b.p.writers() + client*b.p.Pages + page }
func (b *board) forkRow(client int) int        { return b.p.writers() + b.p.Clients*b.p.Pages + client }

// rowState is how far a writer or a probe is.
type rowState struct {
	Started uint64 `json:"started"` // the store it has begun last
	Done    uint64 `json:"done"`    // the last one that it knows completed
}

// boardState is a copy of the board, from which a run is judged.
type boardState struct {
	Writers []rowState   `json:"writers"`
	Probes  [][]rowState `json:"probes"` // by client, then by page
}

// state copies the board. Of each row done is read first: a row never seems to
// have completed what it had not begun.
func (b *board) state() *boardState {
	row := func(n int) rowState {
		done := atomic.LoadUint64(b.done(n))
		return rowState{Started: atomic.LoadUint64(b.started(n)), Done: done}
	}
	s := &boardState{Writers: make([]rowState, b.p.writers()), Probes: make([][]rowState, b.p.Clients)}
	for w := range s.Writers {
		s.Writers[w] = row(w)
	}
	for cl := range s.Probes {
		s.Probes[cl] = make([]rowState, b.p.Pages)
		for page := range s.Probes[cl] {
			s.Probes[cl][page] = row(b.probeRow(cl, page))
		}
	}
	return s
}

// dones copies how many stores every writer has completed.
func (b *board) dones() []uint64 {
	v := make([]uint64, b.p.writers())
	for w := range v {
		v[w] = atomic.LoadUint64(b.done(w))
	}
	return v
}

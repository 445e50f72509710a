package dax

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// client starts a worker attached to the appliance.
func (a *appliance) client(path string, pages int) *worker {
	a.t.Helper()
	w := startWorker(a.t)
	w.do("attach %s", a.socket())
	w.do("map 0 %s 0 %d wcg", path, pages*pageBytes)
	return w
}

// TestRestartWithEveryClientHeld kills the server while all its clients, each
// with a single thread, wait in a store: nobody can help the new server.
func TestRestartWithEveryClientHeld(t *testing.T) {
	dir := newImage(t)
	a, _, _, _ := startAppliance(t, dir)
	var ws []*worker
	for i := range 3 {
		w := a.client([]string{"/a", "/b", "/c"}[i], 8)
		w.do("alone 0 0 0 4096 8")
		w.moved(0, 100)
		ws = append(ws, w)
	}
	a.do("freeze")
	a.waitParked(3)
	a.kill()
	for _, w := range ws {
		w.held(0, 3*time.Millisecond) // nobody serves them, and still they wait
	}
	b, clients, mappings, survivors := startAppliance(t, dir)
	if clients != 3 || mappings != 3 || survivors != 0 {
		t.Fatalf("taken back: %d clients, %d mappings; %d survivors", clients, mappings, survivors)
	}
	for _, w := range ws {
		w.moved(0, w.slot(0)+1000) // a freeze does not outlive its server
	}
	for range 5 {
		b.do("freeze")
		b.waitParked(3)
		for _, w := range ws {
			w.held(0, 2*time.Millisecond)
		}
		b.do("check")
		at := ws[0].slot(0)
		b.do("thaw")
		ws[0].moved(0, at+100)
	}
	for _, w := range ws {
		w.kill()
	}
	eventually(t, "the mappings end", func() bool { return b.do("mappings") == 0 })
	b.close()
}

// TestRestartFindsWrittenPages: what was stored before the server died, through
// pages that are still writable, is in the next freeze.
func TestRestartFindsWrittenPages(t *testing.T) {
	dir := newImage(t)
	a, _, _, _ := startAppliance(t, dir)
	w := a.client("/f", 64)
	w.do("map 1 /g 0 %d wcg", 8*4096)
	w.do("sync 0 0 0")
	for i := range 7 {
		w.do("store 0 %d %d", i*9*4096, i+1)
	}
	w.do("store 1 0 1")
	w.do("discard 1 0 4096") // granted, and no page-table entry tells
	if n := a.do("dirty"); n != 8 {
		t.Fatalf("%d pages dirty, want 8", n)
	}
	a.kill()
	for i := range 7 { // nobody serves it, and these pages are writable
		w.do("store 0 %d %d", i*9*4096, i+101)
	}
	b, _, mappings, _ := startAppliance(t, dir)
	if n := b.do("dirty"); mappings != 2 || n != 8 {
		t.Errorf("after the restart %d pages of %d mappings are dirty, want 8 of 2", n, mappings)
	}
	b.do("freeze")
	w.do("once 1 0 0 7")
	w.do("once 2 1 0 7")
	b.waitParked(2)
	b.do("thaw")
	w.moved(1, 0)
	w.moved(2, 0)
	// The library finds the new server by itself.
	w.do("sync 0 0 0")
	w.do("unmap 0")
	w.do("map 2 /f 0 %d w", 64*4096)
	if got := w.do("load 2 %d", 6*9*4096); got != 107 {
		t.Errorf("the file holds %d, want 107", got)
	}
	w.kill()
	eventually(t, "the mappings end", func() bool { return b.do("mappings") == 0 })
	b.close()
}

// TestRestartAfterCleanStop: between two servers no store passes at all.
func TestRestartAfterCleanStop(t *testing.T) {
	dir := newImage(t)
	a, _, _, _ := startAppliance(t, dir)
	w := a.client("/f", 8)
	w.do("hammer 0 0 0 4096 7")
	w.moved(0, 1000)
	a.close()
	w.held(0, 20*time.Millisecond)
	b, clients, _, _ := startAppliance(t, dir)
	if clients != 1 {
		t.Fatalf("%d clients taken back", clients)
	}
	w.moved(0, w.slot(0)+1000)
	w.do("munmap 0 %d 4096", 7*4096)
	b.do("freeze")
	b.do("thaw")
	w.kill()
	b.close()
}

// TestRestartWhileAMappingMoves: the record is older than the client's last
// mremap and munmap, whose events nobody read.
func TestRestartWhileAMappingMoves(t *testing.T) {
	dir := newImage(t)
	a, _, _, _ := startAppliance(t, dir)
	w := a.client("/f", 8)
	w.do("map 1 /g 0 %d wcg", 8*4096)
	w.do("store 0 0 1")
	w.do("store 1 0 1")
	a.kill()
	w.send("mremap 0 %d %d %d %d", 8*4096, 8*4096, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, 8*4096) // waits for its event to be read
	time.Sleep(20 * time.Millisecond)
	b, _, mappings, _ := startAppliance(t, dir)
	if w.number() != 1 || mappings != 2 {
		t.Fatalf("%d mappings taken back", mappings)
	}
	w.do("hammer 0 0 0 4096 8")
	w.do("hammer 1 1 0 4096 8")
	w.moved(0, 100)
	w.moved(1, 100)
	for range 5 {
		b.do("freeze")
		b.waitParked(2)
		w.held(0, 2*time.Millisecond)
		w.held(1, time.Millisecond)
		b.do("thaw")
		w.moved(0, w.slot(0)+100)
	}
	w.kill()
	eventually(t, "the mappings end", func() bool { return b.do("mappings") == 0 })
	b.close()
}

// TestRestartNamesWhatItCannotHold: a forked process's descriptor was lost with
// the server.
func TestRestartNamesWhatItCannotHold(t *testing.T) {
	dir := newImage(t)
	a, _, _, _ := startAppliance(t, dir)
	w := a.client("/f", 8)
	pid := int(w.do("fork 0 0 0 4096 8"))
	defer syscall.Kill(pid, syscall.SIGKILL)
	w.moved(0, 100)
	a.kill()
	b, clients, _, survivors := startAppliance(t, dir)
	if clients != 1 || survivors != 1 {
		t.Errorf("%d clients and %d survivors, want 1 and 1", clients, survivors)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is named no longer", func() bool { return b.do("survivors") == 0 })
	w.kill()
	eventually(t, "the mappings end", func() bool { return b.do("mappings") == 0 })
	b.close()
}

// TestRestartForgetsTheDead: records of clients that have ended do no harm.
func TestRestartForgetsTheDead(t *testing.T) {
	dir := newImage(t)
	a, _, _, _ := startAppliance(t, dir)
	w := a.client("/f", 8)
	v := a.client("/g", 8)
	w.do("store 0 0 5")
	a.kill()
	w.kill()
	b, clients, _, _ := startAppliance(t, dir)
	if clients != 1 {
		t.Errorf("%d clients taken back, want the living one", clients)
	}
	if s := v.ask("stat /f"); !strings.HasPrefix(s, "ok") {
		t.Error(s)
	}
	v.kill()
	eventually(t, "the mappings end", func() bool { return b.do("mappings") == 0 })
	b.close()
}

// TestRestartWithNothingMapped: a client that only holds a connection goes on.
func TestRestartWithNothingMapped(t *testing.T) {
	dir := newImage(t)
	a, _, _, _ := startAppliance(t, dir)
	w := startWorker(t)
	w.do("attach %s", a.socket())
	w.do("map 0 /f 0 4096 wcg")
	w.do("unmap 0")
	a.kill()
	b, clients, mappings, _ := startAppliance(t, dir)
	if clients != 1 || mappings != 0 {
		t.Errorf("%d clients with %d mappings taken back, want 1 with 0", clients, mappings)
	}
	w.do("map 0 /f 0 4096 w")
	w.do("hammer 0 0 0 4096 1")
	w.moved(0, 100)
	b.do("freeze")
	b.waitParked(1)
	b.do("thaw")
	w.kill()
	eventually(t, "the mappings end", func() bool { return b.do("mappings") == 0 })
	b.close()
	if files, err := os.ReadDir(filepath.Join(dir, "rec")); err != nil || len(files) != 0 {
		t.Errorf("records stay behind: %v %v", files, err)
	}
}

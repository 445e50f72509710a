package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a freeze holds on the mount, and how a held caller leaves.

// killTime is how long a held caller may take to be gone after SIGKILL.
const killTime = time.Second

// heldOps are the requests that wait at the gate.
var heldOps = []string{"write", "part", "create", "mkdir", "unlink", "truncate"} // immutable

// prepareOp starts a worker for an operation of heldOps, in a directory of its own:
// the kernel lets nobody change the names of one in which somebody is held who does.
func prepareOp(t *testing.T, op, at string, threads int, more ...string) *mountWorker {
	t.Helper()
	file := filepath.Join(at, op, op)
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if op == "unlink" {
		for i := range threads {
			if err := os.WriteFile(fmt.Sprintf("%s.%d", file, i), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return startWorker(t, op, file, threads, more...)
}

// TestSIGKILLFreesHeldCallers: a program that is held in a call ends at once when
// it is killed, and what it asked for is not done.
//
// Without the watch of a request's cancel channel: "the program is not gone".
func TestSIGKILLFreesHeldCallers(t *testing.T) {
	s, at := newMountServer(t, "")
	workers := map[string]*mountWorker{}
	for _, op := range heldOps {
		workers[op] = prepareOp(t, op, at, 1)
	}
	s.freeze(t)
	for i, op := range heldOps {
		workers[op].start(t)
		s.awaitBlocked(t, uint64(i+1))
	}
	for i, op := range heldOps {
		took := workers[op].killed(t)
		t.Logf("a held %s was gone after %v", op, took)
		if took > killTime {
			t.Errorf("a held %s was gone only %v after SIGKILL", op, took)
		}
		left := uint64(len(heldOps) - i - 1)
		until(t, "the killed caller gone from the held", func() bool { return s.status(t).BlockedTotal <= left })
	}
	s.thaw(t)
	for _, name := range []string{"create/create.0", "mkdir/mkdir.0"} {
		if _, err := bounded(t, "test", "!", "-e", filepath.Join(at, name)); err != nil {
			t.Errorf("%s was made by a program that was killed before", name)
		}
	}
	if out := mustBounded(t, "stat", "-c", "%s", at+"/truncate/truncate.0", at+"/write/write.0", at+"/unlink/unlink.0"); out != "65536\n0\n0\n" {
		t.Errorf("sizes after the killed calls: %q", out)
	}
}

// TestSignalsDoNotBreakHeldCallers: regular files know no EINTR. Programs rely
// on that, those in Go most of all: their scheduler sends SIGURG all the time.
//
// Without the look at what is pending (mount.killed) in the watch: eintr=..
func TestSignalsDoNotBreakHeldCallers(t *testing.T) {
	s, at := newMountServer(t, "")
	var workers []*mountWorker
	for _, op := range heldOps {
		workers = append(workers, prepareOp(t, op, at, 4, "signals"))
	}
	s.freeze(t)
	for _, w := range workers {
		w.start(t)
	}
	held := uint64(3*4 + 3) // of those who change names in one directory one reaches the server
	s.awaitBlocked(t, held)
	time.Sleep(time.Second) // of signals
	if n := s.status(t).BlockedTotal; n != held {
		t.Errorf("%d callers are held, %d were", n, held)
	}
	s.thaw(t)
	for i, w := range workers {
		if r := w.result(t); r.ok != 4 {
			t.Errorf("%s: %+v", heldOps[i], r)
		}
	}
}

// TestMappedStoreEndsAtTheThaw: the kernel does not let a thread go that is held in
// a store, not even for SIGKILL; the thaw does.
func TestMappedStoreEndsAtTheThaw(t *testing.T) {
	s, at := newMountServer(t, "")
	w := startWorker(t, "store", at+"/f", 2).start(t)
	w.goesOn(t, "a store")
	s.freeze(t)
	w.awaitStill(t)
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.ended:
		t.Log("this kernel lets a killed storer go before the thaw")
		w.ended <- nil
	case <-time.After(200 * time.Millisecond):
	}
	s.thaw(t)
	select {
	case <-w.ended:
	case <-time.After(freezeTime):
		t.Error("the killed storer is not gone after the thaw")
	}
}

// TestSyncOfOthersWhileFrozen: sync(2) and syncfs(2) by somebody else in the system
// come back while programs are held in stores and in writes.
func TestSyncOfOthersWhileFrozen(t *testing.T) {
	s, at := newMountServer(t, "")
	w := startWorker(t, "store", at+"/f", 4).start(t)
	w.goesOn(t, "a store")
	writers := startWorker(t, "write", at+"/w", 4)
	s.freeze(t)
	writers.start(t)
	w.awaitStill(t)
	s.awaitBlocked(t, 8)
	for range 3 {
		mustBounded(t, "sync")
		mustBounded(t, "sync", "-f", at)
	}
	w.held(t, s)
	if r := writers.result(t); r.ok != 4 {
		t.Errorf("the held writers: %+v", r)
	}
}

// TestThousandHeldWriters: 1,000 held writers of 64 KiB cost the server no more
// than 256 MiB. Beyond the limit callers are told EAGAIN; at the thaw everybody who
// waited is done.
func TestThousandHeldWriters(t *testing.T) {
	s, at := newMountServer(t, "", "--create", "256MiB")
	first := startWorker(t, "write", at+"/a", 1000)
	second := startWorker(t, "write", at+"/b", 1000)
	idle := s.rss(t)
	s.freeze(t)
	first.start(t)
	s.awaitBlocked(t, 1000)
	held := s.rss(t)
	t.Logf("server: %d MiB idle, %d MiB with 1,000 held writers", idle>>20, held>>20)
	if held-idle > 256<<20 {
		t.Errorf("1,000 held writers cost %d MiB", (held-idle)>>20)
	}
	second.start(t)
	until(t, "refusals", func() bool { return sum(second.counts(t)) >= 400 }) // finished, that is refused
	t.Logf("server: %d MiB with %d held writers", s.rss(t)>>20, s.status(t).BlockedTotal)
	if grown := s.rss(t) - idle; grown > 512<<20 {
		t.Errorf("the writers that the limit lets in cost %d MiB", grown>>20)
	}
	if m := s.status(t).Mount; m == nil || m.RefusedTotal < 400 || m.HeldTotal < 1500 {
		t.Errorf("the mount's account of held and refused callers: %+v", m)
	}
	mustBounded(t, "ls", at)
	s.thaw(t)
	if r := first.result(t); r.ok != 1000 {
		t.Errorf("the first 1,000: %+v", r)
	}
	r := second.result(t)
	t.Logf("of the second 1,000: %+v", r)
	if r.failed != 0 || r.eintr != 0 || r.eagain < 400 || r.ok+r.eagain != 1000 {
		t.Errorf("the second 1,000: %+v", r)
	}
}

func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// rss is the server's resident memory in bytes.
func (s *testServer) rss(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var kib int64
	if _, after, ok := strings.Cut(string(text), "\nVmRSS:"); !ok {
		t.Fatal("no VmRSS")
	} else if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestPartOfAPageThatIsNotCached: a held write(2) of a part of a page that the kernel has
// not cached keeps that page locked: a read of that very page waits for the thaw
// with it, and reads of its neighbours do not (docs/MOUNT.md).
func TestPartOfAPageThatIsNotCached(t *testing.T) {
	s, at := newMountServer(t, "")
	s.put(t, "part.0", strings.Repeat("x", 64<<10))
	w := startWorker(t, "part", at+"/part", 1)
	s.freeze(t)
	w.start(t)
	s.awaitBlocked(t, 1)
	if out := mustBounded(t, "sh", "-c", "tail -c 4096 "+at+"/part.0 | wc -c"); strings.TrimSpace(out) != "4096" {
		t.Errorf("a read of another page: %q", out)
	}
	mustBounded(t, "stat", at+"/part.0")
	read := startRead(t, at+"/part.0")
	select {
	case <-read:
		t.Log("this kernel does not keep the page locked")
		read <- nil
	case <-time.After(300 * time.Millisecond):
	}
	s.thaw(t)
	select {
	case err := <-read:
		if err != nil {
			t.Errorf("the read after the thaw: %v", err)
		}
	case <-time.After(freezeTime):
		t.Error("the read does not end with the thaw")
	}
	if r := w.result(t); r.ok != 1 {
		t.Errorf("the held write: %+v", r)
	}
}

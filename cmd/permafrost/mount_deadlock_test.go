package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The deadlocks that a FUSE mount frozen by its own server runs into without a
// cure. Each test says how it fails without that.

// TestFreezeAmongResizes: while programs store through mappings, others change the
// length and the mode of the same files. The kernel keeps a file's write-back
// in its own queue while it changes the size, and the change holds the inode's
// lock: a SETATTR held at level Write would keep the freeze from ever seeing
// what was stored, and from dropping the pages.
//
// Without core.WroteBack in mount's SetAttr: the collecting takes its two
// seconds, the fall-back waits for the truncate, and the freeze is answered 503
// after its patience, "freeze: The freeze could not be reached".
func TestFreezeAmongResizes(t *testing.T) {
	s, at := newMountServer(t, "")
	w := startWorker(t, "resize", at+"/f", 8).start(t)
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		w.goesOn(t, "a store and a resize")
		s.freeze(t)
		w.awaitStill(t)
		s.thaw(t)
	}
	w.stop(t)
	if _, err := s.terminate(t); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	t.Logf("%d of %d freezes fell back", strings.Count(s.log.String(), "falls back"), rounds)
}

// TestKillWhileStoresAreHeld: a server that is killed while it holds write-backs is
// gone at once, whoever is held goes on, and the next server takes the place.
func TestKillWhileStoresAreHeld(t *testing.T) {
	s, at := newMountServer(t, "")
	w := startWorker(t, "store", at+"/f", 4).start(t)
	w.goesOn(t, "a store")
	s.freeze(t)
	w.awaitStill(t)
	time.Sleep(100 * time.Millisecond) // for the write-back that goes on while frozen
	s.mustDie(t)
	w.letGo(t)
	s.start(t, "", "--mount", at)
	if out := mustBounded(t, "ls", at); !strings.Contains(out, "f.0") {
		t.Errorf("the next mount shows %q", out)
	}
}

// TestStuckWriteBack: a syncfs that does not come back, as it does not on kernels where it waits
// for write-backs that are held (its child is stopped here), holds up neither the freeze, which
// falls back, nor a stop, nor a kill.
//
// With syncfs called in the server's own process, not by a child: "there is no child
// that writes back". Such a thread could not be stopped, nor could its process end.
func TestStuckWriteBack(t *testing.T) {
	s, at := newMountServer(t, "")
	w := startWorker(t, "store", at+"/f", 4).start(t)
	w.goesOn(t, "a store")
	s.stopSyncer(t)
	s.freeze(t)
	if !strings.Contains(s.log.String(), "falls back") {
		t.Errorf("the freeze does not fall back:\n%s", s.log)
	}
	before, err := os.ReadFile(s.image)
	if err != nil {
		t.Fatal(err)
	}
	w.goesOn(t, "stores that the page cache takes") // and nobody else
	time.Sleep(100 * time.Millisecond)
	if after, err := os.ReadFile(s.image); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the frozen image has changed (%v)", err)
	}
	s.thaw(t)
	w.goesOn(t, "a store after the thaw")
	if took, err := s.terminate(t); err != nil || took > shutdownTime {
		t.Errorf("the server ended with %v after %v\n%s", err, took, s.log)
	}
	w.stop(t)
	s.start(t, "", "--mount", at)
	w = startWorker(t, "store", at+"/f", 4).start(t)
	w.goesOn(t, "a store")
	child := s.stopSyncer(t)
	s.freeze(t)
	_ = s.cmd.Process.Kill()
	_ = syscall.Kill(child, syscall.SIGCONT) // it has the server's standard error, for whose end we wait
	s.mustDie(t)
	w.letGo(t)
	s.start(t, "", "--mount", at)
}

// stopSyncer stops the child that calls syncfs.
func (s *testServer) stopSyncer(t *testing.T) (pid int) {
	t.Helper()
	var text []byte
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	for _, name := range tasks { // a child belongs to the thread that started it
		more, _ := os.ReadFile(name)
		text = append(append(text, ' '), more...)
	}
	for _, child := range strings.Fields(string(text)) {
		comm, _ := os.ReadFile("/proc/" + child + "/comm")
		n, _ := strconv.Atoi(child)
		if strings.HasPrefix(string(comm), "permafrost-sync") {
			if err := syscall.Kill(n, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("there is no child that writes back")
	return 0
}

// TestKillWhileWritingBack: a server can be killed at any moment of a freeze's
// collecting.
func TestKillWhileWritingBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(seedOf(t), 0))
	s, at := newMountServer(t, "")
	for range 4 {
		w := startWorker(t, "store", at+"/f", 40).start(t)
		w.goesOn(t, "a store")
		go func() { // it is not answered
			ctx, cancel := context.WithTimeout(context.Background(), freezeTime)
			defer cancel()
			_, _ = s.client.call(ctx, "POST", "/freeze", nil, nil)
		}()
		time.Sleep(time.Duration(rng.IntN(20_000)) * time.Microsecond)
		s.mustDie(t)
		w.letGo(t)
		s.start(t, "", "--mount", at)
	}
}

// mustDie kills the server, which must be gone soon.
func (s *testServer) mustDie(t *testing.T) {
	t.Helper()
	_ = s.cmd.Process.Kill()
	select {
	case <-s.exited:
		s.serverProcess = nil
	case <-time.After(freezeTime):
		t.Fatal("the server is not gone after SIGKILL")
	}
}

// TestLooksWhileStoresAreHeld: attributes, bytes, open and close of files with
// dirty mapped pages do not wait for the thaw, nor does the freeze for them.
//
// With the kernel's write-back cache (FUSE_WRITEBACK_CACHE): its flusher sends the
// mtime by a SETATTR, as its own thread and not as pid 0, which is held; the file's
// own write-back waits behind it, and each close waits for that: "has not ended".
func TestLooksWhileStoresAreHeld(t *testing.T) {
	s, at := newMountServer(t, "")
	s.put(t, "cached", "bytes")
	w := startWorker(t, "store", at+"/f", 4).start(t)
	w.goesOn(t, "a store")
	mustBounded(t, "cat", at+"/cached")
	s.freeze(t)
	w.awaitStill(t)
	for _, line := range []string{
		"stat F", "cat F >/dev/null", "ls -l D", "head -c 1 F >/dev/null", "exec 3<>F; exec 3>&-", "exec 3>>F; exec 3>&-",
		"cat D/cached", "stat -f D", "test ! -e D/none", "find D -type f", "cp F /dev/null",
	} {
		line = strings.NewReplacer("F", at+"/f.0", "D", at).Replace(line)
		if out, err := bounded(t, "sh", "-c", line); err != nil {
			t.Errorf("%s: %v %s", line, err, out)
		}
	}
	if took := w.held(t, s); took > freezeTime {
		t.Errorf("the storers were let go %v after the thaw", took)
	}
}

// held thaws, and says how long the storers take to go on; then they stop.
func (w *mountWorker) held(t *testing.T, s *testServer) time.Duration {
	t.Helper()
	s.thaw(t)
	began := time.Now()
	w.goesOn(t, "a store after the thaw")
	took := time.Since(began)
	w.stop(t)
	return took
}

// TestReadsPastHeldWriteBacks: held write-backs take places among the requests that
// the kernel asks in the background, reads ahead too; far more are held than the 12 places that
// FUSE has by default.
//
// With MaxBackground 12: the kernel writes no more than 12 pages back and then nothing,
// nor does it read ahead: "20 s have gone by without every storer held", or
// "has not ended".
func TestReadsPastHeldWriteBacks(t *testing.T) {
	s, at := newMountServer(t, "", "--create", "96MiB")
	big := strings.Repeat("0123456789abcdef", 8<<20/16)
	for _, name := range []string{"a", "b"} {
		s.put(t, name, big)
	}
	w := startWorker(t, "store", at+"/f", 40).start(t)
	w.goesOn(t, "a store")
	s.freeze(t)
	w.awaitStill(t)
	s.awaitBlocked(t, 40)
	for _, name := range []string{"a", "b"} {
		if out := mustBounded(t, "sh", "-c", "cat "+at+"/"+name+" | wc -c"); strings.TrimSpace(out) != "8388608" {
			t.Errorf("%s has %s bytes", name, out)
		}
	}
	// By REST as well, of a file that is being stored to.
	ctx, cancel := context.WithTimeout(context.Background(), freezeTime)
	defer cancel()
	if data, err := s.client.readFile(ctx, "/f.0"); err != nil || len(data) != 64<<10 {
		t.Errorf("a file of a held storer by REST: %d bytes, %v", len(data), err)
	}
	w.held(t, s)
}

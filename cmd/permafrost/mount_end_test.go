package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How a mount ends: by SIGTERM of the server, by its death, and by an unmount
// that somebody else asked for.

// TestTermOfAnIdleMount: unmounted, exit status 0, the image clean (newServer checks).
func TestTermOfAnIdleMount(t *testing.T) {
	s, at := newMountServer(t, "")
	mustBounded(t, "sh", "-c", "echo kept >"+at+"/f")
	took, err := s.terminate(t)
	if err != nil || took > shutdownTime/2 {
		t.Errorf("the server ended with %v after %v\n%s", err, took, s.log)
	}
	if mountedAt(t, at) {
		t.Error("the mount is there still")
	}
	s.start(t, "")
	if data, err := s.client.readFile(context.Background(), "/f"); err != nil || string(data) != "kept\n" {
		t.Errorf("the file holds %q, %v", data, err)
	}
}

// TestTermWithDirtyMappings: what a program has stored through its mappings is in
// the image after a stop that came while it has them. The program keeps running.
//
// Without the write-back at the beginning of the unmount: the stores are lost.
func TestTermWithDirtyMappings(t *testing.T) {
	s, at := newMountServer(t, "")
	w := startWorker(t, "dirty", at+"/f", 3).start(t)
	took, err := s.terminate(t)
	if err != nil || took > shutdownTime {
		t.Errorf("the server ended with %v after %v\n%s", err, took, s.log)
	}
	if mountedAt(t, at) {
		t.Error("the mount is there still")
	}
	s.start(t, "")
	s.mustHoldDirty(t)
	w.stop(t)
}

// mustHoldDirty looks for what the threads of a "dirty" worker stored.
func (s *testServer) mustHoldDirty(t *testing.T) {
	t.Helper()
	for i, name := range []string{"/f.0", "/f.1", "/f.2"} {
		data, err := s.client.readFile(context.Background(), name)
		if err != nil || len(data) != 64<<10 {
			t.Fatalf("%s: %d bytes, %v", name, len(data), err)
		}
		for page := range 16 {
			want := bytes.Repeat([]byte{byte(1 + (i+page)%255)}, 4096)
			if !bytes.Equal(data[page*4096:(page+1)*4096], want) {
				t.Errorf("page %d of %s begins with %d, %d was stored", page, name, data[page*4096], want[0])
			}
		}
	}
}

// TestTermWhileFrozenOnTheMount: held writers and storers are let go by the end of
// the freeze, and what they were at is in the image.
func TestTermWhileFrozenOnTheMount(t *testing.T) {
	s, at := newMountServer(t, "")
	storer := startWorker(t, "store", at+"/s", 2).start(t)
	writer := startWorker(t, "write", at+"/w", 2)
	storer.goesOn(t, "a store")
	s.freeze(t)
	writer.start(t)
	storer.awaitStill(t)
	s.awaitBlocked(t, 4)
	took, err := s.terminate(t)
	if err != nil || took > shutdownTime {
		t.Errorf("the server ended with %v after %v\n%s", err, took, s.log)
	}
	if r := writer.result(t); r.ok != 2 {
		t.Errorf("the held writers: %+v", r)
	}
	storer.goesOn(t, "a store after the end")
	s.start(t, "")
	for _, name := range []string{"/w.0", "/w.1"} {
		if data, err := s.client.readFile(context.Background(), name); err != nil || len(data) != 64<<10 {
			t.Errorf("%s of a held writer: %d bytes, %v", name, len(data), err)
		}
	}
	storer.stop(t)
}

// TestKillWhileCallersAreHeld: a server that is killed while it holds calls is
// gone at once; each call ends with an error, and the next start takes the dead
// mount away and serves.
func TestKillWhileCallersAreHeld(t *testing.T) {
	s, at := newMountServer(t, "")
	var workers []*mountWorker
	for _, op := range heldOps {
		workers = append(workers, prepareOp(t, op, at, 1))
	}
	storer := startWorker(t, "store", at+"/s", 2).start(t)
	storer.goesOn(t, "a store")
	s.freeze(t)
	for _, w := range workers {
		w.start(t)
	}
	storer.awaitStill(t)
	s.awaitBlocked(t, uint64(len(workers)+2))
	s.mustDie(t)
	for i, w := range workers {
		if r := w.result(t); r.failed != 1 {
			t.Errorf("a held %s at the death of the server: %+v", heldOps[i], r)
		}
	}
	storer.letGo(t)
	if out, err := bounded(t, "ls", at); err == nil || !strings.Contains(out, "not connected") {
		t.Errorf("the dead mount: %v %q", err, out)
	}
	s.start(t, "", "--mount", at)
	if out := mustBounded(t, "ls", at); !strings.Contains(out, "write") {
		t.Errorf("the next mount shows %q", out)
	}
	mustBounded(t, "sh", "-c", "echo x >"+at+"/new")
	if n := strings.Count(mountTable(t), " "+at+" "); n != 1 {
		t.Errorf("%d mounts lie there", n)
	}
}

// TestLogNobodyReads: a server whose standard output and error have no reader any more
// goes on, and stops in order.
//
// Without taking SIGPIPE: it dies at the next line, and leaves a dead mount.
func TestLogNobodyReads(t *testing.T) {
	s, at := newMountServer(t, "")
	s.end()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	exe, _ := os.Executable()
	cmd := exec.Command(exe, "serve", "--pmem", s.image, "--state", s.state, "--socket", s.socket, "--listen", "127.0.0.1:0", "--mount", at)
	cmd.Stderr = w
	p, err := awaitServer(cmd)
	w.Close()
	r.Close()
	if err != nil {
		t.Fatal(err)
	}
	s.serverProcess = p
	mustBounded(t, "ls", at)
	if _, err := s.terminate(t); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	if mountedAt(t, at) {
		t.Error("the mount is there still")
	}
}

// unmounts are the ways in which somebody else may unmount.
var unmounts = map[string][]string{"umount": nil, "umount -l": {"-l"}, "umount -f": {"-f"}} // immutable

// TestIdleUnmountByOthers: the server says so, and goes on by REST; a restart
// mounts again.
func TestIdleUnmountByOthers(t *testing.T) {
	for name, flags := range unmounts {
		t.Run(name, func(t *testing.T) {
			s, at := newMountServer(t, "")
			mustBounded(t, "sh", "-c", "echo kept >"+at+"/f")
			mustBounded(t, "umount", append(flags, at)...)
			if mountedAt(t, at) {
				t.Error("the mount is there still")
			}
			if data, err := s.client.readFile(context.Background(), "/f"); err != nil || string(data) != "kept\n" {
				t.Errorf("the file holds %q, %v", data, err)
			}
			s.freeze(t)
			s.thaw(t)
			if _, err := s.terminate(t); err != nil || !strings.Contains(s.log.String(), "somebody has unmounted") {
				t.Errorf("the server ended with %v and says\n%s", err, s.log)
			}
			s.start(t, "", "--mount", at)
			mustBounded(t, "cat", at+"/f")
		})
	}
}

// TestUnmountByOthersWhileHeld: while frozen, with held callers. A plain umount is
// refused, a lazy one detaches, a forced one ends the held calls with errors;
// nobody hangs, and the freeze is kept to its end.
func TestUnmountByOthersWhileHeld(t *testing.T) {
	for name, flags := range unmounts {
		t.Run(name, func(t *testing.T) {
			s, at := newMountServer(t, "")
			storer := startWorker(t, "store", at+"/s", 2).start(t)
			writer := startWorker(t, "write", at+"/w", 2)
			storer.goesOn(t, "a store")
			s.freeze(t)
			writer.start(t)
			storer.awaitStill(t)
			s.awaitBlocked(t, 4)
			image, err := os.ReadFile(s.image)
			if err != nil {
				t.Fatal(err)
			}
			out, err := bounded(t, "umount", append(flags, at)...)
			t.Logf("umount %v: %v %s", flags, err, out)
			if (err == nil) != (name == "umount -l") {
				t.Errorf("umount %v of a mount in use: %v", flags, err)
			}
			time.Sleep(100 * time.Millisecond)
			if after, err := os.ReadFile(s.image); err != nil || !bytes.Equal(after, image) {
				t.Errorf("the frozen image has changed (%v)", err)
			}
			s.thaw(t)
			r := writer.result(t)
			if name == "umount -f" && r.failed != 2 || name != "umount -f" && r.ok != 2 {
				t.Errorf("the held writers: %+v", r)
			}
			storer.goesOn(t, "a store after the thaw")
			storer.stop(t)
			if name != "umount" { // a lazy unmount ends with its last user
				until(t, "word of the unmount", func() bool { return strings.Contains(s.log.String(), "somebody has unmounted") })
			}
			s.freeze(t) // it serves
			s.thaw(t)
			if _, err := s.terminate(t); err != nil {
				t.Errorf("the server ended with %v", err)
			}
			if mountedAt(t, at) {
				t.Error("the mount is there still")
			}
		})
	}
}

// TestLazyUnmountThenTerm: a program's stores through a mount that somebody has
// detached are in the image after the server's stop.
func TestLazyUnmountThenTerm(t *testing.T) {
	s, at := newMountServer(t, "")
	w := startWorker(t, "dirty", at+"/f", 3).start(t)
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if took, err := s.terminate(t); err != nil || took > shutdownTime {
		t.Errorf("the server ended with %v after %v\n%s", err, took, s.log)
	}
	s.start(t, "")
	s.mustHoldDirty(t)
	w.stop(t)
}

// TestDeadMountOfAnotherServer: the dead mount of a killed server is taken away, a
// live mount is refused.
func TestDeadMountOfAnotherServer(t *testing.T) {
	s, at := newMountServer(t, "")
	out, err := program(t, 30*time.Second, "serve", "--pmem", s.dir+"/other.pmem", "--create", "8MiB", "--state", s.dir+"/other",
		"--socket", s.dir+"/o", "--listen", "127.0.0.1:0", "--mount", at)
	if exitCode(err) != exitFailed || !strings.Contains(out, "mounted there already") {
		t.Errorf("a second server on a live mount: %v %s", err, out)
	}
	mustBounded(t, "ls", at)
	s.mustDie(t)
	if _, err := os.Stat(at); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("the mount of a killed server: %v", err)
	}
	s.start(t, "", "--mount", at)
	mustBounded(t, "ls", at)
}

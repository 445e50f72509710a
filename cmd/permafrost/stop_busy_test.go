package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// SIGTERM in the middle of something: the stop is bounded, nothing half done can be
// seen afterwards, and whoever waits learns how it ended.

// attachWriter starts a program that maps the appliance's image, as the kill
// loop's do. It ends with the test.
func attachWriter(t *testing.T, s *testServer) *killWriterProcess {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("attaching follows forks, which needs CAP_SYS_PTRACE: run as root")
	}
	w, err := startKillWriter(&killEra{dir: s.dir, srv: s})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.end(); w.b.close() })
	return w
}

// terminate tells the server to stop and returns how it ended and how long that
// took.
func (s *testServer) terminate(t *testing.T) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := s.awaitExit(t)
	return time.Since(began), err
}

// until waits for a condition, 20 s at most.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("20 s have gone by without %s", what)
		}
	}
}

// freezeState is how a freeze is on record.
func (s *testServer) freezeState(t *testing.T, id uint64) string {
	t.Helper()
	var fr wireFreeze
	if _, err := s.client.call(context.Background(), "GET", fmt.Sprintf("/freezes/%d", id), nil, &fr); err != nil {
		t.Fatal(err)
	}
	return fr.State
}

// TestTermWhileProgramsAreHeld: programs held by a freeze are let go by its end,
// and held again by the stop, until the next server serves them.
func TestTermWhileProgramsAreHeld(t *testing.T) {
	s := newServer(t, "")
	w := attachWriter(t, s)
	var fr wireFreeze
	if _, err := s.client.call(context.Background(), "POST", "/freeze", params("holder", "backup", "lease", "5m"), &fr); err != nil {
		t.Fatal(err)
	}
	until(t, "a held thread", func() bool { return s.status(t).BlockedTotal >= killThreads })
	took, err := s.terminate(t)
	if err != nil || took > shutdownTime/2 {
		t.Errorf("the server ended with %v after %v\n%s", err, took, s.log)
	}
	at := w.b.dones()
	time.Sleep(50 * time.Millisecond) // nobody serves: no store may complete
	for i, done := range w.b.dones() {
		if done != at[i] {
			t.Errorf("thread %d stored %d times while nobody served", i, done-at[i])
		}
	}
	s.start(t, "")
	if err := w.goesOn(context.Background()); err != nil {
		t.Error(err)
	}
	if state := s.freezeState(t, fr.ID); state != "interrupted" {
		t.Errorf("the freeze is on record as %s", state)
	}
	if _, err := s.client.call(context.Background(), "POST", "/thaw", params("hold", fr.Hold), nil); err == nil {
		t.Error("the thaw of an interrupted hold succeeds")
	}
	w.kill()
}

// TestTermWhileAFreezeIsReached: the freeze waits for a program that cannot be
// held, and the stop does not wait for the freeze's patience. The program is
// one whose record is lost: it maps the image, and nobody has its descriptor.
func TestTermWhileAFreezeIsReached(t *testing.T) {
	s := newServer(t, "")
	w := attachWriter(t, s)
	if err := w.proc.Signal(syscall.SIGSTOP); err != nil { // else it would notice, and end
		t.Fatal(err)
	}
	s.kill()
	if err := os.RemoveAll(filepath.Join(s.state, "attach")); err != nil {
		t.Fatal(err)
	}
	s.start(t, "")
	if _, err := s.client.call(context.Background(), "GET", "/readyz", nil, nil); err == nil {
		t.Fatal("the appliance is ready although a program cannot be held")
	}
	change := make(chan error, 1)
	go func() {
		change <- ask("PUT", "/files/late", params("wait", "10m"), []byte("x"))(context.Background(), s.client)
	}()
	s.termWhileFreezing(t, shutdownTime/2, nil)
	var p *problem
	if err := <-change; !errors.As(err, &p) || p.name() != "shutting-down" {
		t.Errorf("a change that waited for the same was answered %v", err)
	}
	w.kill()
	s.start(t, "")
	if _, err := s.client.readFile(context.Background(), "/late"); !errors.As(err, &p) || p.Status != 404 {
		t.Errorf("the refused change was made (%v)", err)
	}
}

// TestTermWhileAProgramIsStuck: the freeze waits for a program whose munmap does
// not finish, and so does the stop: as long as a step may, and it says so.
func TestTermWhileAProgramIsStuck(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the patience of a stop")
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("the C client is built with gcc, and attaching needs root")
	}
	worker := filepath.Join(t.TempDir(), "worker")
	if out, err := exec.Command(gcc, "-D_GNU_SOURCE", "-std=gnu11", "-O2", "-I", "../../dax/c", "-o", worker,
		"../../dax/testdata/worker.c", "-pthread").CombinedOutput(); err != nil {
		t.Fatalf("build the worker: %v\n%s", err, out)
	}
	s := newServer(t, "")
	progress := filepath.Join(t.TempDir(), "progress")
	if err := os.WriteFile(progress, make([]byte, provePageSize), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(worker, progress)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for _, line := range []string{"attach " + s.attach, "map 0 /f 0 8192 wcg", "map 1 /f 0 4096 w", "store 0 4096 1", "stuck 1"} {
		fmt.Fprintln(in, line)
		answer := make([]byte, 200)
		if n, err := out.Read(answer); err != nil || !strings.HasPrefix(string(answer[:n]), "ok") {
			t.Fatalf("%s: %q %v", line, answer[:n], err)
		}
	}
	time.Sleep(50 * time.Millisecond) // it says ok before it is stuck
	s.termWhileFreezing(t, shutdownTime+shutdownTime/2, func(err error, log string) {
		if exitCode(err) != exitFailed || !strings.Contains(log, "worker") {
			t.Errorf("the server ended with %v and does not name the program:\n%s", err, log)
		}
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	s.start(t, "")
}

// termWhileFreezing asks for a freeze that cannot be reached, stops the server
// within the time given, and looks how either ended; ended judges another end of
// the server than a good one.
func (s *testServer) termWhileFreezing(t *testing.T, within time.Duration, ended func(err error, log string)) {
	t.Helper()
	answer := make(chan error, 1)
	go func() {
		_, err := s.client.call(context.Background(), "POST", "/freeze", params("holder", "backup", "patience", "10m", "lease", "10m"), nil)
		answer <- err
	}()
	if ended != nil {
		until(t, "a freeze that is being reached", func() bool { return s.status(t).State == "freezing" })
	} else {
		time.Sleep(100 * time.Millisecond) // it waits before it is one: nothing shows it
	}
	took, err := s.terminate(t)
	if took > within {
		t.Errorf("the stop took %v", took)
	}
	if ended != nil {
		ended(err, s.log.String())
	} else if err != nil {
		t.Errorf("the server ended with %v\n%s", err, s.log)
	}
	var p *problem
	if err := <-answer; !errors.As(err, &p) || p.name() != "shutting-down" {
		t.Errorf("the freeze was answered %v", err)
	}
}

// TestTermDuringReplacingUpload: an upload that is cut off by the stop, once
// while it streams and once while a freeze holds it at the gate, leaves the
// old content, and nothing else.
func TestTermDuringReplacingUpload(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the patience of a stop")
	}
	for _, frozen := range []bool{false, true} {
		t.Run(fmt.Sprintf("frozen=%v", frozen), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, "")
			ctx := context.Background()
			old := bytes.Repeat([]byte("old "), 1<<18)
			if err := ask("PUT", "/files/kept", nil, old)(ctx, s.client); err != nil {
				t.Fatal(err)
			}
			free := s.status(t).Space.FreeBytes
			body, feed := io.Pipe()
			defer feed.Close()
			answer := make(chan error, 1)
			go func() {
				_, err := s.client.do(ctx, "PUT", "/files/kept", nil, body)
				answer <- err
			}()
			chunk := make([]byte, 4<<20)
			if _, err := feed.Write(chunk); err != nil {
				t.Fatal(err)
			}
			until(t, "blocks of the upload", func() bool { return s.status(t).Space.FreeBytes < free })
			if frozen {
				if _, err := s.client.call(ctx, "POST", "/freeze", params("lease", "5m"), nil); err != nil {
					t.Fatal(err)
				}
				go feed.Write(chunk) // it ends with the pipe
				until(t, "a held upload", func() bool { return s.status(t).BlockedTotal > 0 })
			}
			took, err := s.terminate(t)
			if err != nil || took > shutdownTime+shutdownTime/2 {
				t.Errorf("the server ended with %v after %v\n%s", err, took, s.log)
			}
			if strings.Contains(s.log.String(), "ERROR") {
				t.Errorf("the stop failed somewhere:\n%s", s.log)
			}
			feed.Close() // the client's transport waits for its body's reader
			if err := <-answer; err == nil {
				t.Error("an upload that was cut off is answered as done")
			}
			s.start(t, "")
			if data, err := s.client.readFile(ctx, "/kept"); err != nil || !bytes.Equal(data, old) {
				t.Errorf("the file holds %d bytes (%v) where %d were", len(data), err, len(old))
			}
			if names, err := listDir(ctx, s.client, "/"); err != nil || len(names) != 1 {
				t.Errorf("besides the file there is %v (%v)", names, err)
			}
			until(t, "the upload's blocks free again", func() bool {
				return ask("POST", "/fsync", nil, nil)(ctx, s.client) == nil && s.status(t).Space.FreeBytes >= free
			})
		})
	}
}

// TestTermDuringImageRead: whoever copies a frozen image learns from the
// connection that the copy is not whole.
func TestTermDuringImageRead(t *testing.T) {
	s := newServer(t, "")
	ctx := context.Background()
	var fr wireFreeze
	if _, err := s.client.call(ctx, "POST", "/freeze", params("holder", "backup", "lease", "5m"), &fr); err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.do(ctx, "GET", fmt.Sprintf("/freezes/%d/image", fr.ID), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	took, err := s.terminate(t)
	if err != nil || took > shutdownTime/2 {
		t.Errorf("the server ended with %v after %v\n%s", err, took, s.log)
	}
	if n, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Errorf("a copy cut off after %d more bytes of %d ends without an error", n, resp.ContentLength)
	}
	s.start(t, "")
	if state := s.freezeState(t, fr.ID); state != "interrupted" {
		t.Errorf("the freeze is on record as %s", state)
	}
}

// TestStopWithFullLedgerDisk: what cannot be written is given up soon, and named;
// what can be is written, also if that takes a moment.
func TestStopWithFullLedgerDisk(t *testing.T) {
	for _, freed := range []bool{false, true} {
		t.Run(fmt.Sprintf("freed=%v", freed), func(t *testing.T) {
			s := newServer(t, "")
			s.end()
			if err := unix.Mount("tmpfs", s.state, "tmpfs", 0, "size=1500k"); err != nil {
				t.Skipf("needs root to mount a small disk: %v", err)
			}
			defer unix.Unmount(s.state, unix.MNT_DETACH)
			s.start(t, "")
			filler := filepath.Join(s.state, "filler")
			if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("the disk is not full: %v", err)
			}
			ctx, frozen := context.Background(), uint64(0)
			until(t, "a degraded ledger", func() bool {
				var fr wireFreeze
				if _, err := s.client.call(ctx, "POST", "/freeze", params("holder", "backup"), &fr); err != nil {
					t.Fatal(err)
				}
				frozen = fr.ID
				if _, err := s.client.call(ctx, "POST", "/thaw", params("hold", fr.Hold), nil); err != nil {
					t.Fatal(err)
				}
				return s.status(t).Ledger.State == "degraded"
			})
			var done atomic.Bool
			if freed { // in the middle of the stop
				time.AfterFunc(degradedTime/6, func() { os.Remove(filler); done.Store(true) })
			}
			took, err := s.terminate(t)
			if took > degradedTime+5*time.Second {
				t.Errorf("the stop took %v", took)
			}
			if freed && (err != nil || !done.Load()) {
				t.Errorf("the server ended with %v after %v, although there was room again\n%s", err, took, s.log)
			}
			if !freed && (exitCode(err) != exitFailed || !strings.Contains(s.log.String(), "rows could not be written")) {
				t.Errorf("the server ended with %v and does not say what is lost:\n%s", err, s.log)
			}
			os.Remove(filler)
			s.start(t, "")
			if freed {
				if state := s.freezeState(t, frozen); state != "thawed" {
					t.Errorf("the newest freeze is on record as %s", state)
				}
			}
			s.end()
			s.serverProcess = nil
		})
	}
}

package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStopWhileFrozen: a server that is told to stop ends the freeze first.
// Whoever the freeze held is answered and nothing of it is lost, the file system
// is unmounted in order, and the stop does not wait for the lease.
func TestStopWhileFrozen(t *testing.T) {
	s := newServer(t, "")
	ctx := context.Background()
	var fr wireFreeze
	if _, err := s.client.call(ctx, "POST", "/freeze", params("holder", "backup", "lease", "5m"), &fr); err != nil {
		t.Fatal(err)
	}
	held := make(chan error, 1)
	go func() {
		_, err := s.client.do(ctx, "PUT", "/files/held?wait=2m", nil, strings.NewReader("held"))
		held <- err
	}()
	for s.status(t).BlockedTotal == 0 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-held; err != nil {
		t.Errorf("the held upload: %v", err)
	}
	if err := s.awaitExit(t); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	if d := time.Since(began); d > shutdownTime/2 {
		t.Errorf("the stop took %v", d)
	}
	if strings.Contains(s.log.String(), "ERROR") {
		t.Errorf("the stop failed somewhere:\n%s", s.log)
	}
	s.start(t, "")
	if data, err := s.client.readFile(ctx, "/held"); err != nil || string(data) != "held" {
		t.Errorf("the held upload left %q (%v)", data, err)
	}
	_, err := s.client.call(ctx, "POST", "/thaw", params("hold", fr.Hold), nil)
	if p, ok := err.(*problem); !ok || p.Status != http.StatusGone {
		t.Errorf("a thaw of the interrupted hold: %v", err)
	}
}

// awaitExit is how a server ended that was told to.
func (s *testServer) awaitExit(t *testing.T) error {
	t.Helper()
	defer func() { s.serverProcess = nil }()
	select {
	case err := <-s.exited:
		return err
	case <-time.After(2 * shutdownTime):
		t.Fatal("the server does not stop")
		return nil
	}
}

// TestLedgerLost: freeze ids are not given twice even if the ledger that knew
// them is gone. Else the thaw of a hold of before the crash would end somebody
// else's, and be told that all is well with its copy.
func TestLedgerLost(t *testing.T) {
	s := newServer(t, "")
	ctx := context.Background()
	var lost wireFreeze
	if _, err := s.client.call(ctx, "POST", "/freeze", params("holder", "backup", "lease", "5m"), &lost); err != nil {
		t.Fatal(err)
	}
	s.kill()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		os.Remove(filepath.Join(s.state, "ledger.db"+suffix))
	}
	s.start(t, "")
	_, err := s.client.call(ctx, "POST", "/thaw", nil, nil)
	if p, ok := err.(*problem); !ok || p.Status != http.StatusGone {
		t.Errorf("a bare thaw of a freeze that only the image knows: %v", err)
	}
	if _, err := s.client.call(ctx, "POST", "/thaw", nil, nil); err != nil {
		t.Errorf("a bare thaw after it was told: %v", err)
	}
	s.kill() // by now the freeze's own commit is not the newest
	s.start(t, "")
	var other wireFreeze
	if _, err := s.client.call(ctx, "POST", "/freeze", params("holder", "other", "lease", "5m"), &other); err != nil {
		t.Fatal(err)
	}
	if other.ID <= lost.ID {
		t.Errorf("freeze %d comes after freeze %d", other.ID, lost.ID)
	}
	var r wireThaw
	if _, err := s.client.call(ctx, "POST", "/thaw", params("hold", lost.Hold), &r); err == nil {
		t.Errorf("the thaw of a hold that was lost: %+v", r)
	}
	if _, err := s.client.call(ctx, "POST", "/thaw", params("hold", other.Hold), nil); err != nil {
		t.Errorf("the other's hold: %v", err)
	}
}

package store

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const crashEnv = "LEDGER_CRASH_PATH"

// crashChild is the process that dies: it commits an intent, tells so and
// waits for its end.
func crashChild() {
	l, err := Open(context.Background(), os.Getenv(crashEnv), quick())
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	done := fullFreeze(1)
	l.RecordFreeze(done)
	l.RecordEvent(LedgerEvent{At: openFreeze(2).RequestedAt.Add(5 * time.Second), Kind: "dirty"})
	if err := l.Flush(context.Background()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if err := l.Intent(context.Background(), openFreeze(2)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("intent")
	select {}
}

// TestCrashInterrupts kills a process between intent and outcome (L8).
func TestCrashInterrupts(t *testing.T) {
	path := filepath.Join(shm(t), "ledger.db")
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashEnv+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 200)
	n, _ := out.Read(said)
	if string(said[:n]) != "intent\n" {
		t.Errorf("the child said %q", said[:n])
	}
	// The second appliance is refused while the first lives, and names it.
	_, err = Open(patient(t), path, quick())
	wantError(t, err, ErrLocked, fmt.Sprintf("pid %d", cmd.Process.Pid))
	cmd.Process.Kill()
	cmd.Wait()

	l := mustOpen(t, path, quick())
	lost := l.Interrupted()
	if len(lost) != 1 || lost[0].ID != 2 || lost[0].State != "interrupted" {
		t.Fatalf("interrupted: %+v", lost)
	}
	if f := must(l.Freeze(patient(t), 1))(t); f.State != "thawed" {
		t.Errorf("a freeze that had ended is now %s", f.State)
	}
	f := must(l.Freeze(patient(t), 2))(t)
	if h := f.Holds[0]; f.State != "interrupted" || h.End != "interrupted" || !h.EndedAt.Equal(f.EndedAt) {
		t.Errorf("%+v", f)
	}
	if want := openFreeze(2).RequestedAt.Add(5 * time.Second); !f.EndedAt.Equal(want) {
		t.Errorf("ended at %s, the last sign of life was at %s", f.EndedAt, want)
	}
	if err := l.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	if l = mustOpen(t, path, quick()); len(l.Interrupted()) != 0 {
		t.Errorf("interrupted twice: %+v", l.Interrupted())
	}
}

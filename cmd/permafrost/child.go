package main

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

// writerProcess is a child of this binary that steers by lines: prove's and
// bench's writers. A process must not be the client of its own server.
type writerProcess struct {
	proc  *os.Process
	stdin *os.File
	lines *bufio.Scanner
}

// startChild runs this binary again under a hidden verb. The child ends when
// its standard input does.
func startChild(verb string, args ...string) (*writerProcess, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		inR.Close()
		inW.Close()
		return nil, err
	}
	proc, err := os.StartProcess(exe, append([]string{exe, verb}, args...), &os.ProcAttr{
		Files: []*os.File{inR, outW, os.Stderr},
		Env:   append(os.Environ(), "GODEBUG=asyncpreemptoff=1"),
	})
	inR.Close()
	outW.Close()
	if err != nil {
		inW.Close()
		outR.Close()
		return nil, fmt.Errorf("start %s: %w", verb, err)
	}
	return &writerProcess{proc, inW, bufio.NewScanner(outR)}, nil
}

// expect reads one line, which must be the one named, within the time.
func (w *writerProcess) expect(line string, within time.Duration) error {
	got := make(chan error, 1)
	go func() {
		if !w.lines.Scan() {
			got <- fmt.Errorf("the writer ended before saying %q", line)
			return
		}
		if w.lines.Text() != line {
			got <- fmt.Errorf("the writer said %q where %q was due", w.lines.Text(), line)
			return
		}
		got <- nil
	}()
	select {
	case err := <-got:
		return err
	case <-time.After(within):
		return fmt.Errorf("the writer did not say %q within %s", line, within)
	}
}

func (w *writerProcess) say(line string) error {
	_, err := w.stdin.WriteString(line + "\n")
	return err
}

// end makes sure that the process is gone.
func (w *writerProcess) end() {
	w.stdin.Close()
	_ = w.proc.Kill() // it may have ended by itself
	_, _ = w.proc.Wait()
}

// nameProcess is what ps, /mappings and /blocked call this process: a child
// would otherwise go by the name of its binary. Failing is harmless.
func nameProcess(name string) { _ = os.WriteFile("/proc/self/comm", []byte(name), 0o644) }

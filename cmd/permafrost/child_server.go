package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// serverProcess is an appliance run as a child of its own: the bench's, and
// the tests'.
type serverProcess struct {
	cmd    *exec.Cmd
	base   string     // http://127.0.0.1:PORT
	client *apiClient // over TCP
	exited chan error // its Wait; buffered
}

// startServer runs `serve` with the given flags and returns when it says that
// it serves.
func startServer(args ...string) (*serverProcess, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startServerOf(exe, os.Stderr, args...)
}

func startServerOf(exe string, stderr io.Writer, args ...string) (*serverProcess, error) {
	cmd := exec.Command(exe, append([]string{"serve"}, args...)...)
	cmd.Stderr = stderr
	return awaitServer(cmd)
}

// awaitServer starts a server as the command says, and returns when it serves.
func awaitServer(cmd *exec.Cmd) (*serverProcess, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	s := &serverProcess{cmd: cmd, exited: make(chan error, 1)}
	base := make(chan string, 1)
	go func() {
		in := bufio.NewScanner(out)
		for in.Scan() {
			if url, ok := strings.CutPrefix(strings.TrimSpace(in.Text()), "dashboard"); ok {
				base <- strings.TrimSuffix(strings.TrimSpace(url), "/ui/")
			}
		}
		s.exited <- cmd.Wait()
	}()
	select {
	case s.base = <-base:
	case err := <-s.exited:
		return nil, fmt.Errorf("the server ended at its start: %w", err)
	case <-time.After(2 * time.Minute):
		s.end()
		return nil, fmt.Errorf("the server did not come up within two minutes")
	}
	s.client = &apiClient{base: s.base, http: &http.Client{}}
	return s, nil
}

// end stops the server in its orderly way, and by force after 30 s.
func (s *serverProcess) end() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
}

// kill ends the server as a crash would.
func (s *serverProcess) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

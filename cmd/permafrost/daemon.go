package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLog is how long a log may be before the next start begins a new one.
const maxLog = 4 << 20

// daemon is a server in the background that serves.
type daemon struct {
	pid       int
	addresses []string
}

// background starts the server of a mount and returns when it serves, or with
// the error that it ended with. A signal meanwhile ends it.
func (p *mountPlan) background() (*daemon, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := openLog(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	told, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer told.Close()
	// Of a session of its own: it must outlive the terminal.
	cmd := exec.Command(exe, append(p.args, "--ready-fd=3")...)
	cmd.Args[0] = "permafrost"
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", log, log, []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-signals:
			_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		case <-done:
		}
	}()
	text, err := io.ReadAll(told) // until it has told, or is gone
	if err != nil {
		return nil, err
	}
	if rest, ok := strings.CutPrefix(string(text), readyWord); ok {
		return &daemon{pid: cmd.Process.Pid, addresses: strings.Fields(rest)}, nil
	}
	err = cmd.Wait()
	if why := strings.TrimSpace(string(text)); why != "" {
		return nil, errors.New(why)
	}
	return nil, fmt.Errorf("the server ended before it served (%w): its log is %s", err, p.log)
}

// openLog opens the log of a server for appending; a long one is put aside.
func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w (choose another with -o state=DIR)", err)
	}
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the server's log: %w", err)
	}
	return f, nil
}

// readyWord begins what a server tells whoever started it: addresses follow.
// Anything else is why it ends.
const readyWord = "serving "

// starter is whoever waits for this server to serve. The zero value is nobody.
type starter struct{ f *os.File }

// openStarter takes over the descriptor that was given; children must not have it.
func openStarter(fd int) starter {
	if fd <= 0 {
		return starter{}
	}
	syscall.CloseOnExec(fd)
	return starter{os.NewFile(uintptr(fd), "ready")}
}

// serving tells that the server serves.
func (s *starter) serving(addresses ...string) { s.say(readyWord + strings.Join(addresses, " ")) }

// ended tells why it does not; after serving it tells nothing.
func (s *starter) ended(err error) {
	if err != nil {
		s.say(err.Error())
	}
}

func (s *starter) say(text string) {
	if s.f == nil {
		return
	}
	_, _ = s.f.WriteString(text) // nobody may be waiting any more
	s.f.Close()
	s.f = nil
}

// notifySystemd tells a service manager that we serve, where one asks to be told
// (sd_notify(3), Type=notify).
func notifySystemd(socket string) error {
	if socket == "" {
		return nil
	}
	if socket[0] == '@' { // an abstract one
		socket = string(append([]byte{0}, bytes.TrimPrefix([]byte(socket), []byte("@"))...))
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("READY=1"))
	return err
}

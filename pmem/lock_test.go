package pmem

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// roleVariable tells a child of this test what to be.
const roleVariable = "PMEM_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// play is a child: a server that starts a client with a descriptor and waits
// to be killed, or that client, which maps, closes and waits for its stdin.
func play(role, path string) error {
	switch role {
	case "server":
		return playServer(path)
	case "client":
		const descriptor = 3 // the first of ExtraFiles
		if _, err := unix.Mmap(descriptor, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return err
		}
		if err := unix.Close(descriptor); err != nil {
			return err
		}
		fmt.Println(os.Getpid())
		_, err := io.Copy(io.Discard, os.Stdin) // ends when the test closes it
		return err
	default:
		return errors.New("unknown role " + role)
	}
}

func playServer(path string) error {
	r, err := Open(path, Options{})
	if err != nil {
		return err
	}
	f, err := r.DuplicateForClients()
	if err != nil {
		return err
	}
	client := exec.Command(os.Args[0], path)
	client.Env = append(os.Environ(), roleVariable+"=client")
	client.ExtraFiles = []*os.File{f}
	client.Stdin, client.Stdout, client.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := client.Start(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return client.Wait()
}

func TestSecondServerIsRefused(t *testing.T) {
	path := filepath.Join(shmDir(t), "image")
	r, err := Create(path, 1<<16, Options{})
	mustDo(t, err)
	if _, err := Open(path, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	mustDo(t, err)
	defer f.Close()
	if _, err := OpenFD(f, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("open of a descriptor: %v", err)
	}
	// The refusals took nothing from the first.
	mustWrite(t, r, 0, []byte{1})
	mustDo(t, r.Close())
	r, err = Open(path, Options{})
	mustDo(t, err)
	mustDo(t, r.Close())
}

func TestClientLockLivesWithMappings(t *testing.T) {
	r := newMemfd(t, 1<<16, Options{})
	want := func(want bool, when string) {
		t.Helper()
		got, err := r.SurvivingMappings()
		if got != want || err != nil {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	want(false, "at first")
	f, err := r.DuplicateForClients()
	mustDo(t, err)
	g, err := r.DuplicateForClients()
	mustDo(t, err)
	want(true, "two descriptors")
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v", flags, err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	mustDo(t, err)
	mem[9] = 42
	if r.Bytes(9, 1)[0] != 42 {
		t.Error("the client maps another file")
	}
	mustDo(t, g.Close())
	want(true, "one descriptor, mapped")
	mustDo(t, f.Close())
	want(true, "only the mapping")
	mustDo(t, unix.Munmap(mem))
	want(false, "nothing left")
}

// TestMappingSurvivesItsServer kills a server whose client has only a mapping:
// the next server gets the lock and learns of the mapping until the client ends.
func TestMappingSurvivesItsServer(t *testing.T) {
	path := filepath.Join(shmDir(t), "image")
	r, err := Create(path, 1<<16, Options{})
	mustDo(t, err)
	mustDo(t, r.Close())

	server := exec.Command(os.Args[0], path)
	server.Env = append(os.Environ(), roleVariable+"=server")
	server.Stderr = os.Stderr
	// Pipes of our own: the client holds them too, and Wait must not wait for it.
	stdin, toClient, err := os.Pipe()
	mustDo(t, err)
	fromClient, stdout, err := os.Pipe()
	mustDo(t, err)
	server.Stdin, server.Stdout = stdin, stdout
	mustDo(t, server.Start())
	mustDo(t, stdin.Close())
	mustDo(t, stdout.Close())
	defer toClient.Close()
	defer fromClient.Close()
	var client int
	if _, err := fmt.Fscanln(fromClient, &client); err != nil {
		t.Fatalf("the client did not map: %v", err)
	}
	pidfd, err := unix.PidfdOpen(client, 0)
	mustDo(t, err)
	defer unix.Close(pidfd)
	if _, err := Open(path, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("open while the server runs: %v", err)
	}

	mustDo(t, server.Process.Kill())
	if err := server.Wait(); err == nil {
		t.Error("the killed server ended well")
	}
	r, err = Open(path, Options{})
	mustDo(t, err)
	defer r.Close()
	if found, err := r.SurvivingMappings(); !found || err != nil {
		t.Errorf("with the client alive: %v, %v", found, err)
	}
	mustDo(t, toClient.Close())
	// The pipes may close before the mapping goes; the process ends after it.
	const patienceMillis = 30000
	ended := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	if n, err := pollAgain(ended, patienceMillis); n != 1 || err != nil {
		t.Fatalf("the client does not end: %v", err)
	}
	if found, err := r.SurvivingMappings(); found || err != nil {
		t.Errorf("with the client gone: %v, %v", found, err)
	}
}

// pollAgain is poll that a signal does not end.
func pollAgain(fds []unix.PollFd, millis int) (n int, err error) {
	for {
		if n, err = unix.Poll(fds, millis); err != unix.EINTR {
			return n, err
		}
	}
}

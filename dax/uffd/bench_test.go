package uffd

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const benchPages = 2048

// storerEnv makes the test binary the other process of BenchmarkBareRoundTrip.
const storerEnv = "PERMAFROST_UFFD_STORER"

func TestMain(m *testing.M) {
	if cpu := os.Getenv(storerEnv); cpu != "" {
		storer(cpu)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// BenchmarkBareRoundTrip is what this machine asks for one first store that
// another process answers, with nothing of ours between: the floor under
// `permafrost bench fault`. Both on one processor, then on two with a server
// that sleeps, then with one that looks on. It needs two processors and root.
func BenchmarkBareRoundTrip(b *testing.B) {
	if os.Geteuid() != 0 || runtime.NumCPU() < 2 {
		b.Skip("needs root and two processors")
	}
	for _, c := range []struct {
		name           string
		server, client int
		look           bool
	}{{"one processor", 0, 0, false}, {"two, server sleeps", 0, 1, false}, {"two, server looks on", 0, 1, true}} {
		b.Run(c.name, func(b *testing.B) {
			var total time.Duration
			for b.Loop() {
				total += bareRun(b, c.server, c.client, c.look)
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(b.N*benchPages), "ns/store")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// bareRun answers one storer's faults, each with one grant, and gives the time
// that it took the storer.
func bareRun(b *testing.B, server, client int, look bool) time.Duration {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", storerEnv, client))
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	lines := bufio.NewScanner(out)
	lines.Scan()
	number, err := strconv.Atoi(lines.Text())
	if err != nil {
		b.Fatalf("the storer says %q", lines.Text())
	}
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		b.Fatal(err)
	}
	f := &FD{fd: uintptr(fd)}
	defer f.Close()
	served := make(chan error, 1)
	go func() { served <- bareServe(f, server, look) }()
	fmt.Fprintln(in, "go")
	lines.Scan()
	ns, err := strconv.ParseInt(lines.Text(), 10, 64)
	if err != nil {
		b.Fatalf("the storer says %q", lines.Text())
	}
	if err := <-served; err != nil {
		b.Fatal(err)
	}
	return time.Duration(ns)
}

// bareServe grants benchPages pages, one by one.
func bareServe(f *FD, cpu int, look bool) error {
	runtime.LockOSThread() // and never unlocked: the thread ends with its affinity
	if err := pin(cpu); err != nil {
		return err
	}
	var batch [1]Message
	for granted := 0; granted < benchPages; {
		n, _, errno := f.Read(batch[:])
		if errno != 0 {
			return errno
		}
		if n == 0 {
			set := []unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}}
			if !look {
				_, _ = unix.Poll(set, 1000)
			}
			continue
		}
		if errno := f.WriteProtect(batch[0].Addr&^(page-1), page, false); errno != 0 {
			return errno
		}
		granted++
	}
	return nil
}

func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}

// storer maps memory, protects it with a descriptor whose number it says,
// stores once into each page, and says how many nanoseconds that took.
func storer(cpu string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	runtime.LockOSThread()
	n, err := strconv.Atoi(cpu)
	fail(err)
	fail(pin(n))
	file, err := unix.MemfdCreate("uffd-bench", unix.MFD_CLOEXEC)
	fail(err)
	fail(unix.Ftruncate(file, benchPages*page))
	mem, err := unix.Mmap(file, 0, benchPages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	fail(err)
	for i := range benchPages {
		mem[i*page] = 1
	}
	raw, err := New()
	fail(err)
	f, err := Take(raw)
	fail(err)
	_, err = f.Handshake()
	fail(err)
	addr := uint64(uintptr(unsafe.Pointer(&mem[0])))
	fail(f.Register(addr, uint64(len(mem))))
	if errno := f.WriteProtect(addr, uint64(len(mem)), true); errno != 0 {
		fail(errno)
	}
	fmt.Println(raw)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if !strings.HasPrefix(line, "go") {
		os.Exit(1)
	}
	began := time.Now()
	for i := range benchPages {
		mem[i*page]++
	}
	fmt.Println(time.Since(began).Nanoseconds())
	os.Exit(0) // unmapping would wait for its event to be read
}

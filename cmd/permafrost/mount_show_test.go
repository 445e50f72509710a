package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// within waits until is says "", or fails with what it says last.
func within(t *testing.T, limit time.Duration, is func() string) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		wrong := is()
		if wrong == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %s: %s", limit, wrong)
		}
	}
}

// TestMountStatus: /status shows a mount, what is open through it and what it
// has done, and no mount once somebody has unmounted it.
func TestMountStatus(t *testing.T) {
	began := time.Now()
	f := newMountFixture(t, "48MiB", "-o", "noatime")
	s, dir := f.testServer, f.mnt
	m := s.status(t).Mount
	if m == nil || m.Dir != dir || m.Options != "noatime" || m.Since.Before(began) || m.Since.After(time.Now()) {
		t.Fatalf("/status has the mount %+v, it is at %s", m, dir)
	}
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	// RELEASE of what WriteFile closed comes after close(2) has returned.
	within(t, 5*time.Second, func() string {
		m = s.status(t).Mount
		if m.OpenTotal != 2 || m.WritableTotal != 1 {
			return "two files are open, one of them for reading and writing, and it shows " + jsonOf(t, m)
		}
		return ""
	})
	if m.RequestsInsideTotal != 0 || m.HeldTotal != 0 || m.RefusedTotal != 0 {
		t.Errorf("nothing is going on, and it shows %s", jsonOf(t, m))
	}
	ops := map[string]wireMountOp{}
	for _, o := range m.Operations {
		ops[o.Op] = o
		if o.CountTotal == 0 || o.MeanUS <= 0 || o.MedianUS <= 0 || o.P99US < o.MedianUS || o.P99US > 60e6 {
			t.Errorf("operation %+v", o)
		}
	}
	if ops["create"].CountTotal != 1 || ops["write"].CountTotal != 1 || ops["open"].CountTotal != 2 || ops["mkdir"].CountTotal != 0 {
		t.Errorf("one create, one write and two opens are shown as %s", jsonOf(t, m.Operations))
	}
	r.Close()
	w.Close()
	within(t, 5*time.Second, func() string { // busy until the RELEASE of what we have closed
		if err := unix.Unmount(dir, 0); err != nil {
			return "umount: " + err.Error()
		}
		return ""
	})
	within(t, 5*time.Second, func() string {
		if st := s.status(t); st.Mount != nil || st.MountEnded != dir {
			return "it is unmounted, and /status shows " + jsonOf(t, st)
		}
		return ""
	})
}

const mountStorerArg = "mount-storer"

// mountStorerMain maps a file and stores to its first page, a number that counts up,
// until it is killed. It is a process of its own because a freeze stops it in the
// middle of a store, where a garbage collector would wait for it. It is not the first
// thread that stores: the kernel names threads to a file system, and people know processes.
func mountStorerMain(args []string) int {
	status := make(chan int)
	var start func()
	start = func() {
		runtime.LockOSThread() // for ever
		if unix.Gettid() == os.Getpid() {
			go start()
			select {}
		}
		status <- storeForEver(args)
	}
	go start()
	return <-status
}

func storeForEver(args []string) int {
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount-storer:", err)
		return 1
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount-storer:", err)
		return 1
	}
	for n := uint64(1); ; n++ {
		binary.LittleEndian.PutUint64(mapped, n)
		time.Sleep(time.Millisecond)
	}
}

// startMountStorer starts one, to be killed and waited for when the test ends.
func startMountStorer(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, mountStorerArg, path)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be dead already
		_ = cmd.Wait()
	})
	return cmd
}

// items asks for a list.
func items[T any](t *testing.T, s *testServer, path string, query url.Values) []T {
	t.Helper()
	var list wireList[T]
	if _, err := s.client.call(context.Background(), "GET", path, query, &list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// TestMountHeldIsShown: programs on the mount are seen while they work and while
// they are held: in /mappings, on the page of the inode, in /blocked by process,
// operation and path, in /status and the metrics; and no more once they go on.
func TestMountHeldIsShown(t *testing.T) {
	f := newMountFixture(t, "48MiB")
	s := f.testServer
	mapped, appended := filepath.Join(f.mnt, "mapped"), filepath.Join(f.mnt, "appended")
	if err := os.WriteFile(mapped, make([]byte, 4*os.Getpagesize()), 0o644); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(mapped, &st); err != nil {
		t.Fatal(err)
	}
	storer := startMountStorer(t, mapped)
	writer := exec.Command("sh", "-c", `exec 3>>"$0" || exit 1; echo open; read go || exit 1; echo text >&3`, appended)
	writer.Stderr = os.Stderr
	in, err := writer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = writer.Process.Kill() }) // it has ended, if all is well
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatalf("the writer says %q: %v", line, err)
	}

	// One may map its file; the other has it open for writing only, and cannot.
	within(t, 10*time.Second, func() string {
		list := items[wireMapping](t, s, "/mappings", params("way_in", "mount"))
		if len(list) != 1 {
			return "the mappings are " + jsonOf(t, list)
		}
		if m := list[0]; m.PID != storer.Process.Pid || m.Command == "" || m.Path != "/mapped" || m.Ino != st.Ino {
			t.Fatalf("process %d is shown as mapping %s", storer.Process.Pid, jsonOf(t, m))
		}
		return ""
	})
	var one struct {
		Mappings []wireMapping `json:"mappings"`
	}
	if _, err := s.client.call(context.Background(), "GET", fmt.Sprintf("/inodes/%d", st.Ino), nil, &one); err != nil {
		t.Fatal(err)
	}
	if len(one.Mappings) != 1 || one.Mappings[0].PID != storer.Process.Pid {
		t.Errorf("inode %d is mapped by %s", st.Ino, jsonOf(t, one.Mappings))
	}
	if text, err := program(t, 20*time.Second, "mappings", "--socket", s.socket); err != nil || !strings.Contains(text, "perhaps") {
		t.Errorf("permafrost mappings: %v\n%s", err, text)
	}

	fz, err := f.freeze(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if fz.mode != "collect" {
		t.Errorf("the mode of the freeze is %q", fz.mode)
	}
	text, err := program(t, 20*time.Second, "freezes", fmt.Sprint(fz.id), "--socket", s.socket)
	if err != nil || !regexp.MustCompile(`(?m)^mount +collect$`).MatchString(text) {
		t.Errorf("permafrost freezes: %v\n%s", err, text)
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	within(t, 20*time.Second, func() string {
		var store, write *wireBlocked
		list := items[wireBlocked](t, s, "/blocked", nil)
		for i, b := range list {
			switch {
			case b.PID == storer.Process.Pid:
				store = &list[i]
			case b.PID == writer.Process.Pid:
				write = &list[i]
			}
			if b.WayIn != "mount" || b.Command == "" {
				t.Fatalf("held is %s", jsonOf(t, b))
			}
		}
		if store == nil || write == nil {
			return "held are " + jsonOf(t, list)
		}
		if store.Path != "/mapped" || store.Ino != st.Ino || store.Op != "store" && store.Op != "write" {
			t.Errorf("the store to a mapping is held as %s", jsonOf(t, store))
		}
		if write.Path != "/appended" || write.Op != "write" || write.Command != "sh" {
			t.Errorf("the write is held as %s", jsonOf(t, write))
		}
		return ""
	})
	m := s.status(t).Mount
	if m.HeldTotal < 2 || m.RequestsInsideTotal < m.HeldTotal || m.OpenTotal != 2 || m.WritableTotal != 1 {
		t.Errorf("two programs are held, and the mount shows %s", jsonOf(t, m))
	}
	if text, err := program(t, 20*time.Second, "status", "--socket", s.socket); err != nil ||
		!strings.Contains(text, fmt.Sprintf("mount         %s: 2 files open, 1 of them may be mapped, %d requests held\n", f.mnt, m.HeldTotal)) {
		t.Errorf("permafrost status: %v\n%s", err, text)
	}
	if text := s.metrics(t); !strings.Contains(text, fmt.Sprintf("\npermafrost_mount_requests_held %d\n", m.HeldTotal)) ||
		!strings.Contains(text, `permafrost_mount_request_duration_seconds_bucket{op="create",le="+Inf"} 2`) {
		t.Errorf("the metrics do not show it")
	}

	if err := fz.Thaw(context.Background()); err != nil {
		t.Fatal(err)
	}
	inTime(t, 20*time.Second, "the writer", writer.Wait)
	within(t, 20*time.Second, func() string {
		if m := s.status(t).Mount; m.HeldTotal != 0 {
			return "after the thaw the mount shows " + jsonOf(t, m)
		}
		return ""
	})
	if list := items[wireBlocked](t, s, "/blocked", nil); len(list) != 0 {
		t.Errorf("after the thaw held are %s", jsonOf(t, list))
	}
	if text, err := os.ReadFile(appended); string(text) != "text\n" {
		t.Errorf("the held write brought %q (%v)", text, err)
	}
	if err := storer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	within(t, 20*time.Second, func() string {
		if list := items[wireMapping](t, s, "/mappings", nil); len(list) != 0 {
			return "nobody has a file open, and the mappings are " + jsonOf(t, list)
		}
		return ""
	})
}

// TestMountIsAnnounced: serve says where, and nothing of a mount without one.
func TestMountIsAnnounced(t *testing.T) {
	needMount(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, mnt := range []string{"", newMountPoint(t)} {
		dir := shm(t)
		args := []string{"serve", "--pmem", filepath.Join(dir, "fs.pmem"), "--create", "8MiB", "--state", filepath.Join(dir, "state"),
			"--socket", filepath.Join(dir, "p.sock"), "--listen", "127.0.0.1:0"}
		want := ""
		if mnt != "" {
			args, want = append(args, "--mount", mnt, "-o", "noatime,nodiratime"), "  mount        "+mnt+" (noatime,nodiratime)"
		}
		cmd := exec.Command(exe, args...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Kill() })
		said := ""
		for in := bufio.NewScanner(out); in.Scan(); {
			if strings.HasPrefix(in.Text(), "  mount ") {
				said = in.Text()
			}
			if strings.Contains(in.Text(), "/thaw") { // the last line
				_ = cmd.Process.Signal(os.Interrupt)
			}
		}
		if err := cmd.Wait(); err != nil || said != want {
			t.Errorf("serve says %q, want %q; it ended with %v", said, want, err)
		}
		kill.Stop()
	}
}

// TestNotifyIsSaid: who freezes by the verb learns that the mount fell back, and
// nobody else is told.
func TestNotifyIsSaid(t *testing.T) {
	for mode, want := range map[string]bool{"notify": true, "collect": false, "none": false} {
		var said bytes.Buffer
		fr := wireFreeze{ID: 7, Modes: map[string]string{"mount": mode}}
		fr.noteNotify(&console{err: &said})
		if strings.Contains(said.String(), "freeze 7") != want {
			t.Errorf("%s: %q", mode, said.String())
		}
	}
}

// metrics asks for /metrics.
func (s *testServer) metrics(t *testing.T) string {
	t.Helper()
	resp, err := s.client.do(context.Background(), "GET", "/metrics", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestNoMountStatus: without --mount there is none.
func TestNoMountStatus(t *testing.T) {
	s := newServer(t, "")
	raw, err := s.client.call(context.Background(), "GET", "/status", nil, nil)
	if err != nil || !strings.Contains(string(raw), `"mount":null,"mount_ended":""`) {
		t.Errorf("%v: %s", err, raw)
	}
}

func jsonOf(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

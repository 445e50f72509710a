package uffd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const page = 4096

// area is shared memory of our own under a descriptor of our own. It is never
// stored to once it is protected: nobody would answer.
func area(t *testing.T, pages int) (*FD, []byte, uint64) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("following forks takes CAP_SYS_PTRACE: run as root")
	}
	file, err := unix.MemfdCreate("uffd-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	if err := unix.Ftruncate(file, int64(pages*page)); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(file, 0, pages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	raw, err := New()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := Take(raw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fd.Close() }) // before the munmap, which would wait for its event to be read
	return fd, mem, uint64(uintptr(unsafe.Pointer(&mem[0])))
}

func ready(t *testing.T, fd *FD, addr uint64, n int) {
	t.Helper()
	if fresh, err := fd.Handshake(); err != nil || !fresh {
		t.Fatalf("handshake: %v %v", fresh, err)
	}
	if err := fd.Register(addr, uint64(n)); err != nil {
		t.Fatal(err)
	}
}

func TestHandshake(t *testing.T) {
	fd, _, addr := area(t, 1)
	if errno := fd.Wake(addr, page); errno != unix.EINVAL {
		t.Errorf("a range call before the handshake: %v", errno)
	}
	for i, want := range []bool{true, false, false} {
		if fresh, err := fd.Handshake(); err != nil || fresh != want {
			t.Errorf("handshake %d: %v %v", i, fresh, err)
		}
	}
}

func TestTakeWhatIsNot(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dup, err := unix.Dup(int(w.Fd()))
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Take(dup); !errors.Is(err, ErrNotUffd) {
		t.Errorf("a pipe was taken: %v", err)
	}
	if err := unix.Close(dup); err != unix.EBADF {
		t.Errorf("it is still open: %v", err)
	}
}

func TestWriteProtectAnswers(t *testing.T) {
	fd, _, addr := area(t, 4)
	ready(t, fd, addr, 4*page)
	if errno := fd.WriteProtect(addr, 4*page, true); errno != 0 {
		t.Errorf("protect: %v", errno)
	}
	if errno := fd.WriteProtect(1<<30, page, true); errno != unix.ENOENT {
		t.Errorf("protect what is not registered: %v", errno)
	}
	if err := fd.Register(1<<30, page); err == nil {
		t.Error("memory that is not there was registered")
	}
}

// TestUnprotected: exactly the pages that a store reaches unseen are found.
func TestUnprotected(t *testing.T) {
	fd, mem, addr := area(t, 600)
	for i := 0; i < 300; i++ { // half of it has page-table entries
		mem[i*page] = 1
	}
	ready(t, fd, addr, len(mem))
	find := func() string {
		t.Helper()
		got, err := Unprotected(os.Getpid(), addr, uint64(len(mem)))
		if err != nil {
			t.Fatal(err)
		}
		s := ""
		for _, r := range got {
			s += fmt.Sprintf("%d-%d ", (r.Start-addr)/page, (r.End-addr)/page)
		}
		return s
	}
	if got := find(); got != "0-600 " {
		t.Errorf("registered only: %s", got)
	}
	protect := func(first, n uint64, on bool) {
		if errno := fd.WriteProtect(addr+first*page, n*page, on); errno != 0 {
			t.Fatal(errno)
		}
	}
	protect(0, 600, true)
	if got := find(); got != "" {
		t.Errorf("all protected: %s", got)
	}
	protect(5, 2, false)
	protect(299, 2, false) // one that was touched, one that was not
	if got := find(); got != "5-7 299-301 " {
		t.Errorf("granted 5, 6, 299 and 300: %s", got)
	}
	// Dropped by madvise: the granted ones are bare, the others keep a marker.
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- unix.Madvise(mem[:8*page], unix.MADV_DONTNEED)
	}()
	var batch [4]Message
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		n, _, errno := fd.Read(batch[:])
		if errno != 0 {
			t.Fatal(errno)
		}
		if n > 0 {
			break
		}
		runtime.Gosched()
	}
	if err := <-done; err != nil || batch[0].Event != EventRemove || batch[0].Addr != addr || batch[0].To != addr+8*page {
		t.Fatalf("%v, event %+v", err, batch[0])
	}
	if got := find(); got != "5-7 299-301 " {
		t.Errorf("after madvise: %s", got)
	}
}

// TestPopulate: after a grant the first store to each page takes a minor fault
// (U6), after Populate none does; and no byte of the memory changes.
func TestPopulate(t *testing.T) {
	const pages = 512
	fd, mem, addr := area(t, pages)
	for i := range mem {
		mem[i] = byte(i*7 + i/page)
	}
	want := bytes.Clone(mem)
	ready(t, fd, addr, len(mem))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	faults := func(populate bool) int64 {
		t.Helper()
		for _, on := range []bool{true, false} {
			if errno := fd.WriteProtect(addr, pages*page, on); errno != 0 {
				t.Fatal(errno)
			}
		}
		if populate {
			Populate(os.Getpid(), addr, pages*page)
			if !bytes.Equal(mem, want) {
				t.Fatal("Populate changed the memory")
			}
		}
		var before, after unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &before); err != nil {
			t.Fatal(err)
		}
		for i := range pages {
			mem[i*page]++
			want[i*page]++
		}
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &after); err != nil {
			t.Fatal(err)
		}
		return after.Minflt - before.Minflt
	}
	faults(false) // the page tables of want, too
	if n := faults(false); n < pages {
		t.Logf("a kernel that grants for good: %d faults for %d pages; Populate is not needed here", n, pages)
	}
	if n := faults(true); n > pages/8 {
		t.Errorf("%d faults for %d populated pages", n, pages)
	}
	Populate(os.Getpid(), addr, 0)
	Populate(os.Getpid(), 1<<30, page) // nothing there
	Populate(1<<22+1, addr, page)      // nobody there
	if !bytes.Equal(mem, want) {
		t.Error("Populate changed the memory")
	}
}

func TestParse(t *testing.T) {
	b := make([]byte, messageSize)
	put := func(ev Event, a, c, d uint64) Message {
		b[0] = byte(ev)
		binary.NativeEndian.PutUint64(b[8:], a)
		binary.NativeEndian.PutUint64(b[16:], c)
		binary.NativeEndian.PutUint64(b[24:], d)
		return parse(b)
	}
	for _, c := range []struct{ got, want Message }{
		{put(EventFault, 3, 0x1234, 77), Message{Event: EventFault, Flags: 3, Addr: 0x1234, Thread: 77}},
		{put(EventFork, 9, 0, 0), Message{Event: EventFork, FD: 9}},
		{put(EventRemap, 1, 2, 3), Message{Event: EventRemap, Addr: 1, To: 2, Length: 3}},
		{put(EventUnmap, 1, 2, 0), Message{Event: EventUnmap, Addr: 1, To: 2}},
		{put(EventRemove, 1, 2, 0), Message{Event: EventRemove, Addr: 1, To: 2}},
		{put(99, 1, 2, 3), Message{Event: 99}},
	} {
		if c.got != c.want {
			t.Errorf("%+v, want %+v", c.got, c.want)
		}
	}
}

func TestMergeRegions(t *testing.T) {
	r := func(v ...uint64) (out []Region) {
		for i := 0; i < len(v); i += 2 {
			out = append(out, Region{Start: v[i], End: v[i+1]})
		}
		return out
	}
	for _, c := range []struct{ a, b, want []Region }{
		{nil, nil, nil},
		{r(1, 2), nil, r(1, 2)},
		{r(1, 2, 5, 6), r(2, 3), r(1, 3, 5, 6)},
		{r(1, 9), r(2, 3, 4, 5), r(1, 9)},
		{r(4, 5), r(1, 2, 7, 8), r(1, 2, 4, 5, 7, 8)},
	} {
		if got := mergeRegions(c.a, c.b); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%v and %v: %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

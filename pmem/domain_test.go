package pmem

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestDomainTable(t *testing.T) {
	for _, c := range []struct {
		d        Domain
		name     string
		survives bool
		flushes  bool
		syncs    bool
	}{
		{DomainUnknown, "unknown", false, false, false},
		{DomainVolatile, "volatile", false, true, false},
		{DomainPageCache, "page-cache", true, false, true},
		{DomainDAX, "dax", true, true, cpuFlush == flushNone},
		{DomainCPUCache, "cpu-cache", true, false, false},
	} {
		text, err := c.d.MarshalText()
		if c.d.String() != c.name || string(text) != c.name || err != nil {
			t.Errorf("%s: %q, %q, %v", c.name, c.d.String(), text, err)
		}
		if c.d.SurvivesPowerLoss() != c.survives {
			t.Errorf("%s: survives power loss: %v", c.name, c.d.SurvivesPowerLoss())
		}
		wantFlush := "none"
		if c.flushes {
			wantFlush = cpuFlush.String()
		}
		if c.d.FlushInstruction() != wantFlush {
			t.Errorf("%s: flush by %s, want %s", c.name, c.d.FlushInstruction(), wantFlush)
		}
		if (c.d.FenceInstruction() == "fdatasync") != c.syncs {
			t.Errorf("%s: fence by %s", c.name, c.d.FenceInstruction())
		}
	}
}

// TestCachesAreDurable lays out what the kernel's libnvdimm shows in sysfs.
func TestCachesAreDurable(t *testing.T) {
	dev := unix.Mkdev(259, 3)
	for _, c := range []struct {
		name, text string
		partition  bool
		want       bool
	}{
		{"eADR", "cpu_cache\n", false, true},
		{"eADR, partition", "cpu_cache\n", true, true},
		{"ADR", "memory_controller\n", false, false},
		{"not said", "\n", false, false},
		{"no file", "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			region := filepath.Join(root, "devices", "ndbus0", "region0")
			block := filepath.Join(region, "namespace0.0", "block", "pmem0")
			if c.partition {
				block = filepath.Join(block, "pmem0p3")
			}
			links := filepath.Join(root, "dev", "block")
			for _, dir := range []string{block, links} {
				mustDo(t, os.MkdirAll(dir, 0o755))
			}
			if c.text != "" {
				mustDo(t, os.WriteFile(filepath.Join(region, "persistence_domain"), []byte(c.text), 0o644))
			}
			mustDo(t, os.Symlink(block, filepath.Join(links, "259:3")))
			// A file above sysfs is none of ours.
			mustDo(t, os.WriteFile(filepath.Join(filepath.Dir(root), "persistence_domain"), []byte("cpu_cache"), 0o644))
			got, err := cachesAreDurable(root, dev)
			if got != c.want || err != nil {
				t.Errorf("%v, %v; want %v", got, err, c.want)
			}
		})
	}
	if got, err := cachesAreDurable(t.TempDir(), dev); got || err != nil {
		t.Errorf("unknown device: %v, %v", got, err)
	}
}

// TestDetectedFlushIsListed compares CPUID as read here with the kernel's list.
func TestDetectedFlushIsListed(t *testing.T) {
	if cpuFlush == flushNone {
		t.Skip("no line flush on this processor")
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	mustDo(t, err)
	want := flushFromCPUInfo(string(text))
	if want == flushNone {
		t.Skip("the kernel lists no flags")
	}
	if cpuFlush != want {
		t.Errorf("detected %v, the kernel lists %v", cpuFlush, want)
	}
}

func TestGrow(t *testing.T) {
	path := filepath.Join(shmDir(t), "image")
	const old, grown = 10000, 3<<20 + 77
	r, err := Create(path, old, Options{Reserve: 4 << 20})
	mustDo(t, err)
	defer r.Close()
	if r.Reserved() != 4<<20 {
		t.Errorf("reserved %d", r.Reserved())
	}
	before := r.Bytes(0, old)
	mustWrite(t, r, old-10, []byte("0123456789"))
	mustDo(t, r.Grow(old))
	mustDo(t, r.Grow(grown))
	if string(before[old-10:]) != "0123456789" || &before[0] != &r.Bytes(0, 1)[0] {
		t.Error("the old slice does not hold")
	}
	mustWrite(t, r, old-2, []byte("abcdef"))
	mustWrite(t, r, grown-3, []byte("end"))
	st, err := os.Stat(path)
	mustDo(t, err)
	var raw unix.Stat_t
	mustDo(t, unix.Stat(path, &raw))
	if st.Size() != grown || r.Size() != grown || raw.Blocks*statBlockBytes < grown {
		t.Errorf("file of %d bytes, %d blocks, region of %d", st.Size(), raw.Blocks, r.Size())
	}
	text, err := os.ReadFile(path)
	mustDo(t, err)
	if string(text[old-10:old+4]) != "01234567abcdef" || string(text[grown-3:]) != "end" {
		t.Error("the file does not hold what was written")
	}
	if err := r.Grow(grown - 1); !errors.Is(err, ErrShrink) {
		t.Errorf("shrink: %v", err)
	}
	if err := r.Grow(4<<20 + 1); !errors.Is(err, ErrNoAddressSpace) {
		t.Errorf("past the reservation: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != grown {
		t.Errorf("a refused grow left %d bytes, %v", st.Size(), err)
	}
}

// TestGrowTakesBack lets the mapping fail after the blocks were allocated.
func TestGrowTakesBack(t *testing.T) {
	path := filepath.Join(shmDir(t), "image")
	r, err := Create(path, 1<<20, Options{})
	mustDo(t, err)
	defer r.Close()
	good := r.mapFlags
	r.mapFlags = 0 // neither shared nor private: EINVAL
	if err := r.Grow(2 << 20); !errors.Is(err, unix.EINVAL) {
		t.Errorf("grow: %v", err)
	}
	r.mapFlags = good
	if st, err := os.Stat(path); err != nil || st.Size() != 1<<20 || r.Size() != 1<<20 {
		t.Errorf("file of %d bytes, region of %d, %v", st.Size(), r.Size(), err)
	}
	mustDo(t, r.Grow(2<<20))
	mustWrite(t, r, 2<<20-1, []byte{1})
}

// TestAlignReserved cuts an aligned range out of an odd one and checks by
// mapping over it that nothing but the rest was given back.
func TestAlignReserved(t *testing.T) {
	const n = 4 << 20
	for _, shift := range []int64{0, pageBytes, hugeBytes - pageBytes} {
		raw, err := unix.MmapPtr(-1, 0, nil, n+2*hugeBytes, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		mustDo(t, err)
		start := unsafe.Add(raw, shift)
		base := alignReserved(start, n)
		if uintptr(base)%hugeBytes != 0 || uintptr(base) < uintptr(start) || uintptr(base)+n > uintptr(start)+n+hugeBytes {
			t.Errorf("shift %d: %d bytes at %p from %p", shift, n, base, start)
		}
		// mincore refuses a range with a gap.
		resident := make([]byte, n/pageBytes)
		_, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(base), n, uintptr(unsafe.Pointer(&resident[0])))
		if e != 0 {
			t.Errorf("shift %d: the range has gaps: %v", shift, e)
		}
		mustDo(t, unix.MunmapPtr(raw, n+2*hugeBytes))
	}
}

func TestReservation(t *testing.T) {
	for _, c := range []struct{ size, want, n int64 }{
		{1 << 20, 0, reserveMinBytes},
		{1 << 30, 0, 64 << 30},
		{1 << 40, 0, reserveMaxBytes},
		{1 << 43, 0, 1 << 43},
		{5 << 20, 1, 6 << 20},
		{1, 1 << 30, 1 << 30},
	} {
		if n := reservation(c.size, c.want); n != c.n {
			t.Errorf("reservation(%d, %d) = %d, want %d", c.size, c.want, n, c.n)
		}
	}
	if _, _, err := reserve(1<<52, 0); !errors.Is(err, ErrNoAddressSpace) {
		t.Errorf("4 PiB: %v", err)
	}
	// More than there is falls back to less.
	base, n, err := reserve(1<<20, 1<<50)
	mustDo(t, err)
	if n < 1<<20 || n >= 1<<50 {
		t.Errorf("reserved %d", n)
	}
	mustDo(t, unix.MunmapPtr(base, uintptr(n)))
}

package pmem

import (
	"errors"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestRefusedMappingKeepsAddresses: what the kernel refuses to map leaves no
// place in the reserved addresses for anybody else's memory. Of the common
// file systems ext4 and xfs refuse MAP_SYNC late enough to show the difference.
func TestRefusedMappingKeepsAddresses(t *testing.T) {
	const size = 1 << 20
	r, err := Create(filepath.Join(t.TempDir(), "image"), size, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Domain() == DomainDAX || r.Domain() == DomainCPUCache {
		t.Skip("MAP_SYNC is not refused here")
	}
	base, reserved, err := reserve(size, size)
	if err != nil {
		t.Fatal(err)
	}
	refused := &Region{file: r.file, base: base, reserved: reserved, mapFlags: unix.MAP_SHARED_VALIDATE | unix.MAP_SYNC}
	if err := refused.mapRange(0, size); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatalf("MAP_SYNC: %v, want to be refused", err)
	}
	for off := int64(0); off < reserved; off += pageBytes {
		const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED_NOREPLACE
		if p, err := unix.MmapPtr(-1, 0, unsafe.Add(base, off), uintptr(pageBytes), unix.PROT_NONE, flags); !errors.Is(err, unix.EEXIST) {
			t.Fatalf("the page %d bytes behind the base is free: mapping it gave %p, %v", off, p, err)
		}
	}
	if err := unix.MunmapPtr(base, uintptr(reserved)); err != nil {
		t.Fatal(err)
	}
}

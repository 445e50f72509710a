package dax

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"permafrost/dax/uffd"
)

// tryProtection finds out by trying whether a mapping of the image can be
// write-protected here: the kernel, its settings, our privileges and the file's
// file system all have a say. The mapping is ours, so it is never stored to.
func tryProtection(image *os.File) error {
	mem, err := unix.Mmap(int(image.Fd()), 0, pageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("it cannot be mapped: %w", err)
	}
	defer unix.Munmap(mem)
	raw, err := uffd.New()
	if err != nil {
		return err
	}
	fd, err := uffd.Take(raw)
	if err != nil {
		return err
	}
	// Closed before the munmap above, which would else wait for us to read its
	// event.
	defer fd.Close()
	if _, err := fd.Handshake(); err != nil {
		return err
	}
	addr := addressOf(mem)
	if err := fd.Register(addr, pageBytes); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("it lies on a file system whose mapped stores the kernel will not hold (it does so for tmpfs and memfd)")
		}
		return fmt.Errorf("its mappings cannot be registered: %w", err)
	}
	if errno := fd.WriteProtect(addr, pageBytes, true); errno != 0 {
		return fmt.Errorf("its mappings cannot be write-protected: %w", errno)
	}
	return nil
}

package pmem

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Domain is a persistence domain: how far a store must get to be durable.
type Domain uint8

// The zero Domain stands for "not known yet" and is what Options take for
// "detect it".
const (
	DomainUnknown   Domain = iota
	DomainVolatile         // tmpfs, memfd: nothing survives, and it says so
	DomainPageCache        // an ordinary file: durable after fdatasync
	DomainDAX              // mapped memory behind the CPU caches (ADR)
	DomainCPUCache         // the CPU caches are durable too (eADR)
)

// String is the name shown to users.
func (d Domain) String() string {
	switch d {
	case DomainVolatile:
		return "volatile"
	case DomainPageCache:
		return "page-cache"
	case DomainDAX:
		return "dax"
	case DomainCPUCache:
		return "cpu-cache"
	default:
		return "unknown"
	}
}

// MarshalText makes the name what JSON and SQL see.
func (d Domain) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// SurvivesPowerLoss reports whether what was fenced outlives a power loss.
func (d Domain) SurvivesPowerLoss() bool {
	return d == DomainPageCache || d == DomainDAX || d == DomainCPUCache
}

// FlushInstruction names what writes a line back on this processor, or "none"
// where the domain needs nothing or a fence does it all.
func (d Domain) FlushInstruction() string { return d.flush().String() }

// FenceInstruction names what makes a batch durable on this processor.
func (d Domain) FenceInstruction() string {
	if d.fencesByFdatasync() {
		return "fdatasync"
	}
	return storeFenceName
}

// flush is the line flush the domain needs on this processor.
func (d Domain) flush() flushKind {
	if d == DomainDAX || d == DomainVolatile {
		return cpuFlush
	}
	return flushNone
}

// fencesByFdatasync reports whether only the kernel can make stores durable:
// always in the page cache, and on dax where this processor has no line flush.
func (d Domain) fencesByFdatasync() bool {
	return d == DomainPageCache || d == DomainDAX && cpuFlush == flushNone
}

// flushKind is an instruction that writes a cache line back.
type flushKind uint8

const (
	flushNone flushKind = iota
	flushCLFLUSH
	flushCLFLUSHOPT
	flushCLWB
	flushCVAC
	flushCVAP
)

// String is the instruction's name.
func (k flushKind) String() string {
	switch k {
	case flushCLFLUSH:
		return "clflush"
	case flushCLFLUSHOPT:
		return "clflushopt"
	case flushCLWB:
		return "clwb"
	case flushCVAC:
		return "dc cvac"
	case flushCVAP:
		return "dc cvap"
	default:
		return "none"
	}
}

// isVolatile reports whether the file lives in memory that a power loss clears.
func isVolatile(f *os.File) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false, fmt.Errorf("statfs %s: %w", f.Name(), err)
	}
	switch int64(st.Type) {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.HUGETLBFS_MAGIC:
		return true, nil
	}
	return false, nil
}

// cachesAreDurable reports whether the memory region under block device dev
// lists "cpu_cache" as its persistence domain. sysRoot is /sys but in tests.
// A device that does not say so is not believed to.
func cachesAreDurable(sysRoot string, dev uint64) (bool, error) {
	link := filepath.Join(sysRoot, "dev", "block", fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)))
	dir, err := filepath.EvalSymlinks(link)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // anonymous device number, or no sysfs
	}
	if err != nil {
		return false, fmt.Errorf("find the block device of the pmem file: %w", err)
	}
	root, err := filepath.EvalSymlinks(sysRoot)
	if err != nil {
		return false, fmt.Errorf("find sysfs: %w", err)
	}
	// namespace and block directories lie below the region that has the file.
	for ; strings.HasPrefix(dir, root+string(filepath.Separator)); dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "persistence_domain"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("read the persistence domain: %w", err)
		}
		return strings.TrimSpace(string(text)) == "cpu_cache", nil
	}
	return false, nil
}

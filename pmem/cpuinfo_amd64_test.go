package pmem

import (
	"slices"
	"strings"
)

// flushFromCPUInfo is the best flush the kernel lists.
func flushFromCPUInfo(text string) flushKind {
	for line := range strings.Lines(text) {
		name, list, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		flags := strings.Fields(list)
		switch {
		case slices.Contains(flags, "clwb"):
			return flushCLWB
		case slices.Contains(flags, "clflushopt"):
			return flushCLFLUSHOPT
		case slices.Contains(flags, "clflush"):
			return flushCLFLUSH
		}
	}
	return flushNone
}

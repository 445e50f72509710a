//go:build !amd64

package pmem

import "strings"

// flushFromCPUInfo is the best flush the kernel lists.
func flushFromCPUInfo(text string) flushKind {
	for line := range strings.Lines(text) {
		name, list, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "Features" {
			continue
		}
		if strings.Contains(list+" ", " dcpop ") {
			return flushCVAP
		}
		return flushCVAC
	}
	return flushNone
}

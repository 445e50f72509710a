package pmem

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// nonTemporal says that ntCopy and ntZero bypass the caches, so that their
// lines need no flush.
const nonTemporal = true

// storeFenceName is what storeFence executes.
const storeFenceName = "sfence"

// cpuFlush is the best line flush of this processor; immutable.
var cpuFlush = detectFlush()

// useAVX says that 32-byte stores exist and the kernel saves their registers;
// immutable.
var useAVX = cpu.X86.HasAVX

// detectFlush reads CPUID leaf 7 itself: the usual feature packages leave these
// two bits out. CLFLUSH is part of every amd64 processor.
func detectFlush() flushKind {
	const (
		leafFeatures  = 7
		bitCLFLUSHOPT = 1 << 23
		bitCLWB       = 1 << 24
	)
	maxLeaf, _, _, _ := cpuid(0, 0)
	if maxLeaf < leafFeatures {
		return flushCLFLUSH
	}
	_, ebx, _, _ := cpuid(leafFeatures, 0)
	switch {
	case ebx&bitCLWB != 0:
		return flushCLWB
	case ebx&bitCLFLUSHOPT != 0:
		return flushCLFLUSHOPT
	default:
		return flushCLFLUSH
	}
}

// flushLines starts writing back n lines from the line-aligned p.
func flushLines(kind flushKind, p unsafe.Pointer, n uintptr) {
	switch kind {
	case flushCLWB:
		clwbLines(p, n)
	case flushCLFLUSHOPT:
		clflushoptLines(p, n)
	case flushCLFLUSH:
		clflushLines(p, n)
	}
}

// ntCopy copies n lines to the line-aligned dst past the caches.
func ntCopy(dst, src unsafe.Pointer, n uintptr) {
	if useAVX {
		ntCopyAVX(dst, src, n)
		return
	}
	ntCopySSE2(dst, src, n)
}

// ntZero zeroes n lines from the line-aligned dst past the caches.
func ntZero(dst unsafe.Pointer, n uintptr) {
	if useAVX {
		ntZeroAVX(dst, n)
		return
	}
	ntZeroSSE2(dst, n)
}

// storeFence waits until the stores and flushes of this processor before it
// have reached the persistence domain.
func storeFence() { sfence() }

// cpuid executes CPUID for a leaf and subleaf.
//
//go:noescape
func cpuid(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)

//go:noescape
func clwbLines(p unsafe.Pointer, n uintptr)

//go:noescape
func clflushoptLines(p unsafe.Pointer, n uintptr)

//go:noescape
func clflushLines(p unsafe.Pointer, n uintptr)

//go:noescape
func ntCopyAVX(dst, src unsafe.Pointer, n uintptr)

//go:noescape
func ntCopySSE2(dst, src unsafe.Pointer, n uintptr)

//go:noescape
func ntZeroAVX(dst unsafe.Pointer, n uintptr)

//go:noescape
func ntZeroSSE2(dst unsafe.Pointer, n uintptr)

//go:noescape
func sfence()

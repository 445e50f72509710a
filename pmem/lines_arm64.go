package pmem

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// nonTemporal is false: STNP is only a hint, so copies here are ordinary
// stores followed by a flush of their lines.
const nonTemporal = false

// storeFenceName is what storeFence executes.
const storeFenceName = "dsb sy"

// cpuFlush is the best line flush of this processor; immutable. Without DC CVAP
// the kernel too cleans to the point of coherency, which the platform must then
// make the point of persistence.
var cpuFlush = detectFlush()

// flushStride is the distance in bytes between two flushes; immutable.
// CTR_EL0.DminLine (bits 19:16) is log2 of the smallest line in words; lines
// shorter than 64 bytes exist, longer ones are merely flushed twice.
var flushStride = min(lineBytes, uintptr(4)<<(ctrEL0()>>16&0xf))

func detectFlush() flushKind {
	if cpu.ARM64.HasDCPOP {
		return flushCVAP
	}
	return flushCVAC
}

// flushLines starts writing back n lines from the line-aligned p.
func flushLines(kind flushKind, p unsafe.Pointer, n uintptr) {
	switch kind {
	case flushCVAP:
		cvapLines(p, n*lineBytes, flushStride)
	case flushCVAC:
		cvacLines(p, n*lineBytes, flushStride)
	}
}

// ntCopy copies n lines; not used while nonTemporal is false.
func ntCopy(dst, src unsafe.Pointer, n uintptr) {
	copy(unsafe.Slice((*byte)(dst), n*lineBytes), unsafe.Slice((*byte)(src), n*lineBytes))
}

// ntZero zeroes n lines; not used while nonTemporal is false.
func ntZero(dst unsafe.Pointer, n uintptr) {
	clear(unsafe.Slice((*byte)(dst), n*lineBytes))
}

// storeFence waits until the stores and flushes of this processor before it
// have reached the persistence domain.
func storeFence() { dsb() }

//go:noescape
func cvapLines(p unsafe.Pointer, n, stride uintptr)

//go:noescape
func cvacLines(p unsafe.Pointer, n, stride uintptr)

//go:noescape
func ctrEL0() uint64

//go:noescape
func dsb()

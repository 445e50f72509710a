//go:build !amd64 && !arm64

package pmem

import (
	"sync/atomic"
	"unsafe"
)

// nonTemporal is false: there are no instructions for it here.
const nonTemporal = false

// storeFenceName is what storeFence executes.
const storeFenceName = "memory barrier"

// cpuFlush is none: on a dax file a fence is fdatasync, in which the kernel
// flushes the lines of the pages stored to.
var cpuFlush = flushNone

// flushLines has nothing to do.
func flushLines(flushKind, unsafe.Pointer, uintptr) {}

// ntCopy copies n lines; not used while nonTemporal is false.
func ntCopy(dst, src unsafe.Pointer, n uintptr) {
	copy(unsafe.Slice((*byte)(dst), n*lineBytes), unsafe.Slice((*byte)(src), n*lineBytes))
}

// ntZero zeroes n lines; not used while nonTemporal is false.
func ntZero(dst unsafe.Pointer, n uintptr) {
	clear(unsafe.Slice((*byte)(dst), n*lineBytes))
}

// storeFence is a full barrier, by way of an atomic operation.
func storeFence() {
	var word atomic.Uint32
	word.Add(1)
}

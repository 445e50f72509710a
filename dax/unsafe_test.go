package dax

import "unsafe"

// wordAt is the n-th 8-byte word of shared memory.
func wordAt(b []byte, n int) *uint64 { return (*uint64)(unsafe.Pointer(&b[n*8])) }

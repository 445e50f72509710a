package dax

import "unsafe"

// addressOf is where memory that we mapped begins, as a number.
func addressOf(mem []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) }

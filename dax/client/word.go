package client

import "unsafe"

// Word is the address of the 8-byte word at byte off of mapped memory, for
// sync/atomic: one store to it is one store to the image, never torn. off must
// be a multiple of 8; it panics if the word does not lie inside mem.
func Word(mem []byte, off int) *uint64 {
	_ = mem[off+7]
	return (*uint64)(unsafe.Pointer(&mem[off]))
}

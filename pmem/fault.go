package pmem

import (
	"runtime"
	"runtime/debug"
	"unsafe"
)

// CatchFaults makes faults of the calling goroutine panics instead of the end
// of the process, and returns the setting before. Use it only as
//
//	prev := pmem.CatchFaults()
//	defer pmem.Caught(prev, m, &err)
func CatchFaults() (prev bool) { return debug.SetPanicOnFault(true) }

// Caught is deferred after CatchFaults. It restores the setting prev; if the
// goroutine faulted at an address of m's mapping it ends the panic and stores
// a *MediaError in *err; every other panic goes on.
func Caught(prev bool, m Medium, err *error) {
	debug.SetPanicOnFault(prev)
	if p := recover(); p != nil { // recover works only in the deferred function itself
		*err = mediaError(p, m, "load")
	}
}

// mediaError is the *MediaError for the recovered panic p, or panics on with p
// if p is not a fault in m. Only the interface is used, so that it serves any
// Medium whose Bytes is one range of addresses.
func mediaError(p any, m Medium, op string) error {
	fault, ok := p.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok {
		panic(p)
	}
	all := m.Bytes(0, m.Size())
	base := uintptr(unsafe.Pointer(unsafe.SliceData(all)))
	// Below base the subtraction wraps, so one comparison does for both ends. A
	// flush faults at its line and a machine check reports its page: both lie
	// below the byte that was meant, and so still inside.
	off := fault.Addr() - base
	if off >= uintptr(len(all)) {
		panic(p)
	}
	return &MediaError{Off: int64(off), Op: op}
}

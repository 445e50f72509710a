package pmem

import "unsafe"

// loop is one assembly function in the common shape.
type loop struct {
	run    func(dst, src unsafe.Pointer, n uintptr)
	copies bool // dst becomes src
	zeroes bool // dst becomes zero; neither: dst stays
}

// loops are all assembly functions that touch memory and run on this processor.
func loops() map[string]loop {
	m := map[string]loop{
		"ntCopySSE2": {run: ntCopySSE2, copies: true},
		"ntZeroSSE2": {run: func(d, _ unsafe.Pointer, n uintptr) { ntZeroSSE2(d, n) }, zeroes: true},
		"clflush":    {run: func(d, _ unsafe.Pointer, n uintptr) { clflushLines(d, n) }},
	}
	if useAVX {
		m["ntCopyAVX"] = loop{run: ntCopyAVX, copies: true}
		m["ntZeroAVX"] = loop{run: func(d, _ unsafe.Pointer, n uintptr) { ntZeroAVX(d, n) }, zeroes: true}
	}
	if cpuFlush >= flushCLFLUSHOPT {
		m["clflushopt"] = loop{run: func(d, _ unsafe.Pointer, n uintptr) { clflushoptLines(d, n) }}
	}
	if cpuFlush >= flushCLWB {
		m["clwb"] = loop{run: func(d, _ unsafe.Pointer, n uintptr) { clwbLines(d, n) }}
	}
	return m
}

//go:build !amd64

package pmem

import "unsafe"

// loop is one line function in the common shape.
type loop struct {
	run    func(dst, src unsafe.Pointer, n uintptr)
	copies bool // dst becomes src
	zeroes bool // dst becomes zero; neither: dst stays
}

// loops are all functions over lines that touch memory.
func loops() map[string]loop {
	m := map[string]loop{
		"ntCopy": {run: ntCopy, copies: true},
		"ntZero": {run: func(d, _ unsafe.Pointer, n uintptr) { ntZero(d, n) }, zeroes: true},
	}
	if cpuFlush != flushNone {
		m[cpuFlush.String()] = loop{run: func(d, _ unsafe.Pointer, n uintptr) { flushLines(cpuFlush, d, n) }}
	}
	return m
}

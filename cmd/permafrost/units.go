package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
)

// micros prints microseconds at a precision that suits their size.
func micros(us float64) string {
	switch {
	case us < 1000:
		return fmt.Sprintf("%.0f us", us)
	case us < 1e6:
		return fmt.Sprintf("%.2f ms", us/1e3)
	}
	return fmt.Sprintf("%.2f s", us/1e6)
}

func millis(ms float64) string { return micros(ms * 1e3) }

func bytesOf(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
